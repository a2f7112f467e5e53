"""The labels keep their budgets, the energy of the claim says them, and a short run leaves what it promises."""

import json
from pathlib import Path

import torch

from experiments._groups import BUDGETS, FEATURES, GROUP, LABELS, Groups
from experiments.labels import LEARNERS, Labeller, main


def test_each_group_has_its_budget_and_the_highest_scores() -> None:
    groups = Groups.drawn(0)
    x, y = groups.sample(200, 0)
    assert x.shape == (200, FEATURES)
    assert y.shape == (200, LABELS)
    by_group = y.unflatten(-1, (len(BUDGETS), GROUP))
    assert torch.equal(by_group.sum(-1), torch.tensor(BUDGETS, dtype=y.dtype).expand(200, -1))
    scores = (x @ groups.scores.mT).unflatten(-1, (len(BUDGETS), GROUP))
    lowest_on = scores.masked_fill(by_group == 0, torch.inf).amin(-1)
    highest_off = scores.masked_fill(by_group == 1, -torch.inf).amax(-1)
    assert (lowest_on > highest_off).all()


def test_samples_are_those_of_their_seed() -> None:
    groups = Groups.drawn(0)
    assert torch.equal(groups.sample(5, 3)[1], groups.sample(5, 3)[1])
    assert not torch.equal(groups.sample(5, 3)[0], groups.sample(5, 4)[0])


def test_a_convex_energy_with_linear_costs_and_budgets_has_the_labels_as_its_minimiser() -> None:
    """The truth is among the networks: -score'y + w |1'y - k| for each group, here minimised over all labels."""
    groups = Groups.drawn(0)
    x, y = groups.sample(50, 0)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * LABELS).unsqueeze(1)
    excess = every.unflatten(-1, (len(BUDGETS), GROUP)).sum(-1) - torch.tensor(BUDGETS)
    energy = -(every * (x @ groups.scores.mT)).sum(-1) + 100 * excess.abs().sum(-1)
    assert torch.equal(every[energy.argmin(0), 0], y)


def test_the_other_energy_is_linear_in_y() -> None:
    f = Labeller(LEARNERS["Fenchel-Young"], 4, coupled=False).f
    x = torch.randn(3, FEATURES)
    y, z = torch.rand(2, 3, LABELS)
    torch.testing.assert_close(f(x, (y + z) / 2), (f(x, y) + f(x, z)) / 2)


def test_a_short_run_leaves_its_record(tmp_path: Path) -> None:
    small = ["--quick", "--out", str(tmp_path)]
    assert main(small) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["name", "config", "seed", "versions", "data", "metrics", "seconds", "curves"]
    assert record["curves"].keys() == record["metrics"].keys()
    assert len(record["metrics"]) == 2 * len(LEARNERS)
    for name, found in record["metrics"].items():
        assert 0 <= found["exact match"][0] <= 100, name
    assert "| max-margin, PICNN |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "accuracy.png").exists()
    assert main([*small, "--seed", "1"]) == 1, "another run does not take this folder"
