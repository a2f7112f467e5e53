"""The count is the product that defines it, also where that underflows; its derivatives are those of autograd."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from benchmarks._memory import peak_bytes
from icnn.adjoints import blocks, noisy_or_count

from .comparing import assert_equal, derivatives

OFFSETS = torch.tensor([0, 3, 3, 7, 12, 13, 13])
GROUPS = torch.tensor([0, 0, 2, 3, 3, 6, 6])  # some rows have no factors, some groups no rows
RAGGED = {
    "one group": ((), None),
    "groups": ((6,), GROUPS),
}
DENSE = {
    "no batch": ((), (), ()),
    "batch": ((2, 3), (2, 3), (2, 3)),
    "shared parameters": ((), (3,), (3,)),
    "shared factors": ((3,), (), ()),
    "mixed": ((2, 1), (3,), (2, 1)),
}
sizes = pytest.mark.parametrize("piece", [1, 4, 7, 1 << 17], indirect=True)


@pytest.fixture
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PIECE", request.param)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


def by_definition(alpha: Tensor, beta: Tensor, I: Tensor, D: Tensor) -> Tensor:
    F = torch.sigmoid(alpha[..., None, None] * I + beta[..., None, None] * D)
    return I.shape[-2] - (1 - F).prod(-1).sum(-1)


def row_by_row(alpha: Tensor, beta: Tensor, I: Tensor, D: Tensor, groups: Tensor | None) -> Tensor:
    """Of the ragged rows of OFFSETS."""
    if groups is None:
        return row_by_row(alpha[None], beta[None], I, D, torch.tensor([0, len(OFFSETS) - 1]))[0]
    counts = []
    for a, b, first, last in zip(alpha, beta, groups, groups[1:], strict=False):
        rows = [slice(int(OFFSETS[i]), int(OFFSETS[i + 1])) for i in range(int(first), int(last))]
        counts.append(sum((by_definition(a, b, I[None, at], D[None, at]) for at in rows), a.new_zeros(())))
    return torch.stack(counts)


@sizes
@pytest.mark.parametrize("shapes", DENSE.values(), ids=DENSE)
@pytest.mark.usefixtures("piece")
def test_dense_blocks_have_the_value_and_three_orders_of_autograd(shapes) -> None:
    parameters, *values = shapes
    inputs = [normal(*parameters), normal(*parameters), *(normal(*batch, 4, 3) for batch in values)]
    ours, theirs = noisy_or_count(*inputs), by_definition(*inputs)
    assert_equal([ours], [theirs])
    assert_equal(derivatives(ours, inputs, 3), derivatives(theirs, inputs, 3))


@sizes
@pytest.mark.parametrize("structure", RAGGED.values(), ids=RAGGED)
@pytest.mark.usefixtures("piece")
def test_ragged_rows_have_the_value_and_three_orders_of_autograd(structure) -> None:
    shape, groups = structure
    inputs = [normal(*shape), normal(*shape), normal(13), normal(13)]
    ours, theirs = noisy_or_count(*inputs, offsets=OFFSETS, groups=groups), row_by_row(*inputs, groups=groups)
    assert_equal([ours], [theirs])
    assert_equal(derivatives(ours, inputs, 3), derivatives(theirs, inputs, 3))


@pytest.mark.parametrize("piece", [3], indirect=True)
@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 4)])
def test_gradients_of_both_orders_are_those_of_differences(shape) -> None:
    inputs = [normal(*shape[:-2]), normal(*shape[:-2]), normal(*shape), normal(*shape)]
    assert torch.autograd.gradcheck(noisy_or_count, inputs, rtol=1e-6)
    assert torch.autograd.gradgradcheck(noisy_or_count, inputs, rtol=1e-6)


@pytest.mark.parametrize("piece", [3], indirect=True)
@pytest.mark.usefixtures("piece")
def test_gradients_of_ragged_rows_are_those_of_differences() -> None:
    def count(*inputs: Tensor) -> Tensor:
        return noisy_or_count(*inputs, offsets=torch.tensor([0, 2, 2, 6]), groups=torch.tensor([0, 1, 3]))

    inputs = [normal(2), normal(2), normal(6), normal(6)]
    assert torch.autograd.gradcheck(count, inputs, rtol=1e-6)
    assert torch.autograd.gradgradcheck(count, inputs, rtol=1e-6)


def test_gradient_and_hessian_are_the_formulas() -> None:
    alpha, beta, I, D = inputs = [normal(), normal(), normal(4, 3), normal(4, 3)]
    F = torch.sigmoid(alpha * I + beta * D)
    m = (1 - F).prod(-1, keepdim=True)
    formulas = [(m * F * I).sum(), (m * F * D).sum(), alpha * m * F, beta * m * F]
    gradients = torch.autograd.grad(noisy_or_count(*inputs), inputs, create_graph=True)
    assert_equal(gradients, formulas)
    r = (F * I).sum(-1, keepdim=True)
    twice = (m * F * (1 - F) * I * I).sum() - (m * r * r).sum()
    assert_equal(torch.autograd.grad(gradients[0], alpha), [twice])


@pytest.mark.parametrize("ragged", [False, True])
def test_numbers_are_ordinary_where_the_product_underflows(ragged) -> None:
    """50,000 factors of 1 - σ(4) each, and as many of 1 - σ(-40), whose events are as rare as they should be."""
    J = 50_000
    I = torch.tensor([[4.0], [-40.0]], dtype=torch.float64).expand(2, J)
    D, one = torch.zeros_like(I), torch.ones((), dtype=torch.float64, requires_grad=True)
    assert torch.sigmoid(-I[0]).prod() == 0
    assert torch.sigmoid(-I[1]).prod() == 1
    structure = (torch.tensor([0, J, 2 * J]), torch.tensor([0, 1, 2])) if ragged else ()
    shape = (-1,) if ragged else (2, 1, J)
    s = noisy_or_count(one.expand(2), 0.0, I.reshape(shape), D.reshape(shape), *structure)
    rare = J * torch.tensor(-40.0, dtype=torch.float64).exp()  # less rare² / 2, which is beyond the digits here
    assert s[0] == 1
    assert s[1].item() == pytest.approx(rare.item(), rel=1e-11)
    often, seldom = (torch.autograd.grad(part, one, create_graph=True)[0] for part in s)
    assert often == 0
    assert seldom.item() == pytest.approx(-40 * rare.item(), rel=1e-11)
    assert torch.autograd.grad(often, one, retain_graph=True)[0] == 0
    assert torch.autograd.grad(seldom, one)[0].item() == pytest.approx(1600 * rare.item(), rel=1e-11)


def test_escape_is_exact_where_softplus_of_torch_stops_at_nine_digits() -> None:
    """∂s/∂α of one factor is σ(-z) σ(z) I, all digits, at z = 21 too."""
    z = torch.tensor([19.0, 21.0, 35.0, 41.0, 300.0], dtype=torch.float64)
    alpha = torch.ones(5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(noisy_or_count(alpha, 0.0, z.view(5, 1, 1), 0 * z.view(5, 1, 1)).sum(), alpha)
    torch.testing.assert_close(slope, torch.sigmoid(-z) * torch.sigmoid(z) * z, rtol=1e-13, atol=0)


def least_excess(of: Callable[[Tensor, Tensor], Tensor], count: int = 2000) -> float:
    """The least that the mean of the ends of a chord exceeds the value at its middle; at least 0 if `of` is convex."""
    ends = torch.randn(2, 2, count, dtype=torch.float64)
    first, second = (of(*end) for end in ends)
    return ((first + second) / 2 - of(*ends.mean(0))).min().item()


def test_minus_log_m_is_convex_in_the_parameters_and_the_count_neither_convex_nor_concave() -> None:
    I, D = 0.5 * torch.randn(2, 1, 5, dtype=torch.float64)

    def count(alpha: Tensor, beta: Tensor) -> Tensor:
        return noisy_or_count(alpha, beta, I, D)

    assert least_excess(lambda alpha, beta: -torch.log1p(-count(alpha, beta))) >= -1e-11
    assert least_excess(count) < -0.01
    assert least_excess(lambda alpha, beta: -count(alpha, beta)) < -0.01


@pytest.mark.parametrize("piece", [1 << 12], indirect=True)
@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("layout", ["dense", "ragged", "one row"])
def test_neither_sweep_takes_memory_that_grows_with_the_factors(layout) -> None:
    n = 200_000
    I, D = torch.randn(2, n, dtype=torch.float64)
    offsets, groups = {
        "dense": (None, None),
        "ragged": (torch.arange(0, n + 1, 40), torch.arange(0, n // 40 + 1, 100)),
        "one row": (torch.tensor([0, n]), torch.tensor([0, 1])),
    }[layout]
    if offsets is None:
        I, D = I.view(50, -1, 40), D.view(50, -1, 40)
    alpha = torch.ones(1 if layout == "one row" else 50, dtype=torch.float64, requires_grad=True)

    def gradient_and_curvature() -> None:
        s = noisy_or_count(alpha, alpha, I, D, offsets, groups)
        (slope,) = torch.autograd.grad(s.sum(), alpha, create_graph=True)
        torch.autograd.grad(slope.sum(), alpha)

    def autograd() -> None:
        log_m = -torch.nn.functional.softplus(alpha[..., None, None] * (I + D)).sum(-1)
        (-log_m.expm1()).sum().backward()

    bound = 1e6  # bytes; I and D have 3.2e6
    assert peak_bytes(gradient_and_curvature) < bound
    if layout == "dense":
        assert peak_bytes(autograd) > 4 * bound, "the measure sees what autograd takes"


def test_parameters_shared_by_all_groups_collect_the_gradients_of_all() -> None:
    alpha, beta, I, D = inputs = [normal(), normal(), normal(13), normal(13)]
    ours = noisy_or_count(*inputs, offsets=OFFSETS, groups=GROUPS)
    theirs = row_by_row(alpha.expand(6), beta.expand(6), I, D, GROUPS)
    assert_equal(derivatives(ours, inputs, 2), derivatives(theirs, inputs, 2))
    assert_equal([noisy_or_count(0.5, -1.0, I, D, OFFSETS)], [noisy_or_count(0.5, -1.0, I, D, OFFSETS, GROUPS).sum()])


def test_every_way_to_batch_gives_the_same() -> None:
    alpha, beta, I, D = inputs = [part.detach() for part in (normal(5), normal(5), normal(5, 4, 3), normal(5, 4, 3))]
    counts = noisy_or_count(*inputs)
    assert_equal([counts[2]], [noisy_or_count(alpha[2], beta[2], I[2], D[2])], 1e-15)
    rows = (torch.arange(0, 61, 3), torch.arange(0, 21, 4))
    assert_equal([counts], [noisy_or_count(alpha, beta, I.flatten(), D.flatten(), *rows)], 1e-15)
    assert_equal([counts], [noisy_or_count(alpha, beta, I.flatten(), D.flatten(), *(row.int() for row in rows))], 1e-15)
    assert_equal([torch.func.vmap(noisy_or_count)(*inputs)], [counts], 1e-15)
    of_each = torch.func.vmap(lambda a, I: noisy_or_count(a, 0.5, I, D[0].flatten(), rows[0][:5]))
    assert_equal([of_each(alpha, I.flatten(1))], [noisy_or_count(alpha, 0.5, I, D[0])], 1e-15)
    ours = torch.func.jacrev(torch.func.jacrev(noisy_or_count))(*inputs)
    assert_equal([ours], [torch.func.jacrev(torch.func.jacrev(by_definition))(*inputs)])
    ours = torch.func.vmap(torch.func.grad(noisy_or_count, argnums=(0, 2)))(*inputs)
    assert_equal(ours, torch.func.vmap(torch.func.grad(by_definition, argnums=(0, 2)))(*inputs))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 4, 3), (2, 0, 0)])
def test_of_nothing_nothing_comes(shape) -> None:
    alpha, values = normal(), normal(*shape)
    s = noisy_or_count(alpha, alpha, values, values)
    assert torch.equal(s, torch.zeros(shape[:-2], dtype=torch.float64))
    assert torch.autograd.grad(s.sum(), alpha)[0] == 0
    none = torch.zeros(0, dtype=torch.float64)
    assert noisy_or_count(alpha, alpha, none, none, torch.tensor([0])) == 0
    assert noisy_or_count(alpha, alpha, none, none, torch.tensor([0]), torch.tensor([0, 0])).tolist() == [0]


def test_float32_stays_float32() -> None:
    I, D = torch.randn(2, 200_000)
    offsets = torch.tensor([0, 150_000, *range(150_050, 200_001, 50)])
    alpha = torch.tensor(0.1, requires_grad=True)
    single = noisy_or_count(alpha, -4.0, I, D - 3, offsets)
    double = noisy_or_count(alpha.double(), -4.0, I.double(), (D - 3).double(), offsets)
    assert single.dtype == torch.float32
    assert_equal([single.double()], [double], 1e-5)
    (ours,), (theirs,) = torch.autograd.grad(single, alpha), torch.autograd.grad(double, alpha)
    assert_equal([ours], [theirs], 1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"I": torch.zeros(3)}, r"\(\*batch, N, J\) without offsets; got \(3,\) and \(4, 3\)"),
        ({"I": torch.zeros(4, 2)}, r"same rows and factors; got \(4, 2\) and \(4, 3\)"),
        ({"I": torch.zeros(4, 3).half()}, "float32 or of float64; got torch.float16"),
        ({"D": torch.zeros(4, 3).double()}, "both"),
        ({"alpha": torch.zeros(2).double()}, r"alpha must be of the dtype of I and D, torch.float32"),
        ({"alpha": torch.zeros(2), "beta": torch.zeros(3)}, r"must broadcast; got \(2,\), \(3,\)"),
        ({"groups": torch.tensor([0, 4])}, "groups are of ragged rows"),
        ({"offsets": torch.tensor([0, 4])}, r"\(values,\) where offsets are given"),
    ],
)
def test_bad_dense_input_is_named(changed, message) -> None:
    inputs = {"alpha": 1.0, "beta": 1.0, "I": torch.zeros(4, 3), "D": torch.zeros(4, 3)} | changed
    with pytest.raises((ValueError, TypeCheckError), match=message):
        noisy_or_count(**inputs)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"offsets": torch.tensor([0, 12])}, "offsets must go from 0 to the number of values, 13"),
        ({"offsets": torch.tensor([0, 5, 3, 13])}, "never falling"),
        ({"offsets": torch.tensor([0.0, 13.0])}, "offsets"),
        ({"groups": torch.tensor([1, 6])}, "groups must go from 0 to the number of rows, 6"),
        ({"groups": torch.zeros(0, dtype=torch.long)}, "groups must be"),
        ({"alpha": torch.zeros(2)}, r"alpha must be one number or of shape \(6,\), one for each group; got \(2,\)"),
        ({"beta": torch.zeros(3, 6)}, r"beta must be one number"),
        ({"groups": None, "beta": torch.zeros(1)}, r"beta must be one number"),
    ],
)
def test_bad_ragged_input_is_named(changed, message) -> None:
    ragged = {"offsets": OFFSETS, "groups": GROUPS}
    inputs = {"alpha": 1.0, "beta": 1.0, "I": torch.zeros(13), "D": torch.zeros(13)} | ragged | changed
    with pytest.raises((ValueError, TypeCheckError), match=message):
        noisy_or_count(**inputs)
