"""Random problems of `icnn.argmin`, deterministic by seed: a network, a set, a regulariser, a linear term, a batch.

Weights are scaled, and sets laid around a point of their own, so that minima lie inside, on faces and on kinks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

import icnn

Array = NDArray[np.float64]
BATCHES = ((), (1,), (2,), (4,), (5,), (2, 2))
LINES = ("relu", "leaky_relu", "steeper", "maxout")
SMOOTH = ("softplus", "squareplus")
OTHER = ("elu", "squared_relu")
ACTIVATIONS: dict[str, Any] = {
    **{name: name for name in ("relu", "leaky_relu", *SMOOTH, *OTHER)},
    "steeper": icnn.leaky_relu(0.2),
    "maxout": icnn.maxout(3),
}
NETWORKS: dict[str, Callable[..., icnn.ConvexNetwork]] = {
    "FICNN": lambda n, g, **o: icnn.FICNN(n, (5, 4), g, **o),
    "FICNN without skips": lambda n, g, **o: icnn.FICNN(n, (5, 4), g, skips=False, **o),
    "PICNN": lambda n, g, **o: icnn.PICNN(3, n, (5, 4), g, **o),
    "ConvPICNN": lambda n, g, **o: icnn.ConvPICNN((2, 2, 2), (1, 2, 2), ((2, 2, 1),), (3,), g, **o),
    "ResidualICNN": lambda n, g, **o: icnn.ResidualICNN(n, 4, 3, activation=g, **o),
    "MaxAffine": lambda n, g, **o: icnn.MaxAffine(n, 6, **o),
    "LogSumExp": lambda n, g, **o: icnn.LogSumExp(n, 6, 0.5, **o),
}
SETS = ("unit box", "box", "half-open box", "unit simplex", "simplex", "ball", "polytope", "polytope with equalities")
REGULARIZERS = ("none", "quadratic", "entropy")


class Feasible(NamedTuple):
    """{y : lower ≤ y ≤ upper, G y ≤ h, A y = b, |y - centre| ≤ radius}, radius infinite where there is no ball."""

    lower: Array
    upper: Array
    G: Array
    h: Array
    A: Array
    b: Array
    centre: Array
    radius: float

    def violation(self, y: Array) -> float:
        """The largest one, relative to the size of y."""
        excess = [self.lower - y, y - self.upper, self.G @ y - self.h, abs(self.A @ y - self.b)]
        outside = np.linalg.norm(y - self.centre) - self.radius
        return float(max(0.0, outside, *(part.max(initial=0.0) for part in excess)) / (1 + abs(y).max()))


class Phi(NamedTuple):
    """weight/2 |y - centre|², or weight times the entropy of (y - origin) / size; weight 0: none."""

    kind: str
    weight: float
    centre: Array
    origin: Array
    size: Array

    def value(self, y: Array) -> float:
        if self.kind != "entropy":
            return float(0.5 * self.weight * np.square(y - self.centre).sum())
        p = np.clip((y - self.origin) / self.size, 0.0, 1.0)
        parts = [p] if self.size.ndim == 0 else [p, 1 - p]  # the simplex has one size
        return float(self.weight * sum((q[q > 0] * np.log(q[q > 0])).sum() for q in parts))


@dataclass(frozen=True)
class Case:
    """One call, and the same problem instance by instance in numpy."""

    seed: int
    network: str
    activation: str
    domain: str
    regularizer: str
    f: icnn.ConvexNetwork
    batch: tuple[int, ...]
    x: Tensor | None
    linear: Tensor | None
    arguments: dict[str, Any]
    sets: tuple[Feasible, ...]
    phis: tuple[Phi, ...]

    @property
    def kind(self) -> str:
        return "piecewise linear" if self.activation in LINES else "smooth" if self.activation in SMOOTH else "other"

    def solve(self, **options: Any) -> icnn.ArgminSolution:
        """argmin as a user calls it."""
        return icnn.argmin(self.f, self.x, linear=self.linear, **self.arguments, **options)

    def context(self, index: int) -> Tensor | None:
        return None if self.x is None else self.x.reshape(-1, *(self.f.x_shape or ()))[index]

    def slope(self, index: int) -> Array:
        """The linear term."""
        n = int(np.prod(self.f.y_shape))
        return (
            np.zeros(n)
            if self.linear is None
            else self.linear.expand(*self.batch, *self.f.y_shape).reshape(-1, n)[index].numpy()
        )

    @torch.no_grad()
    def objective(self, index: int, y: Array) -> float:
        """f + linear'y + φ by the module and numpy."""
        x, point = self.context(index), torch.from_numpy(y).reshape(self.f.y_shape)
        value = self.f(point) if x is None else self.f(x, point)
        return float(value) + float(self.slope(index) @ y) + self.phis[index].value(y)


def generate(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = str(rng.choice(list(NETWORKS)))
    activation = str(rng.choice([*LINES, *SMOOTH, *SMOOTH, *OTHER]))
    activation = {"MaxAffine": "maxout", "LogSumExp": "softplus"}.get(network, activation)
    f = draw_network(rng, network, activation)
    domain, n = str(rng.choice(SETS)), int(np.prod(f.y_shape))
    entropic = domain in ("unit box", "box", "unit simplex", "simplex")
    regularizer = str(rng.choice(REGULARIZERS if entropic else REGULARIZERS[:2]))
    batch = BATCHES[rng.integers(len(BATCHES))]
    x = None if f.x_shape is None else torch.randn(*batch, *f.x_shape, dtype=torch.float64)
    tilted = rng.choice(["none", "shared", "own"])
    linear = None
    if tilted != "none":
        linear = torch.from_numpy(rng.normal(size=(*(batch if tilted == "own" else ()), *f.y_shape)))
    shared = bool(rng.random() < 0.5)
    if x is None and tilted != "own" and (shared or domain.startswith("unit")):
        batch = ()
    count = int(np.prod(batch))
    sets = [draw_set(rng, domain, n) for _ in range(1 if shared else count)]
    weight = float(np.exp(rng.normal())) if rng.random() < 0.7 else 1.0
    centre = rng.normal(size=n) if rng.random() < 0.6 else np.zeros(n)
    arguments = dict(
        domain=posed(domain, sets, () if shared else batch, f.y_shape),
        regularizer=regularizer_of(regularizer, weight, centre.reshape(f.y_shape)),
    )
    sets = sets * count if shared else sets
    phis = [phi_of(regularizer, domain, weight, centre, each) for each in sets]
    facts = (seed, network, activation, domain, regularizer)
    return Case(*facts, f, batch, x, linear, arguments, tuple(sets), tuple(phis))


def draw_network(rng: Generator, network: str, activation: str) -> icnn.ConvexNetwork:
    options: dict[str, Any] = [
        {},
        {},
        dict(quadratic=1),
        dict(quadratic=2, strong_convexity=0.1),
        dict(strong_convexity=0.5),
    ][rng.integers(5)]
    if network == "ResidualICNN" and rng.random() < 0.3 and activation != "maxout":
        options = options | dict(output=ACTIVATIONS[activation])
    f = NETWORKS[network](int(rng.integers(2, 6)), ACTIVATIONS[activation], **options).double()
    scale = float(rng.choice([0.7, 1.5, 2.5]))
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.mul_(scale)
    return f.requires_grad_(True)


def draw_set(rng: Generator, domain: str, n: int) -> Feasible:
    """Around a point of its own."""
    y, free, none = rng.normal(size=n), np.full(n, np.inf), np.zeros((0, n))
    all_of_it = Feasible(-free, free, none, np.zeros(0), none, np.zeros(0), np.zeros(n), np.inf)
    below, above = rng.uniform(0.1, 2.0, n), rng.uniform(0.1, 2.0, n)
    if domain == "unit box":
        return all_of_it._replace(lower=np.zeros(n), upper=np.ones(n))
    if domain == "box":
        return all_of_it._replace(lower=y - below, upper=y + above)
    if domain == "half-open box":
        below, above = (np.where(rng.random(n) < 0.4, np.inf, part) for part in (below, above))
        return all_of_it._replace(lower=y - below, upper=y + above)
    if domain.endswith("simplex"):
        total = 1.0 if domain == "unit simplex" else float(rng.uniform(0.3, 3.0))
        return all_of_it._replace(lower=np.zeros(n), A=np.ones((1, n)), b=np.array([total]))
    if domain == "ball":
        return all_of_it._replace(centre=y, radius=float(rng.uniform(0.2, 2.0)))
    G = rng.normal(size=(n, n))
    h = G @ y + rng.uniform(0.0, 1.0, n)
    below, above = (np.where(rng.random(n) < 0.2, np.inf, part) for part in (below, above))
    polytope = all_of_it._replace(G=G, h=h, lower=y - below, upper=y + above)
    if domain == "polytope":
        return polytope
    A = rng.normal(size=(1 + (n > 3), n))
    return polytope._replace(A=A, b=A @ y)


def posed(domain: str, sets: list[Feasible], batch: tuple[int, ...], y_shape: tuple[int, ...]) -> icnn.inference.Domain:
    """The set as a user states it; batch () for a shared one."""

    def stacked(name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        t = torch.from_numpy(np.stack([np.asarray(getattr(each, name)) for each in sets]))
        return t.reshape((*batch, *(t.shape[1:] if shape is None else shape)))

    if domain == "unit box":
        return icnn.Box()
    if domain == "unit simplex":
        return icnn.Simplex()
    if domain.endswith("simplex"):
        return icnn.Simplex(stacked("b", ()))
    if domain == "ball":
        return icnn.Ball(stacked("radius"), stacked("centre", y_shape))
    ends = dict(lower=stacked("lower", y_shape), upper=stacked("upper", y_shape))
    if domain.endswith("box"):
        return icnn.Box(**ends)
    equalities = dict(A=stacked("A"), b=stacked("b")) if domain.endswith("equalities") else {}
    return icnn.Polytope(G=stacked("G"), h=stacked("h"), **equalities, **ends)


def regularizer_of(name: str, weight: float, centre: Array) -> Any:
    if name == "entropy":
        return "entropy" if weight == 1.0 else icnn.EntropyRegularizer(weight)
    if name == "quadratic":
        plain = weight == 1.0 and not centre.any()
        return "quadratic" if plain else icnn.QuadraticRegularizer(weight, torch.from_numpy(centre))
    return None


def phi_of(name: str, domain: str, weight: float, centre: Array, feasible: Feasible) -> Phi:
    weight = 0.0 if name == "none" else weight
    if name != "entropy":
        return Phi(name, weight, centre, 0 * centre, 0 * centre)
    if domain.endswith("simplex"):
        return Phi(name, weight, centre, np.zeros(()), feasible.b[0])
    return Phi(name, weight, centre, feasible.lower, feasible.upper - feasible.lower)
