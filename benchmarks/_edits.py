"""Edits that break the convexity of a network, each with the place where icnn.certify stops."""

from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn.certificates import Node
from icnn.networks import ConvexNetwork


class Users(nn.Module):
    """A network as somebody might write it, with one place open to an edit."""

    def __init__(self, edit: str = "") -> None:
        super().__init__()
        self.edit = edit
        self.first, self.second, self.skip = nn.Linear(3, 8), nn.Linear(8, 1), nn.Linear(3, 8, bias=False)
        self.mix, self.norm, self.drop = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        with torch.no_grad():
            self.mix.weight.abs_()
            self.second.weight.abs_()
            if edit == "negative weight":
                self.second.weight[0, 2] = -0.5
            if edit == "negative scale":
                self.norm.weight[3] = -1.0
        self.train(edit in ("dropout", "statistics"))
        self.drop.train(edit == "dropout")
        self.norm.train(edit == "statistics")

    def forward(self, y: Tensor) -> Tensor:
        z = F.relu(self.first(y))
        z = self.drop(self.norm(z))
        z = {
            "decreasing": lambda: F.relu(-self.mix(z)),
            "sigmoid": lambda: torch.sigmoid(self.mix(z)),
            "sine": lambda: torch.sin(self.mix(z)),
            "gelu": lambda: F.gelu(self.mix(z)),
            "selu": lambda: F.selu(self.mix(z)),
            "subtracted": lambda: F.relu(self.mix(z)) - z,
            "minimum": lambda: torch.minimum(self.mix(z), self.skip(y)),
            "product": lambda: z * self.skip(y),
            "division": lambda: self.mix(z) / (2 + self.skip(y).square()),
            "square": lambda: (self.mix(z) - 9).square(),
            "branch": lambda: z if bool((z > 0).all()) else -z,
            "in place": lambda: self._scattered(z),
            "random": lambda: z + torch.randn(8),
        }.get(self.edit, lambda: F.softplus(self.mix(z) + self.skip(y)))()
        out = self.second(z).squeeze(-1)
        return torch.log(1 + F.relu(out)) if self.edit == "outer" else out

    def _scattered(self, z: Tensor) -> Tensor:
        buffer = torch.zeros(z.shape[0], 8)
        buffer[:, :4] = -z[:, :4]
        return buffer


# Where certify stops, and a part of the reason: edits that a chord refutes, and programs that cannot be followed.
EDITS = MappingProxyType(
    {
        "negative weight": (Node("second", "addmm"), "-0.5"),
        "negative scale": (Node("norm", "native_batch_norm"), "may be negative"),
        "decreasing": (Node("", "relu"), "relu of a concave value"),
        "sigmoid": (Node("", "sigmoid"), "sigmoid of a convex value"),
        "sine": (Node("", "sin"), "sin of a convex value"),
        "gelu": (Node("", "gelu"), "gelu of a convex value"),
        "selu": (Node("", "elu"), "elu of a convex value"),
        "subtracted": (Node("", "sub"), "subtraction of a convex value"),
        "minimum": (Node("", "minimum"), "minimum of a convex and of an affine value"),
        "product": (Node("", "mul"), "both depend on the inputs"),
        "division": (Node("", "div"), "division by a value that depends"),
        "square": (Node("", "pow"), "square of a convex value"),
        "outer": (Node("", "log"), "log of a convex value"),
    }
)
REFUSED = MappingProxyType(
    {
        "statistics": (Node("norm", "native_batch_norm"), "eval()"),
        "dropout": (Node("drop", "bernoulli_"), "random"),
        "random": (Node("", "randn"), "random"),
        "branch": (Node("", "_local_scalar_dense"), "depends on the values"),
        "in place": (Node("", "copy_"), "in place"),
    }
)


def steep(edit: str) -> Users:
    """The edited network with large weights before the edit, so that it matters on [-3, 3]³."""
    f = Users(edit)
    with torch.no_grad():
        for layer in (f.first, f.skip):
            layer.weight.mul_(3)
        if edit == "negative weight":
            f.second.weight[0, 2] = -3.0
    return f


@torch.no_grad()
def unproject_(f: ConvexNetwork, layer: int, weight: float = -0.25) -> None:
    """As an optimiser step without icnn.project_ after it: one weight of the path of a layer becomes negative."""
    f.layers[layer].path.raw.flatten()[-1] = weight  # pyright: ignore
