"""Small programs for the tests, and the set-up that most of them share."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

import icnn

Data = dict[str, Tensor]

VALUES = ("x", "nu", "lam", "lam_lower", "lam_upper", "s", "objective")


def tensor(*values: Any) -> Tensor:
    """A float64 tensor from numbers or lists."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def random_qp(
    batch: tuple[int, ...] = (),
    n: int = 4,
    m: int = 3,
    q: int = 1,
    shared: Collection[str] = (),
    diagonal: bool = False,
    seed: int = 0,
) -> Data:
    """A strictly convex QP with constraints of every group, some of them active; groups in `shared` lack the batch."""
    generator = torch.Generator().manual_seed(seed)

    def randn(name: str, *shape: int) -> Tensor:
        leading = () if name in shared else batch
        return torch.randn(*leading, *shape, dtype=torch.float64, generator=generator)

    root = randn("Q", n, n)
    full = root @ root.mT / n + 0.5 * torch.eye(n, dtype=torch.float64)
    return {
        "Q": full.diagonal(dim1=-2, dim2=-1).clone() if diagonal else full,
        "p": 2 * randn("p", n),
        "G": randn("G", m, n),
        "h": 0.2 + 0.3 * randn("h", m).abs(),
        "A": randn("A", q, n),
        "b": 0.1 * randn("b", q),
        "lower": -0.4 - 0.3 * randn("lower", n).abs(),
        "upper": 0.4 + 0.3 * randn("upper", n).abs(),
    }


def random_lp(batch: tuple[int, ...] = (), shared: Collection[str] = (), seed: int = 0) -> Data:
    data = random_qp(batch, n=3, m=2, shared={*shared, "Q"}, seed=seed)
    return {"c": data.pop("p"), **{name: value for name, value in data.items() if name != "Q"}}


def random_bundle(batch: tuple[int, ...] = (), k: int = 3, n: int = 4, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(*batch, k, n, dtype=torch.float64, generator=generator)
    return {"G": G, "o": 0.1 * torch.randn(*batch, k, dtype=torch.float64, generator=generator)}


def projection(point: Tensor, **constraints: Any) -> icnn.QP:
    """min |x - point|^2 / 2 subject to the constraints."""
    return icnn.QP(torch.ones_like(point.flatten()[: point.shape[-1]]), -point, **constraints)


def simplex(point: Tensor) -> icnn.QP:
    """Projection onto sum x = 1, x >= 0."""
    ones = torch.ones(1, point.shape[-1], dtype=point.dtype)
    return projection(point, A=ones, b=ones[0, :1], lower=0.0)


def project_by_sorting(point: Tensor) -> Tensor:
    """Projection onto the simplex by sorting, the closed form."""
    ordered = point.sort(-1, descending=True).values
    excess = (ordered.cumsum(-1) - 1) / torch.arange(1, point.shape[-1] + 1, dtype=point.dtype)
    count = (ordered > excess).sum(-1, keepdim=True)
    return (point - excess.gather(-1, count - 1)).clamp_min(0)


def solver(kind: Callable[..., icnn.ConvexProblem], names: Collection[str], **options: Any) -> Callable[..., Tensor]:
    """The values of a solution, strung together, as a function of the data, for gradcheck.

    Q is symmetrised inside; `of` names the values.
    """
    of = options.pop("of", VALUES)
    options = {"tol": 1e-12, **options}

    def values(*data: Tensor) -> Tensor:
        named = dict(zip(names, data, strict=True))
        if "Q" in named and is_matrix(named["Q"], named["p"]):
            named["Q"] = 0.5 * (named["Q"] + named["Q"].mT)
        solution = icnn.solve(kind(**named), **options)
        return torch.cat([getattr(solution, name).flatten() for name in of])

    return values


def is_matrix(Q: Tensor, p: Tensor) -> bool:
    return Q.dim() > 1 and Q.shape[-2:] == (p.shape[-1], p.shape[-1])


def leaves(data: Data) -> tuple[Tensor, ...]:
    """Fresh leaves of the data, in order."""
    return tuple(value.detach().clone().requires_grad_() for value in data.values())


def margin(solution: icnn.Solution, data: Data) -> Tensor:
    """How far from losing strict complementarity: min over rows of the larger of slack and multiplier."""
    parts = [solution.s.maximum(solution.lam)]
    if "lower" in data:
        parts.append((solution.x - data["lower"]).maximum(solution.lam_lower))
    if "upper" in data:
        parts.append((data["upper"] - solution.x).maximum(solution.lam_upper))
    return torch.cat(parts, -1).amin()
