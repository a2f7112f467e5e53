"""The problem that `argmin` poses, with the batch as one dimension, y as vectors and everything in float64."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from icnn.networks import ConvexNetwork
from icnn.networks.energy import LayeredEnergy

from .domains import Domain, vector
from .exact import has_lines
from .flat import FlatEnergy, Tilted, flat_energy
from .regions import Polyhedron
from .regularized import Euclidean, Regularized, entropic
from .regularizers import EntropyRegularizer, QuadraticRegularizer

Regularizer = Literal["entropy", "quadratic"] | EntropyRegularizer | QuadraticRegularizer | None


@dataclass(frozen=True, eq=False)
class Problem:
    """minimise f(x, y) + linear'y + φ(y), for m instances.

    over: φ and the set. start: (m, n). bad: (m,), instances whose x or linear term is not finite; zero stands for them.
    """

    f: ConvexNetwork
    x: Tensor | None
    linear: Tensor | None
    over: Regularized
    start: Tensor
    bad: Tensor
    batch: torch.Size
    energy: FlatEnergy

    @property
    def dtype(self) -> torch.dtype:
        return next(self.f.parameters()).dtype

    @property
    def y_shape(self) -> torch.Size:
        return torch.Size(self.f.y_shape)

    @property
    def layered(self) -> LayeredEnergy | None:
        """The layers of f, as a function of one batch dimension and in float64; None where f is not of this kind."""
        return _in_double(self.f, self.x, self.batch) if self.has_layers else None

    @property
    def has_layers(self) -> bool:
        """Whether f is known as a stack of layers, each unit a maximum of lines."""
        inner = self.energy.energy if isinstance(self.energy, Tilted) else self.energy
        stack = getattr(inner, "energy", None)
        return isinstance(stack, LayeredEnergy) and has_lines(stack)

    def without(self, failed: Tensor) -> "Problem":
        """Zero in place of the data of these instances: no derivative of theirs spoils one that is shared."""
        x, linear = _masked(self.x, failed, self.batch), None
        if self.linear is not None:
            linear = self.linear.masked_fill(failed.unsqueeze(-1), 0.0)
        energy = _energy(self.f, x, linear, self.batch)
        return replace(self, x=x, linear=linear, energy=energy, bad=self.bad | failed)

    def shaped(self, y: Tensor) -> Tensor:
        """As the user has it."""
        return y.reshape(self.batch + self.y_shape).to(self.dtype)


def posed(
    f: ConvexNetwork,
    x: Tensor | None,
    domain: Domain,
    regularizer: Regularizer,
    linear: Tensor | None,
    start: Tensor | None,
) -> Problem:
    """The problem with these data. Raises TypeError or ValueError for what does not fit, see `argmin`."""
    if not isinstance(f, ConvexNetwork):
        raise TypeError(
            f"f is a {type(f).__name__}, expected a ConvexNetwork, whose convexity in y is known (icnn.certify proves "
            "that of other modules; a subclass of icnn.ConvexNetwork with a method `given` makes them fit)"
        )
    f.check_convex()
    if not isinstance(domain, Domain):
        raise TypeError(f"domain is a {type(domain).__name__}, expected a Box, Simplex, Ball or Polytope")
    regularizer = _named(regularizer)
    shape, device = torch.Size(f.y_shape), next(f.parameters()).device
    batch = _batch(f, x, domain, regularizer, {"linear": linear, "start": start})
    over = _regularized(domain, regularizer, batch, shape, device)
    bad = torch.zeros(batch.numel(), dtype=torch.bool, device=device)
    if x is not None and f.x_shape is not None:
        bad = ~x.detach().reshape(batch.numel(), -1).isfinite().all(-1)
    if linear is not None:
        linear = vector("linear", linear, batch, shape, device)
        bad = bad | ~linear.detach().isfinite().all(-1)
    if bad.any():
        x = _masked(x, bad, batch)
        linear = None if linear is None else linear.masked_fill(bad.unsqueeze(-1), 0.0)
    energy = _energy(f, x, linear, batch)
    return Problem(f, x, linear, over, _start(start, over, batch, shape, device), bad, batch, energy)


def _named(regularizer: Regularizer) -> EntropyRegularizer | QuadraticRegularizer | None:
    if regularizer == "entropy":
        return EntropyRegularizer()
    if regularizer == "quadratic":
        return QuadraticRegularizer()
    if regularizer is None or isinstance(regularizer, EntropyRegularizer | QuadraticRegularizer):
        return regularizer
    expected = "None, 'entropy', 'quadratic', an EntropyRegularizer or a QuadraticRegularizer"
    raise ValueError(f"regularizer must be {expected}; got {regularizer!r}")


def _batch(
    f: ConvexNetwork,
    x: Tensor | None,
    domain: Domain,
    regularizer: EntropyRegularizer | QuadraticRegularizer | None,
    vectors: dict[str, Tensor | None],
) -> torch.Size:
    """The batch dimensions of x, or those on which the other data agree."""
    dims = len(f.y_shape)
    found = {name: t.shape[: max(t.dim() - dims, 0)] for name, t in vectors.items() if t is not None and t.dim()}
    found["domain"] = domain.batch(torch.Size(f.y_shape))
    centre = regularizer.centre if isinstance(regularizer, QuadraticRegularizer) else None
    if isinstance(centre, Tensor) and centre.dim():
        found["centre"] = centre.shape[: max(centre.dim() - dims, 0)]
    own = None if x is None or f.x_shape is None else x.shape[: x.dim() - len(f.x_shape)]
    found = {name: shape for name, shape in found.items() if shape}
    expected = own if own is not None else next(iter(found.values()), torch.Size())
    for name, shape in found.items():
        if shape != expected:
            raise ValueError(f"{name} has batch dimensions {tuple(shape)}, expected none or {tuple(expected)}")
    return expected


def _regularized(
    domain: Domain,
    regularizer: EntropyRegularizer | QuadraticRegularizer | None,
    batch: torch.Size,
    shape: torch.Size,
    device: torch.device,
) -> Regularized:
    region = domain.region(batch, shape, device)
    if isinstance(regularizer, EntropyRegularizer):
        if not (domain.has_entropy and isinstance(region, Polyhedron)):
            raise ValueError(f"regularizer is the entropy, expected a Box or a Simplex; got a {type(domain).__name__}")
        return entropic(region, regularizer.weight)
    weight = 0.0 if regularizer is None else regularizer.weight
    centre = 0.0 if regularizer is None else regularizer.centre
    return Euclidean(region, weight, vector("centre", centre, batch, shape, device))


def _start(
    start: Tensor | None, over: Regularized, batch: torch.Size, shape: torch.Size, device: torch.device
) -> Tensor:
    if start is None:
        return over.middle()
    y = vector("start", start.detach(), batch, shape, device)
    if not over.contains(y, 64 * torch.finfo(start.dtype).eps).all():
        raise ValueError("start must lie in the domain; got entries outside, or nan")
    return over.point(over.coordinates(y))


def _energy(f: ConvexNetwork, x: Tensor | None, linear: Tensor | None, batch: torch.Size) -> FlatEnergy:
    energy = flat_energy(f.given(x), batch, torch.Size(f.y_shape), next(f.parameters()))
    return energy if linear is None else Tilted(energy, linear)


def _masked(x: Tensor | None, index: Tensor, batch: torch.Size) -> Tensor | None:
    return x if x is None else x.masked_fill(index.reshape(batch + (1,) * (x.dim() - len(batch))), 0.0)


class _Given(nn.Module):
    """f.given as the forward of a module, so that its weights can be had in another dtype."""

    def __init__(self, f: ConvexNetwork) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor | None) -> object:
        return self.f.given(x)


def _in_double(f: ConvexNetwork, x: Tensor | None, batch: torch.Size) -> LayeredEnergy:
    """The energy of the weights of f in float64, through which autograd sees them."""
    module = _Given(f)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    double = {name: t.double() if t.is_floating_point() else t.clone() for name, t in tensors.items()}
    energy = torch.func.functional_call(module, double, (None if x is None else x.double(),))
    assert isinstance(energy, LayeredEnergy)
    return energy if len(batch) == 1 else energy.at(torch.arange(batch.numel(), device=next(f.parameters()).device))
