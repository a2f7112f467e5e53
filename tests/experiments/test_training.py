import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from experiments._training import Fitted, Recipe, fit

RECIPE = Recipe(epochs=4, batch=4, lr=0.05, weight_decay=0.01, schedule="cosine", warmup=2, ema=0.9)


def squared(model: nn.Module, batch: Tensor) -> Tensor:
    """A loss that draws random numbers, as augmentation does."""
    noisy = batch + 0.1 * torch.randn_like(batch)
    return (model(noisy) - batch.sum(-1, keepdim=True)).square().mean()


def train(checkpoint: Path, loss: Callable = squared, recipe: Recipe = RECIPE, **options) -> Fitted:
    torch.manual_seed(1)
    examples, model = torch.randn(10, 3), nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    fabric = Fabric(accelerator="cpu", devices=1)
    return fit(fabric, model, examples, loss, recipe, seed=7, checkpoint=checkpoint, **options)


def interrupted_after(steps: int) -> Callable:
    left = iter(range(steps))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return squared(model, batch)

    return loss


def losses(fitted: Fitted) -> list[float]:
    return [epoch["train"] for epoch in fitted.history]


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    assert theirs.keys() == one.state_dict().keys()
    assert all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("steps", [0, 2, 3, 8, 11])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_interrupted_and_resumed_is_the_same_as_uninterrupted(tmp_path: Path, steps: int, ema: float) -> None:
    recipe = Recipe(epochs=4, batch=4, lr=0.05, weight_decay=0.01, schedule="cosine", warmup=2, ema=ema)
    whole = train(tmp_path / "whole.ckpt", recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts.ckpt", interrupted_after(steps), recipe)
    done = steps // 3  # three steps are an epoch
    assert (tmp_path / "parts.ckpt").exists() == (done > 0)
    torch.rand(5)  # whatever happened to the generator in between
    resumed = train(tmp_path / "parts.ckpt", interrupted_after(12 - 3 * done), recipe)
    assert_same_weights(resumed.model, whole.model)
    assert losses(resumed) == losses(whole)


def test_the_helper_notices_other_weights(tmp_path: Path) -> None:
    one = train(tmp_path / "one.ckpt")
    other = train(tmp_path / "other.ckpt", recipe=Recipe(epochs=4, batch=4, lr=0.04, ema=0.9))
    with pytest.raises(AssertionError):
        assert_same_weights(one.model, other.model)


def test_a_finished_run_is_not_fitted_again(tmp_path: Path) -> None:
    whole = train(tmp_path / "run.ckpt")
    again = train(tmp_path / "run.ckpt", interrupted_after(0))
    assert_same_weights(again.model, whole.model)


def test_an_interrupt_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run.ckpt", interrupted_after(3))
    before = (tmp_path / "run.ckpt").read_bytes()

    def half_written(self: Fabric, path: Path, state: dict) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Fabric, "save", half_written)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run.ckpt")
    assert (tmp_path / "run.ckpt").read_bytes() == before
    assert_same_weights(train(tmp_path / "run.ckpt").model, train(tmp_path / "whole.ckpt").model)


def test_losses_fall_and_the_validated_net_is_the_one_returned(tmp_path: Path) -> None:
    seen: list[nn.Module] = []

    def validate(model: nn.Module) -> float:
        seen.append(model)
        return 0.5

    fitted = train(tmp_path / "run.ckpt", recipe=Recipe(epochs=30, batch=4, lr=0.05), validate=validate)
    assert losses(fitted)[-1] < 0.5 * losses(fitted)[0]
    assert all(model is fitted.model for model in seen)
    assert all(epoch["validation"] == 0.5 and epoch["seconds"] > 0 for epoch in fitted.history)


def test_after_step_is_called_after_every_step(tmp_path: Path) -> None:
    calls: list[int] = []
    train(tmp_path / "run.ckpt", after_step=lambda: calls.append(1))
    assert len(calls) == 12


def scored(scores: Sequence[float], seen: list[Tensor]) -> Callable[[nn.Module], float]:
    """A validation loss that is given, with the weights that it is asked for."""
    left = iter(scores)

    def validate(model: nn.Module) -> float:
        seen.append(parameters_to_vector(model.parameters()).detach())
        return next(left)

    return validate


def patient(ema: float) -> Recipe:
    return Recipe(epochs=9, batch=4, lr=0.05, ema=ema, patience=2)


SCORES = [3.0, math.nan, 1.0, 2.0, 1.0]  # then patience is over, with four epochs left


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_fitting_stops_when_patience_is_over_and_the_best_net_counts(tmp_path: Path, ema: float) -> None:
    seen: list[Tensor] = []
    fitted = train(tmp_path / "run.ckpt", recipe=patient(ema), validate=scored(SCORES, seen))
    assert len(fitted.history) == len(seen) == 5
    assert fitted.epoch == 2
    assert fitted.validation == 1
    assert torch.equal(parameters_to_vector(fitted.model.parameters()), seen[2])
    assert not torch.equal(seen[4], seen[2])
    again = train(tmp_path / "run.ckpt", interrupted_after(0), patient(ema), validate=scored([], []))
    assert_same_weights(again.model, fitted.model)


@pytest.mark.parametrize("done", [1, 3, 4])
def test_a_resumed_run_remembers_its_best_net_and_its_patience(tmp_path: Path, done: int) -> None:
    whole = train(tmp_path / "whole.ckpt", recipe=patient(0.9), validate=scored(SCORES, []))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts.ckpt", interrupted_after(3 * done), patient(0.9), validate=scored(SCORES, []))
    resumed = train(tmp_path / "parts.ckpt", recipe=patient(0.9), validate=scored(SCORES[done:], []))
    assert_same_weights(resumed.model, whole.model)
    assert resumed.epoch == whole.epoch
    assert len(resumed.history) == 5


def test_without_patience_the_last_net_counts(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    fitted = train(tmp_path / "run.ckpt", validate=scored([1.0, 2.0, 3.0, 4.0], seen))
    assert torch.equal(parameters_to_vector(fitted.model.parameters()), seen[3])
    assert fitted.validation == 4


def test_patience_with_nothing_to_watch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="patience is 2: expected 0"):
        train(tmp_path / "run.ckpt", recipe=patient(0))


def test_the_log_has_every_epoch_once_after_an_interrupt(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run.ckpt", interrupted_after(7), validate=scored([0.5, 0.25], []))
    fitted = train(tmp_path / "run.ckpt", validate=scored([0.125, 0.0], []))
    with (tmp_path / "run.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row.pop("epoch") for row in rows] == ["1", "2", "3", "4"]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == fitted.history
