"""Complete the left half of a picture from its right half with a convolutional PICNN, and measure what its parts add.

The claim (Amos, Xu, Kolter 2017, "Input Convex Neural Networks"): an energy that is convex in the unknown
pixels, minimised by five bundle iterations and trained through its argmin, completes faces. Beside it stand, with the
same data and recipe: thirty iterations; gradient descent in place of bundles; the Fenchel-Young loss; the same net
without convexity, and without the coupling between the unknown pixels (a sigmoid regression); a fully convolutional
net; and baselines.
"""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from optuna.distributions import FloatDistribution

import icnn
from experiments._augmentation import Augmentation
from experiments._baselines import baseline_errors
from experiments._completer import ICNN, NO_COUPLING, WAYS, Completer, Convolutional, final_error
from experiments._completion_energies import Plain, Unet
from experiments._completion_results import report, score
from experiments._config import Common
from experiments._pictures import DataError, Split, load_split
from experiments._processes import launched
from experiments._record import conducted, file_name, publish, write_record
from experiments._search import NothingFoundError, search
from experiments._training import Fitted, Recipe, fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What the defaults depend on."""

    data: Literal["digits", "olivetti"] = "digits"
    """The digits come with scikit-learn; the Olivetti faces are read from --path or downloaded."""
    quick: bool = False
    """A small run on few pictures, to see that everything works."""


@dataclass(frozen=True)
class Config(Choice, Common):
    """Complete the left half of a picture from its right half with a convex energy."""

    path: Path | None = None
    """Folder that holds olivetti.npz (else the environment variable ICNN_DATA, else a download)."""
    out: Path = Path("runs/completion")
    validate: int | None = None
    """Hold out this fold of the training groups and score on it; the test pictures are left alone."""
    folds: int = 7
    """Folds of grouped cross-validation (7 of the 35 training persons: five each, as in the test)."""
    rows: tuple[str, ...] = (ICNN, NO_COUPLING)
    """What to fit."""
    comparator_seeds: int = 3
    """Of the rows other than ICNN and no coupling, at most this many seeds are fitted."""
    search: int = 0
    """Trials of a search for each row's step length, weight decay and averaging, by validation loss alone; 0 for none.
    Where no pictures are held out, the search holds out the first fold."""
    accelerator: str = "auto"
    """Where to fit: auto, cpu, cuda."""
    net: tyro.conf.OmitArgPrefixes[Plain | Unet] = field(default_factory=Plain)
    convolutions: tuple[int, ...] = (16, 32, 64)
    """Channels of the fully convolutional net, a U-net, at stride 1, 2, 4, ..."""
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=lambda: Recipe(epochs=50, batch=70))
    augmentation: tyro.conf.OmitArgPrefixes[Augmentation] = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [row for row in self.rows if row not in WAYS]
        if unknown or not self.rows:
            raise ValueError(f"--rows is {list(self.rows)}: expected one or more of {list(WAYS)}")
        if self.recipe.patience and self.data == "olivetti" and self.validate is None:
            raise ValueError("--patience needs a validation loss: choose the fold to hold out by --validate")


DEFAULTS = {
    "digits": Config(
        net=Plain(convs=((16, 3, 1), (32, 3, 2)), dense=(512,)),
        recipe=Recipe(epochs=20, batch=100, lr=3e-3, schedule="cosine", warmup=10, ema=0.95),
        augmentation=Augmentation(mix=0.5),
    ),
    "olivetti": Config(
        data="olivetti",
        rows=tuple(WAYS),
        net=Unet(),
        convolutions=(16, 32, 64, 96, 128),
        recipe=Recipe(epochs=60, batch=35, lr=2e-3, schedule="cosine", warmup=20, ema=0.98),
        augmentation=Augmentation(flip=0.5, rotate=4.0, scale=0.04, shift=(1.5, 2.0), brightness=0.1, mix=1.0),
    ),
}


SPACE = {
    "lr": FloatDistribution(3e-4, 1e-2, log=True),
    "weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
    "ema": FloatDistribution(0.9, 0.995),
}


def parse(arguments: Sequence[str] | None = None) -> Config:
    """The command line, with defaults that depend on --data and --quick."""
    choice, _ = tyro.cli(Choice, args=arguments, return_unknown_args=True, add_help=False)
    default = replace(DEFAULTS[choice.data], quick=choice.quick)
    if choice.quick:
        default = replace(default, folds=2, recipe=replace(default.recipe, epochs=2, warmup=0))
    return tyro.cli(Config, args=arguments, default=default, prog="python -m experiments.completion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    return conducted(parse(arguments), run, DataError, NothingFoundError)


def run(config: Config) -> None:
    """Fit, score, and leave the results in config.out."""
    begin = time.perf_counter()
    split = _split(config)
    log.info("%s: %d pictures to fit, %d to score", config.data, len(split.train), len(split.score))
    baselines = baseline_errors(split.train, split.score, config.folds)
    seconds = time.perf_counter() - begin
    tuned = {row: _tuned(config, split, row) for row in config.rows}
    fitted = {row: [_fit(tuned[row], split, row, seed) for seed in _seeds(config, row)] for row in config.rows}
    begin = time.perf_counter()
    results = score(fitted, baselines, split.score)
    metrics, data = results.metrics(), _data(config, split)
    if config.search:
        data["searched"] = {row: {key: getattr(best.recipe, key) for key in SPACE} for row, best in tuned.items()}
    seconds += time.perf_counter() - begin
    seconds += sum(one.seconds for runs in fitted.values() for one in runs)
    results.draw(config.out)
    curves, file = {row: runs[0].history for row, runs in fitted.items()}, config.out / "record.json"
    publish(report, write_record(file, "completion", config, config.seed, data, metrics, seconds, curves), config.out)


def _split(config: Config) -> Split:
    split = load_split(config.data, config.path, config.validate, config.folds)
    if not config.quick:
        return split
    watched = None if split.validation is None else split.validation[:50]
    return Split(split.train[:100], watched, split.score[:50])


def _seeds(config: Config, row: str) -> tuple[int, ...]:
    return config.seed if row in (ICNN, NO_COUPLING) else config.seed[: config.comparator_seeds]


def _tuned(config: Config, split: Split, row: str) -> Config:
    """The config with what a search finds best for this row on the validation pictures, if one is asked for."""
    if not config.search:
        return config
    if split.validation is None:
        split = _split(replace(config, validate=0))

    def validate(settings: dict[str, Any], folder: Path) -> float:
        tried = replace(config, out=folder, recipe=replace(config.recipe, **settings))
        return _fit(tried, split, row, config.seed[0]).validation

    found = search(config.out / "search" / file_name(row), SPACE, validate, config.search)
    return replace(config, recipe=replace(config.recipe, **found.settings))


def _fit(config: Config, split: Split, row: str, seed: int) -> Fitted:
    torch.manual_seed(seed)
    seen, way = split.train.images, WAYS[row]
    if config.augmentation.flip:
        seen = torch.cat([seen, seen.flip(-1)])
    model = Completer(config.net, seen, way) if way.iterations else Convolutional(config.convolutions, seen)
    watched = split.validation
    return fit(
        launched(config.accelerator),
        model,
        split.train.images,
        lambda model, images: model.loss(config.augmentation(images)),  # pyright: ignore[reportCallIssue]
        config.recipe,
        seed=seed,
        checkpoint=config.out / "checkpoints" / f"{file_name(row)}-seed{seed}.ckpt",
        after_step=lambda: icnn.project_(model) if way.convex else None,
        validate=None if watched is None else lambda model: final_error(model, watched.images),
    )


def _data(config: Config, split: Split) -> dict[str, Any]:
    part = "test" if config.validate is None else f"validation fold {config.validate} of {config.folds}"
    return {
        "name": config.data,
        "fitted": len(split.train),
        "watched": 0 if split.validation is None else len(split.validation),
        "scored": len(split.score),
        "scored_part": part,
    }


if __name__ == "__main__":
    sys.exit(main())
