"""The problems a user states: QP, LP and EntropyBundle, immutable and checked once, at construction.

Notation. Primal x, multipliers nu (equalities), lam >= 0 (inequalities), lam_lower, lam_upper >= 0 (bounds).
Stationarity reads  grad phi(x) + p + A'nu + G'lam - lam_lower + lam_upper = 0.  Leading dimensions are batch
dimensions; data without them are shared by the batch.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .program import Bounds, BoxEntropy, Phi, Program, Quadratic, SimplexEntropy

Bound = Tensor | float | None


class ConvexProblem(ABC):
    """minimise phi(x) + p'x  subject to  A x = b,  G x <= h,  lower <= x <= upper.

    A problem offers its canonical form (`program`, `bounds`, `phi`); everything else works on that.
    """

    @property
    @abstractmethod
    def phi(self) -> Phi:
        """The curved part of the objective."""

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
        """Whether the Hessian of phi is known to be diagonal, with curvature in (almost) every variable.

        The dual operator divides by it: a free variable without any has only the regularisation to divide by.
        """

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
    def phi(self) -> Phi:
        return Quadratic()

    @property
    def _full(self) -> bool:
        return self.Q.dim() > 1 and self.Q.shape[-2] == self.Q.shape[-1] == self.p.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.p.dtype

    @property
    def diagonal_curvature(self) -> bool:
        return not self._full and bool((self.Q > 0).all())

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
    """minimise t - H(y)  subject to  G y + o <= t (lam >= 0),  y in the box or in the simplex, with its entropy H.

        box       0 <= y <= 1              H(y) = -sum y log y + (1 - y) log(1 - y)     y = sigmoid(-G'lam)
        simplex   y >= 0, 1'y = 1 (nu)     H(y) = -sum y log y                          y = softmax(-G'lam)

    The variable of the solution is x = (y, t), shape (*batch, n + 1); nu has size 0 for the box, 1 for the simplex.

    Args:
        G: (*batch, k, n), the slopes of k >= 1 cuts.
        o: (*batch, k), their offsets; a cut with o = -inf is absent.
        simplex: y are the probabilities of n classes instead of n labels. A flag and not a class of its own, since
            cuts, variable, dual and derivatives are the same: the domain only says which entropy and whether 1'y = 1.

    Solved through its dual, which lives in k dimensions: maximise over the simplex of lam o'lam - sum softplus(-G'lam),
    or o'lam - logsumexp(-G'lam). The simplex has no compiled method.

    Source: Amos, Xu, Kolter (2017), section 4.2.

    Raises: TypeError, ValueError as `QP`.
    """

    G: Tensor
    o: Tensor
    simplex: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check_tensors(G=self.G, o=self.o)
        _check_rows(self.G.shape[-1] if self.G.dim() else 0, G=self.G, o=self.o)
        if 0 in self.G.shape[-2:]:
            raise ValueError(f"G must be (*batch, k, n) with k >= 1 cuts and n >= 1; got {tuple(self.G.shape)}")
        _broadcast_batch(self._batches())

    def _batches(self) -> dict[str, torch.Size]:
        return {"G": self.G.shape[:-2], "o": self.o.shape[:-1]}

    @property
    def phi(self) -> Phi:
        return SimplexEntropy() if self.simplex else BoxEntropy()

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
        G, o, q = _expand(self.G, batch, 2), _expand(self.o, batch, 1), int(self.simplex)
        of_t = torch.nn.functional.pad(self.G.new_zeros(self.G.shape[-1]), (0, 1), value=1.0)
        A, b = _expand((1 - of_t).expand(q, -1), batch, 2), _expand(of_t[-1:].expand(q), batch, 1)
        rows = torch.cat((G, G.new_full((1,), -1.0).expand(*G.shape[:-1], 1)), -1)
        return Program(b[..., :0], _expand(of_t, batch, 1), A, b, rows, -o)

    def __repr__(self) -> str:
        return _describe(self, G=self.G, o=self.o, simplex=self.simplex or None)


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


def _describe(problem: object, **data: Tensor | bool | None) -> str:
    shown = {name: tuple(t.shape) if isinstance(t, Tensor) else t for name, t in data.items() if t is not None}
    return f"{type(problem).__name__}({', '.join(f'{name}: {value}' for name, value in shown.items())})"
