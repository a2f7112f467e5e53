"""The libraries that ours is measured against: each takes a case in the form that is best for it.

A contender is prepared once for a case, as a layer is constructed once; that is not timed. `forward` and `both` are
timed, `answer` says what the time has bought. A library that is not installed is left out.
"""

import contextlib
import importlib.util
import io
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ._contender import Contender, Layer, Ours, Rows, bounds, full, point, right_side, rows
from ._problems import Case, Data, Point

INFINITE = 1e20  # what proxsuite takes for no bound


class Moreau(Layer):
    """Rows of its A: equalities, then inequalities; matrices by their pattern and values, shared ones once."""

    solver: ClassVar[str]
    needs = ("moreau",)

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import moreau  # pyright: ignore[reportMissingImports]
        from moreau.torch import Solver  # pyright: ignore[reportMissingImports]

        stated = rows(case, case.data)
        q, m = stated.b.shape[-1], stated.h.shape[-1]
        self.shared = stated.Q.dim() == 2
        Q, A = (pattern(M, self.shared) for M in (stated.Q, self.stacked(stated)))
        self.values = tuple(torch.from_numpy(M.data) for M in (Q, A))
        index = [torch.from_numpy(v.astype(np.int64)) for M in (Q, A) for v in (M.indptr, M.indices)]
        self.solved = int(moreau.SolverStatus.Solved)
        cones = moreau.Cones(num_zero_cones=q, num_nonneg_cones=m)
        self.solver_ = Solver(case.n, q + m, *index, cones=cones, settings=self.settings(moreau))

    def settings(self, moreau: Any) -> Any:
        return moreau.Settings(device="cpu", batch_size=self.case.batch, enable_grad=True, solver=self.solver)

    def admits(self) -> list[bool]:
        return [int(status) != self.solved for status in self.solver_.info.status]

    def stacked(self, stated: Rows) -> Tensor:
        A = stated.A if stated.A.dim() == stated.G.dim() else stated.A.expand(*stated.G.shape[:-2], *stated.A.shape)
        return torch.cat((A, stated.G), -2)

    def solve(self, data: Data) -> Point:
        stated = rows(self.case, data) if not self.shared else self.vectors(data)
        values = self.values if self.shared else (stated.Q.flatten(1), self.stacked(stated).flatten(1))
        found = self.solver_.solve(*values, stated.p, torch.cat((stated.b, stated.h), -1))
        q = stated.b.shape[-1]
        return point(self.case, found.x, found.z[:, :q], found.z[:, q:])

    def vectors(self, data: Data) -> Rows:
        """Rows whose matrices are known already."""
        known, h = self.values[0], right_side(self.case, data)
        return Rows(known, data["p"], known, h, known, data.get("b", h[:, :0]))


def pattern(M: Tensor, shared: bool) -> sp.csr_matrix:
    """The nonzeros of a shared matrix, everything of one that differs between instances."""
    return sp.csr_matrix(M.detach().numpy() if shared else np.ones(M.shape[-2:]))


class MoreauActiveSet(Moreau):
    name, solver = "moreau, active set", "active_set"


class MoreauAutomatic(Moreau):
    name, solver = "moreau, automatic", "auto"


class MoreauInteriorPoint(Moreau):
    """To 1e-11, because its gradient is that of a barrier problem; its default is 1e-8."""

    name, solver = "moreau, interior point, 1e-11", "ipm"

    def settings(self, moreau: Any) -> Any:
        tolerances = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11)
        ipm = moreau.IPMSettings(**tolerances, equilibrate_enable=False)
        return moreau.Settings(
            device="cpu", batch_size=self.case.batch, enable_grad=True, solver=self.solver, ipm_settings=ipm
        )


class Proxsuite(Layer):
    name = "proxsuite"
    needs = ("proxsuite",)
    options: ClassVar[dict[str, Any]] = {}

    def solve(self, data: Data) -> Point:
        from proxsuite.torch.qplayer import QPFunction  # pyright: ignore[reportMissingImports]

        Q, p, G, h, A, b = full(self.case, data)
        x, nu, lam = QPFunction(**self.options)(Q, p, A, b, G, torch.full_like(h, -INFINITE), h)
        return point(self.case, x, nu, lam)


class ProxsuiteParallel(Proxsuite):
    """On half of the cores. It sets the number of threads of OpenMP, torch's too, which is put back here."""

    name = "proxsuite, parallel"
    needs = ("proxsuite", "threadpoolctl")
    options: ClassVar[dict[str, Any]] = {"omp_parallel": True}

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        from threadpoolctl import ThreadpoolController

        self.openmp = ThreadpoolController().select(user_api="openmp")

    def forward(self) -> Point:
        with self.openmp.limit(limits=None):
            return super().forward()

    def both(self) -> tuple[Point, Data]:
        with self.openmp.limit(limits=None):
            return super().both()


class ProxsuiteTight(ProxsuiteParallel):
    """With an exact backward pass: by default (1e-4, 1e-6, 1e-6) the gradient is off by 1e-5."""

    name = "proxsuite, parallel, gradient 1e-9"
    options: ClassVar[dict[str, Any]] = {
        "omp_parallel": True, "eps_backward": 1e-9, "rho_backward": 1e-9, "mu_backward": 1e-9,
    }  # fmt: skip


class Qpax(Contender):
    """JAX, compiled for the case.

    The implicit backend, solved to 1e-10 and differentiated at a barrier of 1e-12: with the defaults (explicit, 1e-5,
    1e-3) the gradient is off by a tenth.
    """

    name = "qpax, 1e-10"
    needs = ("qpax", "jax")
    speaks_torch = False
    options: ClassVar[dict[str, Any]] = {
        "backend": "i", "solver_tol": 1e-10, "target_kappa": 1e-12, "max_iter": 60,
    }  # fmt: skip

    @classmethod
    def fits(cls, n: int, batch: int) -> bool:
        return n <= 100 and batch <= 128

    def __init__(self, case: Case) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault("PJRT_NPROC", "4")  # with fewer threads batched LAPACK calls of jaxlib 0.10 can deadlock
        import jax  # pyright: ignore[reportMissingImports]
        import qpax  # pyright: ignore[reportMissingImports]

        jax.config.update("jax_enable_x64", True)
        self.case, self.names = case, list(case.wanted)
        fixed = {k: jax.numpy.asarray(t.numpy()) for k, t in case.data.items()}
        target = jax.numpy.asarray(case.target.numpy())
        self.leaves = [fixed[name] for name in self.names]
        axes = [0 if t.dim() == d else None for t, d in zip(rows(case, case.data), (3, 2, 3, 2, 3, 2), strict=True)]
        order = [0, 1, 4, 5, 2, 3]  # Q, p, A, b, G, h
        in_axes = [axes[i] for i in order]

        def stated(*leaves: Any) -> list[Any]:
            parts = jax_rows(case, fixed | dict(zip(self.names, leaves, strict=True)))
            return [parts[i] for i in order]

        def solve(*leaves: Any) -> Any:
            return jax.vmap(lambda *d: qpax.solve_qp_primal(*d, **self.options), in_axes)(*stated(*leaves))

        def loss(*leaves: Any) -> Any:
            return 0.5 * ((solve(*leaves) - target) ** 2).sum()

        def details(*leaves: Any) -> Any:
            options = {k: v for k, v in self.options.items() if k != "target_kappa"}
            return jax.vmap(lambda *d: qpax.solve_qp(*d, **options), in_axes)(*stated(*leaves))

        self._solve, self._details = jax.jit(solve), jax.jit(details)
        self._gradient = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(self.names)))))

    def forward(self) -> Any:
        return self._solve(*self.leaves).block_until_ready()

    def point(self) -> Tensor:
        return torch.from_numpy(np.array(self.forward()))

    def both(self) -> list[Any]:
        return [gradient.block_until_ready() for gradient in self._gradient(*self.leaves)[1]]

    def answer(self) -> tuple[Point, Data]:
        x, _, lam, nu = (torch.from_numpy(np.array(v)) for v in self._details(*self.leaves)[:4])
        gradients = {k: torch.from_numpy(np.array(v)) for k, v in zip(self.names, self.both(), strict=True)}
        return point(self.case, x, nu.reshape(self.case.batch, -1), lam), gradients


def jax_rows(case: Case, data: dict[str, Any]) -> tuple[Any, ...]:
    """`rows` for JAX."""
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

    n, batch, signed = case.n, case.batch, bounds(data)
    G = data["G"] if "G" in data else jnp.concatenate([sign * jnp.eye(n) for sign, _ in signed])
    h = [data["h"]] if "h" in data else [sign * bound for sign, bound in signed]
    h = jnp.concatenate([jnp.broadcast_to(v, (batch, v.shape[-1])) for v in h], -1)
    A, b = data.get("A", jnp.zeros((0, n))), data.get("b", jnp.zeros((batch, 0)))
    Q = data["Q"] if data["Q"].ndim > 1 else jnp.diag(data["Q"])
    return Q, data["p"], G, h, A, b


class Dqp(Layer):
    """A solver of one's choice, here to 1e-9, finds the active set; then the KKT system of that is solved."""

    solver: ClassVar[str]

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        with quiet():
            from dqp import dQP  # pyright: ignore[reportMissingImports]

            settings = dQP.build_settings(solve_type="dense", qp_solver=self.solver, eps_abs=1e-9, eps_active=1e-6)
            self.layer = dQP.dQP_layer(settings)

    def solve(self, data: Data) -> Point:
        Q, p, G, h, A, b = (t.contiguous() for t in full(self.case, data))
        arguments = [Q, p.unsqueeze(-1), G, h.unsqueeze(-1)]
        arguments += [A, b.unsqueeze(-1)] if b.shape[-1] else [None, None]
        if self.case.batch == 1:
            arguments = [t if t is None else t.squeeze(0).squeeze(-1) for t in arguments]
            arguments = [v if v is None or v.dim() else v.reshape(1) for v in arguments]
        with quiet():
            x, nu, lam, *_ = self.layer(*arguments)
        batch = self.case.batch
        nu = nu.reshape(batch, -1) if b.shape[-1] else b
        return point(self.case, x.reshape(batch, -1), nu, lam.reshape(batch, -1))


class DqpDaqp(Dqp):
    name, solver = "dQP with DAQP", "daqp"
    needs = ("dqp", "daqp")


class DqpPiqp(Dqp):
    name, solver = "dQP with PIQP", "piqp"
    needs = ("dqp", "piqp")


class Cvxpylayers(Layer):
    """Its default solver; a dense Q goes in as the root of a sum of squares, and the gradient for Q comes back through
    the Cholesky factor.
    """

    name = "cvxpylayers"
    needs = ("cvxpylayers", "cvxpy", "diffcp")

    @classmethod
    def fits(cls, n: int, batch: int) -> bool:
        return n <= 50 and batch <= 16

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import cvxpy as cp  # pyright: ignore[reportMissingImports]
        from cvxpylayers.torch import CvxpyLayer  # pyright: ignore[reportMissingImports]

        x, (n, m, q), data = cp.Variable(case.n), case.size, case.data
        shapes = {"Q": (n, n), "p": n, "G": (m, n), "h": m, "A": (q, n), "b": q, "lower": n, "upper": n}
        self.parameters = {name: cp.Parameter(shapes[name]) for name in case.wanted}
        fixed = {k: t for k, t in data.items() if k not in self.parameters and k != "Q"}
        known = self.parameters | {k: t.numpy().reshape(shapes[k]) for k, t in fixed.items()}
        curved = cp.sum_squares(self.parameters["Q"] @ x) if "Q" in self.parameters else known_square(cp, x, data["Q"])
        constraints: list[Any] = [known["A"] @ x == known["b"]] if "A" in data else []
        constraints += [known["G"] @ x <= known["h"]] if "G" in data else []
        constraints += [known["lower"] - x <= 0] if "lower" in data else []
        constraints += [x - known["upper"] <= 0] if "upper" in data else []
        problem = cp.Problem(cp.Minimize(0.5 * curved + known["p"] @ x), constraints)
        outputs = [x, *(constraint.dual_variables[0] for constraint in constraints)]
        self.layer = CvxpyLayer(problem, parameters=list(self.parameters.values()), variables=outputs)

    def solve(self, data: Data) -> Point:
        values = [torch.linalg.cholesky(data["Q"]).mT if k == "Q" else data[k] for k in self.parameters]
        x, *multipliers = (t.reshape(self.case.batch, -1) for t in self.layer(*values))
        nu = multipliers.pop(0) if "A" in data else x[:, :0]
        return point(self.case, x, nu, torch.cat(multipliers, -1))


def known_square(cp: Any, x: Any, Q: Tensor) -> Any:
    """x'Qx for a Q that is no parameter: of one instance, or the diagonal 1."""
    return cp.sum_squares(x) if Q.dim() == 1 else cp.quad_form(x, Q.reshape(Q.shape[-2:]).numpy())


@contextlib.contextmanager
def quiet():
    """For a library that prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


CONTENDERS: tuple[type[Contender], ...] = (
    Ours, MoreauActiveSet, MoreauAutomatic, MoreauInteriorPoint, Proxsuite, ProxsuiteParallel, ProxsuiteTight, Qpax,
    DqpDaqp, DqpPiqp, Cvxpylayers,
)  # fmt: skip


def installed(only: Sequence[str] = ()) -> list[type[Contender]]:
    """The contenders whose packages are there; of the peers those whose name holds one of the words, if any."""
    there = [c for c in CONTENDERS if all(importlib.util.find_spec(name) for name in c.needs)]
    return [c for c in there if not only or c is Ours or any(word in c.name for word in only)]
