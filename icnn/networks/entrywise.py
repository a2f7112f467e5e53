"""One vector, and for each of its entries what f promises in it."""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .activations import Activation
from .ficnn import FICNN
from .network import Options
from .picnn import PICNN

SIGNS = {"convex": 0, "increasing": 1, "decreasing": -1}
CONTEXT = "context"


class EntrywiseICNN(nn.Module):
    """f(v) with a promise for each entry of v.

        "convex"        f is convex in these entries and the two below, taken together
        "increasing"    and does not decrease in this one
        "decreasing"    and does not increase in this one
        "context"       nothing is claimed; the promises hold whatever its value

    With x the entries of the context and y the others, f(v) = network(x, y), a PICNN, or network(y), a FICNN, where
    there is no context. `network` is what icnn.argmin, icnn.certify, icnn.falsify, icnn.report and icnn.normalise_
    take; `split` gives its inputs: icnn.report(f.network, *f.split(v)).

    roles: one of the four for each entry of v, at least one of them not "context".
    hidden, activation, positivity, skips, options: of the network, see FICNN; `monotone` is what roles say.
    x_activation: that of the context path of a PICNN.
    Returns (*batch,) for v of shape (*batch, len(roles)).
    Raises ValueError for unknown roles, for nothing but context, and for what the network refuses.
    """

    def __init__(
        self,
        roles: Sequence[str],
        hidden: Sequence[int] = (64, 64),
        activation: str | Activation = "relu",
        positivity: str = "abs",
        skips: bool = True,
        x_activation: str | Activation = "relu",
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        self.roles = _checked(roles, options)
        of_x = [i for i, role in enumerate(self.roles) if role == CONTEXT]
        of_y = [i for i, role in enumerate(self.roles) if role != CONTEXT]
        options["monotone"] = [SIGNS[self.roles[i]] for i in of_y]
        self.network: FICNN | PICNN
        if of_x:
            sizes = len(of_x), len(of_y)
            self.network = PICNN(*sizes, hidden, activation, x_activation, positivity, skips=skips, **options)
        else:
            self.network = FICNN(len(of_y), hidden, activation, positivity, skips, **options)
        self.of_x = nn.Buffer(torch.tensor(of_x, dtype=torch.long), persistent=False)
        self.of_y = nn.Buffer(torch.tensor(of_y), persistent=False)

    def split(self, v: Float[Tensor, "..."]) -> tuple[Tensor, ...]:
        """What the network is called with: (x, y), or (y,) where there is no context; entries in the order of v."""
        if v.shape[-1:] != (len(self.roles),):
            raise ValueError(f"v has shape {tuple(v.shape)}, expected (*batch, {len(self.roles)})")
        y = v.index_select(-1, self.of_y)
        return (v.index_select(-1, self.of_x), y) if len(self.of_x) else (y,)

    def forward(self, v: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.network(*self.split(v))

    def is_convex(self) -> bool:
        """Whether every promise holds now; see ConvexNetwork.is_convex."""
        return self.network.is_convex()

    def extra_repr(self) -> str:
        return f"roles={self.roles}"


def _checked(roles: Sequence[str], options: Options) -> tuple[str, ...]:
    known = (*SIGNS, CONTEXT)
    if isinstance(roles, str) or not roles or not set(roles) <= set(known):
        raise ValueError(f"roles is {roles!r}, expected one of {', '.join(known)} for each entry of v")
    if set(roles) == {CONTEXT}:
        raise ValueError("roles are all 'context', expected an entry of v in which f is convex")
    if "monotone" in options:
        raise ValueError("monotone is given, expected the roles to say it: 'increasing' or 'decreasing'")
    return tuple(roles)
