"""The tasks are what they say, every loss leads to decisions, and a short run leaves its record and continues."""

import json
from pathlib import Path

import pytest
import torch
from scipy.optimize import linprog

from experiments._decision_tasks import FEATURES, Task, draw, knapsack, shortest_path
from experiments.decisions import KNOWN, METHODS, main, normalised, predictor, report

TASKS = {"path": shortest_path(4), "knapsack": knapsack(8, seed=0)}
every = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@every
def test_best_decisions_are_those_of_highs(task: Task) -> None:
    (data,) = draw(task, 4, 0.5, (20,), seed=3)
    given = {
        name: None if rows is None else torch.as_tensor(rows).numpy()
        for name, rows in task.decision.constraints.items()
    }
    bounds = (0, None if given["upper"] is None else 1)
    for c, x in zip(data.costs.numpy(), data.best.numpy(), strict=True):
        least = linprog(c, given["G"], given["h"], given["A"], given["b"], bounds).fun
        assert c @ x == pytest.approx(least, rel=1e-9)


@every
def test_data_repeat_by_seed_and_costs_without_noise_are_the_power(task: Task) -> None:
    first, second = draw(task, 2, 0.0, (30, 10), seed=1)
    assert first.features.shape == (30, FEATURES)
    again, _ = draw(task, 2, 0.0, (30, 10), seed=1)
    assert torch.equal(first.costs, again.costs)
    root = (task.sign * first.costs * 3.5**2 - 1).sqrt() - 3  # linear in the features
    fit = torch.linalg.lstsq(first.features, root).solution
    torch.testing.assert_close(first.features @ fit, root, rtol=0, atol=1e-9)
    torch.testing.assert_close((fit * FEATURES**0.5).round() / FEATURES**0.5, fit, rtol=0, atol=1e-9)
    assert torch.equal(first.costs, first.expected)
    assert len(second.costs) == 10
    (noisy,) = draw(task, 2, 0.5, (4000,), seed=1)
    torch.testing.assert_close(
        (noisy.costs / noisy.expected).mean(0), torch.ones(task.size).double(), rtol=0, atol=0.03
    )


@every
def test_the_score_is_zero_for_the_truth_alone(task: Task) -> None:
    (data,) = draw(task, 4, 0.5, (50,), seed=2)
    assert normalised(task, data.costs, data) == pytest.approx(0, abs=1e-7)
    assert normalised(task, 3 * data.costs, data) == pytest.approx(0, abs=1e-7)
    assert normalised(task, data.costs.mean(0).expand_as(data.costs), data) > 1


@every
@pytest.mark.parametrize("method", METHODS)
def test_every_loss_leads_from_the_mean_towards_the_decisions(task: Task, method: str) -> None:
    (data,) = draw(task, 1, 0.0, (40,), seed=0)
    model = predictor(data.costs.mean(0))
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    loss, strengths = METHODS[method]
    before = normalised(task, model(data.features).detach(), data)
    for _ in range(8):
        adam.zero_grad()
        loss(task.decision, model(data.features), data.costs, data.best, strengths[0]).mean().backward()
        adam.step()
    assert normalised(task, model(data.features).detach(), data) < 0.8 * before


def test_the_table(tmp_path: Path) -> None:
    metrics = {"path": {method: {"regret": [1.0, 2.0]} for method in (*METHODS, KNOWN)}}
    text = report({"metrics": metrics}, tmp_path)
    assert "| SPO+ | 1.50 ± 0.71 |" in text


def test_a_short_run_leaves_its_record_and_continues(tmp_path: Path) -> None:
    small = ["--quick", "--seed", "0", "--out", str(tmp_path)]
    assert main(small) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["name", "config", "seed", "versions", "data", "metrics", "seconds"]
    assert set(record["metrics"]) == {"shortest path, degree 4", "knapsack, degree 4"}
    for methods in record["metrics"].values():
        assert list(methods) == [KNOWN, *METHODS]
        assert all(0 <= found["regret"][0] < 100 for found in methods.values())
    assert (tmp_path / "regret.png").exists()
    (tmp_path / "record.json").unlink()
    assert main(small) == 0
    assert json.loads((tmp_path / "record.json").read_text())["metrics"] == record["metrics"]
    assert main([*small, "--noise", "0.1"]) == 1, "another run does not take this folder"
