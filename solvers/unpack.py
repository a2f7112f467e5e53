"""From canonical values to the `Solution` that the user reads."""

import torch
from torch import Tensor

from .forward import Values
from .linalg import dot
from .program import Bounds, Phi, Program, rows_mv, split_rows
from .solution import Ray, Residuals, Solution, Status


def unpack(phi: Phi, bounds: Bounds, program: Program, values: Values, method: str, dtype: torch.dtype) -> Solution:
    """Split rows of J into their groups, add slack and objective (differentiable), cast to the user's dtype."""
    lam, lam_lower, lam_upper = split_rows(program.G, bounds, values.lam)
    n, q, m = program.p.shape[-1], program.b.shape[-1], program.G.shape[-2]
    ray_x, ray_nu, ray_rows = values.ray.split([n, q, values.lam.shape[-1]], -1)
    slack = (program.d - rows_mv(program.G, bounds, values.x))[..., :m]
    objective = phi.value(program.Q, values.x) + dot(program.p, values.x)

    def cast(t: Tensor) -> Tensor:
        return t.to(dtype)

    return Solution(
        x=cast(values.x),
        nu=cast(values.nu),
        lam=cast(lam),
        lam_lower=cast(lam_lower),
        lam_upper=cast(lam_upper),
        s=cast(slack),
        objective=cast(objective),
        status=values.status,
        iterations=values.iterations,
        residuals=Residuals(*values.residuals.unbind(-1)),
        degenerate=values.degenerate,
        ray=Ray(*map(cast, (ray_x, ray_nu, *split_rows(program.G, bounds, ray_rows)))),
        method=method,
    )


def without_gradient(program: Program, status: Tensor) -> Program:
    """The same data, through which no gradient flows to instances that failed (nor nan times zero)."""

    def cut(t: Tensor) -> Tensor:
        failed = (status != Status.OPTIMAL).reshape(status.shape + (1,) * (t.dim() - status.dim()))
        return torch.where(failed, t.detach(), t)

    return Program(*map(cut, program))
