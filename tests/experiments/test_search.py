"""A search finds what is best, continues where it was interrupted, and keeps its space and trials."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from experiments._record import ChangedConfigError
from experiments._search import NothingFoundError, search

SPACE = {
    "x": FloatDistribution(-2, 2),
    "rate": FloatDistribution(1e-3, 1, log=True),
    "depth": IntDistribution(1, 4),
    "kind": CategoricalDistribution(("good", "bad")),
}


def loss(settings: dict, folder: Path) -> float:
    penalty = {"good": 0.0, "bad": 1.0}[settings["kind"]]
    return (settings["x"] - 0.5) ** 2 + math.log10(10 * settings["rate"]) ** 2 + (settings["depth"] - 2) ** 2 + penalty


def interrupted_in(number: int, seen: list[Path]) -> Callable[[dict, Path], float]:
    def validate(settings: dict, folder: Path) -> float:
        seen.append(folder)
        if len(seen) == number:
            raise KeyboardInterrupt
        return loss(settings, folder)

    return validate


def trials(folder: Path) -> list[dict]:
    return json.loads((folder / "search.json").read_text())["trials"]


def test_the_search_comes_near_the_minimum_of_a_quadratic(tmp_path: Path) -> None:
    found = search(tmp_path, SPACE, loss, 60)
    assert found.loss == min(trial["loss"] for trial in trials(tmp_path)) < 0.3
    assert found.settings["kind"] == "good"
    assert loss(found.settings, tmp_path) == found.loss


def test_an_interrupted_search_continues_with_the_trial_that_was_interrupted(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", SPACE, loss, 20)
    before: list[Path] = []
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "parts", SPACE, interrupted_in(13, before), 20)
    assert len(trials(tmp_path / "parts")) == 12
    after: list[Path] = []
    assert search(tmp_path / "parts", SPACE, interrupted_in(0, after), 20) == whole
    assert after[0] == before[-1] == tmp_path / "parts" / "trial12"
    assert len(after) == 8
    assert trials(tmp_path / "parts") == trials(tmp_path / "whole")


def test_a_finished_search_tries_nothing_and_more_trials_continue_it(tmp_path: Path) -> None:
    found = search(tmp_path, SPACE, loss, 3)
    assert search(tmp_path, SPACE, interrupted_in(1, []), 3) == found
    assert search(tmp_path, SPACE, loss, 5).loss <= found.loss
    assert [trial["number"] for trial in trials(tmp_path)] == [0, 1, 2, 3, 4]


def test_the_space_is_kept_and_another_is_refused(tmp_path: Path) -> None:
    search(tmp_path, SPACE, loss, 1)
    kept = json.loads((tmp_path / "search.json").read_text())
    assert kept["space"]["depth"]["attributes"] == {"log": False, "step": 1, "low": 1, "high": 4}
    with pytest.raises(ChangedConfigError, match="space"):
        search(tmp_path, {**SPACE, "x": FloatDistribution(-3, 2)}, loss, 2)
    with pytest.raises(ChangedConfigError, match="seed: 0 there, 1 asked for"):
        search(tmp_path, SPACE, loss, 2, seed=1)


def test_failures_are_kept_and_never_chosen(tmp_path: Path) -> None:
    def half(settings: dict, folder: Path) -> float:
        return loss(settings, folder) if settings["kind"] == "bad" else math.nan

    assert search(tmp_path / "half", SPACE, half, 12).settings["kind"] == "bad"
    assert any(trial["loss"] is None for trial in trials(tmp_path / "half"))
    with pytest.raises(NothingFoundError, match="none of 2 trials"):
        search(tmp_path / "none", SPACE, lambda settings, folder: math.inf, 2)
