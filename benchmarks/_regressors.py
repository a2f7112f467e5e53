"""What is fitted in the convex regression: our network from several maps and starts, and what others do."""

from collections.abc import Callable, Mapping
from functools import partial
from math import exp, log, pi, sqrt
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor, nn

import icnn
from icnn.networks import ACTIVATIONS, POSITIVITY, Affine, NonNegative

from ._convex_targets import Regression

HIDDEN = (64, 64, 64)
STEPS, BATCH, STEP_LENGTH = 2000, 256, 1e-2
SWEEPS, PIECES = 30, (4, 8, 16, 32)  # of the max-affine least squares: iterations, and pieces to choose from
RIDGE = 1e-3

Fit = Callable[[Regression], float]  # the test error of one fit


def trained(make: Callable[[int], nn.Module], data: Regression, after_step: Callable[[nn.Module], object]) -> float:
    """Adam on the squared error, its step length falling to zero along a cosine."""
    f = make(data.inputs.shape[1])
    optimizer = torch.optim.Adam(f.parameters(), lr=STEP_LENGTH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        index = torch.randint(len(data.inputs), (BATCH,))
        loss = (f(data.inputs[index]) - data.observations[index]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        after_step(f)
    with torch.no_grad():
        return error(f(data.test_inputs), data)


def error(found: Tensor, data: Regression) -> float:
    """Root mean squared error at the test inputs, relative to the standard deviation of the target."""
    return float((found - data.test_values).square().mean().sqrt())


def nothing(f: nn.Module) -> None:
    """After a step: leave the weights as they are."""


def ours(positivity: str, start: str) -> Fit:
    """Our network from one of the starts."""

    def make(d: int) -> nn.Module:
        f = icnn.FICNN(d, HIDDEN, positivity=positivity)
        if start != DEFAULT_START:
            restart(f, STARTS[start])
        return f

    return network(make)


def network(make: Callable[[int], nn.Module]) -> Fit:
    """One of our networks, made for the dimension."""
    return lambda data: trained(make, data, icnn.project_)


@torch.no_grad()
def restart(f: icnn.FICNN, start: Callable[[tuple[int, ...]], tuple[Tensor, float]]) -> None:
    """Give the layers behind the first one other non-negative weights and biases."""
    _, *skips = parts(f, Affine)
    for path, skip in zip(parts(f, NonNegative), skips, strict=True):
        weight, bias = start(tuple(path.raw.shape))
        path.raw.copy_(path.positivity.raw(weight.clamp(min=1e-6), path.scale))
        skip.bias.fill_(bias)  # pyright: ignore[reportOptionalMemberAccess]


Part = TypeVar("Part", bound=nn.Module)


def parts(f: nn.Module, kind: type[Part]) -> list[Part]:
    """Of this kind, from the first layer to the last."""
    return [part for part in f.modules() if isinstance(part, kind)]


def unscattered() -> Fit:
    """Our network without biases in its first layer: all kinks of the first units pass through zero."""

    @torch.no_grad()
    def make(d: int) -> nn.Module:
        f = icnn.FICNN(d, HIDDEN)
        first, *_ = parts(f, Affine)
        first.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        first.weight.mul_(sqrt(1 + 1 / d))
        return f

    return network(make)


def half_uniform(shape: tuple[int, ...]) -> tuple[Tensor, float]:
    """|W| / 2, W as torch starts a linear layer: the start of the paper's code."""
    return torch.rand(shape) / sqrt(shape[1]) / 2, 0.0


def log_normal(shape: tuple[int, ...]) -> tuple[Tensor, float]:
    """Hoedt, Klambauer 2023: ReLU units keep mean zero, variance one and correlation 1/2 along a net without skips."""
    n = shape[1]
    rest = 6 * (pi - 1) + (n - 1) * (3 * sqrt(3) + 2 * pi - 6)
    mean, variance = sqrt(6 * pi / (n * rest)), 1 / n
    spread = sqrt(log(1 + variance / mean**2))
    return mean * exp(-(spread**2) / 2) * torch.exp(spread * torch.randn(shape)), -sqrt(3 * n / rest)


DEFAULT_START = "ours"
STARTS: Mapping[str, Callable[[tuple[int, ...]], tuple[Tensor, float]]] = MappingProxyType(
    {
        "log-normal": log_normal,
        "|W|/2 of torch": half_uniform,
    }
)
DEFAULT = f"{parts(icnn.FICNN(1), NonNegative)[0].positivity.name}, {DEFAULT_START}"
OURS: Mapping[str, Fit] = MappingProxyType(
    {
        f"{positivity}, {start}": ours(positivity, start)
        for start in (DEFAULT_START, *STARTS)
        for positivity in POSITIVITY
    }
)


class Recipe(nn.Module):
    """An input convex network as the public codes write it: linear layers of torch, with its start."""

    def __init__(self, d: int, weight: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = weight
        self.first = nn.Linear(d, HIDDEN[0])
        self.skips = nn.ModuleList(nn.Linear(d, width) for width in (*HIDDEN[1:], 1))
        self.paths = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in zip(HIDDEN, (*HIDDEN[1:], 1), strict=True))

    def forward(self, y: Tensor) -> Tensor:
        v = self.first(y)
        for path, skip in zip(parts(self.paths, nn.Linear), self.skips, strict=True):
            v = F.linear(F.relu(v), self.weight(path.weight)) + skip(y)
        return v.squeeze(-1)

    @torch.no_grad()
    def clip_(self) -> None:
        for path in parts(self.paths, nn.Linear):
            path.weight.clamp_(min=0)


def recipe(weight: Callable[[Tensor], Tensor], after_step: Callable[[Recipe], object] = nothing) -> Fit:
    return lambda data: trained(lambda d: Recipe(d, weight), data, after_step)  # pyright: ignore[reportArgumentType]


def clipped() -> Fit:
    """The start of torch, negative weights set to zero at once and after each step."""

    def make(d: int) -> Recipe:
        f = Recipe(d, lambda weight: weight)
        f.clip_()
        return f

    return lambda data: trained(make, data, Recipe.clip_)  # pyright: ignore[reportArgumentType]


def mlp(data: Regression) -> float:
    """The same widths without skips and without constraints."""

    def make(d: int) -> nn.Module:
        pairs = zip((d, *HIDDEN), HIDDEN, strict=False)
        hidden = [part for a, b in pairs for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(HIDDEN[-1], 1), nn.Flatten(0))

    return trained(make, data, nothing)


def max_affine_least_squares(data: Regression) -> float:
    """maxᵢ aᵢᵀy + bᵢ by alternation of partition and least squares (Magnani, Boyd 2009).

    The number of pieces is chosen on the last fifth of the data, and the fit repeated on all.
    """
    Y, values = _with_one(data.inputs), data.observations.double().numpy()
    part = len(Y) * 4 // 5

    def loss(pieces: int) -> float:
        planes = _alternated(Y[:part], values[:part], pieces)
        return float((((Y[part:] @ planes.T).max(1) - values[part:]) ** 2).mean())

    planes = _alternated(Y, values, min(PIECES, key=loss))
    return error(torch.from_numpy((_with_one(data.test_inputs) @ planes.T).max(1)), data)


def _alternated(Y: np.ndarray, values: np.ndarray, pieces: int) -> np.ndarray:
    """The planes, (pieces, d + 1), of the sweep with the least loss."""
    centres = Y[np.random.default_rng(0).choice(len(Y), pieces, replace=False)]
    piece = (centres @ Y.T - (centres**2).sum(1, keepdims=True) / 2).argmax(0)
    ridge, best = RIDGE * np.eye(Y.shape[1]), (np.inf, centres)
    for _ in range(SWEEPS):
        held = [piece == i for i in np.unique(piece)]  # a piece without points is dropped
        planes = np.stack([np.linalg.solve(Y[at].T @ Y[at] + at.sum() * ridge, Y[at].T @ values[at]) for at in held])
        images = Y @ planes.T
        loss = float(((images.max(1) - values) ** 2).mean())
        best = min(best, (loss, planes), key=lambda pair: pair[0])
        piece, before = images.argmax(1), piece
        if (piece == before).all():
            break
    return best[1]


def _with_one(inputs: Tensor) -> np.ndarray:
    return np.hstack((inputs.double().numpy(), np.ones((len(inputs), 1))))


def boosting(data: Regression) -> float:
    """scikit-learn's gradient boosting with early stopping on a tenth of the data."""
    model = HistGradientBoostingRegressor(max_iter=1000, early_stopping=True, random_state=0)  # pyright: ignore[reportArgumentType]
    model.fit(data.inputs.numpy(), data.observations.numpy())
    return error(torch.from_numpy(model.predict(data.test_inputs.numpy())), data)


OTHERS: Mapping[str, Fit] = MappingProxyType(
    {
        "ours, first biases zero": unscattered(),
        "torch start + clip": clipped(),
        "softplus / fan-in": recipe(lambda weight: F.softplus(weight) / weight.shape[1]),
        "ReLU reparametrised": recipe(F.relu),
        "max-affine least squares": max_affine_least_squares,
        "gradient boosting": boosting,
        "unconstrained MLP": mlp,
    }
)
UNITS = (
    *(ACTIVATIONS[name] for name in ("leaky_relu", "softplus", "squareplus", "elu")),
    *(make(2) for make in (icnn.maxout, icnn.norm, icnn.log_sum_exp)),
)
NETWORKS: Mapping[str, Fit] = MappingProxyType(
    {
        DEFAULT: OURS[DEFAULT],
        **{unit.name: network(partial(icnn.FICNN, hidden=HIDDEN, activation=unit)) for unit in UNITS},
        "quadratic term": network(lambda d: icnn.FICNN(d, HIDDEN, quadratic=d)),
        "softplus, quadratic term": network(lambda d: icnn.FICNN(d, HIDDEN, "softplus", quadratic=d)),
        "without skips": network(partial(icnn.FICNN, hidden=HIDDEN, skips=False)),
        "8 layers": network(partial(icnn.FICNN, hidden=(64,) * 8)),
        "ResidualICNN": network(partial(icnn.ResidualICNN, width=64, depth=4)),
        "MaxAffine": network(partial(icnn.MaxAffine, pieces=64)),
        "LogSumExp": network(partial(icnn.LogSumExp, pieces=64)),
    }
)
