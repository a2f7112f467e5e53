"""Values: known answers, awkward but solvable programs, and independence of the instances."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import icnn
from icnn import Status

from .examples import Data, project_by_sorting, projection, random_bundle, random_lp, random_qp, simplex, tensor
from .judging import WRONG
from .oracles import minimum
from .random_problems import Data as Plain
from .random_problems import generate

EYE = torch.eye(3, dtype=torch.float64)


@pytest.fixture(params=["auto", "primal"], autouse=True)
def _by_default(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test with the direct methods first, and with the loop alone."""
    monkeypatch.setattr(icnn, "solve", partial(icnn.solve, method=request.param))


def plain(data: Data) -> Plain:
    """The data of one QP for the independent solvers."""
    n = len(data["p"])
    Q = data.get("Q", torch.zeros(n, n))
    none, infinite = np.zeros((0, n)), np.full(n, np.inf)
    arrays = {name: value.numpy() for name, value in data.items()}
    return Plain(
        Q=(Q if Q.dim() > 1 else Q.diag()).numpy(),
        p=arrays["p"],
        G=arrays.get("G", none),
        h=arrays.get("h", none[:, 0]),
        A=arrays.get("A", none),
        b=arrays.get("b", none[:, 0]),
        lower=arrays.get("lower", -infinite),
        upper=arrays.get("upper", infinite),
    )


def check(data: Data, **options: Any) -> icnn.Solution:
    """Solved, certified, feasible and as low as Clarabel and DAQP."""
    solution = icnn.solve(icnn.QP(**data), **options)
    assert solution.residuals.max <= 1e-9
    judged = plain(data)
    value = judged.objective(solution.x.numpy())
    best = np.nanmin([minimum(judged, name) for name in ("clarabel", "daqp")])
    assert value == pytest.approx(best, rel=1e-7, abs=1e-7)
    assert judged.violation(solution.x.numpy()) <= WRONG
    return solution


def test_no_implied_sign_and_no_dropped_bound() -> None:
    """min |x|^2/2 + q'x over sum x = 1, x >= 0: a released layer drops the bound and returns an entry of -1.63."""
    q = tensor([1.0, -0.5, 2.0, 0.3])
    x = icnn.solve(
        icnn.QP(torch.eye(4, dtype=torch.float64), q, A=torch.ones(1, 4).double(), b=tensor([1.0]), lower=0.0)
    ).x
    torch.testing.assert_close(x, project_by_sorting(-q), rtol=0, atol=1e-12)
    free = icnn.solve(icnn.QP(torch.eye(4, dtype=torch.float64), q, A=torch.ones(1, 4).double(), b=tensor([1.0]))).x
    assert free.min() < -0.5
    assert icnn.solve(icnn.QP(EYE, tensor([1.0, 2.0, 3.0]))).x.max() < 0


@pytest.mark.parametrize("method", ["primal", "dual"])
def test_large_projections_have_their_closed_form(method: Any) -> None:
    point = 3 * torch.randn(2, 500, dtype=torch.float64)
    box = icnn.solve(projection(point, lower=-1.0, upper=1.0), method=method)
    torch.testing.assert_close(box.x, point.clamp(-1, 1), rtol=0, atol=1e-10)
    onto = icnn.solve(simplex(point), method=method)
    torch.testing.assert_close(onto.x, project_by_sorting(point), rtol=0, atol=1e-10)
    assert torch.cat((box.residuals.max, onto.residuals.max)).max() <= 1e-9


@pytest.mark.parametrize("present", ["", "G h", "A b", "lower", "upper", "A b upper", "G h lower", "lower upper"])
def test_every_group_is_optional(present: str) -> None:
    data = random_qp(seed=2)
    check({name: data[name] for name in ("Q", "p", *present.split())})


def test_no_constraints_at_all() -> None:
    data = random_qp((3,))
    solution = icnn.solve(icnn.QP(data["Q"], data["p"]))
    torch.testing.assert_close(solution.x, -torch.linalg.solve(data["Q"], data["p"]), rtol=1e-12, atol=1e-12)
    assert (solution.status == Status.OPTIMAL).all()


def test_equalities_only() -> None:
    data = random_qp((3,), n=5, q=2)
    solution = icnn.solve(icnn.QP(data["Q"], data["p"], A=data["A"], b=data["b"]))
    M = torch.cat((torch.cat((data["Q"], data["A"].mT), -1), torch.nn.functional.pad(data["A"], (0, 2))), -2)
    expected = torch.linalg.solve(M, torch.cat((-data["p"], data["b"]), -1))
    torch.testing.assert_close(torch.cat((solution.x, solution.nu), -1), expected, rtol=1e-10, atol=1e-10)


def test_one_variable() -> None:
    q, p = tensor([[2.0]]), tensor([[-6.0], [0.2], [6.0]])
    solution = icnn.solve(icnn.QP(q, p, lower=-1.0, upper=1.0))
    torch.testing.assert_close(solution.x, tensor([[1.0], [-0.1], [-1.0]]), rtol=0, atol=1e-12)
    torch.testing.assert_close(solution.lam_upper, tensor([[4.0], [0.0], [0.0]]), rtol=0, atol=1e-12)
    torch.testing.assert_close(solution.lam_lower, tensor([[0.0], [0.0], [4.0]]), rtol=0, atol=1e-12)
    assert icnn.solve(icnn.LP(tensor([1.0]), lower=tensor([3.0]))).x == 3


def test_the_answer_does_not_depend_on_the_operator() -> None:
    data = random_qp((5,), n=8, m=3, diagonal=True)
    methods: tuple[Any, ...] = ("primal", "full", "dual")
    answers = [icnn.solve(icnn.QP(**data), method=method) for method in methods]
    assert tuple(answer.method for answer in answers) == methods
    for answer in answers[1:]:
        for name in ("x", "nu", "lam", "lam_lower", "lam_upper"):
            torch.testing.assert_close(getattr(answer, name), getattr(answers[0], name), rtol=1e-9, atol=1e-9)
    full = {**data, "Q": torch.diag_embed(data["Q"])}
    torch.testing.assert_close(icnn.solve(icnn.QP(**full)).x, answers[0].x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("diagonal", [False, True])
def test_singular_curvature(diagonal: bool) -> None:
    root = torch.randn(6, 2, dtype=torch.float64)
    Q = torch.tensor([1.0, 0, 2, 0, 0, 0]).double() if diagonal else root @ root.mT
    check({"Q": Q, "p": torch.randn(6).double(), "lower": -torch.ones(6).double(), "upper": torch.ones(6).double()})


def test_singular_curvature_unique_through_the_constraints() -> None:
    """Rank 3 in 8 dimensions, five equalities: x is unique, several released layers miss it by 1e-3."""
    root, A = torch.randn(8, 3, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    Q, p, b = root @ root.mT, torch.randn(8, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    M = torch.cat((torch.cat((Q, A.mT), 1), torch.nn.functional.pad(A, (0, 5))))
    expected = torch.linalg.solve(M, torch.cat((-p, b)))[:8]
    p.requires_grad_()
    solution = icnn.solve(icnn.QP(Q, p, A=A, b=b, lower=-100.0, upper=100.0))
    torch.testing.assert_close(solution.x, expected, rtol=1e-9, atol=1e-9)
    (slope,) = torch.autograd.grad(solution.x.sum(), p)
    right = -torch.linalg.solve(M, torch.cat((torch.ones(8).double(), torch.zeros(5).double())))[:8]
    torch.testing.assert_close(slope, right, rtol=1e-8, atol=1e-8)
    assert not solution.degenerate


def test_no_curvature_at_all() -> None:
    data = random_lp(seed=1)
    solution = icnn.solve(icnn.QP(torch.zeros(3, 3, dtype=torch.float64), data.pop("c"), **data))
    assert torch.equal(solution.x, icnn.solve(icnn.LP(random_lp(seed=1)["c"], **data)).x)
    assert solution.residuals.max <= 1e-9


def test_redundant_equalities() -> None:
    data = random_qp(n=5, q=2, seed=4)
    mix = tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [2.0, -3.0]])
    check({**data, "A": mix @ data["A"], "b": mix @ data["b"]})


def test_dependent_active_rows_and_duplicated_constraints() -> None:
    data = random_qp(seed=1)
    active = icnn.solve(icnn.QP(**data)).lam > 1e-6
    assert active.any()
    once = check(data)
    again = torch.cat((data["G"], data["G"], 2 * data["G"][:1])), torch.cat((data["h"], data["h"], 2 * data["h"][:1]))
    twice = check({**data, "G": again[0], "h": again[1]})
    torch.testing.assert_close(twice.x, once.x, rtol=1e-9, atol=1e-9)
    as_rows = torch.cat((data["G"], torch.eye(4).double())), torch.cat((data["h"], data["upper"]))
    torch.testing.assert_close(check({**data, "G": as_rows[0], "h": as_rows[1]}).x, once.x, rtol=1e-9, atol=1e-9)


def test_more_active_rows_than_variables() -> None:
    angles = torch.linspace(0, 3.0, 9, dtype=torch.float64)
    G = torch.stack((angles.cos(), angles.sin()), -1)
    data = {"Q": torch.eye(2).double(), "p": tensor([-5.0, -5.0]), "G": G, "h": (G @ tensor([0.3, 0.2]))}
    solution = check(data)
    torch.testing.assert_close(solution.x, tensor([0.3, 0.2]), rtol=1e-9, atol=1e-9)
    assert solution.degenerate


def test_fixed_variables() -> None:
    data = random_qp(seed=2)
    feasible = icnn.solve(icnn.QP(**{**data, "p": -data["p"]})).x
    data["lower"][[1, 3]] = data["upper"][[1, 3]] = feasible[[1, 3]]
    solution = check(data)
    torch.testing.assert_close(solution.x[[1, 3]], data["lower"][[1, 3]], rtol=0, atol=1e-12)
    assert ((solution.lam_lower == 0) | (solution.lam_upper == 0)).all()
    everything = icnn.solve(icnn.QP(data["Q"], data["p"], lower=data["lower"], upper=data["lower"]))
    torch.testing.assert_close(everything.x, data["lower"], rtol=0, atol=1e-12)


def test_infinite_right_sides_are_absent_rows() -> None:
    data = random_qp(seed=1)
    data["h"][1] = data["upper"][0] = torch.inf
    data["lower"][2] = -torch.inf
    solution = check(data)
    assert solution.lam[1] == solution.lam_upper[0] == solution.lam_lower[2] == 0
    assert solution.s[1] == torch.inf
    nothing = icnn.solve(icnn.QP(data["Q"], data["p"], data["G"], torch.full((3,), torch.inf).double()))
    torch.testing.assert_close(nothing.x, -torch.linalg.solve(data["Q"], data["p"]), rtol=1e-10, atol=1e-10)


SCALES = torch.tensor([1e-4, 1e4, 1.0, 1e2], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("what", ["rows", "columns", "cost", "inverse cost", "all"])
def test_units_do_not_matter(what: str, seed: int) -> None:
    data = random_qp(seed=seed)
    expected = icnn.solve(icnn.QP(**data)).x
    column = SCALES if what in ("columns", "all") else torch.ones_like(SCALES)
    row = SCALES[:3] if what in ("rows", "all") else torch.ones_like(SCALES[:3])
    cost = {"cost": 1e4, "inverse cost": 1e-4, "all": 1e-4}.get(what, 1.0)
    scaled = {
        "Q": cost * column.unsqueeze(-1) * data["Q"] * column,
        "p": cost * column * data["p"],
        "G": row.unsqueeze(-1) * data["G"] * column,
        "h": row * data["h"],
        "A": row[:1].unsqueeze(-1) * data["A"] * column,
        "b": row[:1] * data["b"],
        "lower": data["lower"] / column,
        "upper": data["upper"] / column,
    }
    solution = icnn.solve(icnn.QP(**scaled))
    torch.testing.assert_close(solution.x * column, expected, rtol=1e-7, atol=1e-7)


def single(data: Data, batch: tuple[int, ...], index: tuple[int, ...]) -> Data:
    return {name: value[index] if value.shape[: len(batch)] == batch else value for name, value in data.items()}


@pytest.mark.parametrize(
    ("kind", "make"), [(icnn.QP, random_qp), (icnn.LP, random_lp), (icnn.EntropyBundle, random_bundle)]
)
def test_the_same_answer_alone_as_in_a_batch(kind, make) -> None:
    data = make((2, 3))
    together = icnn.solve(kind(**data))
    for i in range(2):
        for j in range(3):
            alone = icnn.solve(kind(**single(data, (2, 3), (i, j))))
            for name in ("x", "nu", "lam", "objective"):
                torch.testing.assert_close(getattr(alone, name), getattr(together, name)[i, j], rtol=1e-10, atol=1e-10)
            assert alone.iterations == together.iterations[i, j]


def test_shared_data_are_broadcast() -> None:
    data = random_qp((2, 3), shared=("Q", "G", "A", "lower"))
    repeated = {
        name: value if value.shape[:2] == (2, 3) else value.expand(2, 3, *value.shape) for name, value in data.items()
    }
    assert torch.equal(icnn.solve(icnn.QP(**data)).x, icnn.solve(icnn.QP(**repeated)).x)


def test_instances_stop_on_their_own() -> None:
    data = random_qp((12,), n=12, m=12)
    iterations = icnn.solve(icnn.QP(**data)).iterations
    assert iterations.min() < iterations.max()


def test_a_program_whose_answer_is_zero_is_easy() -> None:
    solution = icnn.solve(icnn.QP(EYE, torch.zeros(3, dtype=torch.float64), lower=-1.0, upper=1.0))
    torch.testing.assert_close(solution.x, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert solution.iterations <= 10


@pytest.mark.parametrize("max_iter", [0, 1])
def test_a_small_budget_is_admitted(max_iter: int) -> None:
    data = random_qp((2,), n=12, m=20, seed=1)
    solution = icnn.solve(icnn.QP(**data), method="primal", max_iter=max_iter, on_failure="zero")
    assert (solution.status == Status.MAX_ITERATIONS).all()
    assert (solution.iterations == max_iter).all()
    with pytest.raises(icnn.SolverError, match=r"MAX_ITERATIONS at batch indices \[\(0,\), \(1,\)\]"):
        icnn.solve(icnn.QP(**data), method="primal", max_iter=max_iter)


@pytest.mark.parametrize("n", [2, 10, 40])
def test_against_independent_solvers(n: int) -> None:
    for seed in range(4):
        check(random_qp(n=n, m=n, q=n // 3, seed=seed))


def test_iterations_stay_few() -> None:
    solution = icnn.solve(icnn.QP(**random_qp((16,), n=30, m=30, q=5)), method="primal")
    assert solution.iterations.max() <= 25


def integers(*shape: int) -> Tensor:
    return torch.randint(-3, 4, shape).double()


def test_degenerate_vertices_of_integer_programs() -> None:
    """Many rows through one point, as in combinatorial programs."""
    for _ in range(5):
        G, x = integers(12, 4), integers(4)
        h = G @ x + (integers(12) > 1).double()
        c = -(G[h == G @ x].sum(0))
        solution = icnn.solve(icnn.LP(c, G, h, lower=-5.0, upper=5.0))
        value = plain({"p": c, "G": G, "h": h, "lower": torch.full((4,), -5.0), "upper": torch.full((4,), 5.0)})
        assert solution.objective.item() == pytest.approx(minimum(value, "highs"), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("index", [2, 3])
def test_a_budget_is_each_instance_s_own(index: int) -> None:
    """One that needs a second round of the loop gets it, also beside one that has used up all its iterations."""
    problem = generate(40).problem()
    solve = partial(icnn.solve, method="primal", on_failure="zero")
    needed = int(solve(problem).iterations.flatten()[index])
    short = solve(problem, max_iter=needed)
    assert (short.iterations == needed).sum() > 1
    assert short.status.flatten()[index] == Status.OPTIMAL


def test_a_free_variable_without_curvature_beside_a_diagonal() -> None:
    """Two almost equal cuts of a bundle: only the rows hold t, and the dual operator would divide by its curvature."""
    Q, p = torch.tensor([10.0, 10.0, 10.0, 10.0, 0.0]), torch.tensor([-3.0, 2.0, 4.0, 6.0, 1.0])
    g, shift = torch.tensor([0.5, -1.0, 0.3, 0.7, -1.0]), torch.tensor([1.0, 2.0, -1.0, 0.5, 0.0])
    G = torch.stack((g, g + 1e-4 * shift)).double()
    lower = torch.tensor([0.0, -0.1, 0.6, -0.1, -torch.inf]).double()
    upper = torch.tensor([1.5, 1.4, 1.9, 2.2, torch.inf]).double()
    for offset in torch.linspace(-3e-4, 3e-4, 13):
        h = torch.tensor([0.27, 0.27 + float(offset)]).double()
        qp = icnn.QP(Q.double(), p.double(), G, h, lower=lower, upper=upper)
        solution = icnn.solve(qp)
        full = icnn.solve(icnn.QP(torch.diag(Q).double(), p.double(), G, h, lower=lower, upper=upper))
        torch.testing.assert_close(solution.x, full.x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["primal", "full", "auto"])
def test_a_program_in_whose_corrections_the_loop_went_in_a_circle(method) -> None:
    """Two cuts that are nearly one, and a third that is nearly active."""
    g = torch.tensor([-0.23216944932937622, -0.39169147610664368, -0.24367950856685638], dtype=torch.float64)
    o = torch.tensor([1.11504065990447998, 1.23353731632232666, 1.12361836433410645], dtype=torch.float64)
    lower, upper = torch.tensor([[0.0, -torch.inf], [1.0, torch.inf]], dtype=torch.float64)
    Q, p = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)), torch.tensor([-0.5, 1.0], dtype=torch.float64)
    G = torch.stack((g, -torch.ones_like(g)), -1)
    sol = icnn.solve(icnn.QP(Q, p, G, -o, lower=lower, upper=upper), method=method)
    assert sol.status == icnn.Status.OPTIMAL
    assert sol.x[0].item() == pytest.approx(0.5 - g[2].item(), abs=1e-9)  # on the third cut alone
