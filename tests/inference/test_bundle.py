"""The loop around the models: cuts in place, instances that leave, and energies of which nothing is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import icnn
from icnn import ConvexNetwork, Status
from icnn.inference.bundle import by_bundle as bundle
from icnn.inference.cuts import Cuts, independent, necessary
from icnn.inference.flat import FlatEnergy
from icnn.inference.regions import Polyhedron
from icnn.inference.regularized import Model, Regularized
from icnn.inference.regularized import entropic as entropic_over
from icnn.networks import ACTIVATIONS, Tangent

from .examples import NETWORKS, build, by_bundle, context


class Counting(FlatEnergy):
    """max over rows of A y + b, per instance, that notes how many instances each evaluation had."""

    def __init__(self, A: Tensor, b: Tensor, seen: list[int]) -> None:
        self.A, self.b, self.seen = A, b, seen

    def __call__(self, y: Tensor) -> Tensor:
        return self.tangent(y).value

    def tangent(self, y: Tensor) -> Tangent:
        self.seen.append(len(y))
        value, row = ((self.A @ y.unsqueeze(-1)).squeeze(-1) + self.b).max(-1)
        return Tangent(value, self.A[torch.arange(len(y)), row], ())

    def pieces(self, y: Tensor, units) -> Tangent:
        raise NotImplementedError

    def at(self, index: Tensor) -> "Counting":
        return Counting(self.A[index], self.b[index], self.seen)


def test_instances_that_are_done_leave_the_batch_and_stay_as_they_are() -> None:
    A, b = torch.randn(12, 6, 4, dtype=torch.float64), torch.randn(12, 6, dtype=torch.float64)
    A[:, 1:] *= torch.linspace(0, 2, 12, dtype=torch.float64).reshape(-1, 1, 1)
    seen, path = [], []
    start = torch.rand(12, 4, dtype=torch.float64)
    ended = bundle(Counting(A, b, seen), entropic(12, 4), start, 40, 1e-9, lambda _, y: path.append(y.clone()))
    assert (ended.status == Status.OPTIMAL).all()
    assert ended.iterations.min() < ended.iterations.max()
    running = [12] + [int((ended.iterations >= i).sum()) for i in range(1, len(path) + 1)]
    assert seen == running
    for i, last in enumerate(ended.iterations.tolist()):
        assert all(torch.equal(y[i], ended.y[i]) for y in path[last - 1 :])


def entropic(m: int, n: int) -> Regularized:
    zeros = torch.zeros(m, n, dtype=torch.float64)
    return entropic_over(Polyhedron(zeros, zeros + 1), 1.0)


class Hidden(ConvexNetwork):
    """A network whose energy is any function: nothing but values and autograd."""

    def __init__(self, network: ConvexNetwork) -> None:
        super().__init__(network.x_shape, network.y_shape, network.activation)
        self.network = network
        self.layers = network.layers

    def given(self, x: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        energy = self.network.given(x)
        return lambda y: energy(y)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize("max_iter", [4, 40])
def test_a_function_gives_what_the_network_gives(name: str, activation: str, max_iter: int) -> None:
    f = build(name, activation)
    x, start = context(f, 2, 3), torch.rand(2, 3, *f.y_shape, dtype=torch.float64)

    def solved(network: ConvexNetwork) -> tuple[icnn.ArgminSolution, tuple[Tensor, ...]]:
        solution = by_bundle(network, x, start=start, max_iter=max_iter)
        weights = list(f.parameters())
        return solution, torch.autograd.grad(solution.y.square().sum(), weights, materialize_grads=True)

    (ours, slopes), (plain, expected) = solved(f), solved(Hidden(f))
    torch.testing.assert_close(ours.y, plain.y, rtol=0, atol=1e-8)
    torch.testing.assert_close(ours.value, plain.value, rtol=0, atol=1e-8)
    assert torch.equal(ours.status, plain.status)
    for slope, right in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, right, rtol=1e-6, atol=1e-7)


class Falling(ConvexNetwork):
    """-x on the whole box: minus infinity where x is infinite."""

    def __init__(self) -> None:
        super().__init__((1,), (3,), ACTIVATIONS["relu"])
        self.layers.append(torch.nn.Linear(1, 1, dtype=torch.float64))

    def given(self, x: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        assert x is not None
        return lambda y: 0 * y.sum(-1) - x.squeeze(-1)


@pytest.mark.parametrize("x", [[[1.0], [torch.inf]], [[torch.inf]]])
def test_minus_infinity_is_not_finite(x: list) -> None:
    given = torch.tensor(x, dtype=torch.float64)
    solution = by_bundle(Falling(), given, gradient="none", on_failure="zero")
    expected = [Status.NONFINITE_INPUT if bad else Status.OPTIMAL for bad in given.isinf().flatten()]
    assert solution.status.tolist() == expected


def some_tangent(batch: int) -> tuple[Tensor, Tangent]:
    y, slope = torch.rand(2, batch, 4, dtype=torch.float64)
    return y, Tangent(torch.rand(batch, dtype=torch.float64), slope, (torch.rand(batch, 7),))


def test_cuts_fill_free_columns_and_keep_what_was_written() -> None:
    y, tangent = some_tangent(3)
    cuts, everyone = Cuts.room(y, tangent, marked=True), torch.arange(3)
    taken = []
    for _ in range(20):
        y, tangent = some_tangent(3)
        cuts = cuts.add(everyone, y, tangent)
        taken.append((y, tangent))
    G, o = cuts.of(everyone)
    assert G.shape == (3, 20, 4)
    for i, (y, tangent) in enumerate(taken):
        assert torch.equal(cuts.G[:, i], tangent.slope)
        assert torch.equal(cuts.points[:, i], y)
        assert torch.equal(cuts.marks[0][:, i], tangent.units[0])
        torch.testing.assert_close(cuts.o[:, i] + (tangent.slope * y).sum(-1), tangent.value)
    kept = torch.ones(3, 20, dtype=torch.bool)
    kept[1, 4:9] = kept[2, 2:] = False
    cuts.keep(everyone, o, kept)
    y, tangent = some_tangent(2)
    cuts = cuts.add(torch.tensor([1, 2]), y, tangent)
    assert torch.equal(cuts.G[[1, 2], [4, 2]], tangent.slope)
    assert cuts.of(torch.tensor([2]))[0].shape == (1, 3, 4)
    packed = cuts.packed()
    assert packed.G.shape == (3, 20, 4)
    assert (~packed.o.isneginf()).sum(-1).tolist() == [20, 16, 3]
    assert torch.equal(packed.G[1, 4], tangent.slope[0])
    assert torch.equal(packed.marks[0][1, 5:16], torch.stack([t.units[0][1] for _, t in taken[9:]]))


def test_cuts_without_marks() -> None:
    y, tangent = some_tangent(3)
    cuts = Cuts.room(y, tangent, marked=False).add(torch.arange(3), y, tangent)
    assert cuts.marks == ()
    assert torch.equal(cuts.packed().G[:, 0], tangent.slope)


def solved_bundle(G: Tensor, o: Tensor) -> Model:
    return entropic(len(G), G.shape[-1]).cut_model(G, o)


def test_necessary_cuts_are_affinely_independent_and_give_the_same_minimiser() -> None:
    G, o = torch.randn(40, 6, 3, dtype=torch.float64), torch.randn(40, 6, dtype=torch.float64)
    G[20:, 3:], o[20:, 3:] = G[20:, :3], o[20:, :3]  # every cut twice
    model = solved_bundle(G, o)
    kept = necessary(model, G)
    assert torch.equal(kept[:20], (model.lam > 1e-12)[:20]), "cuts in general position are all needed"
    assert (kept[20:].sum(-1) < (model.lam > 1e-12)[20:].sum(-1)).any()
    rows = torch.nn.functional.pad(G, (0, 1), value=1.0)
    for i in range(40):
        assert torch.linalg.matrix_rank(rows[i, kept[i]]) == kept[i].sum()
    again = solved_bundle(G, o.masked_fill(~kept, -torch.inf))
    torch.testing.assert_close(again.y, model.y, rtol=0, atol=1e-8)


def test_independent_multipliers_give_the_same_y() -> None:
    G = torch.randn(10, 5, 2, dtype=torch.float64)  # of five cuts in the plane at most three are independent
    lam = torch.rand(10, 5, dtype=torch.float64)
    lam = lam / lam.sum(-1, keepdim=True)
    fewer = independent(lam, G)
    assert ((fewer > 1e-12).sum(-1) <= 3).all()
    torch.testing.assert_close(fewer.sum(-1), lam.sum(-1))
    torch.testing.assert_close((fewer.unsqueeze(-1) * G).sum(1), (lam.unsqueeze(-1) * G).sum(1))
