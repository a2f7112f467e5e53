"""Each entry of one vector keeps what its role promises, and no more."""

import copy
import pickle
from itertools import permutations

import pytest
import torch
from torch import Tensor

import icnn
from icnn.networks import FICNN, PICNN, EntrywiseICNN, Signed

from .test_network import ROUNDING, every_map

ROLES = ("context", "increasing", "convex", "context", "decreasing", "convex")


def build(roles: tuple[str, ...] = ROLES, **options) -> EntrywiseICNN:
    return EntrywiseICNN(roles, (16, 12), **options).double()


def points(*batch: int, entries: int = len(ROLES)) -> Tensor:
    return 2 * torch.randn(*batch, entries, dtype=torch.float64)


def indices(f: EntrywiseICNN, *roles: str) -> list[int]:
    return [i for i, role in enumerate(f.roles) if role in roles]


@torch.no_grad()
def gaps(f: EntrywiseICNN, moving: list[int]) -> Tensor:
    """By how much f exceeds chords along which these entries vary, relative to its size."""
    one, other, t = points(400, entries=len(f.roles)), points(400, entries=len(f.roles)), torch.rand(400).double()
    fixed = [i for i in range(len(f.roles)) if i not in moving]
    other[:, fixed] = one[:, fixed]
    between = t[:, None] * one + (1 - t)[:, None] * other
    gap = f(between) - t * f(one) - (1 - t) * f(other)
    return gap / (1 + f(one).abs() + f(other).abs())


def slopes(f: EntrywiseICNN) -> Tensor:
    v = points(300, entries=len(f.roles)).requires_grad_()
    return torch.autograd.grad(f(v).sum(), v)[0]


def train(f: EntrywiseICNN) -> None:
    """Towards what the roles forbid."""
    optimiser = torch.optim.SGD(f.parameters(), lr=0.05)
    for _ in range(5):
        v = points(64)
        loss = (f(v) + v.square().mean(-1) + v[:, 1] - v[:, 4]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(f.parameters(), 2.0)
        optimiser.step()
        icnn.project_(f)


@every_map
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_each_entry_keeps_its_role_also_after_training(positivity: str, activation: str) -> None:
    f = build(positivity=positivity, activation=activation)
    for _ in range(2):
        assert gaps(f, indices(f, "convex", "increasing", "decreasing")).max() <= ROUNDING
        slope = slopes(f)
        assert (slope[:, indices(f, "increasing")] >= 0).all()
        assert (slope[:, indices(f, "decreasing")] <= 0).all()
        for i in indices(f, "convex", "context"):
            assert slope[:, i].min() < 0 < slope[:, i].max()
        assert f.is_convex()
        train(f)


def test_nothing_is_claimed_about_the_context() -> None:
    f = build()
    assert gaps(f, indices(f, "context")).max() > 1e-3
    assert gaps(f, list(range(len(ROLES)))).max() > 1e-3
    v, context = points(), indices(f, "context")

    def along_the_context(x: Tensor) -> Tensor:
        moved = v.expand(*x.shape[:-1], len(ROLES)).clone()
        moved[..., context] = x
        return f(moved)

    assert icnn.falsify(along_the_context, y_shape=(2,), bounds=(-2.0, 2.0)) is not None
    assert icnn.falsify(f, y_shape=(len(ROLES),), bounds=(-2.0, 2.0)) is not None
    assert icnn.falsify(f.network, v[context], bounds=(-2.0, 2.0)) is None


def test_without_context_all_entries_together_are_convex() -> None:
    f = build(("increasing", "convex", "decreasing"))
    assert isinstance(f.network, FICNN)
    assert gaps(f, [0, 1, 2]).max() <= ROUNDING
    assert (slopes(f)[:, 0] >= 0).all()
    assert (slopes(f)[:, 2] <= 0).all()
    assert icnn.certify(f.network).convex


@pytest.mark.parametrize("roles", list(permutations(("context", "convex", "increasing"))))
def test_entries_are_routed_in_any_order(roles: tuple[str, ...]) -> None:
    f, v = build(roles), points(7, entries=3)
    x, y = f.split(v)
    assert torch.equal(x, v[:, [roles.index("context")]])
    assert torch.equal(y, v[:, sorted((roles.index("convex"), roles.index("increasing")))])
    assert torch.equal(f(v), f.network(x, y))
    assert (slopes(f)[:, roles.index("increasing")] >= 0).all()


def test_parts_keep_the_order_of_v() -> None:
    f, v = build(), points(2, 3)
    x, y = f.split(v)
    assert torch.equal(x, v[..., [0, 3]])
    assert torch.equal(y, v[..., [1, 2, 4, 5]])


def test_only_convex_entries_need_no_signs() -> None:
    f = build(("convex", "context", "convex"))
    assert isinstance(f.network, PICNN)
    assert not any(isinstance(part, Signed) for part in f.modules())
    strong = build(("convex", "context"), strong_convexity=2.0)
    v = points(50, entries=2).requires_grad_()
    (slope,) = torch.autograd.grad(strong(v).sum(), v)
    other = v.detach().clone()
    other[:, 0] += 1
    other.requires_grad_()
    (further,) = torch.autograd.grad(strong(other).sum(), other)
    assert (further[:, 0] - slope[:, 0] >= 2 - 1e-10).all()


@pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 3)])
def test_batches(batch: tuple[int, ...]) -> None:
    f, v = build(), points(*batch)
    value = f(v)
    assert value.shape == batch
    for index in torch.ones(batch).nonzero().tolist():
        torch.testing.assert_close(value[tuple(index)], f(v[tuple(index)]), rtol=1e-12, atol=1e-12)


def test_gradients_reach_every_entry_and_every_parameter() -> None:
    f, v = build(activation="softplus", x_activation="tanh", positivity="softplus"), points(50).requires_grad_()
    f(v).square().sum().backward()
    assert v.grad is not None
    assert (v.grad != 0).any(0).all()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in f.parameters())
    torch.autograd.gradcheck(f, (points(2).requires_grad_(),))


def test_copies_pickles_and_states() -> None:
    f, v = build(), points(9)
    value = f(v)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert torch.equal(other(v), value)
        assert repr(other) == repr(f)
    other = build()
    other.load_state_dict(f.state_dict())
    assert torch.equal(other(v), value)
    assert all(key.startswith("network.") for key in f.state_dict())
    assert copy.deepcopy(f).float()(v.float()).dtype == torch.float32
    torch.testing.assert_close(torch.vmap(f)(v), value)


def test_the_network_and_the_parts_of_v_are_what_the_tools_take() -> None:
    f, v = build(), points(200)
    assert icnn.certify(f.network).convex
    assert icnn.report(icnn.normalise_(f.network, *f.split(v)), *f.split(v)).sd == pytest.approx(1)
    x, _ = f.split(v[:4])
    solution = icnn.argmin(f.network, x, regularizer="entropy", gradient="none")
    assert solution.y.shape == (4, 4)


def test_a_broken_promise_is_reported_until_projection() -> None:
    f = build(positivity="project")
    skip = f.network.layers[0].skip
    assert isinstance(skip, Signed)
    with torch.no_grad():
        skip.raw[0, 0] = -1.0
    assert not f.is_convex()
    assert icnn.project_(f).is_convex()


@pytest.mark.parametrize(
    ("message", "make"),
    [
        (r"roles are all 'context'", lambda: EntrywiseICNN(("context", "context"))),
        (
            r"roles is \('concave',\), expected one of convex, increasing, decreasing, context",
            lambda: build(("concave",)),
        ),
        (r"roles is \(\), expected one of", lambda: EntrywiseICNN(())),
        (r"roles is 'convex', expected one of", lambda: EntrywiseICNN("convex")),
        (r"monotone is given, expected the roles", lambda: build(monotone=1)),
        (r"monotone and a quadratic term exclude", lambda: build(quadratic=1)),
        (r"activation 'tanh' is not convex", lambda: build(activation="tanh")),
        (r"v has shape \(4, 5\), expected \(\*batch, 6\)", lambda: build()(torch.rand(4, 5).double())),
        (r"v has shape \(\), expected \(\*batch, 6\)", lambda: build()(torch.tensor(1.0).double())),
        (r"x has dtype torch.float32, expected that of the network", lambda: build()(torch.rand(4, 6))),
    ],
)
def test_wrong_arguments_are_named(message: str, make) -> None:
    with pytest.raises(ValueError, match=message):
        make()
