"""Activations made to measure: with a slope, centred, and units that take several numbers to one."""

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .activations import Activation, any_activation, two_lines
from .initialisation import moments


@dataclass(frozen=True)
class _Shifted:
    """g - shift; picklable, as a closure is not."""

    function: Activation
    shift: float

    def __call__(self, value: Tensor) -> Tensor:
        return self.function(value) - self.shift


def _max(value: Tensor) -> Tensor:
    return value.max(-1).values


def _max_slope(value: Tensor) -> Tensor:
    return torch.zeros_like(value).scatter_(-1, value.max(-1, keepdim=True).indices, 1.0)


def _norm(value: Tensor) -> Tensor:
    return torch.linalg.vector_norm(F.relu(value), dim=-1)


def _norm_slope(value: Tensor) -> Tensor:
    positive = F.relu(value)
    size = torch.linalg.vector_norm(positive, dim=-1, keepdim=True)
    return positive / size.masked_fill(size == 0, 1.0)


def _log_sum_exp(value: Tensor, temperature: float) -> Tensor:
    return temperature * torch.logsumexp(value / temperature, -1)


def _softmax(value: Tensor, temperature: float) -> Tensor:
    return torch.softmax(value / temperature, -1)


def _leaky_slope(value: Tensor, slope: float) -> Tensor:
    return value.sign().clamp_min(slope)


def _max_curvature(lower: Tensor, upper: Tensor) -> Tensor:
    """None where one piece is the largest throughout."""
    leader = lower.max(-1, keepdim=True)
    others = upper.scatter(-1, leader.indices, -torch.inf).amax(-1, keepdim=True)
    return torch.full_like(lower, torch.inf).masked_fill(leader.values >= others, 0.0)


def _norm_curvature(lower: Tensor, upper: Tensor) -> Tensor:
    """∇²‖v‖ = (I − nnᵀ) / ‖v‖, n = v / ‖v‖, among the positive v; no other v has any."""
    size = torch.linalg.vector_norm(F.relu(lower), dim=-1, keepdim=True)
    return size.reciprocal().expand(lower.shape).masked_fill(upper <= 0, 0.0)


def _log_sum_exp_curvature(lower: Tensor, upper: Tensor, temperature: float) -> Tensor:
    """T∇² = diag(p) − ppᵀ ⪯ diag(2p(1 − p)), p the softmax: the sums of the absolute rows are that."""
    least, most = _share(lower, upper, temperature), _share(upper, lower, temperature)
    p = torch.full_like(lower, 0.5).clamp(least, most)
    return 2 * p * (1 - p) / temperature


def _share(own: Tensor, other: Tensor, temperature: float) -> Tensor:
    """The softmax of each piece where it is `own` and the rest are `other`."""
    excess = (other.unsqueeze(-2) - own.unsqueeze(-1)) / temperature
    itself = torch.eye(own.shape[-1], dtype=torch.bool, device=own.device)
    return torch.sigmoid(-excess.masked_fill(itself, -torch.inf).logsumexp(-1))


def leaky_relu(slope: float = 0.01) -> Activation:
    """max(v, slope · v), elementwise, 0 <= slope <= 1. Raises ValueError for other slopes, which are not convex."""
    if not 0 <= slope <= 1:
        raise ValueError(f"slope is {slope}, expected 0 <= slope <= 1: otherwise leaky_relu is not convex")
    function, derivative = partial(F.leaky_relu, negative_slope=slope), partial(_leaky_slope, slope=slope)
    return Activation(f"leaky_relu({slope:g})", function, True, True, derivative=derivative, **two_lines(slope))


def maxout(pieces: int = 2) -> Activation:
    """max(v_1, …, v_r): each unit has r pre-activations."""
    lines = tuple((tuple(float(i == j) for j in range(pieces)), 0.0) for i in range(pieces))
    unit = Activation("", _max, piecewise_linear=True, derivative=_max_slope, lines=lines)
    return _grouped("maxout", pieces, replace(unit, recession=_max, curvature=_max_curvature))


def norm(pieces: int = 2) -> Activation:
    """‖[v]₊‖₂ of r pre-activations, a second-order cone: z ≥ ‖w‖, w ≥ v, w ≥ 0.

    Without [·]₊ a norm decreases somewhere, and would not be convex after a layer that is not affine.
    """
    unit = Activation("", _norm, derivative=_norm_slope, recession=_norm, curvature=_norm_curvature)
    return _grouped("norm", pieces, unit)


def log_sum_exp(pieces: int = 2, temperature: float = 1.0) -> Activation:
    """T log Σ exp(v_i / T) of r pre-activations, a smooth maximum: within T log r above it."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a positive number")
    parts = (_log_sum_exp, _softmax, _log_sum_exp_curvature)
    function, derivative, curvature = (partial(part, temperature=temperature) for part in parts)
    unit = Activation("", function, smooth=True, derivative=derivative, recession=_max, curvature=curvature)
    return _grouped("log_sum_exp", pieces, unit)


def centred(activation: str | Activation) -> Activation:
    """g − E g(ξ), ξ standard normal: features of different inputs then start without a common direction."""
    found = any_activation(activation)
    return replace(found, name=f"centred {found.name}", function=_Shifted(found, moments(found).mean))


def _grouped(name: str, pieces: int, unit: Activation) -> Activation:
    if pieces < 2:
        raise ValueError(f"{name} has {pieces} pieces, expected two or more")
    return replace(unit, name=f"{name}({pieces})", pieces=pieces, convex=True, nondecreasing=True)
