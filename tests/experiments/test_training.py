from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

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
