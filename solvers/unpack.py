"""From canonical values to the `Solution` that the user reads."""

import torch
from torch import Tensor

from .forward import Values
from .linalg import dot
from .program import Bounds, Phi, Program, rows_mv, split_rows
from .solution import Ray, Residuals, Solution, Status


def unpack(
    phi: Phi, bounds: Bounds, program: Program, values: Values, dtype: torch.dtype, cut_failed: bool = False
) -> Solution:
    """Split rows of J into groups, cast to the user's dtype; cut_failed: no gradient flows to failed instances."""

    def cast(t: Tensor) -> Tensor:
        return t.to(dtype)

    lam, lam_lower, lam_upper = split_rows(program.G, bounds, values.lam)
    ray_x, ray_nu, ray_rows = values.ray.split([program.p.shape[-1], program.b.shape[-1], values.lam.shape[-1]], -1)
    return Solution(
        x=cast(values.x),
        nu=cast(values.nu),
        lam=cast(lam),
        lam_lower=cast(lam_lower),
        lam_upper=cast(lam_upper),
        status=values.status,
        iterations=values.iterations,
        residuals=Residuals(*values.residuals.unbind(-1)),
        degenerate=values.degenerate,
        ray=Ray(*map(cast, (ray_x, ray_nu, *split_rows(program.G, bounds, ray_rows)))),
        solved_by=values.method,
        derived=Derived(phi, bounds, program, values.x, values.status if cut_failed else None, dtype),
    )


class Derived:
    """Slack h - G x and objective phi(x) + p'x, computed on demand, with gradients if they were wanted at the solve.

    status: no gradient flows to instances where it is not OPTIMAL; None where none has failed.
    """

    def __init__(
        self, phi: Phi, bounds: Bounds, program: Program, x: Tensor, status: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.phi, self.bounds, self.program, self.x, self.status, self.dtype = phi, bounds, program, x, status, dtype
        self.differentiable = torch.is_grad_enabled()

    def __call__(self) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(self.differentiable):
            program = self.program if self.status is None else without_gradient(self.program, self.status)
            slack = (program.d - rows_mv(program.G, self.bounds, self.x))[..., : program.G.shape[-2]]
            objective = self.phi.value(program.Q, self.x) + dot(program.p, self.x)
            return slack.to(self.dtype), objective.to(self.dtype)


def without_gradient(program: Program, status: Tensor) -> Program:
    """The same data, through which no gradient flows to instances that failed (nor nan times zero)."""

    def cut(t: Tensor) -> Tensor:
        failed = (status != Status.OPTIMAL).reshape(status.shape + (1,) * (t.dim() - status.dim()))
        return torch.where(failed, t.detach(), t)

    return Program(*map(cut, program))
