"""Shared set-up: shapes are checked while the tests run, and every test starts from the same seed."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
SOLVERS = [f"icnn.solvers.{path.stem}" for path in (ROOT / "solvers").glob("*.py")]  # not the compiled kernels
install_import_hook(
    [
        *("icnn.networks", "icnn.certificates", "icnn.inference", "icnn.layers"),
        *("icnn.transforms", "icnn.decoders", "icnn.losses", "icnn.adjoints"),
        *SOLVERS,
    ],
    "beartype.beartype",
)  # must run before icnn is imported anywhere

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # one worker per core: more threads would only wait for each other


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _skip_without_cuda(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
