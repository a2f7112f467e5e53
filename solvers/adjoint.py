"""The adjoint of every program of the form (1): one rule, which knows no problem by name.

Derivation. At a solution, with the rows of the active set held as equalities, the optimality conditions are

    grad phi(x) + p + A'nu + G'lam = 0,    A x = b,    G x = d.

Take differentials and collect those of the unknowns on the left (H = grad^2 phi(x)):

    [ H   A'  G' ] [ dx   ]       [ dQ x + dp + dA'nu + dG'lam ]
    [ A   0   0  ] [ dnu  ]  =  - [ dA x - db                  ]
    [ G   0   0  ] [ dlam ]       [ dG x - dd                  ]

The matrix is M of (2), symmetric. A loss has dl = <g, dz> with z = (x, nu, lam) and cotangents g, so with
c = -M^-1 g                                                                                            (3)

    dl = c_x'(dQ x + dp + dA'nu + dG'lam) + c_nu'(dA x - db) + c_lam'(dG x - dd).

The gradient with respect to a datum is what multiplies its differential:                              (4)

    p_bar = c_x                   Q_bar = (c_x x' + x c_x') / 2     (Q moves among symmetric matrices)
    A_bar = nu c_x' + c_nu x'     b_bar = -c_nu
    G_bar = lam c_x' + c_lam x'   d_bar = -c_lam

Inactive rows have lam = 0 and c_lam = 0. For cuts G y + o <= t, d = -o turns the last sign: o_bar = c_lam.

c solves a program of the same form, minimise c'Hc/2 + g_x'c subject to A c = -g_nu, G c = -g_lam, whose operator
is the same M. So the backward pass is this very function applied to that program, and derivatives of every order
follow from (4), which holds for it as it stands. Where a constraint is only weakly active or M is singular, the
first derivative returned is the minimum-norm one; a second derivative does not exist and is refused.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .closed_form import is_separable, solve_separable_kkt
from .forward import OnFailure, Options, Values, factorised, flatten, flatten_batch, solve_values
from .kernels import kernels_for
from .outer import outer_sum
from .program import Bounds, Phi, Program, Quadratic, is_diagonal
from .screen import symmetry_defect
from .solution import Solution, SolverError, Status, failure_message
from .unpack import unpack

ADJOINT_ACCURACY = 1e-6
EXACT = 1e-9


@runtime_checkable
class Rule(Protocol):
    """How the forward pass finds (x, nu, lam, ...) from the canonical data and what else it is given."""

    @property
    def phi(self) -> Phi: ...
    def forward(self, program: Program, *extra: Tensor) -> tuple[Tensor, ...]: ...
    def adjoint(self) -> "AdjointRule": ...
    def operator(self, extra: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(status, degenerate, w, U): what the adjoint needs of the solve."""
        ...


@dataclass(frozen=True)
class SolveRule:
    """First order: the program is the user's and is solved."""

    phi: Phi
    bounds: Bounds
    options: Options
    symmetry: float

    def forward(self, program: Program, *warm: Tensor) -> tuple[Tensor, ...]:
        defect = symmetry_defect(program.Q, program.p) if isinstance(self.phi, Quadratic) else 0.0
        if defect > self.symmetry:
            raise ValueError(f"Q must be symmetric; max |Q - Q'| / max |Q| is {defect:.1e}. Pass (Q + Q') / 2.")
        if defect > 0:
            program = program._replace(Q=0.5 * (program.Q + program.Q.mT))
        values = solve_values(self.phi, self.bounds, self.options, program, warm)
        bad = values.status != Status.OPTIMAL
        if not bad.any():
            return tuple(values)
        if self.options.on_failure == "raise":
            raise SolverError(failure_message(values.status), self._solution(program, values))
        if self.options.on_failure == "nan":
            x, nu, lam = (t.masked_fill(bad.unsqueeze(-1), torch.nan) for t in values[:3])
            values = values._replace(x=x, nu=nu, lam=lam)
        return tuple(values)

    def _solution(self, program: Program, values: Values) -> Solution:
        return unpack(self.phi, self.bounds, program, values, values.x.dtype)

    def adjoint(self) -> "AdjointRule":
        barrier = self.options.mu > 0
        if barrier and torch.is_grad_enabled():  # as it is under create_graph=True alone; w would be held fixed
            raise RuntimeError("derivatives of second order are not known here: call backward without create_graph")
        return AdjointRule(self.bounds, self.options.operator, self.options.on_failure, order=1, barrier=barrier)

    def operator(self, extra: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = Values(*outputs)
        return values.status, values.degenerate, values.w, values.U


@dataclass(frozen=True)
class AdjointRule:
    """Every order: the program is quadratic with a known active set; its operator is factorised already or now.

    barrier: w is s / lam of a barrier and not an active set; first order only.
    """

    bounds: Bounds
    kind: str
    on_failure: OnFailure
    order: int
    barrier: bool = False

    @property
    def phi(self) -> Phi:
        return Quadratic()

    def forward(self, program: Program, *extra: Tensor) -> tuple[Tensor, ...]:
        batch, sizes = program.p.shape[:-1], [t.shape[-1] for t in (program.p, program.b, program.d)]
        status, degenerate, w, U = (flatten_batch(t, batch) for t in extra)
        program = flatten(program)
        c, error = self._directly(program, w, U)
        regular = (status == Status.OPTIMAL) & ~degenerate & (error <= EXACT)
        if not regular.all():
            c = self._with_care(program, batch, status == Status.OPTIMAL, degenerate, w, c, error)
        c_x, c_nu, c_J = (c if len(batch) == 1 else c.reshape(*batch, -1)).split_with_sizes(sizes, -1)
        return c_x, c_nu, c_J

    def _with_care(
        self,
        program: Program,
        batch: torch.Size,
        solved: Tensor,
        degenerate: Tensor,
        w: Tensor,
        c: Tensor,
        error: Tensor,
    ) -> Tensor:
        """c where instances failed, are degenerate, or have cotangents that are not finite."""
        self._refuse(self.order > 1, (degenerate & solved).reshape(batch), "derivatives of second order do not exist")
        finite = torch.isfinite(program.p.sum(-1) + program.b.sum(-1) + program.d.sum(-1))
        good = solved & finite
        hard = (good & (degenerate | ~(error <= EXACT))).nonzero().squeeze(-1)
        if len(hard):
            c_hard, error_hard = self._regularised(Program(*(t[hard] for t in program)), w[hard], degenerate[hard])
            c, error = c.index_copy(0, hard, c_hard), error.index_copy(0, hard, error_hard)
        inaccurate = good & ~(error <= ADJOINT_ACCURACY)
        self._refuse(self.on_failure == "raise", inaccurate.reshape(batch), "the adjoint system could not be solved")
        c = c.masked_fill((~solved | inaccurate).unsqueeze(-1), torch.nan if self.on_failure == "nan" else 0.0)
        return c.masked_fill((solved & ~finite).unsqueeze(-1), torch.nan)

    def _directly(self, program: Program, w: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
        """(c, relative residual) by elimination; the residual is inf where that does not apply."""
        if not self.barrier and is_separable(program.Q, program.p, program.A, program.G):
            return solve_separable_kkt(program, self.bounds, w)
        kernels = kernels_for(w)
        if kernels is not None and U.shape[-1]:
            return kernels.solve_active_kkt(program, self.bounds, U, w)
        unsolved = torch.full_like(program.p[:, 0], torch.inf)
        return torch.cat((program.p, program.b, program.d), -1).zero_(), unsolved

    def _regularised(self, program: Program, w: Tensor, degenerate: Tensor) -> tuple[Tensor, Tensor]:
        """(c, relative residual) by the regularised operator, and the one with all of M where it is too coarse."""
        c, error = self._by_operator(self.kind, program, w, degenerate)
        coarse = (~(error <= ADJOINT_ACCURACY)).nonzero().squeeze(-1)
        if len(coarse) and self.kind != "full":
            part = Program(*(t[coarse] for t in program))
            c_full, error_full = self._by_operator("full", part, w[coarse], degenerate[coarse])
            c, error = c.index_copy(0, coarse, c_full), error.index_copy(0, coarse, error_full)
        return c, error

    def _by_operator(self, kind: str, program: Program, w: Tensor, degenerate: Tensor) -> tuple[Tensor, Tensor]:
        """(c, relative residual); the minimum-norm solution at degenerate instances."""
        kkt = factorised(kind, program.Q, program, self.bounds, w)
        r = torch.cat((-program.p, program.b, program.d), -1)
        c, error = kkt.solve(r)
        if degenerate.any():
            c_least, error_least = kkt.minimum_norm_solve(r)
            c = torch.where(degenerate.unsqueeze(-1), c_least, c)
            error = torch.where(degenerate, error_least, error)
        return c, error

    def _refuse(self, wanted: bool, at: Tensor, what: str) -> None:
        if wanted and at.any():
            where = [tuple(index) for index in at.nonzero()[:8].tolist()]
            raise SolverError(f"{what} at batch indices {where} (weakly active constraints or a singular KKT system)")

    def adjoint(self) -> "AdjointRule":
        return AdjointRule(self.bounds, self.kind, self.on_failure, self.order + 1)

    def operator(self, extra: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return extra


class Implicit(torch.autograd.Function):
    """(rule, Q, p, A, b, G, d, *extra) -> (x, nu, lam, *further), with the backward pass (3), (4)."""

    @staticmethod
    def forward(rule: Rule, *data: Tensor) -> tuple[Tensor, ...]:
        return rule.forward(Program(*data[:6]), *data[6:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        rule, Q, _, A, _, G, _, *extra = inputs
        ctx.rule, ctx.spare = rule, len(extra)
        ctx.mark_non_differentiable(*output[3:])
        ctx.set_materialize_grads(False)  # of what has no gradient, some is large
        ctx.save_for_backward(Q, A, G, *output[:3], *rule.operator(tuple(extra), output))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        Q, A, G, x, nu, lam, *operator = ctx.saved_tensors
        x_bar, nu_bar, lam_bar = (
            torch.zeros_like(t) if t_bar is None else t_bar
            for t, t_bar in zip((x, nu, lam), cotangents[:3], strict=True)
        )
        H = ctx.rule.phi.hessian(Q, x)
        c_x, c_nu, c_lam = Implicit.apply(ctx.rule.adjoint(), H, x_bar, A, -nu_bar, G, -lam_bar, *operator)
        _, wants_Q, _, wants_A, _, wants_G, *_ = ctx.needs_input_grad
        m = G.shape[-2]
        Q_bar = _curvature_gradient(c_x, x, Q) if wants_Q else None
        A_bar = outer_sum(nu, c_x, c_nu, x, A.shape) if wants_A else None
        G_bar = outer_sum(lam[..., :m], c_x, c_lam[..., :m], x, G.shape) if wants_G else None
        return None, Q_bar, c_x, A_bar, -c_nu, G_bar, -c_lam, *[None] * ctx.spare

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], rule: Rule, *data: Tensor) -> tuple[Any, Any]:
        moved = [
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(data, in_dims[1:], strict=True)
        ]
        output = Implicit.apply(rule, *moved)
        return output, (0,) * len(output)


def _curvature_gradient(c: Tensor, x: Tensor, Q: Tensor) -> Tensor:
    if is_diagonal(Q, x):
        return (c * x).sum_to_size(Q.shape)
    return outer_sum(0.5 * c, x, 0.5 * x, c, Q.shape)
