"""certify proves what is convex, stops where an edit breaks it, and never calls convex what a chord refutes."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks._edits import EDITS, REFUSED, Users, steep, unproject_
from icnn.certificates import falsify
from icnn.certificates.facts import Node
from icnn.certificates.verdict import Curvature, Verdict, certify
from icnn.networks import (
    CONVEX_ACTIVATIONS,
    FICNN,
    PICNN,
    POSITIVITY,
    ConvFICNN,
    ConvPICNN,
    ResidualICNN,
    project_,
    units,
)

CONVEX, CONCAVE, AFFINE, UNKNOWN = Curvature.CONVEX, Curvature.CONCAVE, Curvature.AFFINE, Curvature.UNKNOWN
CONVS, DENSE = ((3, 3, 1), (4, 2, 2)), (6,)
ARCHITECTURES = {
    "FICNN": lambda **options: FICNN(5, (6, 4), **options),
    "PICNN": lambda **options: PICNN(4, 5, (6, 4), **options),
    "ConvFICNN": lambda **options: ConvFICNN((1, 4, 3), CONVS, DENSE, **options),
    "ConvPICNN": lambda **options: ConvPICNN((2, 4, 3), (1, 4, 3), CONVS, DENSE, **options),
}
Y = torch.zeros(2, 3)


def curvature(f: Callable[..., Tensor], *arguments: Tensor, **options) -> Curvature:
    return certify(f, *(arguments or (Y,)), **options).curvature


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_is_convex_by_construction(name: str) -> None:
    maps = itertools.cycle(POSITIVITY)
    for activation in CONVEX_ACTIVATIONS:
        positivity = next(maps)
        f = ARCHITECTURES[name](activation=activation, positivity=positivity)
        assert certify(f) == Verdict(CONVEX), (activation, positivity)


def test_options_and_units_of_several_pieces_too() -> None:
    for unit in (units.maxout(2), units.norm(2), units.log_sum_exp(2), units.centred("squareplus")):
        assert certify(PICNN(4, 5, (6, 4), unit)).convex, unit.name
    for options in ({"quadratic": 2}, {"strong_convexity": 0.3}, {"monotone": 1}, {"skips": False}):
        assert certify(ConvFICNN((1, 4, 3), CONVS, DENSE, **options)).curvature == "convex", options  # pyright: ignore
    assert certify(ResidualICNN(5)).curvature == "convex"


@pytest.mark.parametrize("name", ["PICNN", "ConvPICNN"])
def test_without_coupling_affine_and_in_x_unknown(name: str) -> None:
    assert certify(ARCHITECTURES[name](coupling=False)).curvature is AFFINE
    assert certify(ARCHITECTURES[name](), inputs="x").curvature is UNKNOWN
    assert certify(ARCHITECTURES[name](), inputs=("x", "y")).curvature is UNKNOWN


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3)])
def test_examples_may_have_any_batch_and_type(batch: tuple[int, ...]) -> None:
    f = PICNN(4, 5, (6,)).double()
    x, y = torch.zeros(*batch, 4, dtype=torch.float64), torch.zeros(*batch, 5, dtype=torch.float64)
    assert certify(f, x, y).curvature is CONVEX
    assert certify(f, x, y, inputs=1).curvature is CONVEX


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_weight_that_was_not_projected_stops_it_where_it_is(name: str) -> None:
    f = ARCHITECTURES[name](positivity="project")
    for number in range(1, len(f.layers)):
        unproject_(f, number)
        verdict = certify(f)
        assert verdict.curvature is UNKNOWN
        assert verdict.node is not None
        assert verdict.node.module == f"layers.{number}.path"
        assert "-0.25" in verdict.reason
        assert certify(project_(f)).curvature is CONVEX


def test_nan_weights_prove_nothing() -> None:
    f = FICNN(5, (6, 4))
    with torch.no_grad():
        f.layers[1].path.raw[0, 0] = math.nan  # pyright: ignore
    assert certify(f).curvature is UNKNOWN


def test_a_users_network_is_convex() -> None:
    assert certify(Users(), Y) == Verdict(CONVEX)


@pytest.mark.parametrize("edit", [*EDITS, *REFUSED])
def test_an_edit_is_named(edit: str) -> None:
    node, reason = {**EDITS, **REFUSED}[edit]
    verdict = certify(Users(edit), Y)
    assert verdict.curvature is UNKNOWN
    assert verdict.node == node
    assert reason in verdict.reason
    assert f"{node}: {verdict.reason}" in repr(verdict)


@pytest.mark.parametrize("edit", EDITS)
def test_a_chord_shows_that_the_edit_matters(edit: str) -> None:
    assert falsify(steep(edit), y_shape=(3,), bounds=(-3, 3)) is not None


def test_gates_of_unknown_sign_stop_it() -> None:
    def gated(x: Tensor, y: Tensor) -> Tensor:
        return (x * F.softplus(y)).sum(-1)

    verdict = certify(gated, Y, Y)
    assert verdict.curvature is UNKNOWN
    assert verdict.node == Node("", "mul")
    assert "sign" in verdict.reason or "may be negative" in verdict.reason
    assert falsify(gated, torch.tensor([1.0, -1.0, 1.0]), y_shape=(3,)) is not None
    assert certify(lambda x, y: gated(F.relu(x), y), Y, Y, inputs="y").curvature is CONVEX
    assert certify(gated, Y, Y, bounds={"x": (0.0, math.inf)}).curvature is CONVEX
    assert certify(lambda x, y: gated(1 / x, y), Y, Y).curvature is UNKNOWN
    assert certify(lambda x, y: gated(1 / (1 + F.softplus(x)), y), Y, Y).curvature is CONVEX


SKEW = torch.tensor([[0.0, 5.0, 0.0], [-5.0, 0.0, 2.0], [0.0, -2.0, 0.0]])
Q = torch.tensor([[2.0, -1.0, 0.3], [-1.0, 3.0, 0.0], [0.3, 0.0, 1.0]])
PROGRAMS: dict[str, tuple[Callable[[Tensor], Tensor], Curvature]] = {
    "norm of a map": (lambda y: torch.linalg.vector_norm(y @ Q, dim=-1), CONVEX),
    "p-norm": (lambda y: (y @ Q).norm(p=3.0, dim=-1), CONVEX),
    "norm by hand": (lambda y: ((y @ Q).square().sum(-1) + 1e-3).sqrt(), CONVEX),
    "norm of convex": (lambda y: F.relu(y).square().sum(-1).sqrt(), CONVEX),
    "norm of mixed": (lambda y: (F.softplus(y) - 1).square().sum(-1).sqrt(), UNKNOWN),
    "squared norm": (lambda y: torch.linalg.vector_norm(y, dim=-1) ** 2, CONVEX),
    "log-sum-exp": (lambda y: torch.logsumexp(y @ Q, -1), CONVEX),
    "log-sum-exp by hand": (lambda y: torch.log(torch.exp(y @ Q).sum(-1) + 1), CONVEX),
    "log1p of exp": (lambda y: torch.log1p(torch.exp(y)), CONVEX),
    "maxout": (lambda y: (y @ Q).unflatten(-1, (3, 1)).amax(-2).sum(-1), CONVEX),
    "max pooling": (lambda y: F.max_pool1d(y @ Q, 3), CONVEX),
    "average pooling": (lambda y: F.avg_pool2d(F.relu(y)[None], (1, 3)), CONVEX),
    "max and index": (lambda y: y.max(-1).values, CONVEX),
    "minimum of affine": (lambda y: (y @ Q).amin(-1), CONCAVE),
    "entropy-like barrier": (lambda y: -torch.log(torch.sigmoid(y)).sum(-1), UNKNOWN),
    "log-sigmoid": (lambda y: -F.logsigmoid(y).sum(-1), CONVEX),
    "leaky max": (lambda y: torch.maximum(y, 0.1 * y), CONVEX),
    "leaky prelu": (lambda y: F.prelu(y, torch.tensor(0.1)), CONVEX),
    "steep prelu": (lambda y: F.prelu(y, torch.tensor(1.5)), UNKNOWN),
    "positive part by hand": (lambda y: F.relu(0.5 * (F.relu(y) + F.relu(y).abs())), CONVEX),
    "squareplus of convex": (lambda y: F.softplus(y) + (F.softplus(y).square() + 1).sqrt(), CONVEX),
    "softplus with a step": (lambda y: F.softplus(y, threshold=1.0), UNKNOWN),
    "sharp softplus": (lambda y: F.softplus(y, beta=5.0), CONVEX),
    "power of two": (lambda y: 2.0**y, CONVEX),
    "power of a third": (lambda y: torch.pow(torch.tensor(1 / 3), F.relu(y)), UNKNOWN),
    "maximum of two": (lambda y: torch.max(y, y @ Q), CONVEX),
    "celu": (lambda y: F.celu(y, 0.7), CONVEX),
    "steep elu": (lambda y: F.elu(y, 1.5), UNKNOWN),
    "clamped below": (lambda y: y.clamp(min=-1.0), CONVEX),
    "clamped above": (lambda y: y.clamp(max=1.0), CONCAVE),
    "clamped": (lambda y: y.clamp(0.0, 1.0), UNKNOWN),
    "cube": (lambda y: y**3, UNKNOWN),
    "cube of a positive": (lambda y: F.relu(y) ** 3, CONVEX),
    "fourth power": (lambda y: y**4, CONVEX),
    "inverse of a positive concave": (lambda y: 1 / (3 - F.relu(y).clamp(max=1.0)), UNKNOWN),
    "product with itself": (lambda y: (y * y).sum(-1), CONVEX),
    "affine chain": (lambda y: (2 - (y @ Q - 1) / 3).flip(-1).cumsum(-1)[:, :2], AFFINE),
    "padded and stacked": (lambda y: torch.stack([F.pad(F.relu(y), (1, 2)), torch.ones(2, 6)]).mean((0, 2)), CONVEX),
    "split": (lambda y: sum(part.exp() for part in y.split(1, -1)), CONVEX),  # pyright: ignore
    "where": (lambda y: torch.where(torch.tensor([True, False, True]), y.exp(), y), CONVEX),
    "in place": (lambda y: (y @ Q).relu_().add_(1.0), CONVEX),
    "written by parts": (lambda y: _flipped_in_place(y @ Q), UNKNOWN),
    "half and half": (lambda y: torch.cat([y.exp(), -y.exp()], -1), UNKNOWN),
    "cross-entropy": (lambda y: -F.log_softmax(y @ Q, -1)[:, 1], CONVEX),
    "lower triangle": (lambda y: torch.triu(y.exp()).sum(), CONVEX),
    "log-add-exp": (lambda y: torch.logaddexp(y.exp(), -y), CONVEX),
    "left torch": (lambda y: torch.tensor(y.tolist()), UNKNOWN),
    "softmax": (lambda y: torch.softmax(y, -1), UNKNOWN),
    "constant": (lambda y: torch.ones(2), AFFINE),
    "integers": (lambda y: y.round().long().sum(), UNKNOWN),
    "fourier": (lambda y: torch.fft.rfft(y).abs(), UNKNOWN),
    "picked by value": (lambda y: y.gather(-1, y.argmax(-1, keepdim=True)), UNKNOWN),
    "counted": (lambda y: y[..., (y > 0).sum()], UNKNOWN),
    "sorted": (lambda y: y.sort(-1).values, UNKNOWN),
    "cast": (lambda y: y.double().exp().float(), CONVEX),
    "bent at a jump": (lambda y: F.threshold(y, 0.0, 1.0), UNKNOWN),
    "attention": (lambda y: F.relu(y) @ torch.softmax(Q, -1), CONVEX),
    "masked": (lambda y: y.exp()[:, torch.tensor([True, False, True])].sum(-1), CONVEX),
    "indexed": (lambda y: y.exp()[:, torch.tensor([0, 0, 2])].sum(-1), CONVEX),
    "einsum": (lambda y: torch.einsum("bi,ij->b", y.exp(), Q.abs()), CONVEX),
    "quadratic form": (lambda y: (y * (y @ Q)).sum(-1), CONVEX),
    "quadratic form, image first": (lambda y: (y @ Q * y).sum(-1), CONVEX),
    "quadratic form by einsum": (lambda y: torch.einsum("bi,ij,bj->b", y, Q, y), CONVEX),
    "quadratic form of one vector": (lambda y: y[0] @ Q @ y[0], CONVEX),
    "quadratic form by dot": (lambda y: torch.dot(y[0], Q @ y[0]), CONVEX),
    "quadratic form by pairs": (lambda y: (y[..., None] * y[..., None, :] * Q).sum((-1, -2)), CONVEX),
    "quadratic form and its linear term": (lambda y: (y * (y @ Q + Q[0])).sum(-1) - y.sum(-1), CONVEX),
    "quadratic form of a centred value": (lambda y: ((y - Q[0]) * ((y - Q[0]) @ Q)).sum(-1) / 2, CONVEX),
    "quadratic form with a skew part": (lambda y: (y * (y @ (Q + SKEW))).sum(-1), CONVEX),
    "negative quadratic form": (lambda y: -(y * (y @ Q)).mean(-1), CONCAVE),
    "indefinite quadratic form": (lambda y: (y * (y @ (Q - torch.eye(3)))).sum(-1), UNKNOWN),
    "quadratic form without two of three": (
        lambda y: (y * (y @ torch.diag(torch.tensor([2.0, 0, 0])))).sum(-1),
        CONVEX,
    ),
    "singular quadratic form": (lambda y: (y * (y @ torch.ones(3, 3))).sum(-1), UNKNOWN),
    "summed over the other dimension": (lambda y: (y * (y @ Q)).sum(0), UNKNOWN),
    "weighted after the product": (lambda y: (y * (y @ Q) * torch.tensor([1.0, 99.0, 1.0])).sum(-1), UNKNOWN),
    "not summed": (lambda y: y * (y @ Q), UNKNOWN),
    "quadratic form of convex values": (lambda y: (F.relu(y) * (F.relu(y) @ SKEW.abs())).sum(-1), UNKNOWN),
    "product with another": (lambda y: (y[0] * (y[1] @ Q)).sum(-1), UNKNOWN),
    "products of rows": (lambda y: y @ y.mT, UNKNOWN),
    "squares less a form": (lambda y: (4 * y.square() - y * (y @ Q)).sum(-1), CONVEX),
    "squares less a form, each summed": (lambda y: 3 * y.square().sum(-1) - (y * (y @ Q)).sum(-1), UNKNOWN),
    "form less squares, each summed": (lambda y: (y * (y @ Q)).sum(-1) - 0.8 * y.square().sum(-1), CONVEX),
    "Mahalanobis distance": (lambda y: ((d := y - Q[0]) @ Q * d).sum(-1).sqrt(), CONVEX),
    "root of a form and a linear term": (lambda y: (y * (y @ Q + 1)).sum(-1).sqrt(), UNKNOWN),
    "max pooling that overlaps": (lambda y: F.max_pool1d(y, 3, 1, 1), CONVEX),
    "max pooling of concave": (lambda y: F.max_pool1d(-y.exp(), 3, 1, 1), UNKNOWN),
    "adaptive max pooling": (lambda y: F.adaptive_max_pool2d(y.exp()[None], 2), CONVEX),
    "maximum of one": (lambda y: (-y.exp())[:, :1].amax(-1), CONCAVE),
    "running maximum": (lambda y: y.cummax(-1).values, CONVEX),
    "running minimum": (lambda y: y.cummin(-1).values, CONCAVE),
    "range": (lambda y: y.aminmax(dim=-1).max - y.aminmax(dim=-1).min, CONVEX),
    "distances": (lambda y: torch.cdist(y @ Q, Q).amin(), UNKNOWN),
    "sum of distances": (lambda y: torch.cdist(y @ Q, Q, p=1.0).sum(), CONVEX),
    "pairwise distance": (lambda y: F.pairwise_distance(y, Q[:2]), CONVEX),
    "distance": (lambda y: torch.dist(y, Q[:2]), CONVEX),
    "hypotenuse": (lambda y: torch.hypot(y, y @ Q), CONVEX),
    "hypotenuse of mixed": (lambda y: torch.hypot(y.exp() - 1, torch.ones(())), UNKNOWN),
    "squared error": (lambda y: F.mse_loss(y @ Q, Q[:2]), CONVEX),
    "squared error of convex": (lambda y: F.mse_loss(y.exp(), Q[:2], reduction="sum"), UNKNOWN),
    "Huber": (lambda y: F.huber_loss(y, Q[:2], delta=0.3), CONVEX),
    "Huber of mixed": (lambda y: F.huber_loss(y.exp(), Q[:2]), UNKNOWN),
    "smooth l1": (lambda y: F.smooth_l1_loss(y, Q[:2], reduction="none"), CONVEX),
    "logistic loss": (lambda y: F.binary_cross_entropy_with_logits(y @ Q, torch.full((2, 3), 0.2)), CONVEX),
    "weighted logistic loss": (lambda y: F.binary_cross_entropy_with_logits(y, Y, pos_weight=Q[1].abs()), CONVEX),
    "logistic loss of convex": (lambda y: F.binary_cross_entropy_with_logits(y.exp(), Y + 1), UNKNOWN),
    "logits of a class": (lambda y: F.cross_entropy(y @ Q, torch.tensor([0, 2]), weight=Q[0].abs()), CONVEX),
    "likelihood": (lambda y: -F.nll_loss(y, torch.tensor([0, 2])), AFFINE),
    "likelihood of concave": (lambda y: F.nll_loss(-y.exp(), torch.tensor([0, 2]), reduction="sum"), CONVEX),
    "logarithm of cosh": (lambda y: torch.log(torch.cosh(y @ Q)), CONVEX),
    "entropy": (lambda y: torch.special.entr(y.exp()), UNKNOWN),
    "constant times a logarithm": (lambda y: torch.xlogy(Q[0].abs(), 1 + y.exp()), CONVEX),
    "linear interpolation": (lambda y: F.interpolate(y.exp()[:, None], scale_factor=2.0, mode="linear"), CONVEX),
    "patches": (lambda y: F.fold(F.unfold(y.exp()[None, None], 2), (2, 3), 2), CONVEX),
    "soft shrinkage": (F.softshrink, UNKNOWN),
    "soft shrinkage of a positive": (lambda y: F.softshrink(F.relu(y)), CONVEX),
    "hard shrinkage": (F.hardshrink, UNKNOWN),
    "layer norm": (lambda y: F.layer_norm(y, (3,)), UNKNOWN),
    "group norm": (lambda y: F.group_norm(y, 3), UNKNOWN),
    "instance norm": (lambda y: F.instance_norm(y[None]), UNKNOWN),
    "unit length": (lambda y: F.normalize(y, dim=-1), UNKNOWN),
    "transposed": (lambda y: F.conv_transpose1d(y.exp()[:, None], Q.abs()[:1, None], torch.ones(1)), CONVEX),
}


def _flipped_in_place(v: Tensor) -> Tensor:
    v[:, 1].abs_().neg_()
    return v


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_and_their_curvature(name: str) -> None:
    f, expected = PROGRAMS[name]
    verdict = certify(f, Y)
    assert verdict.curvature is expected, verdict
    assert (verdict.node is None) == (expected is not UNKNOWN)


def test_the_eigenvalues_of_a_form_are_named() -> None:
    verdict = certify(lambda y: (y * (y @ torch.diag(torch.tensor([2.0, -0.5, 1.0])))).sum(-1), Y)
    assert verdict.node == Node("", "sum")
    assert "eigenvalues from -0.5 to 2" in verdict.reason
    singular = certify(PROGRAMS["singular quadratic form"][0], Y)
    assert "zero up to rounding: a sum of squares" in singular.reason
    assert "both depend" in certify(PROGRAMS["not summed"][0], Y).reason
    assert "more than are looked at" in certify(lambda y: (y * (y @ torch.eye(300))).sum(-1), torch.zeros(300)).reason


def test_a_form_of_values_gated_by_the_context() -> None:
    def f(x: Tensor, y: Tensor) -> Tensor:
        v = x * y
        return (v * (v @ Q)).sum(-1)

    assert certify(f, Y, Y, inputs="y").curvature is CONVEX
    assert certify(f, Y, Y, inputs=("x", "y")).curvature is UNKNOWN
    assert certify(lambda x, y: (y * (x * y @ Q)).sum(-1), Y, Y, inputs="y").curvature is UNKNOWN


NORMS = {
    "layer norm": (lambda v: F.layer_norm(v, (3,)), "native_layer_norm", "layer norm divides by"),
    "group norm": (lambda v: F.group_norm(v[..., None], 1).squeeze(-1), "native_group_norm", "group norm divides by"),
    "instance norm": (lambda v: F.instance_norm(v[None])[0], "native_batch_norm", "statistics of the input"),
    "unit length": (lambda v: F.normalize(v, dim=-1), "div", "division by a value that depends on the inputs"),
}


@pytest.mark.parametrize("name", NORMS)
def test_what_is_normalised_stops_it_and_of_the_context_it_is_fixed(name: str) -> None:
    norm, operation, reason = NORMS[name]
    verdict = certify(lambda y: norm(y.exp()).sum(-1), Y)
    assert (verdict.node, verdict.curvature) == (Node("", operation), UNKNOWN)
    assert reason in verdict.reason
    assert certify(lambda x, y: (norm(x) * y).sum(-1), Y, Y, inputs="y").curvature is AFFINE
    assert certify(lambda x, y: norm(x) * y.exp(), Y, Y, inputs="y").curvature is UNKNOWN
    if name != "unit length":  # entries of the others are at most √3 in size
        assert certify(lambda x, y: (norm(x) + 1.8) * y.exp(), Y, Y, inputs="y").curvature is CONVEX
        assert certify(lambda x, y: (norm(x) + 1.7) * y.exp(), Y, Y, inputs="y").curvature is UNKNOWN


def test_bounds_make_more_provable() -> None:
    assert curvature(torch.special.entr, bounds={0: (0, 1)}) is CONCAVE
    assert curvature(lambda y: torch.xlogy(y, y), bounds={"y": (0, 1)}) is CONVEX
    assert curvature(lambda y: torch.xlogy(2, y), bounds={"y": (0.1, 1)}) is CONCAVE
    assert curvature(lambda y: y**3) is UNKNOWN
    assert curvature(lambda y: y**3, bounds={"y": (0, 2)}) is CONVEX
    assert curvature(lambda y: y**3, bounds={0: (-1, 0)}) is CONCAVE
    assert curvature(lambda y: y.log(), bounds={"y": (0, 1)}) is UNKNOWN
    assert curvature(lambda y: y.log(), bounds={"y": (1e-3, 1)}) is CONCAVE
    assert curvature(lambda y: 1 / y, bounds={"y": (1e-3, 1)}) is CONVEX
    assert curvature(lambda y: 1 / y, bounds={"y": (-1, -1e-3)}) is CONCAVE
    assert curvature(lambda y: y.sigmoid(), bounds={"y": (-5, 0)}) is CONVEX
    assert curvature(lambda y: y.clamp(0, 1), bounds={"y": (0, 1)}) is AFFINE
    assert curvature(torch.cosh, bounds={0: (-1, 1)}) is CONVEX


def test_inputs_are_chosen_by_name_or_position_and_the_others_are_constants() -> None:
    def f(a: Tensor, b: Tensor, k: Tensor) -> Tensor:
        return a.exp() * torch.sigmoid(b) + b * a[..., k]

    k = torch.tensor([0, 1, 1])
    assert certify(f, Y, Y, k, inputs="a").curvature is CONVEX
    assert certify(f, Y, Y, k, inputs=[0]).curvature is CONVEX
    assert certify(f, Y, Y, k, inputs="b").curvature is UNKNOWN
    assert certify(f, Y, Y, k).curvature is UNKNOWN


def test_the_walk_leaves_no_trace() -> None:
    f = Users()
    before = {name: value.clone() for name, value in f.state_dict().items()}
    state = torch.get_rng_state()
    certify(f, Y)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in f.state_dict().items())
    assert not any(part._forward_hooks for part in f.modules())


def test_a_verdict_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        certify(nn.Linear(3, 1), Y).reason = "no"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_door() -> None:
    with pytest.raises(ValueError, match="arguments are missing"):
        certify(nn.Linear(3, 1))
    with pytest.raises(ValueError, match="name 'z', expected one of y or a position"):
        certify(lambda y: y, Y, inputs="z")
    with pytest.raises(ValueError, match="bounds are contradictory"):
        certify(lambda y: y, Y, bounds={"y": (1.0, 0.0)})
    with pytest.raises(ValueError, match="without tensors"):
        certify(lambda y: None, Y)


# Random programs: whatever is called convex has no violating chord, whatever is called affine has none either way.
UNARY: list[Callable[[Tensor], Tensor]] = [
    F.relu, F.leaky_relu, F.elu, F.selu, F.softplus, torch.exp, torch.abs, torch.square, torch.sigmoid, torch.tanh,
    torch.neg, torch.sin, lambda v: v.clamp(-0.5, 0.5), lambda v: v.clamp(min=0.2), lambda v: v**3,
    lambda v: 1 / (0.1 + F.relu(v)), lambda v: (v.square() + 0.5).sqrt(), lambda v: torch.log(v.exp() + 0.3),
    lambda v: (0.1 + v.abs()).log(), lambda v: v + (v.square() + 4).sqrt(),
    lambda v: v @ Q.to(v.dtype), lambda v: v @ Q.abs().to(v.dtype),
    lambda v: v.flip(-1), lambda v: v.amax(-1, keepdim=True) + v, lambda v: v.logsumexp(-1, keepdim=True) - v,
    lambda v: F.elu(v, 2.0), lambda v: v * 0.3 - 1, lambda v: v * torch.tensor([1.0, -1.0, 0.0]),
    lambda v: torch.softmax(v, -1), lambda v: F.max_pool1d(v, 3, 1, 1), lambda v: v.cummax(-1).values,
    lambda v: F.huber_loss(v, Q[0].to(v).expand(v.shape), reduction="none"), lambda v: F.layer_norm(v, (3,)),
    F.softshrink, lambda v: torch.log(torch.cosh(v)), lambda v: torch.log1p(v.exp()),
    lambda v: v.norm(dim=-1, keepdim=True).expand(v.shape), F.gelu, torch.floor,
]  # fmt: skip
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum, lambda a, b: torch.cat([a, b], -1)[..., 1:4],
    lambda a, b: a / (1 + b.abs()), lambda a, b: torch.where(torch.tensor([True, False, True]), a, b),
    lambda a, b: torch.logaddexp(a, b), lambda a, b: (a.exp() * b.exp()).log(),
    lambda a, b: (a.square() + b.square()).sqrt(), torch.hypot, lambda a, b: torch.cdist(a, b).expand(a.shape),
    lambda a, b: (a * (b @ Q.to(a))).sum(-1, keepdim=True).expand(a.shape), lambda a, b: 2 * a.square() - a * b,
    lambda a, b: torch.einsum("bi,ij,bj->b", a, (Q + SKEW).to(a), b)[:, None] + a, lambda a, b: 0.2 * a + 0.8 * b,
]  # fmt: skip

Step = tuple[bool, int, int, int]
steps = st.lists(st.tuples(st.booleans(), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)), max_size=6)


def program(script: list[Step]) -> Callable[[Tensor], Tensor]:
    """Each step appends a value computed from one or two of the earlier ones; the last one is the output."""

    def f(y: Tensor) -> Tensor:
        values = [y, y @ Q.to(y.dtype)]
        for two, which, a, b in script:
            left, right = values[-1 - a % min(2, len(values))], values[b % len(values)]
            values.append(BINARY[which % len(BINARY)](left, right) if two else UNARY[which % len(UNARY)](left))
        return values[-1]

    return f


@settings(max_examples=150, deadline=None)
@given(steps)
def test_no_chord_refutes_what_is_certified(script: list[Step]) -> None:
    f = program(script)
    verdict = certify(f, torch.zeros(1, 3, dtype=torch.float64), bounds={"y": (-2.0, 2.0)})
    if verdict.curvature is UNKNOWN:
        return
    gap, size = _gap(f, ENDS[0], ENDS[1], WEIGHTS)
    gap = gap.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf).where(
        size.isfinite(), 0.0
    )  # towers of exp overflow
    if verdict.curvature in (CONVEX, AFFINE):
        assert bool((gap <= 1e-9 * size).all())
    if verdict.curvature in (CONCAVE, AFFINE):
        assert bool((gap >= -1e-9 * size).all())


GENERATOR = torch.Generator().manual_seed(0)
ENDS = 4 * torch.rand(2, 300, 3, generator=GENERATOR, dtype=torch.float64) - 2
WEIGHTS = torch.rand(300, 1, generator=GENERATOR, dtype=torch.float64)


def _gap(f: Callable[[Tensor], Tensor], y1: Tensor, y2: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    middle, first, second = (torch.vmap(f)(y[:, None])[:, 0] for y in (t * y1 + (1 - t) * y2, y1, y2))
    size = 1 + middle.abs() + first.abs() + second.abs()
    return middle - t * first - (1 - t) * second, size
