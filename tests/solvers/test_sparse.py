"""The sparse path: against the dense one, finite differences, an independent KKT residual, and its own promises."""

import importlib.util
from functools import partial
from typing import Any

import numpy as np
import pytest
import qpsolvers
import torch
from scipy import sparse
from torch import Tensor, autograd

import icnn
from icnn.solvers.backends.curvature import negative_curvature
from icnn.solvers.backends.factor import SparseKKT
from icnn.solvers.backends.native import PACKAGES, Name, available, in_stages
from icnn.solvers.backends.optimum import diagnose, unsolved
from icnn.solvers.backends.pattern import instances
from icnn.solvers.sparse import SparseQP, solve_sparse, sparse_certificate

Data = dict[str, Tensor]
MATRICES = ("Q", "G", "A")
QP_SOLVERS: list[Name] = ["piqp", "clarabel"]
gradcheck = partial(autograd.gradcheck, atol=1e-6, rtol=1e-6, fast_mode=True)


def missing(solver: Name) -> bool:
    return importlib.util.find_spec(PACKAGES[solver]) is None


def solver_param(solver: Name) -> Any:
    skip = pytest.mark.skipif(missing(solver), reason=f"{solver} is not installed")
    return pytest.param(solver, marks=skip)


pytestmark = pytest.mark.skipif(all(map(missing, QP_SOLVERS)) or missing("highs"), reason="needs icnn[sparse]")
csr_is_beta = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
every_solver = pytest.mark.parametrize("solver", [solver_param(name) for name in QP_SOLVERS])
every_batch = pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)


def uniform(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape, dtype=torch.float64) - 1


def thinned(*shape: int) -> Tensor:
    """A random matrix with half of its entries zero, different ones in every instance."""
    return uniform(*shape) * (torch.rand(*shape) < 0.5)


def qp(batch: tuple[int, ...] = (), n: int = 8, m: int = 6, q: int = 2, shared: tuple[str, ...] = ()) -> Data:
    """A feasible QP with bounds; every group is active somewhere. Data that are `shared` have no batch dimension."""
    sizes = {name: () if name in shared else batch for name in ("Q", "p", "G", "h", "A", "b", "lower", "upper")}
    root = thinned(*sizes["Q"], n, n)
    G, A, x = thinned(*sizes["G"], m, n), thinned(*sizes["A"], q, n), uniform(n)
    return {
        "Q": root @ root.mT + 0.1 * torch.eye(n, dtype=torch.float64),
        "p": 3 * uniform(*sizes["p"], n),
        "G": G,
        "h": G @ x + 0.2 * torch.rand(*sizes["h"], m, dtype=torch.float64),
        "A": A,
        "b": A @ x,
        "lower": x - 0.5 - torch.rand(*sizes["lower"], n, dtype=torch.float64),
        "upper": x + 0.3 + torch.rand(*sizes["upper"], n, dtype=torch.float64),
    }


def lp(batch: tuple[int, ...] = ()) -> Data:
    data = qp(batch, m=9)
    return {name: t for name, t in data.items() if name != "Q"}


def coo(M: Tensor) -> Tensor:
    """Its stored entries are the nonzeros; explicit, so that torch does not warn of unchecked invariants."""
    index = M.detach().nonzero().mT
    return torch.sparse_coo_tensor(index, M[tuple(index)], M.shape, check_invariants=True, is_coalesced=True)


def sparse_problem(data: Data) -> SparseQP:
    given: dict[str, Any] = {name: coo(t) if name in MATRICES else t for name, t in data.items()}
    return SparseQP(given.pop("Q", None), **given)


def dense_problem(data: Data) -> icnn.QP:
    return icnn.QP(**data) if "Q" in data else icnn.LP(data["p"], **{k: t for k, t in data.items() if k != "p"})


def mixed_loss(solution: icnn.Solution) -> Tensor:
    """Every differentiable output, each weighted by something of its own."""
    parts = (solution.x, solution.nu, solution.lam, solution.lam_lower, solution.lam_upper, solution.s)
    return sum((part * torch.arange(1.0, 1 + part.shape[-1])).sum() for part in parts) + solution.objective.sum()


def gradients(solve: Any, problem: Any, data: Data) -> tuple[icnn.Solution, Data]:
    leaves = {name: t.clone().requires_grad_() for name, t in data.items()}
    solution = solve(problem(leaves))
    return solution, dict(zip(leaves, autograd.grad(mixed_loss(solution), list(leaves.values())), strict=True))


def assert_agree(data: Data, solve: Any = solve_sparse, atol: float = 1e-8) -> icnn.Solution:
    """Values and gradients of the sparse and the dense path; of a matrix, at the stored entries."""
    expected, grads_expected = gradients(icnn.solve, dense_problem, data)
    found, grads = gradients(solve, sparse_problem, data)
    for name in ("x", "nu", "lam", "lam_lower", "lam_upper", "s", "objective"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=atol, rtol=atol)
    for name, grad in grads.items():
        stored = data[name] != 0 if name in MATRICES else torch.ones_like(data[name], dtype=torch.bool)
        torch.testing.assert_close(grad[stored], grads_expected[name][stored], atol=10 * atol, rtol=10 * atol)
    assert (found.status == icnn.Status.OPTIMAL).all()
    return found


@every_batch
@every_solver
def test_values_and_gradients_agree_with_the_dense_path(batch: tuple[int, ...], solver: Name) -> None:
    solution = assert_agree(qp(batch), partial(solve_sparse, solver=solver))
    assert solution.x.shape == (*batch, 8)
    assert solution.method == solver
    active = [(t > 1e-6).any() for t in (solution.lam, solution.lam_lower, solution.lam_upper)]
    assert all(active) or batch == ()


@pytest.mark.parametrize("shared", [("Q", "G", "A"), ("Q", "p", "h", "lower"), ("G", "h", "b", "upper"), ("p", "Q")])
def test_shared_data_receive_the_sum_over_the_batch(shared: tuple[str, ...]) -> None:
    assert_agree(qp((3,), shared=shared))


@pytest.mark.filterwarnings("ignore::icnn.ZeroGradientWarning")
@every_batch
def test_linear_programs_agree_with_the_dense_path(batch: tuple[int, ...]) -> None:
    assert assert_agree(lp(batch)).method == "highs"


@pytest.mark.filterwarnings("ignore::icnn.ZeroGradientWarning")
def test_highs_beside_a_user_of_highs_with_other_threads() -> None:
    eye, ones = sparse.eye(3, format="csc"), np.ones(3)
    assert qpsolvers.solve_qp(eye, ones, eye, ones, solver="highs") is not None  # starts its threads, one per core
    assert assert_agree(lp((2,))).method == "highs"


@pytest.mark.parametrize("keep", [("Q", "p", "A", "b"), ("Q", "p"), ("Q", "p", "upper"), ("Q", "p", "G", "h")])
def test_absent_groups(keep: tuple[str, ...]) -> None:
    solution = assert_agree({name: t for name, t in qp((2,)).items() if name in keep})
    assert solution.lam_lower.shape == (2, 0)


def test_absent_rows_fixed_variables_and_dependent_equalities() -> None:
    data = qp((2,))
    data["h"][0, 1] = torch.inf
    data["upper"][..., 3] = torch.inf
    data["lower"][0, 2] = data["upper"][0, 2]
    data["lower"][1, 5] = data["upper"][1, 5]
    solution = assert_agree(data)
    assert not solution.degenerate.any()
    doubled = data | {
        "A": torch.cat((data["A"], data["A"][:, :1]), 1),
        "b": torch.cat((data["b"], data["b"][:, :1]), 1),
    }
    repeated = solve_sparse(sparse_problem(doubled))
    torch.testing.assert_close(repeated.x, solution.x, atol=1e-9, rtol=1e-9)
    assert repeated.degenerate.all()
    expected, found = (grad_of_x(each) for each in (data, doubled))
    torch.testing.assert_close(found["p"], expected["p"], atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(found["b"][:, 0], found["b"][:, -1], atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(found["b"][:, 0] + found["b"][:, -1], expected["b"][:, 0], atol=1e-7, rtol=1e-7)


def grad_of_x(data: Data) -> Data:
    leaves = {name: data[name].clone().requires_grad_() for name in ("p", "b")}
    solve_sparse(sparse_problem(data | leaves)).x.square().sum().backward()
    return {name: t.grad for name, t in leaves.items() if t.grad is not None}


def test_weakly_active_rows_are_reported_and_give_the_one_sided_gradient() -> None:
    data = {
        "Q": torch.eye(2, dtype=torch.float64),
        "p": torch.tensor([-1.0, 0.3]).double(),
        "upper": torch.ones(2).double(),
    }
    assert assert_agree(data).degenerate


def test_one_instance_is_the_same_alone_as_in_a_batch() -> None:
    data = qp((3,))
    together = solve_sparse(sparse_problem(data))
    for i in range(3):
        alone = solve_sparse(sparse_problem({name: t[i] for name, t in data.items()}))
        assert torch.equal(alone.x, together.x[i])


def residual(data: Data, x: Tensor, nu: Tensor, lam: Tensor, low: Tensor, up: Tensor) -> float:
    """The largest violation of an optimality condition, from the dense data."""

    def times(M: Tensor, v: Tensor) -> Tensor:
        return (M @ v.unsqueeze(-1)).squeeze(-1)

    stationarity = times(data["Q"], x) + data["p"] + times(data["G"].mT, lam) + times(data["A"].mT, nu) - low + up
    slack = torch.cat((data["h"] - times(data["G"], x), x - data["lower"], data["upper"] - x), -1)
    multipliers = torch.cat((lam, low, up), -1)
    conditions = (stationarity, times(data["A"], x) - data["b"], slack.clamp(max=0), multipliers.clamp(max=0))
    return max(float(c.abs().max()) for c in (*conditions, slack * multipliers))


def test_the_optimality_conditions_hold_and_the_certificate_says_so() -> None:
    data = qp((3,), n=30, m=25, q=5)
    problem = sparse_problem(data)
    solution = solve_sparse(problem)
    vectors = (solution.x, solution.nu, solution.lam, solution.lam_lower, solution.lam_upper)
    assert residual(data, *vectors) < 1e-11
    assert residual(data, vectors[0] + 1e-3, *vectors[1:]) > 1e-5
    assert sparse_certificate(problem, solution).max.max() < 1e-12


def test_the_certificate_is_the_dense_one_also_away_from_the_optimum() -> None:
    data = qp((3,))
    solution = icnn.solve(dense_problem(data), on_failure="zero", max_iter=3, method="primal", tol=1e-14)
    expected = icnn.solvers.certificate(dense_problem(data), solution)
    for found, wanted in zip(icnn.certificate(sparse_problem(data), solution), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-15, rtol=1e-9)


def solve_from_values(data: Data, *leaves: Tensor) -> tuple[Tensor, ...]:
    """The solution as a function of the stored entries and the vectors; Q from its lower triangle."""
    given: dict[str, Any] = dict(zip(data, leaves, strict=True))
    for name in MATRICES:
        stored = data[name].tril() if name == "Q" else data[name]
        index = stored.nonzero().mT
        M = torch.zeros_like(data[name]).index_put(tuple(index), given[name])
        given[name] = coo(M + M.tril(-1).mT if name == "Q" else M)
    solution = solve_sparse(SparseQP(**given))
    return solution.x, solution.nu, solution.lam, solution.lam_lower, solution.lam_upper, solution.s, solution.objective


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_gradients_against_finite_differences(batch: tuple[int, ...]) -> None:
    data = qp(batch, n=5, m=4, q=1)
    stored = {name: t.tril() if name == "Q" else t for name, t in data.items()}
    leaves = [t[t != 0] if name in MATRICES else t for name, t in stored.items()]
    assert gradcheck(partial(solve_from_values, data), [leaf.clone().requires_grad_() for leaf in leaves])


@csr_is_beta
@pytest.mark.parametrize("layout", ["coo", "csr", "uncoalesced", "values"])
def test_every_kind_of_tensor_receives_its_gradient(layout: str) -> None:
    data = qp()
    expected = gradients(icnn.solve, dense_problem, data)[1]["A"]
    index = data["A"].nonzero().mT
    values = data["A"][tuple(index)].requires_grad_()
    if layout == "csr":
        A = data["A"].to_sparse_csr().requires_grad_()
    elif layout == "uncoalesced":
        halves = torch.cat((index, index), 1), torch.cat((values, values)).detach() / 2
        A = torch.sparse_coo_tensor(*halves, data["A"].shape, check_invariants=True).requires_grad_()
    else:
        A = torch.sparse_coo_tensor(index, values, data["A"].shape, check_invariants=True)
        A = A if layout == "values" else A.detach().coalesce().requires_grad_()
    given: dict[str, Any] = {name: coo(t) if name in MATRICES else t for name, t in data.items()} | {"A": A}
    mixed_loss(solve_sparse(SparseQP(**given))).backward()
    if layout == "values":
        assert values.grad is not None
        torch.testing.assert_close(values.grad, expected[tuple(index)], atol=1e-7, rtol=1e-7)
        return
    assert A.grad is not None
    assert A.grad.layout == A.layout
    torch.testing.assert_close(A.grad.to_dense(), expected * (data["A"] != 0), atol=1e-7, rtol=1e-7)


def test_scipy_matrices_are_constants() -> None:
    data = qp()
    given: dict[str, Any] = {k: sparse.coo_array(t.numpy()) if k in MATRICES else t for k, t in data.items()}
    given["p"] = data["p"].clone().requires_grad_()
    solution = solve_sparse(SparseQP(**given))
    torch.testing.assert_close(solution.x, icnn.solve(dense_problem(data)).x, atol=1e-9, rtol=1e-9)
    expected = gradients(icnn.solve, dense_problem, data)[1]["p"]
    torch.testing.assert_close(autograd.grad(mixed_loss(solution), given["p"])[0], expected, atol=1e-7, rtol=1e-7)


def test_float32_is_the_float64_solution_of_the_same_data() -> None:
    single = {name: t.float() for name, t in qp((2,)).items()}
    found, grads = gradients(solve_sparse, sparse_problem, single)
    expected, grads_expected = gradients(icnn.solve, dense_problem, {name: t.double() for name, t in single.items()})
    assert found.x.dtype == found.residuals.primal.float().dtype == grads["Q"].dtype == torch.float32
    torch.testing.assert_close(found.x, expected.x.float())
    torch.testing.assert_close(grads["p"], grads_expected["p"].float(), atol=1e-4, rtol=1e-4)


def quarrel() -> Data:
    """A batch of three of which the second is infeasible."""
    data = qp((3,), shared=("A",))
    data["h"][1] = -100.0
    return data


def test_raise_names_the_instance_and_carries_the_solution() -> None:
    with pytest.raises(icnn.SolverError, match=r"PRIMAL_INFEASIBLE at batch indices \[\(1,\)\]") as caught:
        solve_sparse(sparse_problem(quarrel()))
    assert caught.value.solution is not None
    assert caught.value.solution.status.tolist() == [0, 2, 0]


@pytest.mark.parametrize("policy", ["nan", "zero"])
def test_a_failed_instance_leaves_the_others_alone(policy: Any) -> None:
    data = quarrel()
    solution, grads = gradients(partial(solve_sparse, on_failure=policy), sparse_problem, data)
    good = {name: t if name in ("A", "b") else t[[0, 2]] for name, t in data.items()}
    alone, grads_alone = gradients(solve_sparse, sparse_problem, good)
    assert torch.equal(solution.x[[0, 2]], alone.x)
    torch.testing.assert_close(solution.objective[[0, 2]], alone.objective)
    for name in ("p", "h", "Q", "upper"):
        torch.testing.assert_close(grads[name][[0, 2]], grads_alone[name])
    if policy == "nan":
        assert solution.x[1].isnan().all()
        assert grads["p"][1].isnan().all()
    else:
        assert solution.x[1].isfinite().all()
        assert all((grads[name][1] == 0).all() for name in ("p", "h", "Q", "upper"))
        torch.testing.assert_close(grads["A"], grads_alone["A"])


def test_infeasible_and_unbounded_are_proved_by_a_ray() -> None:
    data = quarrel()
    ray = solve_sparse(sparse_problem(data), on_failure="zero").ray
    nu, lam, low, up = (t[1] for t in ray[1:])
    balance = data["A"].mT @ nu + data["G"][1].mT @ lam - low + up
    value = data["b"] @ nu + data["h"][1] @ lam - data["lower"][1] @ low + data["upper"][1] @ up
    assert balance.abs().max() < 1e-8
    assert min(lam.min(), low.min(), up.min()) >= 0
    assert value < -0.99
    assert not any(part[0].any() for part in ray)

    free = {name: t for name, t in qp().items() if name in ("p", "A", "b")} | {"Q": torch.zeros(8, 8).double()}
    for problem in (sparse_problem(free), SparseQP(None, free["p"], A=coo(free["A"]), b=free["b"])):
        solution = solve_sparse(problem, on_failure="zero")
        assert solution.status == icnn.Status.DUAL_INFEASIBLE
        assert free["p"] @ solution.ray.x < -1e-3
        assert (free["A"] @ solution.ray.x).abs().max() < 1e-8


def test_a_verdict_without_proof_is_not_repeated() -> None:
    program = instances(sparse_problem(qp()).canonical)[0]
    assert diagnose(program, unsolved(program, "clarabel")).status == icnn.Status.NUMERICAL


def test_what_needs_no_solver_is_named() -> None:
    data = qp((4,))
    data["p"][0, 0] = torch.nan
    data["Q"][1] -= 2 * torch.eye(8)
    data["lower"][2, 0] = data["upper"][2, 0] + 1
    solution = solve_sparse(sparse_problem(data), on_failure="nan")
    S = icnn.Status
    assert solution.status.tolist() == [S.NONFINITE_INPUT, S.NONCONVEX, S.PRIMAL_INFEASIBLE, S.OPTIMAL]
    direction = solution.ray.x[1]
    assert direction @ data["Q"][1] @ direction < 0
    assert solution.ray.lam_lower[2, 0] == solution.ray.lam_upper[2, 0] == 1


@pytest.mark.parametrize("indefinite", [False, True])
def test_negative_curvature_is_found_where_it_is(indefinite: bool) -> None:
    for _ in range(20):
        root = thinned(12, 6)
        Q = root @ root.mT - (0.01 if indefinite else 0.0) * torch.eye(12)
        direction = negative_curvature(sparse.csr_array(Q.numpy()))
        assert (direction is not None) == indefinite
        assert direction is None or direction @ Q.numpy() @ direction < 0


@every_solver
def test_too_few_iterations_are_named(solver: Name) -> None:
    solution = solve_sparse(sparse_problem(qp((2,), n=30, m=40)), max_iter=1, on_failure="zero", solver=solver)
    assert (solution.status == icnn.Status.MAX_ITERATIONS).all()


def test_second_derivatives_are_refused() -> None:
    p = qp()["p"].requires_grad_()
    data = qp() | {"p": p}
    (grad,) = autograd.grad(solve_sparse(sparse_problem(data)).x.square().sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        autograd.grad(grad.sum(), p)


def test_the_factor_solves_the_system_of_the_active_set() -> None:
    program = instances(sparse_problem(qp()).canonical)[0]
    active = np.zeros(len(program.d), bool)
    active[[0, 2, 7, 18]] = True
    kkt = SparseKKT.factorise(program, active)
    J = np.concatenate((program.G.toarray(), -np.eye(8), np.eye(8)))
    C = np.concatenate((program.A.toarray(), J[active]))
    M = np.block([[program.Q.toarray(), C.T], [C, np.zeros((len(C), len(C)))]])
    r = np.random.default_rng(0).normal(size=len(M))
    z, error = kkt.solve(r)
    np.testing.assert_allclose(kkt.apply(r), M @ r, atol=1e-13)
    np.testing.assert_allclose(M @ z, r, atol=1e-11)
    assert error < 1e-12
    assert not kkt.singular()


@pytest.mark.parametrize("seed", range(20))
def test_random_problems_end_as_on_the_dense_path(seed: int) -> None:
    """Singular and absent curvature, absent bounds, infeasible and unbounded problems among them."""
    torch.manual_seed(seed)
    data = qp(n=int(torch.randint(3, 20, ())), m=int(torch.randint(1, 20, ())), q=1)
    data["Q"] = data["Q"] * (seed % 3 > 0) - 0.1 * torch.eye(len(data["p"])) * (seed % 3 > 0)
    data["h"] = data["h"] - 0.5 * (seed % 5 == 0)
    if seed % 2:
        del data["lower"], data["upper"]
    found = solve_sparse(sparse_problem(data), on_failure="zero")
    expected = icnn.solve(dense_problem(data), on_failure="zero")
    assert found.status == expected.status
    if found.status == icnn.Status.OPTIMAL:
        torch.testing.assert_close(found.objective, expected.objective, atol=1e-8, rtol=1e-8)


def chain(horizon: int, states: int, controls: int) -> Data:
    """A small problem of control: every row couples one stage to the next."""
    stage, rows = states + controls, horizon * states
    A = torch.zeros(rows, horizon * stage).double()
    for k in range(horizon):
        part = A[k * states : (k + 1) * states]
        part[:, max(0, k * stage - states) : k * stage] = 0.4 * uniform(states, states)[:, : min(states, k * stage)]
        part[:, k * stage : k * stage + controls] = uniform(states, controls)
        part[:, k * stage + controls : (k + 1) * stage] = -torch.eye(states)
    n = horizon * stage
    b = torch.nn.functional.pad(uniform(states), (0, rows - states))
    return {
        "Q": torch.diag(torch.rand(n).double() + 0.1),
        "p": uniform(n),
        "A": A,
        "b": b,
        "upper": torch.ones(n).double(),
    }


@pytest.mark.parametrize(("size", "expected"), [((12, 10, 4), True), ((12, 3, 1), False)])
def test_problems_in_stages_are_recognised_and_solved(size: tuple[int, int, int], expected: bool) -> None:
    data = chain(*size)
    assert in_stages(instances(sparse_problem(data).canonical)[0]) == expected
    assert_agree(data)
    assert not in_stages(instances(sparse_problem(qp(n=40, m=20)).canonical)[0])


DOOR: list[tuple[str, Any, type[Exception], str]] = [
    (
        "Q",
        torch.eye(8).double(),
        TypeError,
        "Q must be a sparse COO or CSR tensor or a scipy sparse matrix; got layout",
    ),
    ("Q", coo(torch.eye(7).double()), ValueError, r"Q must be \(\*batch, rows, 8\); got \(7, 7\)"),
    ("Q", coo(torch.ones(3, 8).double()), ValueError, r"Q must be \(\*batch, 8, 8\); got \(3, 8\)"),
    ("G", coo(torch.ones(6, 7).double()), ValueError, r"G must be \(\*batch, rows, 8\); got \(6, 7\)"),
    ("A", coo(torch.ones(2, 8)), TypeError, "all data must have one dtype"),
    ("A", torch.ones(2, 3, 8).double().to_sparse(2), ValueError, "A must have no dense dimensions"),
    ("G", sparse.eye_array(8) * 1j, TypeError, "G must be real; got complex128"),
    ("G", None, ValueError, "G and h must be given together; G is missing"),
    ("b", None, ValueError, "A and b must be given together; b is missing"),
    ("h", torch.ones(5).double(), ValueError, r"h must be \(\*batch, 6\); got \(5,\)"),
    ("p", torch.ones(8).half(), TypeError, "p must be float32 or float64"),
    ("p", torch.tensor(1.0).double(), ValueError, "p must be"),
    ("lower", torch.ones(4).double(), ValueError, r"lower must be \(\*batch, 8\); got \(4,\)"),
    ("upper", torch.ones(5, 8).double(), ValueError, "batch dimensions do not broadcast"),
]


@pytest.mark.parametrize(("name", "value", "kind", "message"), DOOR)
def test_the_door_names_the_argument(name: str, value: Any, kind: type[Exception], message: str) -> None:
    data = qp((3,), shared=("Q", "G", "A"))
    given: dict[str, Any] = {k: coo(t) if k in MATRICES else t for k, t in data.items()} | {name: value}
    with pytest.raises(kind, match=message):
        SparseQP(**given)


@csr_is_beta
def test_a_batch_in_csr_is_refused() -> None:
    batch = torch.ones(2, 2, 8, dtype=torch.float64).to_sparse_csr()
    with pytest.raises(ValueError, match="A in CSR"):
        SparseQP(None, torch.ones(8).double(), A=batch, b=torch.ones(2).double())


def test_options_and_asymmetry_are_refused() -> None:
    data = qp()
    problem = sparse_problem(data)
    for options, message in (
        (dict(on_failure="ignore"), "on_failure"),
        (dict(tol=0.0), "tol must be positive"),
        (dict(solver="highs"), "solver must be 'auto' or one of"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            solve_sparse(problem, **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Q must be symmetric"):
        solve_sparse(sparse_problem(data | {"Q": data["Q"].tril() + 3 * torch.ones(8, 8).double().tril()}))


def test_a_missing_solver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"piqp or clarabel: pip install 'icnn\[sparse\]'"):
        available(linear=False, solver="auto")
    with pytest.raises(ImportError, match="need clarabel"):
        available(linear=False, solver="clarabel")


def test_lu_takes_over_where_qdldl_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "qdldl" else find(name))
    assert_agree(qp((2,)))


def test_numbers_as_bounds_and_the_repr() -> None:
    data = qp()
    problem = SparseQP(coo(data["Q"]), data["p"], lower=-0.1, upper=0.2)
    solution = solve_sparse(problem)
    assert solution.x.min() >= -0.1
    assert solution.x.max() <= 0.2
    assert repr(problem) == "SparseQP(Q: (8, 8), p: (8,), lower: (8,), upper: (8,))"
