"""Two processes of torchrun take the steps of one; this file is also what they run."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from experiments._processes import launched, sum_gradients
from experiments._training import Recipe, fit


class Net(nn.Module):
    """Its loss is a method that uses one layer twice and another never; the net itself is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.idle = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(2, 2)

    def loss(self, batch: Tensor) -> Tensor:
        return (self.outer(self.inner(self.inner(batch).tanh())) - batch.sum(-1, keepdim=True)).square().mean()


def fit_small(out: Path, fabric: Fabric) -> None:
    """Batches of 5, 5, 5 and 1 examples: parts are unequal, and one is empty. Leaves what this process has seen."""
    torch.manual_seed(0)
    examples, model = torch.randn(16, 3).double(), Net().double()
    slopes: list[Tensor] = []
    drawn: list[Tensor] = []

    def loss(model: Net, batch: Tensor) -> Tensor:
        drawn.append(torch.rand(()))
        return model.loss(batch)

    def keep() -> None:
        used = (parameter.grad for part in (model.inner, model.outer) for parameter in part.parameters())
        slopes.append(parameters_to_vector(used))  # pyright: ignore[reportArgumentType]

    fitted = fit(
        fabric,
        model,
        examples,
        loss,  # pyright: ignore[reportArgumentType]
        Recipe(epochs=6, batch=5, lr=0.05, ema=0.5, patience=4),
        seed=3,
        checkpoint=out / "run.ckpt",
        after_step=keep,
        validate=lambda model: model.module.loss(examples).item(),  # pyright: ignore
    )
    losses = [epoch["train"] for epoch in fitted.history]
    found = {"slopes": torch.stack(slopes), "weights": parameters_to_vector(fitted.model.parameters()).detach()}
    found |= {"losses": torch.tensor(losses), "drawn": torch.stack(drawn)}
    torch.save(found, out / f"seen-{fabric.global_rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of the run of one process, and of two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    fit_small(one, launched())
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, str(two)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}, timeout=120)
    return one, two


@pytest.mark.parametrize("what", ["slopes", "weights", "losses"])
@pytest.mark.parametrize("process", [0, 1])
def test_two_processes_find_the_gradients_and_weights_of_one(both: tuple[Path, Path], what: str, process: int) -> None:
    one, two = torch.load(both[0] / "seen-0.pt"), torch.load(both[1] / f"seen-{process}.pt")
    tolerance = 1e-6 if what == "losses" else 1e-10  # of losses, whose sum is in single precision
    assert two[what].shape == one[what].shape
    torch.testing.assert_close(two[what], one[what], rtol=0, atol=tolerance)


def test_the_first_process_draws_as_if_alone_and_the_other_differently(both: tuple[Path, Path]) -> None:
    alone, first, second = (torch.load(file)["drawn"] for folder in both for file in sorted(folder.glob("seen-*.pt")))
    assert torch.equal(first, alone)
    assert len(second) == 18, "no part of the last batch"
    assert not torch.isin(second, alone).any()


def test_one_process_writes_each_epoch_once(both: tuple[Path, Path]) -> None:
    for folder in both:
        with (folder / "run.csv").open() as lines:
            assert [row["epoch"] for row in csv.DictReader(lines)] == ["1", "2", "3", "4", "5", "6"]
        assert not list(folder.glob("*.new"))


def test_alone_gradients_stay_as_they_are() -> None:
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    layer.bias.grad = None
    sum_gradients(launched(), layer.parameters())
    assert layer.bias.grad is None
    assert torch.equal(layer.weight.grad, torch.ones(1, 2))  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    fit_small(Path(sys.argv[1]), launched())
