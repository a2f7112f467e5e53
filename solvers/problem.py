"""The problems a user states: QP, LP and EntropyBundle, immutable and checked once, at construction.

Notation. Primal x, multipliers nu (equalities), lam >= 0 (inequalities), lam_lower, lam_upper >= 0 (bounds).
Stationarity reads  grad phi(x) + p + A'nu + G'lam - lam_lower + lam_upper = 0.  Leading dimensions are batch
dimensions; data without them are shared by the batch.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from .program import Bounds, EntropyConjugate, NegativeEntropy, Phi, Program, Quadratic

Bound = Tensor | float | None


class ConvexProblem(ABC):
    """minimise phi(x) + p'x  subject to  A x = b,  G x <= h,  lower <= x <= upper.

    A problem offers its canonical form (`program`, `bounds`, `phi`); everything else works on that.
    """

    phi: ClassVar[Phi]

    @property
    @abstractmethod
    def bounds(self) -> Bounds:
        """Which simple bounds are present."""

    @cached_property
    @abstractmethod
    def program(self) -> Program:
        """The canonical data in float64, aligned to one batch shape; differentiable in the user's tensors."""

    @property
    @abstractmethod
    def diagonal_curvature(self) -> bool:
        """Whether the Hessian of phi is known to be diagonal, with curvature in (almost) every variable."""

    @property
    def batch_shape(self) -> torch.Size:
        return self.program.p.shape[:-1]

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the user's data, and of the solution."""

    def objective(self, x: Tensor) -> Tensor:
        """phi(x) + p'x in float64, shape (*batch,)."""
        return self.phi.value(self.program.Q, x) + (self.program.p * x).sum(-1)


@dataclass(frozen=True, eq=False, repr=False)
class QP(ConvexProblem):
    """minimise x'Qx/2 + p'x  subject to  A x = b,  G x <= h,  lower <= x <= upper,  with Q symmetric, Q >= 0.

    Args:
        Q: (*batch, n, n) symmetric positive semidefinite, singular allowed; or its diagonal (*batch, n).
            A Q whose last two dimensions are (n, n) is read as a matrix, also where it could be n diagonals.
        p: (*batch, n).
        G, h: (*batch, m, n) and (*batch, m), or both None. A row with h = inf is absent.
        A, b: (*batch, q, n) and (*batch, q), or both None. Redundant consistent rows are allowed.
        lower, upper: (*batch, n) or a number, or None; infinite entries are absent, lower = upper fixes a variable.

    All tensors float32 or all float64, on one device. Each group may lack the batch dimensions.

    Raises:
        TypeError: an argument is not a tensor of that kind, or dtypes or devices are mixed.
        ValueError: shapes do not fit, or one of a pair is missing. (An asymmetric Q is refused by `solve`.)
    """

    phi: ClassVar[Phi] = Quadratic()

    Q: Tensor
    p: Tensor
    G: Tensor | None = None
    h: Tensor | None = None
    A: Tensor | None = None
    b: Tensor | None = None
    lower: Bound = None
    upper: Bound = None

    def __post_init__(self) -> None:
        n = _last_dimension(p=self.p)
        for name in ("lower", "upper"):
            object.__setattr__(self, name, _as_vector(getattr(self, name), self.p))
        _check_tensors(Q=self.Q, p=self.p, G=self.G, h=self.h, A=self.A, b=self.b, lower=self.lower, upper=self.upper)
        if self.Q.dim() == 0 or self.Q.shape[-1] != n or (self._full and self.Q.shape[-2] != n):
            raise ValueError(f"Q must be (*batch, {n}, {n}) or a diagonal (*batch, {n}); got {tuple(self.Q.shape)}")
        _check_rows(n, G=self.G, h=self.h)
        _check_rows(n, A=self.A, b=self.b)
        for name in ("lower", "upper"):
            _check_last(n, **{name: getattr(self, name)})
        _broadcast_batch(self._batches())

    @property
    def _full(self) -> bool:
        return self.Q.dim() > 1 and self.Q.shape[-2] == self.Q.shape[-1] == self.p.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.p.dtype

    @property
    def diagonal_curvature(self) -> bool:
        return not self._full

    def _batches(self) -> dict[str, torch.Size]:
        core = dict(Q=2 if self._full else 1, p=1, G=2, h=1, A=2, b=1, lower=1, upper=1)
        given = {name: getattr(self, name) for name in core}
        return {name: t.shape[: t.dim() - core[name]] for name, t in given.items() if t is not None}

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.lower is not None, self.upper is not None)

    @cached_property
    def program(self) -> Program:
        batch, n = _broadcast_batch(self._batches()), self.p.shape[-1]
        no_rows = torch.zeros(0, dtype=torch.float64, device=self.p.device)
        no_matrix = no_rows.reshape(0, 1).expand(0, n)

        def vector(t: Bound) -> Tensor:
            return no_rows.expand(*batch, 0) if not isinstance(t, Tensor) else _expand(t, batch, 1)

        def matrix(t: Tensor | None) -> Tensor:
            return _align(no_matrix if t is None else t, batch, 2)

        d = torch.cat((vector(self.h), -vector(self.lower), vector(self.upper)), -1)
        Q = _align(self.Q, batch, 2 if self._full else 1)
        return Program(Q, vector(self.p), matrix(self.A), vector(self.b), matrix(self.G), d)

    def __repr__(self) -> str:
        return _describe(self, Q=self.Q, p=self.p, G=self.G, h=self.h, A=self.A, b=self.b)


class LP(QP):
    """minimise c'x  subject to  A x = b,  G x <= h,  lower <= x <= upper.  No sign of x is implied.

    Arguments as for `QP`. The minimiser of an LP is piecewise constant in c: its derivative with respect to
    the cost is zero almost everywhere (with respect to h, b, G and A it is not), and `solve` warns where c asks for
    one (`ZeroGradientWarning`). `icnn.losses` has what moves with c, and losses for costs that are learned.
    """

    def __init__(
        self,
        c: Tensor,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
        lower: Bound = None,
        upper: Bound = None,
    ) -> None:
        n = _last_dimension(c=c)
        super().__init__(c.new_zeros(n), c, G, h, A, b, lower, upper)

    @property
    def c(self) -> Tensor:
        return self.p

    @property
    def diagonal_curvature(self) -> bool:
        return False


@dataclass(frozen=True, eq=False, repr=False)
class EntropyBundle(ConvexProblem):
    """minimise t - H(y)  subject to  G y + o <= t,  with the entropy H(y) = -sum y log y + (1 - y) log(1 - y).

    The variable of the solution is x = (y, t), shape (*batch, n + 1), 0 < y < 1.

    Args:
        G: (*batch, k, n), the slopes of k >= 1 cuts.
        o: (*batch, k), their offsets; a cut with o = -inf is absent.

    Source: Amos, Xu, Kolter (2017), section 4.2; solved through its dual, maximise over the simplex
    o'lam - sum softplus(-(G'lam)), y = sigmoid(-G'lam), which lives in k dimensions.

    Raises: TypeError, ValueError as `QP`.
    """

    phi: ClassVar[Phi] = NegativeEntropy()

    G: Tensor
    o: Tensor

    def __post_init__(self) -> None:
        _check_tensors(G=self.G, o=self.o)
        _check_rows(self.G.shape[-1] if self.G.dim() else 0, G=self.G, o=self.o)
        if 0 in self.G.shape[-2:]:
            raise ValueError(f"G must be (*batch, k, n) with k >= 1 cuts and n >= 1; got {tuple(self.G.shape)}")
        _broadcast_batch(self._batches())

    def _batches(self) -> dict[str, torch.Size]:
        return {"G": self.G.shape[:-2], "o": self.o.shape[:-1]}

    @property
    def dtype(self) -> torch.dtype:
        return self.G.dtype

    @property
    def bounds(self) -> Bounds:
        return Bounds(False, False)

    @property
    def diagonal_curvature(self) -> bool:
        return True

    @cached_property
    def program(self) -> Program:
        batch = _broadcast_batch(self._batches())
        G, o = _expand(self.G, batch, 2), _expand(self.o, batch, 1)
        p = _expand(torch.nn.functional.pad(self.G.new_zeros(self.G.shape[-1]), (0, 1), value=1.0), batch, 1)
        rows = torch.cat((G, G.new_full((1,), -1.0).expand(*G.shape[:-1], 1)), -1)
        none = p[..., :0]
        return Program(none, p, none.unsqueeze(-1).expand(*batch, 0, p.shape[-1]), none, rows, -o)

    def __repr__(self) -> str:
        return _describe(self, G=self.G, o=self.o)


def entropy_dual(program: Program) -> tuple[Phi, Program, Bounds]:
    """The dual of a bundle: minimise sum softplus(-G'lam) - o'lam  subject to  1'lam = 1,  lam >= 0.

    On the simplex G'lam = g + (G - 1g')'lam for any g: cuts are taken relative to their mean, so that cuts that
    nearly coincide, as they do around a minimum, keep the digits in which they differ.
    """
    present = torch.isfinite(program.d)
    slopes = program.G[..., :-1]
    share = (present.to(slopes.dtype) / present.sum(-1, keepdim=True).clamp_min(1)).unsqueeze(-2)
    offsets = program.d.masked_fill(~present, 0.0)
    mean = share @ slopes
    slopes = slopes - mean if present.all() else (slopes - mean).masked_fill(~present.unsqueeze(-1), 0.0)
    Q = torch.cat((slopes, mean), -2)
    p = (offsets - (share.squeeze(-2) * offsets).sum(-1, keepdim=True)) * present
    upper = torch.zeros_like(p).masked_fill(present, torch.inf)
    ones, one = torch.ones_like(p).unsqueeze(-2), torch.ones_like(p[..., :1])
    d = torch.cat((torch.zeros_like(p), upper), -1)
    return EntropyConjugate(), Program(Q, p, ones, one, ones[..., :0, :], d), Bounds(True, True)


def _expand(t: Tensor, batch: torch.Size, core: int) -> Tensor:
    own = t.shape[: t.dim() - core]
    return t.double() if own == batch else t.double().expand(*batch, *t.shape[t.dim() - core :])


def _align(t: Tensor, batch: torch.Size, core: int) -> Tensor:
    """Batch dimensions of one in place of those that t lacks: a matrix that all share stays one."""
    missing = len(batch) + core - t.dim()
    return t.double().reshape((1,) * missing + t.shape) if missing else t.double()


def _as_vector(bound: Bound, p: Tensor) -> Tensor | None:
    return bound if bound is None or isinstance(bound, Tensor) else p.new_full(p.shape[-1:], float(bound))


def _last_dimension(**named: Tensor) -> int:
    ((name, t),) = named.items()
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(t).__name__}")
    if t.dim() == 0 or t.shape[-1] == 0:
        raise ValueError(f"{name} must be (*batch, n) with n >= 1; got {tuple(t.shape)}")
    return t.shape[-1]


def _check_tensors(**named: Bound) -> None:
    given = {name: t for name, t in named.items() if t is not None}
    for name, t in given.items():
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(t).__name__}")
        if t.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64; got {t.dtype}")
        if t.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor; got layout {t.layout}. Sparse data make a SparseQP")
    for what in ("dtype", "device"):
        kinds = {name: str(getattr(t, what)) for name, t in given.items()}
        if len(set(kinds.values())) > 1:
            raise TypeError(f"all data must have one {what}; got {kinds}")


def _check_rows(n: int, **pair: Tensor | None) -> None:
    (matrix, M), (vector, v) = pair.items()
    if (M is None) != (v is None):
        raise ValueError(f"{matrix} and {vector} must be given together; {matrix if M is None else vector} is missing")
    if M is None or v is None:
        return
    if M.dim() < 2 or M.shape[-1] != n:
        raise ValueError(f"{matrix} must be (*batch, rows, {n}); got {tuple(M.shape)}")
    _check_last(M.shape[-2], **{vector: v})


def _check_last(size: int, **named: Tensor | None) -> None:
    ((name, v),) = named.items()
    if v is not None and (v.dim() == 0 or v.shape[-1] != size):
        raise ValueError(f"{name} must be (*batch, {size}); got {tuple(v.shape)}")


def _broadcast_batch(batches: dict[str, torch.Size]) -> torch.Size:
    own = {shape for shape in batches.values() if shape}
    if len(own) <= 1:
        return own.pop() if own else torch.Size()
    try:
        return torch.broadcast_shapes(*batches.values())
    except RuntimeError as error:
        shapes = {name: tuple(shape) for name, shape in batches.items()}
        raise ValueError(f"batch dimensions do not broadcast: {shapes}") from error


def _describe(problem: object, **data: Tensor | None) -> str:
    shapes = ", ".join(f"{name}: {tuple(t.shape)}" for name, t in data.items() if t is not None)
    return f"{type(problem).__name__}({shapes})"
