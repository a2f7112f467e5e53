"""torch.compile takes each architecture as one graph. In a process of its own, where shapes are not checked."""

import subprocess
import sys

PROGRAM = """
import torch
from icnn import FICNN, PICNN, ConvFICNN, ConvPICNN, LogSumExp, ResidualICNN, norm

CONVS = ((3, 3, 1), (4, 2, 2))
networks = [
    FICNN(5, (12, 8)),
    FICNN(5, (12, 8), norm(2), monotone=1),
    FICNN(5, (12, 8), "softplus", "exp", quadratic=2, strong_convexity=0.1),
    PICNN(4, 5, (12, 8)),
    ConvFICNN((2, 7), CONVS, (6,)),
    ConvPICNN((2, 4, 3), (1, 4, 3), CONVS, (6,)),
    ResidualICNN(5, 8, 3),
    LogSumExp(5),
]
for f in networks:
    y = torch.randn(3, *f.y_shape, requires_grad=True)
    inputs = (y,) if f.x_shape is None else (torch.randn(3, *f.x_shape), y)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    found, expected = (
        (value, *torch.autograd.grad(value.sum(), [y, *f.parameters()], materialize_grads=True))
        for value in (compiled(*inputs), f(*inputs))
    )
    torch.testing.assert_close(found, expected)
    print(type(f).__name__)
"""


def test_every_architecture_compiles_as_one_graph() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 8
