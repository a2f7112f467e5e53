"""One training loop for every experiment: epochs, checkpoints, resume."""

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

log = logging.getLogger(__name__)

Loss = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How to fit."""

    epochs: int
    batch: int
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


@dataclass(frozen=True)
class Fitted:
    """The net that counts, and per epoch its losses and seconds."""

    model: nn.Module
    history: list[dict[str, float]]


def fit(
    fabric: Fabric,
    model: nn.Module,
    examples: Tensor,
    loss: Loss,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path,
    after_step: Callable[[], object] = lambda: None,
    validate: Callable[[nn.Module], float] | None = None,
    level: int = logging.INFO,
) -> Fitted:
    """Minimise the mean of loss(model, batch) over examples (n, ...) and return the model with its history.

    After each epoch everything is written to ``checkpoint``, at once or not at all; where that file exists,
    fitting continues from it. Torch's generator is seeded anew from (seed, epoch), so that its state need not
    be written: a continued run ends with the very weights of an uninterrupted one.

    Args:
        after_step: called after each step, to bring the weights back where they must be.
        validate: the loss to watch, of the net that counts.
        level: at which each epoch is logged.
    """
    job = _Job(fabric, model, recipe, steps=recipe.epochs * math.ceil(len(examples) / recipe.batch))
    job.resume(checkpoint)
    examples = fabric.to_device(examples)
    with Progress(transient=True) as progress:
        bar = progress.add_task(checkpoint.stem, total=recipe.epochs, completed=len(job.history))
        for epoch in range(len(job.history), recipe.epochs):
            begin = time.perf_counter()
            torch.manual_seed(1_000_003 * seed + epoch)
            losses = {"train": _epoch(job, examples, loss, recipe.batch, after_step)}
            if validate is not None:
                losses["validation"] = validate(job.averaged)
            job.history.append({**losses, "seconds": time.perf_counter() - begin})
            job.save(checkpoint)
            progress.update(bar, advance=1)
            words = ", ".join(f"{name} {value:.5g}" for name, value in losses.items())
            log.log(level, "%s, epoch %d of %d: %s", checkpoint.stem, epoch + 1, recipe.epochs, words)
    return Fitted(job.averaged, job.history)


def _epoch(job: "_Job", examples: Tensor, loss: Loss, batch: int, after_step: Callable[[], object]) -> float:
    """One pass over the examples in random order; returns their mean loss on the way."""
    order = torch.randperm(len(examples)).to(examples.device)
    total = torch.zeros((), device=examples.device)
    for index in order.split(batch):
        value = loss(job.model, examples[index])
        job.step(value, after_step)
        total += value.detach() * len(index)
    return total.item() / len(examples)


class _Job:
    """Everything that changes while fitting, which is what a checkpoint holds."""

    def __init__(self, fabric: Fabric, model: nn.Module, recipe: Recipe, steps: int) -> None:
        adam = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.fabric, self.bare = fabric, model
        self.model, self.optimizer = fabric.setup(model, adam)
        self.averaged = AveragedModel(model, avg_fn=partial(_average, recipe.ema)) if recipe.ema else model
        self.scheduler = LambdaLR(adam, lambda step: _factor(recipe, step, steps))
        self.history: list[dict[str, float]] = []

    def step(self, value: Tensor, after_step: Callable[[], object]) -> None:
        """Go down the gradient of this loss."""
        self.optimizer.zero_grad()
        self.fabric.backward(value)
        self.optimizer.step()
        after_step()
        self.scheduler.step()
        if isinstance(self.averaged, AveragedModel):
            self.averaged.update_parameters(self.bare)

    def save(self, checkpoint: Path) -> None:
        """Write beside the old checkpoint, then rename: an interrupt leaves the old one or the new one."""
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        beside = checkpoint.with_suffix(".new")
        self.fabric.save(beside, self._state())
        os.replace(beside, checkpoint)

    def resume(self, checkpoint: Path) -> None:
        """Continue from the checkpoint if there is one."""
        if checkpoint.exists():
            state = self._state()
            self.fabric.load(checkpoint, state)
            self.history = state["history"]
            log.info("%s: continuing after epoch %d", checkpoint.stem, len(self.history))

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "averaged": self.averaged,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "history": self.history,
        }


def _average(ema: float, average: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """The next average: of few weights while there are few, so that it soon forgets the start."""
    return average.lerp(new, 1 - min(ema, (int(count) + 1) / (int(count) + 10)))


def _factor(recipe: Recipe, step: int, steps: int) -> float:
    """The step length at this step, relative to its highest."""
    warm = min(1.0, (step + 1) / (recipe.warmup + 1))
    return warm if recipe.schedule == "constant" else warm * 0.5 * (1 + math.cos(math.pi * step / steps))
