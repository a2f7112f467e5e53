"""Decisions by linear programs whose cost is predicted, and smooth stand-ins that carry a gradient to the cost.

    x(c) = argmin_x c'x   subject to   A x = b,  G x <= h,  lower <= x <= upper

is a vertex as a rule and does not move with c, until it jumps. What the stand-ins return does move; the less ridge,
barrier or noise, the closer they are to x(c), and the less their gradient tells. To maximise, pass the cost negated.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from icnn.inference.implicit import first_order
from icnn.solvers import LP, QP, Solution, SolverError, Status, central_point, failure_message, solve


@dataclass(frozen=True, eq=False, repr=False)
class LinearDecision:
    """argmin_x c'x  subject to  A x = b,  G x <= h,  lower <= x <= upper, for costs still to come.

    `decision(c)` is that minimiser, (*batch, n) for c (*batch, n). Where it is not unique it is some point of the face
    of minimisers, not a vertex as a rule. Its derivative with respect to c is zero almost everywhere: a c that asks
    for a gradient brings an `icnn.ZeroGradientWarning`.

    G, h, A, b, lower, upper: as for `icnn.LP`, in the dtype and on the device of the costs, shared by the batch or one
        for each instance.
    tol, max_iter: as for `icnn.solve`, in all that is solved for this decision.
    on_failure: what instances without a solution do. "raise": `icnn.SolverError`; "nan": nan in values and gradients;
        "zero": the best iterate, and a loss of zero, without gradient. A regret is nan unless it raises.
    method: as for `icnn.solve`, of the linear programs; with few rows, or many equations, beside bounds "dual" is
        the faster one.
    Raises, when it is used: as `icnn.LP` and `icnn.solve`.
    """

    G: Tensor | None = None
    h: Tensor | None = None
    A: Tensor | None = None
    b: Tensor | None = None
    lower: Tensor | float | None = None
    upper: Tensor | float | None = None
    tol: float = 1e-9
    max_iter: int = 100
    on_failure: Literal["raise", "nan", "zero"] = "raise"
    method: Literal["auto", "primal", "dual", "full"] = "auto"

    def __call__(self, c: Float[Tensor, "*own n"]) -> Float[Tensor, "*batch n"]:
        return self.solve(c).x

    def program(self, c: Tensor) -> LP:
        """The linear program with this cost."""
        return LP(c, **self.constraints)

    def solve(self, c: Tensor) -> Solution:
        """Its solution."""
        return solve(self.program(c), method=self.method, **self.options)

    @property
    def constraints(self) -> dict[str, Any]:
        """The data of the program without its cost."""
        return {name: getattr(self, name) for name in ("G", "h", "A", "b", "lower", "upper")}

    @property
    def options(self) -> dict[str, Any]:
        """What every solver takes."""
        return {"tol": self.tol, "max_iter": self.max_iter, "on_failure": self.on_failure}

    def __repr__(self) -> str:
        given = {name: value for name, value in self.constraints.items() if value is not None}
        shapes = (f"{name}: {tuple(v.shape) if isinstance(v, Tensor) else v}" for name, v in given.items())
        return f"LinearDecision({', '.join(shapes)})"


def ridge(decision: LinearDecision, c: Float[Tensor, "*own n"], rho: float = 1.0) -> Float[Tensor, "*batch n"]:
    """argmin_x c'x + rho/2 |x|^2 over the feasible set: the projection of -c/rho onto it.

    Piecewise linear in c, differentiable in c and in the constraints to every order; where a constraint is weakly
    active the derivative is the one of least norm, and a second one raises. As rho falls, and from some rho > 0 on,
    x is the minimiser of c'x, the shortest one where that is not unique, and does not move with c again.

    decision: the feasible set. c: (*batch, n). rho: in units of cost per unit of x.
    Returns x, (*batch, n).
    Raises as `icnn.solve`; ValueError unless rho > 0.
    Source: Wilder, Dilkina, Tambe (2019), Melding the data-decisions pipeline; for the rho that is small enough
    Mangasarian, Meyer (1979), Nonlinear perturbation of linear programs.
    """
    _check_positive(rho=rho)
    curvature = c.new_full(c.shape[-1:], rho)
    return solve(QP(curvature, c, **decision.constraints), **decision.options).x


def log_barrier(decision: LinearDecision, c: Float[Tensor, "*own n"], mu: float = 1.0) -> Float[Tensor, "*batch n"]:
    """argmin_x c'x - mu sum log s over the feasible set, s the slacks of all finite rows and bounds.

    x lies strictly inside, unique also where the minimiser of c'x is not, and above its optimal value by at most mu
    times the number of slacks. Differentiable in c and in the constraints, once.

    decision: the feasible set, with a point strictly inside its inequalities; fixed variables (lower = upper) count as
        equalities. c: (*batch, n). mu: in the unit of c'x.
    Returns x, (*batch, n).
    Raises as `icnn.solvers.central_point`.
    Source: Mandi, Guns (2020), Interior point solving for LP-based prediction+optimisation.
    """
    return central_point(decision.program(c), mu, **decision.options).x


def perturbed(
    decision: LinearDecision,
    c: Float[Tensor, "*own n"],
    sigma: float = 1.0,
    *,
    samples: int = 10,
    generator: Generator | None = None,
) -> Float[Tensor, "*batch n"]:
    """The mean of x(c + sigma z) over Gaussian z, x(c) the minimiser of c'x; `samples` programs for each instance.

    Its expectation is smooth in c with the Jacobian E[x(c + sigma z) z'] / sigma. The gradient is the unbiased
    estimate of it from the same samples, sum_k (x_k - mean x) z_k' / (sigma (samples - 1)), first order only. The
    constraints are constants.

    decision: the feasible set. c: (*batch, n). sigma: in units of c. samples: at least two, solved as one batch.
    generator: of the noise, on the device of c; torch's own by default.
    Returns the mean, (*batch, n). An instance fails where one of its samples does.
    Raises as `icnn.solve`; ValueError for a sigma or samples out of range, or constraints that require a gradient.
    Source: Berthet, Blondel, Teboul, Cuturi, Vert, Bach (2020), Learning with differentiable perturbed optimizers.
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2; got {samples}")
    drawn = draw(decision, c, sigma, samples, generator)
    c = live(decision, c, drawn.failed)
    mean = drawn.x.mean(0)
    moved = (drawn.noise * (c - c.detach()).nan_to_num(0.0)).sum(-1, keepdim=True) / (sigma**2 * (samples - 1))
    return mean + first_order(((drawn.x - mean) * moved).sum(0))


class Drawn(NamedTuple):
    """Minimisers (samples, *batch, n) of the cost plus noise of this shape, and which instances failed, (*batch,)."""

    noise: Tensor
    x: Tensor
    failed: Tensor


def draw(decision: LinearDecision, c: Tensor, sigma: float, samples: int, generator: Generator | None) -> Drawn:
    """Minimisers for samples of a perturbed cost."""
    _check_positive(sigma=sigma, samples=samples)
    c = c.detach().expand(*decision.program(c).batch_shape, c.shape[-1])
    noise = sigma * c.new_empty(samples, *c.shape).normal_(generator=generator)
    x, status = decide(replace(decision, on_failure="zero"), c + noise)
    status = status.amax(0)
    failed = status != Status.OPTIMAL
    if decision.on_failure == "raise" and failed.any():
        raise SolverError(failure_message(status))
    if decision.on_failure == "nan":
        x = x.masked_fill(failed.unsqueeze(-1), torch.nan)
    return Drawn(noise, x, failed)


def decide(decision: LinearDecision, c: Tensor) -> tuple[Tensor, Tensor]:
    """The minimisers of c'x and their statuses, as constants."""
    rows = decision.constraints.items()
    learned = [name for name, value in rows if isinstance(value, Tensor) and value.requires_grad]
    if learned and torch.is_grad_enabled():
        raise ValueError(
            f"the constraints are constants here; {', '.join(learned)} require a gradient, which "
            "icnn.losses.ridge, icnn.losses.log_barrier and icnn.solve would give"
        )
    with torch.no_grad():
        solution = decision.solve(c)
    return solution.x, solution.status


def live(decision: LinearDecision, c: Tensor, failed: Bool[Tensor, "*batch"]) -> Tensor:
    """c, through which no gradient flows to instances that failed and are to have none."""
    return torch.where(failed.unsqueeze(-1), c.detach(), c) if decision.on_failure == "zero" else c


def _check_positive(**named: float | int) -> None:
    for name, value in named.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")
