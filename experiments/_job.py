"""What changes while a net is fitted: weights, optimizer, history and the best net; written and read as one."""

import csv
import logging
import math
import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from experiments._processes import sum_gradients

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to fit."""

    epochs: int
    """Passes over the examples, at most."""
    batch: int
    """Examples per step, over all processes."""
    lr: float = 1e-3
    """Adam's step length, at its highest."""
    weight_decay: float = 0.0
    """Decoupled, as in AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the step length does after the warm-up."""
    warmup: int = 0
    """Steps in which the step length grows from zero, by a factor on the schedule."""
    ema: float = 0.0
    """Decay per step, at its highest, of the average of the weights, which is the net that counts; 0 for none."""
    patience: int = 0
    """Stop after this many epochs without a lower validation loss, and keep the net of the lowest; 0: keep the last."""


class Job:
    """Everything that changes while fitting, which is what a checkpoint holds."""

    def __init__(self, fabric: Fabric, model: nn.Module, recipe: Recipe, steps: int) -> None:
        self.fabric, self.recipe = fabric, recipe
        self.model = fabric.to_device(model)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.averaged = AveragedModel(model, avg_fn=partial(_average, recipe.ema)) if recipe.ema else model
        self.scheduler = LambdaLR(self.optimizer, lambda step: _factor(recipe, step, steps))
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}

    def step(self, value: Tensor | None, after_step: Callable[[], object]) -> None:
        """Go down the gradient of the loss whose part on this process this is (None: no part)."""
        self.optimizer.zero_grad()
        if value is not None:
            self.fabric.backward(value)
        sum_gradients(self.fabric, self.model.parameters())
        self.optimizer.step()
        after_step()
        self.scheduler.step()
        if isinstance(self.averaged, AveragedModel):
            self.averaged.update_parameters(self.model)

    @property
    def chosen(self) -> int:
        """The epoch whose net counts: with patience the first of least validation loss, without it the last."""
        if not self.recipe.patience:
            return len(self.history) - 1
        scores = [epoch["validation"] for epoch in self.history]
        return min(range(len(scores)), key=lambda at: (math.isnan(scores[at]), scores[at]), default=-1)

    @property
    def done(self) -> bool:
        """Whether all epochs are over, or patience is."""
        patience, since = self.recipe.patience, len(self.history) - 1 - self.chosen
        return len(self.history) >= self.recipe.epochs or 0 < patience <= since

    def close(self, epoch: dict[str, float], checkpoint: Path) -> None:
        """End an epoch: keep its net if it is the best, and write everything."""
        self.history.append(epoch)
        if self.recipe.patience and self.chosen == len(self.history) - 1:
            self.best = deepcopy(self.averaged.state_dict())
        self._save(checkpoint)

    def net(self) -> nn.Module:
        """The net that counts."""
        if self.best:
            self.averaged.load_state_dict(self.best)
        return self.averaged

    def resume(self, checkpoint: Path) -> None:
        """Continue from the checkpoint if there is one."""
        if checkpoint.exists():
            state = self._state()
            self.fabric.load(checkpoint, state)
            self.history, self.best = state["history"], state["best"]
            log.info("%s: continuing after epoch %d", checkpoint.stem, len(self.history))

    def _save(self, checkpoint: Path) -> None:
        """Write beside the old checkpoint, then rename: an interrupt leaves the old one or the new one."""
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        beside = checkpoint.with_suffix(".new")
        self.fabric.save(beside, self._state())
        if self.fabric.is_global_zero:
            _write_csv(checkpoint.with_suffix(".csv"), self.history)
            os.replace(beside, checkpoint)

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "averaged": self.averaged,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "history": self.history,
            "best": self.best,
        }


def _write_csv(file: Path, history: list[dict[str, float]]) -> None:
    """One row per epoch; the whole table each time, so that a continued run has no row twice."""
    with file.open("w", newline="") as lines:
        table = csv.DictWriter(lines, ["epoch", *history[0]])
        table.writeheader()
        table.writerows({"epoch": number, **epoch} for number, epoch in enumerate(history, start=1))


def _average(ema: float, average: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """The next average: of few weights while there are few, so that it soon forgets the start."""
    return average.lerp(new, 1 - min(ema, (int(count) + 1) / (int(count) + 10)))


def _factor(recipe: Recipe, step: int, steps: int) -> float:
    """The step length at this step, relative to its highest."""
    warm = min(1.0, (step + 1) / (recipe.warmup + 1))
    return warm if recipe.schedule == "constant" else warm * 0.5 * (1 + math.cos(math.pi * step / steps))
