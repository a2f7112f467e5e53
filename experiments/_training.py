"""One training loop for every experiment: epochs, early stopping, checkpoints, resume, one process or several."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor, nn

from experiments._job import Job, Recipe
from experiments._processes import draw_apart, share, summed

log = logging.getLogger(__name__)

Loss = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Fitted:
    """The net that counts, per epoch its losses and seconds, and the epoch (from 0) that the net is of."""

    model: nn.Module
    history: list[dict[str, float]]
    epoch: int

    @property
    def seconds(self) -> float:
        return sum(epoch["seconds"] for epoch in self.history)

    @property
    def validation(self) -> float:
        """The validation loss of the net that counts."""
        return self.history[self.epoch]["validation"]


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
    be written: a continued run ends with the very weights of an uninterrupted one. The losses stand beside the
    checkpoint as CSV.

    Several processes share each batch and take the same steps as one would, up to rounding and to what the loss
    draws; that holds for a loss that is a mean over its batch, and models that start with the same weights.

    Args:
        fabric: from experiments._processes.launched.
        after_step: called after each step, to bring the weights back where they must be.
        validate: the loss to watch, of the net that counts; called on the first process.
        level: at which each epoch is logged.

    Raises:
        ValueError: the recipe has patience, and there is nothing to validate by.
    """
    if recipe.patience and validate is None:
        raise ValueError(f"patience is {recipe.patience}: expected 0, since there is no validation loss to watch")
    job = Job(fabric, model, recipe, steps=recipe.epochs * math.ceil(len(examples) / recipe.batch))
    job.resume(checkpoint)
    examples = fabric.to_device(examples)
    with Progress(transient=True, disable=not fabric.is_global_zero) as progress:
        bar = progress.add_task(checkpoint.stem, total=recipe.epochs, completed=len(job.history))
        while not job.done:
            begin, epoch = time.perf_counter(), len(job.history)
            torch.manual_seed(1_000_003 * seed + epoch)
            losses = {"train": _epoch(job, examples, loss, after_step)}
            if validate is not None:
                losses["validation"] = fabric.broadcast(validate(job.averaged) if fabric.is_global_zero else 0.0)
            job.close({**losses, "seconds": time.perf_counter() - begin}, checkpoint)
            progress.update(bar, advance=1)
            words = ", ".join(f"{name} {value:.5g}" for name, value in losses.items())
            log.log(level, "%s, epoch %d of %d: %s", checkpoint.stem, epoch + 1, recipe.epochs, words)
    return Fitted(job.net(), job.history, job.chosen)


def _epoch(job: Job, examples: Tensor, loss: Loss, after_step: Callable[[], object]) -> float:
    """One pass over the examples in random order; returns their mean loss on the way."""
    order = torch.randperm(len(examples)).to(examples.device)
    draw_apart(job.fabric)
    total = torch.zeros((), device=examples.device)
    for index in order.split(job.recipe.batch):
        part = share(job.fabric, index)
        value = loss(job.model, examples[part]) * (len(part) / len(index)) if len(part) else None
        job.step(value, after_step)
        if value is not None:
            total += value.detach() * len(index)
    return summed(job.fabric, total).item() / len(examples)
