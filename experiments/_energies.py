"""Scalar functions learned from samples of their values and gradients: networks, and their fit by least squares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from scipy.optimize import least_squares
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, jacrev, vmap

import icnn
from experiments._hamiltonians import Function, gradient
from icnn.adjoints import lift, residual_flow

Kind = Literal["residual", "convex", "free"]
Eta = Literal["softplus"] | None
Supervision = Literal["values", "derivatives", "both"]


@dataclass(frozen=True)
class Samples:
    """Points y (n, d) with F(y), (n,), and ∇F(y), (n, d)."""

    y: Tensor
    value: Tensor
    slope: Tensor


def sampled(function: Function, y: Tensor) -> Samples:
    return Samples(y, function(y), gradient(function, y))


class ResidualEnergy(nn.Module):
    """F(y) = η(wᵀ z_K + μ), z_0 = tanh(A y + a), z_{k+1} = z_k + tanh(W_k z_k + b_k) / K.

    η: softplus, or None for the identity.
    """

    def __init__(self, d: int, width: int, steps: int, eta: Eta = None) -> None:
        super().__init__()
        self.eta: Eta = eta
        self.A, self.a = nn.Parameter(torch.randn(width, d)), nn.Parameter(torch.randn(width))
        self.W = nn.Parameter(torch.randn(steps, width, width) / width**0.5)
        self.b = nn.Parameter(torch.zeros(steps, width))
        self.w, self.mu = nn.Parameter(torch.randn(1, width) / width**0.5), nn.Parameter(torch.zeros(1))

    def forward(self, y: Tensor) -> Tensor:
        return _outputs(y, self.A, self.a, self.W, self.b, self.w, self.mu, self.eta).squeeze(-1)


def _outputs(y: Tensor, A: Tensor, a: Tensor, W: Tensor, b: Tensor, w: Tensor, mu: Tensor, eta: Eta) -> Tensor:
    z = residual_flow(lift(y, A, a), W, b, 1 / len(W))
    return z @ w.mT + mu if eta is None else lift(z, w, mu, activation=eta)


class Normalised(nn.Module):
    """c F((y - m) / s), with m, s and c from samples: what F sees and gives is of size one."""

    mean: Tensor
    size: Tensor
    scale: Tensor

    def __init__(self, net: ResidualEnergy | icnn.FICNN, samples: Samples) -> None:
        super().__init__()
        self.net: Any = net
        for name, value in zip(("mean", "size", "scale"), _measured(samples), strict=True):
            self.register_buffer(name, value)

    def forward(self, y: Tensor) -> Tensor:
        return self.scale * self.net((y - self.mean) / self.size)


def _measured(samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
    size = samples.y.var(0).mean().sqrt()
    return samples.y.mean(0), size, size * samples.slope.square().mean().sqrt()


@torch.no_grad()
def side_by_side(nets: Sequence[Normalised], d: int) -> Function:
    """y = (y_1, y_2, …), (*batch, nets * d), to the gradients of each net at its part, like y.

    Residual networks side by side are one of them with a block of A, W_k and w for each, at the price of one; the
    weights are detached, so that the gradient takes the sweep back in y alone.
    """
    cores = [net.net for net in nets]
    if not all(isinstance(core, ResidualEnergy) for core in cores):
        slopes = [_convex_slope(net) for net in nets]
        return lambda y: torch.cat([slope(part) for slope, part in zip(slopes, y.split(d, -1), strict=True)], -1)
    A = torch.block_diag(*(core.A / net.size for core, net in zip(cores, nets, strict=True)))
    a = torch.cat([core.a - core.A @ (net.mean / net.size) for core, net in zip(cores, nets, strict=True)])
    W = torch.stack([torch.block_diag(*blocks) for blocks in zip(*(core.W for core in cores), strict=True)])
    b, mu = torch.cat([core.b for core in cores], -1), torch.cat([core.mu for core in cores])
    w, scale = torch.block_diag(*(core.w for core in cores)), torch.stack([net.scale for net in nets])
    return partial(gradient, lambda y: _outputs(y, A, a, W, b, w, mu, cores[0].eta) @ scale)


def _convex_slope(net: Normalised) -> Function:
    energy = net.net.given()
    return lambda y: net.scale / net.size * energy.tangent((y - net.mean) / net.size).slope


@dataclass(frozen=True)
class Nets:
    """The networks to compare: sizes of the residual one, and of the convex one and its control."""

    width: int
    steps: int
    convex: tuple[int, ...]

    def build(self, kind: Kind, samples: Samples, seed: int) -> Normalised:
        """residual; convex, with softplus of the weights, which no step switches off; free, without their signs."""
        torch.manual_seed(seed)
        d = samples.y.shape[-1]
        if kind == "residual":
            net = ResidualEnergy(d, self.width, self.steps)
        else:
            net = icnn.FICNN(d, self.convex, "softplus", positivity="softplus" if kind == "convex" else "project")
        return Normalised(net, samples).to(samples.y.dtype)


@torch.no_grad()
def scores(net: Function, samples: Samples) -> dict[str, float]:
    """Errors relative to the truth, root mean square: of the gradient, and of the value but for a constant."""
    missed = gradient(net, samples.y) - samples.slope
    value = (net(samples.y) - samples.value).std() / samples.value.std()
    return {"value": value.item(), "gradient": (missed.norm() / samples.slope.norm()).item()}


def learn(net: nn.Module, samples: Samples, supervision: Supervision, ridge: float, evaluations: int) -> float:
    """Fit the weights θ by scipy's trust region, on the Jacobian of all residuals; returns the least squares left.

    min_θ  Σ_i |∇F(y_i) - ∇F_i|² / Σ_i |∇F_i|²  +  Σ_i (F(y_i) - F_i)² / Σ_i (F_i - mean)²  +  ridge |θ|²

    by both; by derivatives or values, with the one term. The Jacobian takes the second derivatives of F from the
    sweep back through the sweep back. Without the ridge the fit is ill-posed: directions of θ that the samples do not
    see carry it far away, and F is wild between them.
    """
    names, start = zip(*((name, weight.detach()) for name, weight in net.named_parameters()), strict=True)
    sizes, shapes = [weight.numel() for weight in start], [weight.shape for weight in start]
    spread = (samples.value - samples.value.mean()).square().sum().sqrt()

    def split(theta: Tensor) -> dict[str, Tensor]:
        parts = zip(names, theta.split(sizes), shapes, strict=True)
        return {name: part.reshape(shape) for name, part, shape in parts}

    def residual(theta: Tensor, y: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        def at(point: Tensor) -> Tensor:
            return functional_call(net, split(theta), (point[None],))[0]

        found_slope, found = grad_and_value(at)(y)
        parts = {"values": (found - value)[None] / spread, "derivatives": (found_slope - slope) / samples.slope.norm()}
        return torch.cat(list(parts.values())) if supervision == "both" else parts[supervision]

    def rows(function: Callable[..., Tensor], theta: Tensor) -> Tensor:
        return vmap(function, (None, 0, 0, 0))(theta, samples.y, samples.value, samples.slope).flatten(0, 1)

    theta = torch.cat([weight.flatten() for weight in start])
    damping = ridge**0.5 * torch.eye(len(theta), dtype=theta.dtype)
    found = least_squares(
        lambda x: torch.cat((rows(residual, torch.as_tensor(x)), damping @ torch.as_tensor(x))).numpy(),
        theta.numpy(),
        lambda x: torch.cat((rows(jacrev(residual), torch.as_tensor(x)), damping)).numpy(),  # pyright: ignore
        method="trf",
        max_nfev=evaluations,
        ftol=1e-6,
        xtol=1e-10,
    )
    for name, weight in split(torch.as_tensor(found.x)).items():
        net.get_parameter(name).data.copy_(weight)
    return 2 * float(found.cost)
