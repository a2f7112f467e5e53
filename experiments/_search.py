"""Search for hyper-parameters with Optuna, by validation losses alone; what is interrupted continues.

Every trial is kept in a journal in the folder of the search. A trial that was interrupted is the first to be continued,
in its own folder, where its checkpoints lie. The sampler is seeded anew from (seed, number of the trial), so that an
interrupted search asks for the very settings of an uninterrupted one.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from experiments._record import claim_folder, write_json

log = logging.getLogger(__name__)

Settings = dict[str, Any]
Space = Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class Found:
    """The settings of least validation loss, and that loss."""

    settings: Settings
    loss: float


class NothingFoundError(Exception):
    """No trial came to a finite loss."""


@dataclass(frozen=True)
class _Claim:
    """What may not change when a search is continued; the number of trials may."""

    space: dict[str, Any]
    seed: int


def search(
    folder: Path, space: Space, validate: Callable[[Settings, Path], float], trials: int, seed: int = 0
) -> Found:
    """The settings of least validation loss among so many trials; continues the search that the folder holds.

    The space and all trials are left in search.json of the folder.

    Args:
        space: a distribution of optuna.distributions (FloatDistribution, IntDistribution, CategoricalDistribution)
            for each setting.
        validate: fits with these settings, in the folder of the trial, and returns the loss on the validation split;
            it must not know the test set. A loss that is not finite is a failure: the trial counts, its settings
            cannot be chosen.

    Raises:
        ChangedConfigError: the folder holds a search over another space, or with another seed.
        NothingFoundError: every trial failed.
    """
    if torch.distributed.is_torchelastic_launched():
        raise RuntimeError("a search runs in one process: start it without torchrun")
    claim = _Claim({name: json.loads(distribution_to_json(of)) for name, of in space.items()}, seed)
    claim_folder(folder, claim)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    study = optuna.create_study(storage=storage, study_name="search", load_if_exists=True)
    _keep(folder, claim, study)
    while len(study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))) < trials:
        number, settings = _next(study, space, seed)
        value = validate(settings, folder / f"trial{number}")
        if math.isfinite(value):
            study.tell(number, value)
        else:
            study.tell(number, state=TrialState.FAIL)
        log.info("trial %d: %.5g by %s", number, value, settings)
        _keep(folder, claim, study)
    done = study.get_trials(states=(TrialState.COMPLETE,))
    if not done:
        raise NothingFoundError(f"none of {trials} trials in {folder} came to a finite loss")
    return Found(study.best_params, study.best_value)


def _keep(folder: Path, claim: _Claim, study: optuna.Study) -> None:
    rows = [{"number": trial.number, "settings": trial.params, "loss": trial.value} for trial in study.get_trials()]
    write_json(folder / "search.json", {"space": claim.space, "seed": claim.seed, "trials": rows})


def _next(study: optuna.Study, space: Space, seed: int) -> tuple[int, Settings]:
    """The trial that was interrupted, if its settings had been drawn, or a new one."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.params.keys() == space.keys():
            return trial.number, trial.params
        study.tell(trial.number, state=TrialState.FAIL)
    study.sampler = optuna.samplers.TPESampler(seed=1_000_003 * seed + len(study.get_trials()))
    trial = study.ask(dict(space))
    return trial.number, trial.params
