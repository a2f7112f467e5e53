"""Surveys are what the model says, estimates are roots that come near the truth, and a short run leaves its record."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from experiments._costs import WAYS, cost
from experiments._surveys import Contacts, counted, crowd, drawn
from experiments.coverage import Estimate, coverage_table, estimate, expected, judge, main

TRUTH = (1.0, -1.0)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_each_person_escapes_every_contact() -> None:
    contacts = drawn(3, generator())
    found = contacts.infected(*TRUTH)
    assert len(found) == contacts.groups[-1] == len(contacts.offsets) - 1
    for person in range(0, len(found), 10):
        at = slice(int(contacts.offsets[person]), int(contacts.offsets[person + 1]))
        escape = (1 - torch.sigmoid(contacts.I[at] - contacts.D[at])).prod()
        assert found[person].item() == pytest.approx(1 - escape.item(), rel=1e-12)


def test_counts_have_the_mean_and_the_variance_of_the_model() -> None:
    contacts, draws = drawn(4, generator()), generator(1)
    counts = torch.stack([counted(contacts, *TRUTH, draws) for _ in range(1000)])
    mean, variance = torch.from_numpy(expected(contacts, *TRUTH)[0]), contacts.variance(*TRUTH)
    assert ((counts.mean(0) - mean).abs() < 4 * (variance / 1000).sqrt()).all()
    torch.testing.assert_close(counts.var(0), variance, rtol=0.2, atol=0)
    assert torch.equal(counted(contacts, *TRUTH, generator(2)), counted(contacts, *TRUTH, generator(2)))


def test_a_crowd_has_so_many_contacts_in_one_group() -> None:
    contacts = crowd(1234, generator())
    assert len(contacts.I) == len(contacts.D) == contacts.offsets[-1] == 1234
    assert contacts.offsets.diff().min() > 0
    assert contacts.groups.tolist() == [0, len(contacts.offsets) - 1]


def test_slopes_of_every_group_are_those_of_differences() -> None:
    contacts, step = drawn(5, generator()), 1e-6
    _, slopes = expected(contacts, *TRUTH)
    for k, move in enumerate(np.eye(2) * step):
        ends = [expected(contacts, *(np.array(TRUTH) + sign * move))[0] for sign in (1, -1)]
        np.testing.assert_allclose(slopes[:, k], (ends[0] - ends[1]) / (2 * step), rtol=1e-7)


def test_the_estimate_is_the_root_of_the_quasi_likelihood_equations() -> None:
    contacts = drawn(30, generator())
    counts = counted(contacts, *TRUTH, generator(1)).numpy()
    found = estimate(contacts, counts)
    s, slopes = expected(contacts, *found.value)
    scores = slopes.T @ ((counts - s) / contacts.variance(*found.value).numpy())
    np.testing.assert_allclose(scores * found.errors["model"], 0, atol=1e-5)
    assert (np.abs(found.value - TRUTH) < 4 * found.errors["model"]).all()


def test_counts_without_noise_give_the_truth_and_twice_the_groups_smaller_errors() -> None:
    small, large = drawn(20, generator()), drawn(80, generator())
    few, many = (estimate(contacts, expected(contacts, *TRUTH)[0]) for contacts in (small, large))
    np.testing.assert_allclose(few.value, TRUTH, atol=1e-6)
    np.testing.assert_allclose(many.value, TRUTH, atol=1e-6)
    assert (many.errors["model"] < 0.75 * few.errors["model"]).all()
    np.testing.assert_allclose(few.errors["sandwich"], 0, atol=1e-6)


def test_the_judge_counts_the_intervals_that_hold_the_truth() -> None:
    errors = {"model": np.array([1.0, 1.0]), "sandwich": np.array([0.1, 2.0])}
    estimates = [Estimate(np.array([1.0 + shift, -1.0 + 3 * shift]), errors, 3) for shift in (0.0, 1.0, 2.1)]
    judged = judge(estimates, TRUTH)
    assert [judged[name]["model"]["covered"] for name in ("alpha", "beta")] == [2, 1]
    assert [judged[name]["sandwich"]["covered"] for name in ("alpha", "beta")] == [1, 2]
    assert "2 of 3" in coverage_table(judged)


def test_the_ways_that_are_timed_find_the_same() -> None:
    contacts = crowd(50_000, generator())
    closed, auto = (cost(way, contacts, *TRUTH) for way in WAYS)
    np.testing.assert_allclose(closed.found, auto.found, rtol=1e-12)
    single = Contacts(contacts.I[:10], contacts.D[:10], torch.tensor([0, 10]), torch.tensor([0, 1]))
    assert cost("closed form", single, *TRUTH).found[0] == pytest.approx(single.infected(*TRUTH).item(), rel=1e-12)


def test_a_short_run_leaves_its_record(tmp_path: Path) -> None:
    small = ["--quick", "--repetitions", "3", "--groups", "50", "--out", str(tmp_path)]
    assert main(small) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["name", "config", "seed", "versions", "data", "metrics", "seconds"]
    assert record["metrics"]["coverage"]["alpha"]["repetitions"] == 3
    assert set(record["metrics"]["costs"][0]) == {"factors", *WAYS}
    assert "| beta | -1 |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "intervals.png").exists()
    assert main([*small, "--seed", "1"]) == 1, "another run does not take this folder"
