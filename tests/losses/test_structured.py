"""Losses of structured prediction: values, signs, derivatives, failures and the door."""

from collections.abc import Callable
from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from sklearn.metrics import f1_score
from torch import Generator, Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy

import icnn
from icnn import Box, ConvexNetwork, Simplex, SolverError, losses

N = 4
TIGHT: dict[str, Any] = {"tol": 1e-11, "max_iter": 60}
LOSSES: dict[str, Callable[..., torch.nn.Module]] = {
    "Fenchel-Young, entropy": lambda f, **o: losses.FenchelYoung(f, **TIGHT, **o),
    "Fenchel-Young, quadratic": lambda f, **o: losses.FenchelYoung(f, regularizer="quadratic", **TIGHT, **o),
    "perceptron": lambda f, **o: losses.Perceptron(f, **TIGHT, **o),
    "max-margin": lambda f, **o: losses.MaxMargin(f, **TIGHT, **o),
    "max-margin, entropy": lambda f, **o: losses.MaxMargin(f, regularizer="entropy", **TIGHT, **o),
    "max-margin, quadratic": lambda f, **o: losses.MaxMargin(f, regularizer="quadratic", **TIGHT, **o),
    "perturbed": lambda f, **o: Repeated(losses.PerturbedFenchelYoung(f, samples=2, **TIGHT, **o)),
    "perturbed, entropy": lambda f, **o: Repeated(
        losses.PerturbedFenchelYoung(f, regularizer="entropy", samples=2, **TIGHT, **o)
    ),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
one_of_each = pytest.mark.parametrize(
    "name", ["Fenchel-Young, entropy", "perceptron", "max-margin, entropy", "perturbed, entropy"]
)
every_network = pytest.mark.parametrize("activation", ["relu", "softplus"])


class Repeated(torch.nn.Module):
    """A loss with the same draws at each call."""

    def __init__(self, loss: losses.PerturbedFenchelYoung) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(x, y, Generator().manual_seed(0))


def network(activation: str = "relu", **options: Any) -> ConvexNetwork:
    f = icnn.PICNN(4, N, (6, 5), activation, **options).double()
    with torch.no_grad():
        for parameter in f.parameters():  # more curvature than at the start of a training
            parameter.mul_(1.5)
    return f


def inputs(*batch: int) -> Tensor:
    return torch.randn(*batch, 4, dtype=torch.float64)


def labels(*batch: int) -> Tensor:
    return torch.randint(2, (*batch, N)).double()


def entropic(y: Tensor) -> Tensor:
    return (torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y)).sum(-1)


def assert_gradient(value: Callable[[], Tensor], leaves: list[Tensor], step: float = 1e-5) -> None:
    """The derivative along a random direction of all leaves, by autograd and by central differences."""
    slopes = torch.autograd.grad(value(), leaves, materialize_grads=True)
    directions = [torch.randn_like(leaf) for leaf in leaves]
    ours = sum((slope * direction).sum() for slope, direction in zip(slopes, directions, strict=True))

    @torch.no_grad()
    def moved(length: float) -> Tensor:
        for leaf, direction in zip(leaves, directions, strict=True):
            leaf.add_(length * direction)
        found = value()
        for leaf, direction in zip(leaves, directions, strict=True):
            leaf.sub_(length * direction)
        return found

    expected = (moved(step) - moved(-step)) / (2 * step)
    torch.testing.assert_close(torch.as_tensor(ours), expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_check_can_fail() -> None:
    y = torch.rand(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(AssertionError):
        assert_gradient(lambda: (y * y.detach()).sum(), [y])


@every_loss
@every_network
def test_gradients_are_finite_differences_of_the_loss(name: str, activation: str) -> None:
    f = network(activation)
    loss, x = LOSSES[name](f), inputs(3).requires_grad_()
    y = labels(3)
    assert_gradient(lambda: loss(x, y), [*f.parameters(), x])


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("max-margin")])
def test_labels_that_ask_for_a_gradient_get_it(name: str) -> None:
    loss, x = LOSSES[name](network("softplus")), inputs(3)
    y = (0.1 + 0.8 * torch.rand(3, N, dtype=torch.float64)).requires_grad_()
    assert_gradient(lambda: loss(x, y), [y])


def phi(regularizer: Any, y: Tensor) -> Tensor:
    return entropic(y) if regularizer == "entropy" else 0.5 * y.square().sum(-1)


@pytest.mark.parametrize("regularizer", ["entropy", "quadratic"])
def test_for_smooth_energies_the_fenchel_young_gradient_is_a_difference_of_two(regularizer: Any) -> None:
    f, x, y = network("softplus"), inputs(3), labels(3)
    best = icnn.argmin(f, x, regularizer=regularizer, gradient="none", **TIGHT).y
    expected = torch.autograd.grad((f(x, y) - f(x, best)).sum(), list(f.parameters()))
    value = losses.FenchelYoung(f, regularizer=regularizer, reduction="none", **TIGHT)(x, y)
    for ours, theirs in zip(torch.autograd.grad(value.sum(), list(f.parameters())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("regularizer", ["entropy", "quadratic"])
def test_at_a_kink_the_gradient_is_that_of_no_piece_but_follows_the_minimiser(regularizer: Any) -> None:
    f, x, y = network("relu"), inputs(3), labels(3)
    weights = list(f.parameters())
    best = icnn.argmin(f, x, regularizer=regularizer, gradient="implicit", **TIGHT).y
    followed = torch.autograd.grad((f(x, y) - f(x, best) - phi(regularizer, best)).sum(), weights)
    one_piece = torch.autograd.grad((f(x, y) - f(x, best.detach())).sum(), weights)
    value = losses.FenchelYoung(f, regularizer=regularizer, reduction="none", **TIGHT)(x, y)
    ours = torch.autograd.grad(value.sum(), weights)
    for mine, right in zip(ours, followed, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-6, atol=1e-6)
    assert max((mine - wrong).abs().max() for mine, wrong in zip(ours, one_piece, strict=True)) > 1e-2


@one_of_each
def test_second_derivatives_are_refused(name: str) -> None:
    f = network("softplus")
    value = LOSSES[name](f)(inputs(2), labels(2))
    with pytest.raises(RuntimeError, match="derivatives of second order"):
        torch.autograd.grad(value, list(f.parameters()), create_graph=True)


def test_without_couplings_the_fenchel_young_loss_is_logistic() -> None:
    f, x, y = network(coupling=False), inputs(3), labels(3)
    zero = torch.zeros(3, N, dtype=torch.float64)
    slope = torch.func.grad(lambda y: f(x, y).sum())(zero)
    ours = losses.FenchelYoung(f, reduction="none")(x, y)
    expected = binary_cross_entropy_with_logits(-slope, y, reduction="none").sum(-1)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_without_couplings_on_the_simplex_it_is_the_cross_entropy() -> None:
    f, x = network(coupling=False), inputs(3)
    classes = torch.randint(N, (3,))
    y = torch.nn.functional.one_hot(classes, N).double()
    slope = torch.func.grad(lambda y: f(x, y).sum())(torch.zeros_like(y))
    ours = losses.FenchelYoung(f, Simplex(), reduction="none")(x, y)
    torch.testing.assert_close(ours, cross_entropy(-slope, classes, reduction="none"), rtol=1e-8, atol=1e-8)


@every_loss
def test_losses_are_not_negative(name: str) -> None:
    loss = LOSSES[name](network(), reduction="none")
    assert (loss(inputs(20), labels(20)) >= -1e-9).all()


@pytest.mark.parametrize("regularizer", ["entropy", "quadratic", None])
def test_zero_at_the_minimiser_and_there_alone(regularizer: Any) -> None:
    f, x = network(), inputs(3)
    best = icnn.argmin(f, x, regularizer=regularizer, gradient="none", **TIGHT).y
    if regularizer is None:
        loss = losses.Perceptron(f, reduction="none", **TIGHT)
    else:
        loss = losses.FenchelYoung(f, regularizer=regularizer, reduction="none", **TIGHT)
    assert loss(x, best).abs().max() < 1e-9
    assert (loss(x, 0.99 * best + 0.01 * torch.rand_like(best)) > 1e-6).all()


def test_the_loss_is_the_difference_of_energies() -> None:
    f, x, y = network(), inputs(3), labels(3)
    best = icnn.argmin(f, x, regularizer="entropy", gradient="none", **TIGHT).y
    expected = f(x, y) - f(x, best) - entropic(best)
    torch.testing.assert_close(losses.FenchelYoung(f, **TIGHT)(x, y), expected.mean(), rtol=1e-9, atol=1e-9)


def test_the_entropy_is_in_units_of_the_box() -> None:
    f, x = network(), inputs(3)
    y = 3 * torch.rand(3, N, dtype=torch.float64) - 1
    best = icnn.argmin(f, x, Box(-1.0, 2.0), regularizer="entropy", gradient="none", **TIGHT).y
    expected = f(x, y) + entropic((y + 1) / 3) - f(x, best) - entropic((best + 1) / 3)
    ours = losses.FenchelYoung(f, Box(-1.0, 2.0), reduction="none", **TIGHT)(x, y)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("regularizer", [None, "entropy", "quadratic"])
def test_max_margin_bounds_the_cost_of_the_prediction(regularizer: Any) -> None:
    f, x, y = network(), inputs(20), labels(20)
    weight = torch.rand(N, dtype=torch.float64)
    predicted = icnn.argmin(f, x, regularizer=regularizer, gradient="none", **TIGHT).y
    cost = (weight * (y - predicted).abs()).sum(-1)
    loss = losses.MaxMargin(f, cost=weight, regularizer=regularizer, reduction="none", **TIGHT)
    assert (loss(x, y) >= cost - 1e-9).all()
    assert (cost > 0.1).any()


def test_max_margin_is_that_of_brute_force_where_minimisers_are_vertices() -> None:
    f, x, y = network(coupling=False), inputs(3), labels(3)
    weight = torch.rand(N, dtype=torch.float64)
    vertices = torch.tensor(list(product((0.0, 1.0), repeat=N)), dtype=torch.float64).unsqueeze(1).expand(-1, 3, -1)
    augmented = f(x, vertices) - (weight * (y - vertices).abs()).sum(-1)
    expected = f(x, y) - augmented.amin(0)
    ours = losses.MaxMargin(f, cost=weight, reduction="none")(x, y)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


def test_a_callable_cost_is_used_as_it_is() -> None:
    f, x, y = network(), inputs(3), labels(3)
    hamming = losses.MaxMargin(f, **TIGHT)(x, y)
    torch.testing.assert_close(losses.MaxMargin(f, cost=lambda y: 1 - 2 * y, **TIGHT)(x, y), hamming)
    free = losses.MaxMargin(f, cost=lambda y: 0 * y, **TIGHT)(x, y)
    torch.testing.assert_close(free, losses.Perceptron(f, **TIGHT)(x, y), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("regularizer", [None, "entropy"])
def test_perturbed_is_the_mean_of_inferences_one_by_one(regularizer: Any) -> None:
    f, x, y = network(), inputs(3), labels(3)
    loss = losses.PerturbedFenchelYoung(f, regularizer=regularizer, samples=2, sigma=0.7, reduction="none", **TIGHT)
    value = loss(x, y, Generator().manual_seed(1))
    noise = 0.7 * torch.randn(2, 3, N, generator=Generator().manual_seed(1), dtype=torch.float64)
    expected = []
    for i, tilts in enumerate(noise.unbind(1)):
        for tilt in tilts:
            options = {"regularizer": regularizer, "linear": tilt, "gradient": "danskin", **TIGHT}
            expected.append(f(x[i], y[i]) + tilt @ y[i] - icnn.argmin(f, x[i], **options).value)
    mean = torch.stack(expected).reshape(3, 2).mean(-1)
    torch.testing.assert_close(value, mean, rtol=1e-8, atol=1e-8)
    weights = list(f.parameters())
    slopes = (torch.autograd.grad(found.sum(), weights) for found in (value, mean))
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_perturbed_has_the_expectation_that_theory_gives_without_couplings() -> None:
    """E min(0, c + sigma Z) = c P(Z < -c / sigma) - sigma density(c / sigma) for each label."""
    f, x, y = network(coupling=False), inputs(1), labels(1)
    c = torch.func.grad(lambda y: f(x, y).sum())(torch.zeros_like(y))
    normal = torch.distributions.Normal(0.0, 1.0)
    lowest = c * normal.cdf(-c / 2) - 2 * normal.log_prob(c / 2).exp()
    value = losses.PerturbedFenchelYoung(f, samples=500, sigma=2.0)(x, y, Generator().manual_seed(0))
    assert value.item() == pytest.approx((c * y - lowest).sum().item(), abs=0.4)
    assert value > losses.Perceptron(f)(x, y)


def test_draws_repeat_with_their_generator() -> None:
    loss, x, y = losses.PerturbedFenchelYoung(network()), inputs(2), labels(2)
    first, again, other = (loss(x, y, Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("criterion", ["mse", "bce", "soft_f1", lambda p, y: (p - y).abs().sum(-1)])
@every_network
def test_argmin_losses_are_differentiated_through_the_minimiser(criterion: Any, activation: str) -> None:
    f, y = network(activation), labels(3)
    loss, x = losses.Argmin(f, criterion, **TIGHT), inputs(3).requires_grad_()
    assert_gradient(lambda: loss(x, y), [*f.parameters(), x])


def test_argmin_values_are_those_of_torch() -> None:
    f, x, y = network(), inputs(3), labels(3)
    predicted = icnn.argmin(f, x, regularizer="entropy").y
    torch.testing.assert_close(losses.Argmin(f, "bce")(x, y), binary_cross_entropy(predicted, y))
    torch.testing.assert_close(losses.Argmin(f)(x, y), torch.nn.functional.mse_loss(predicted, y))


def test_soft_f1_of_binary_predictions_is_the_f1_score() -> None:
    predictions, y = (torch.rand(50, 6) < 0.4).double(), (torch.rand(50, 6) < 0.4).double()
    predictions[0], y[0], y[1] = 0.0, 0.0, 0.0
    scores = losses.soft_f1(predictions, y)
    for i in range(50):
        expected = f1_score(y[i], predictions[i], zero_division=1.0)  # pyright: ignore[reportArgumentType]
        assert scores[i].item() == pytest.approx(expected)
    mean = f1_score(y, predictions, average="samples", zero_division=1.0)  # pyright: ignore[reportArgumentType]
    assert scores.mean().item() == pytest.approx(mean)


def test_soft_f1_is_differentiable_where_nothing_is_on() -> None:
    prob = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    losses.soft_f1(prob, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)).sum().backward()
    assert prob.grad is not None
    assert torch.equal(prob.grad[0], torch.zeros(3, dtype=torch.float64))
    assert prob.grad[1].isfinite().all()


@one_of_each
def test_one_failed_inference_leaves_the_others_alone(name: str) -> None:
    f, x, y = network(), inputs(4), labels(4)
    bad = x.clone()
    bad[1, 2] = torch.nan
    with pytest.raises(SolverError):
        LOSSES[name](f)(bad, y)
    good = torch.tensor([0, 2, 3])
    sound = LOSSES[name](f, reduction="none")(x, y)
    expected = torch.autograd.grad(sound[good].mean(), list(f.parameters()))
    for policy in ("zero", "nan"):
        each = LOSSES[name](f, reduction="none", on_failure=policy)(bad, y)
        torch.testing.assert_close(each[good], sound[good], rtol=1e-9, atol=1e-9)
        assert each[1] == 0 if policy == "zero" else each[1].isnan()
        found = torch.autograd.grad(each[good].mean(), list(f.parameters()))
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    mean = LOSSES[name](f, on_failure="zero")(bad, y)
    torch.testing.assert_close(mean, sound[good].mean(), rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(torch.autograd.grad(mean, list(f.parameters())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    assert LOSSES[name](f, on_failure="nan")(bad, y).isnan()


@pytest.mark.parametrize("criterion", ["mse", "bce", "soft_f1"])
def test_a_failed_prediction_is_left_out_of_the_criterion(criterion: Any) -> None:
    f, x, y = network(), inputs(4), labels(4)
    expected = losses.Argmin(f, criterion)(x[1:], y[1:])
    x[0] = torch.inf
    for policy in ("zero", "nan"):
        each = losses.Argmin(f, criterion, on_failure=policy, reduction="none")(x, y)
        torch.testing.assert_close(each[1:].mean(), expected)
        assert each[0] == 0 if policy == "zero" else each[0].isnan()
    mean = losses.Argmin(f, criterion, on_failure="zero")(x, y)
    torch.testing.assert_close(mean, expected)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(mean, list(f.parameters())))


def test_a_prediction_too_early_for_its_implicit_gradient_has_failed() -> None:
    f, x, y = network("softplus"), inputs(3), labels(3)
    early: dict[str, Any] = {"method": "newton", "max_iter": 1}
    with pytest.raises(SolverError, match="MAX_ITERATIONS"):
        losses.Argmin(f, **early)(x, y)
    assert torch.equal(losses.Argmin(f, on_failure="zero", reduction="none", **early)(x, y), torch.zeros(3).double())
    assert (losses.FenchelYoung(f, reduction="none", **early)(x, y) > 0).all()


def test_a_batch_of_failures_has_no_loss() -> None:
    loss = losses.FenchelYoung(network(), on_failure="zero")
    assert loss(inputs(3) * torch.nan, labels(3)) == 0


@one_of_each
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_batch_dimensions(name: str, batch: tuple[int, ...]) -> None:
    loss, x, y = LOSSES[name](network(), reduction="none"), inputs(*batch), labels(*batch)
    assert loss(x, y).shape == batch
    if batch == (2, 3) and "perturbed" not in name:
        torch.testing.assert_close(loss(x, y)[1, 2], loss(x[1, 2], y[1, 2]), rtol=1e-8, atol=1e-8)


def test_networks_without_x() -> None:
    f, y = icnn.FICNN(N, (8,)).double(), labels(4)
    value = losses.FenchelYoung(f, reduction="none")(None, y)
    best = icnn.argmin(f, regularizer="entropy").value
    torch.testing.assert_close(value, f(y) - best, rtol=1e-8, atol=1e-8)
    for loss in (losses.MaxMargin(f), losses.PerturbedFenchelYoung(f, samples=2), losses.Argmin(f)):
        assert loss(None, y).shape == ()


def test_labels_of_any_shape() -> None:
    f = icnn.ConvPICNN((2, 2, 2), (1, 2, 2), ((3, 2, 2),), (3,)).double()
    x, y = torch.randn(4, 2, 2, 2, dtype=torch.float64), torch.randint(2, (4, 1, 2, 2)).double()
    for loss in (losses.FenchelYoung, losses.Perceptron, losses.MaxMargin, losses.PerturbedFenchelYoung, losses.Argmin):
        assert loss(f, reduction="none")(x, y).shape == (4,)


@every_loss
def test_float32_in_and_out(name: str) -> None:
    f = network().float()
    loss = LOSSES[name](f)(inputs(4).float(), labels(4).float())
    assert loss.dtype == torch.float32


def test_the_network_is_a_part_of_the_loss() -> None:
    f = network(positivity="project")
    loss = losses.MaxMargin(f, cost=torch.ones(N))
    assert {f"f.{name}" for name in f.state_dict()} < set(loss.state_dict())
    x, y = inputs(3), labels(3)
    copy = deepcopy(loss)
    torch.testing.assert_close(copy(x, y), loss(x, y))
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.sub_(1.0)
    with pytest.raises(ValueError, match="project_"):
        loss(x, y)
    icnn.project_(loss)
    assert loss(x, y).isfinite()
    assert loss.float()(x.float(), y.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.full((3, N), 1.2, dtype=torch.float64), "y must lie in the domain"),
        (torch.full((3, N), torch.nan, dtype=torch.float64), "y must lie in the domain"),
        (torch.zeros(3, N), "y must have the dtype of the network"),
        (torch.zeros(4, N, dtype=torch.float64), "y must be"),
        (torch.zeros(3, 2, dtype=torch.float64), "y must be"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y: Tensor, message: str) -> None:
    f, x = network(), inputs(3)
    hinge = losses.MaxMargin(f, cost=lambda y: 1 - 2 * y)
    for loss in (losses.FenchelYoung(f), hinge, losses.PerturbedFenchelYoung(f), losses.Argmin(f)):
        with pytest.raises(ValueError, match=message):
            loss(x, y)


def test_labels_off_the_simplex_are_refused() -> None:
    with pytest.raises(ValueError, match="y must lie in the domain"):
        losses.FenchelYoung(network(), Simplex())(inputs(2), torch.full((2, N), 0.9 / N, dtype=torch.float64))


def test_options_that_do_not_fit_are_refused() -> None:
    f, x = network(), inputs(3)
    half = torch.full((3, N), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="y must be 0 or 1"):
        losses.MaxMargin(f)(x, half)
    with pytest.raises(ValueError, match="cost must return the shape of y"):
        losses.MaxMargin(f, cost=lambda y: y.sum(-1))(x, half)
    with pytest.raises(ValueError, match="criterion must return one loss per instance"):
        losses.Argmin(f, torch.nn.MSELoss())(x, half)
    for cost in (-1.0, torch.ones(N + 1)):
        with pytest.raises(ValueError, match="cost must be"):
            losses.MaxMargin(f, cost=cost)
    for samples, sigma in ((0, 1.0), (1, 0.0)):
        with pytest.raises(ValueError, match="must be positive"):
            losses.PerturbedFenchelYoung(f, samples=samples, sigma=sigma)


@pytest.mark.parametrize("option", ["criterion", "reduction", "regularizer"])
def test_unknown_names_are_refused(option: str) -> None:
    wrong: Any = {option: "wrong"}
    with pytest.raises((ValueError, TypeCheckError), match=option):
        losses.Argmin(network(), **wrong)(inputs(3), labels(3))
