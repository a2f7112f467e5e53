"""Large sparse programs: the problem, its solve and its adjoint.

    minimise_x  x'Qx/2 + p'x   subject to   A x = b (nu),  G x <= h (lam >= 0),  lower <= x <= upper

Native solvers find the answer (`backends.native`), one Newton step on the active set makes it exact
(`backends.optimum`), and the factor of that step gives the gradients (3), (4) of `adjoint`, on the stored entries of
Q, A and G alone: nothing of size n x n is ever made.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .backends.implicit import Rule, SparseImplicit
from .backends.instance import certificate
from .backends.native import available
from .backends.pattern import Canonical, entries, instances
from .forward import OnFailure
from .problem import Bound
from .solution import Ray, Residuals, Solution, SolverError, Status, failure_message

Matrix = Tensor | sparse.sparray | sparse.spmatrix
SPARSE = "a sparse COO or CSR tensor or a scipy sparse matrix"
Solver = Literal["auto", "piqp", "clarabel", "highs"]


@dataclass(frozen=True, eq=False, repr=False)
class SparseQP:
    """minimise x'Qx/2 + p'x  subject to  A x = b,  G x <= h,  lower <= x <= upper,  with sparse symmetric Q >= 0.

    Args:
        Q: (n, n) symmetric positive semidefinite, or None: a linear program.
        p: (*batch, n).
        G, h: (m, n) and (*batch, m), or both None. A row with h = inf is absent.
        A, b: (q, n) and (*batch, q), or both None. Redundant consistent rows are allowed.
        lower, upper: (*batch, n) or a number, or None; infinite entries are absent, lower = upper fixes a variable.

    A matrix is a sparse COO or CSR tensor, or a scipy sparse matrix, which is a constant. It is shared by the batch, or
    a COO tensor (*batch, rows, n) whose instances may have different entries. Vectors are dense. All tensors float32 or
    all float64, on one device; the work is done on the CPU, in float64.

    Raises:
        TypeError: an argument is not of that kind, or dtypes or devices are mixed.
        ValueError: shapes do not fit, or one of a pair is missing. (An asymmetric Q is refused by `solve_sparse`.)
    """

    Q: Matrix | None
    p: Tensor
    G: Matrix | None = None
    h: Tensor | None = None
    A: Matrix | None = None
    b: Tensor | None = None
    lower: Bound = None
    upper: Bound = None

    def __post_init__(self) -> None:
        _check_vector("p", self.p, None)
        n = self.p.shape[-1]
        for name in ("lower", "upper"):
            bound = getattr(self, name)
            if isinstance(bound, (int, float)):
                object.__setattr__(self, name, self.p.new_full((n,), float(bound)))
            if getattr(self, name) is not None:
                _check_vector(name, getattr(self, name), n)
        if self.Q is not None:
            _check_matrix("Q", self.Q, n)
            _check_square(self.Q)
        _check_pair(n, G=self.G, h=self.h)
        _check_pair(n, A=self.A, b=self.b)
        _check_alike(self._given())
        self.batch_shape  # noqa: B018  refuses batch dimensions that do not broadcast

    def _given(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in ("Q", "p", "G", "h", "A", "b", "lower", "upper")}
        return {name: value for name, value in data.items() if value is not None}

    @cached_property
    def batch_shape(self) -> torch.Size:
        shapes = {name: value.shape[: -2 if name in ("Q", "G", "A") else -1] for name, value in self._given().items()}
        try:
            return torch.broadcast_shapes(*shapes.values())
        except RuntimeError as error:
            listed = {name: tuple(shape) for name, shape in shapes.items()}
            raise ValueError(f"batch dimensions do not broadcast: {listed}") from error

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the user's tensors, and of the solution."""
        return self.p.dtype

    @cached_property
    def canonical(self) -> Canonical:
        n, batch = self.p.shape[-1], self.batch_shape

        def vector(v: Bound, missing: float, size: int) -> Tensor:
            v = torch.full((size,), missing, dtype=torch.float64) if not isinstance(v, Tensor) else v
            return v.to("cpu", torch.float64).expand(*batch, v.shape[-1]).reshape(batch.numel(), v.shape[-1])

        pairs = [entries(M, batch, rows, n) for M, rows in ((self.Q, n), (self.A, 0), (self.G, 0))]
        (Q, Q_values), (A, A_values), (G, G_values) = pairs
        lower, upper = vector(self.lower, -torch.inf, n), vector(self.upper, torch.inf, n)
        vectors = (vector(self.p, 0.0, n), vector(self.b, 0.0, 0), vector(self.h, 0.0, 0), lower, upper)
        return Canonical((Q, A, G), (Q_values, A_values, G_values), *vectors)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(value.shape)}" for name, value in self._given().items())
        return f"SparseQP({shapes})"


def solve_sparse(
    problem: SparseQP,
    *,
    tol: float = 1e-9,
    max_iter: int = 200,
    on_failure: OnFailure = "raise",
    solver: Solver = "auto",
) -> Solution:
    """Solve a batch of sparse programs; the solution is differentiable in all data given as tensors.

    Each instance by a native solver, then by Newton steps on its active set until its `certificate` is at most tol;
    large instances run in `torch.get_num_threads()` threads where the native solver allows it (PIQP does not).

    Args:
        problem: the `SparseQP`.
        tol: an instance is OPTIMAL if its certificate is at most this.
        max_iter: iterations of an interior-point solver; HiGHS may pivot max_iter times for every row and column.
        on_failure: what instances that are not OPTIMAL do. "raise": `SolverError`, which carries the solution;
            "nan": nan in values and gradients; "zero": the best iterate, with zero gradient. Others are untouched.
        solver: which native solver comes first. "auto": PIQP, then Clarabel; HiGHS first where Q is None.

    Returns:
        `Solution`. Where `degenerate` is set the gradient is the minimum-norm one. Gradients of a shared matrix or
        vector are summed over the batch; that of Q is the symmetric one. Second derivatives raise RuntimeError.

    Raises:
        SolverError: an instance failed and on_failure is "raise"; or, in a backward pass, its linear system did.
        ImportError: no native solver is installed.
        ValueError: Q is not symmetric, or an option is unknown.
    """
    _check_options(tol, max_iter, on_failure)
    data = problem.canonical
    symmetry = 1e-9 if problem.dtype == torch.float64 else 1e-4
    rule = Rule(data, available(problem.Q is None, solver), tol, max_iter, on_failure, symmetry)
    values = SparseImplicit.apply(rule, *data.values, data.p, data.b, data.h, data.lower, data.upper)
    solution = _unpack(problem, values)
    if on_failure == "raise" and (solution.status != Status.OPTIMAL).any():
        solution = _unpack(problem, tuple(t.detach() for t in values))
        raise SolverError(failure_message(solution.status), solution)
    return solution


def sparse_certificate(problem: SparseQP, solution: Solution) -> Residuals:
    """The five residuals of a solution, as `icnn.solvers.certificate`, from the sparse data."""
    data, n = problem.canonical, problem.p.shape[-1]
    vectors = (solution.x, solution.nu, solution.lam, solution.lam_lower, solution.lam_upper)
    x, nu, lam, low, up = (t.detach().to("cpu", torch.float64).reshape(len(data.p), -1).numpy() for t in vectors)
    none = np.zeros((len(data.p), n))
    rows = np.concatenate((lam, low if low.shape[-1] else none, up if up.shape[-1] else none), -1)
    found = [certificate(*at) for at in zip(instances(data), x, nu, rows, strict=True)]
    residuals = torch.from_numpy(np.stack(found)).reshape(*problem.batch_shape, 5)
    return Residuals(*residuals.unbind(-1))


def _unpack(problem: SparseQP, values: tuple[Tensor, ...]) -> Solution:
    """From canonical values to the `Solution`: bounds that were not given have multipliers of zero length."""
    x, nu, rows, status, solved_by, iterations, residuals, degenerate, ray_x, ray_nu, ray_rows = values
    m, n = problem.canonical.h.shape[-1], x.shape[-1]

    def given(t: Tensor) -> Tensor:
        return t.to(problem.p.device).reshape(problem.batch_shape + t.shape[1:])

    def cast(t: Tensor) -> Tensor:
        return given(t).to(problem.dtype)

    def split(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lower, upper = t[:, m : m + n], t[:, m + n :]
        none = t[:, :0]
        return (
            cast(t[:, :m]),
            cast(none if problem.lower is None else lower),
            cast(none if problem.upper is None else upper),
        )

    lam, lam_lower, lam_upper = split(rows)
    return Solution(
        x=cast(x),
        nu=cast(nu),
        lam=lam,
        lam_lower=lam_lower,
        lam_upper=lam_upper,
        status=given(status),
        iterations=given(iterations),
        residuals=Residuals(*given(residuals).unbind(-1)),
        degenerate=given(degenerate),
        ray=Ray(cast(ray_x), cast(ray_nu), *split(ray_rows)),
        solved_by=given(solved_by),
        derived=Derived(problem, x, status),
    )


class Derived:
    """Slack h - G x and objective x'Qx/2 + p'x, computed on demand, with gradients if they were wanted at the solve.

    No gradient flows to instances that failed (nor nan times zero).
    """

    def __init__(self, problem: SparseQP, x: Tensor, status: Tensor) -> None:
        self.problem, self.x, self.bad = problem, x, (status != Status.OPTIMAL).unsqueeze(-1)
        self.differentiable = torch.is_grad_enabled()

    def __call__(self) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(self.differentiable):
            slack, objective = self._at(self.x)
            if self.bad.any():
                good = self._at(self.x.masked_fill(self.bad, 0.0))
                slack, objective = (
                    torch.where(self.bad, t.detach(), u) for t, u in zip((slack, objective), good, strict=True)
                )
        problem = self.problem
        slack, objective = (t.to(problem.p.device, problem.dtype) for t in (slack, objective))
        return slack.reshape(*problem.batch_shape, -1), objective.reshape(problem.batch_shape)

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        data = self.problem.canonical
        (Q, _, G), (Q_values, _, G_values) = data.patterns, data.values
        return data.h - G.multiply(G_values, x), (x * (0.5 * Q.multiply(Q_values, x) + data.p)).sum(-1, keepdim=True)


def _check_vector(name: str, v: Any, size: int | None) -> None:
    if not isinstance(v, Tensor) or v.layout != torch.strided:
        what = f"layout {v.layout}" if isinstance(v, Tensor) else type(v).__name__
        raise TypeError(f"{name} must be a dense tensor; got {what}")
    if v.dim() == 0 or (size is None and v.shape[-1] == 0) or size not in (None, v.shape[-1]):
        raise ValueError(f"{name} must be (*batch, {'n >= 1' if size is None else size}); got {tuple(v.shape)}")


def _check_matrix(name: str, M: Any, n: int) -> None:
    if isinstance(M, Tensor):
        if M.layout not in (torch.sparse_coo, torch.sparse_csr):
            raise TypeError(f"{name} must be {SPARSE}; got layout {M.layout}")
        if M.dense_dim():
            raise ValueError(f"{name} must have no dense dimensions; got {M.dense_dim()}")
        if M.layout == torch.sparse_csr and M.dim() != 2:
            raise ValueError(f"{name} in CSR must be (rows, {n}), a batch of matrices COO; got {tuple(M.shape)}")
    elif not sparse.issparse(M):
        raise TypeError(f"{name} must be {SPARSE}; got {type(M).__name__}")
    elif not np.can_cast(M.dtype, np.float64):
        raise TypeError(f"{name} must be real; got {M.dtype}")
    if len(M.shape) < 2 or M.shape[-1] != n:
        raise ValueError(f"{name} must be (*batch, rows, {n}); got {tuple(M.shape)}")


def _check_square(Q: Any) -> None:
    n = Q.shape[-1]
    if Q.shape[-2] != n:
        raise ValueError(f"Q must be (*batch, {n}, {n}); got {tuple(Q.shape)}")


def _check_pair(n: int, **pair: Any) -> None:
    (matrix, M), (vector, v) = pair.items()
    if (M is None) != (v is None):
        raise ValueError(f"{matrix} and {vector} must be given together; {matrix if M is None else vector} is missing")
    if M is not None:
        _check_matrix(matrix, M, n)
        _check_vector(vector, v, M.shape[-2])


def _check_alike(given: dict[str, Any]) -> None:
    tensors = {name: t for name, t in given.items() if isinstance(t, Tensor)}
    for name, t in tensors.items():
        if t.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64; got {t.dtype}")
    for what in ("dtype", "device"):
        kinds = {name: str(getattr(t, what)) for name, t in tensors.items()}
        if len(set(kinds.values())) > 1:
            raise TypeError(f"all data must have one {what}; got {kinds}")


def _check_options(tol: float, max_iter: int, on_failure: str) -> None:
    if on_failure not in ("raise", "nan", "zero"):
        raise ValueError(f"on_failure must be one of ('raise', 'nan', 'zero'); got {on_failure!r}")
    if not tol > 0 or max_iter < 1:
        raise ValueError(f"tol must be positive and max_iter at least 1; got tol={tol}, max_iter={max_iter}")
