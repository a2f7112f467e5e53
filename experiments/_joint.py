"""A network that is convex in (x, y) together, of which the inference moves y alone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from icnn.networks import FICNN, ConvexNetwork, ConvexStep, Dense, Energy, GatedStep, Gates, Linear


class JointFICNN(ConvexNetwork):
    """f(x, y) = F((x, y)) with a FICNN F of their concatenation.

    With x held fixed a layer is P z + S y + (T x + b), where (T, S) are the weights of its skip: what x adds is
    computed once. Returns (*batch,) for x of shape (*batch, x_dim) and y of shape (*batch, y_dim).
    """

    def __init__(self, x_dim: int, y_dim: int, hidden: Sequence[int]) -> None:
        whole = FICNN(x_dim + y_dim, hidden)
        super().__init__((x_dim,), (y_dim,), whole.activation)
        self.layers = whole.layers

    def given(self, x: Tensor | None = None) -> Energy:
        assert x is not None
        ones = torch.ones_like(x[..., :1])
        steps = []
        for layer in self.layers:
            path, skip = layer()
            T, S = skip.weight.split((x.shape[-1], *self.y_shape), -1)
            of_y = Linear(Dense(self.y_shape, skip.operator.outputs), S)
            steps.append(GatedStep(ConvexStep(path, of_y), Gates(ones, ones, F.linear(x, T, skip.bias))))
        return self._energy(steps, x.shape[:-1])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.given(x)(y)
