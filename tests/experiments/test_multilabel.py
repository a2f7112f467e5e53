"""Every way to learn an energy of label sets learns; the energy is convex where it says so; a short run continues."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import icnn
from experiments import multilabel
from experiments._descent import descended
from experiments._gaps import gaps
from experiments._labellers import DESCENT, STEPS, WAYS, FeedForward, Jury, Labeller, Net, Way
from experiments._multilabel_results import BUNDLES, UNROLLED
from experiments._tagger import Committee, Features, Tagger
from experiments.multilabel import Config, main

INPUTS, WIDTH, LABELS = 12, 30, 4
NET = Net(width=WIDTH, units=6, dropout=0.0, calm=1.0)


def tagger(**options) -> Tagger:
    examples = (torch.rand(200, LABELS) < torch.linspace(0.1, 0.6, LABELS)).float()
    settings: dict[str, Any] = dict(units=6) | options
    return Tagger(WIDTH, examples, **settings)


def sample(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.nn.functional.normalize(torch.randn(n, INPUTS).relu(), dim=-1)
    y = (x @ torch.randn(INPUTS, LABELS) > 0).float()
    y[:, 1] = y[:, 0] * (1 - y[:, 2])
    return x, y


@pytest.mark.parametrize("options", [{}, {"coupling": False}, {"sharpness": 4.0, "shift": 1.0}])
def test_the_energy_is_convex_in_the_labels(options: dict[str, Any]) -> None:
    f = tagger(**options).double()
    assert icnn.falsify(f, torch.randn(5, WIDTH).double(), samples=64, steps=10) is None


def test_without_coupling_the_argmin_is_a_sigmoid() -> None:
    f = tagger(coupling=False, sharpness=3.0, shift=0.5).double()
    h = torch.randn(20, WIDTH).double()
    y = icnn.argmin(f, h, regularizer="entropy", gradient="none").y
    torch.testing.assert_close(y, (3 * (f.logits(h) + 0.5)).sigmoid(), rtol=0, atol=1e-9)


def test_two_units_start_as_counts_that_keep_the_number_of_labels_usual() -> None:
    examples = torch.zeros(100, 30)
    examples[:, :3] = 1
    examples[:30, 3:5] = 1
    f = Tagger(WIDTH, examples, units=0, calm=1e6).double()
    h = torch.zeros(2, WIDTH).double()
    with torch.no_grad():
        f.logits.bias.fill_(-8.0)
        few = icnn.argmin(f, h, regularizer="entropy", gradient="none").y.sum(-1)
        f.logits.bias.fill_(4.0)
        many = icnn.argmin(f, h, regularizer="entropy", gradient="none").y.sum(-1)
    torch.testing.assert_close(few, torch.full_like(few, 3.0))
    torch.testing.assert_close(many, torch.full_like(many, 5.0))


def test_one_seed_starts_features_and_logits_alike_with_and_without_coupling() -> None:
    x, y = sample()
    torch.manual_seed(3)
    with_it = Labeller(x, y, NET, Way(), iterations=5)
    torch.manual_seed(3)
    without = Labeller(x, y, NET, Way(coupling=False), iterations=5)
    assert torch.equal(with_it.features.linear.weight, without.features.linear.weight)
    assert torch.equal(with_it.f.logits.weight, without.f.logits.weight)


def test_dropout_of_features_is_off_when_labels_are_predicted() -> None:
    features = Features(INPUTS, 1.0, WIDTH, dropout=0.5)
    x = sample()[0]
    assert not torch.equal(features(x), features(x))
    features.eval()
    assert torch.equal(features(x), features(x))


def test_descent_in_logits_comes_to_the_minimum_of_a_convex_energy() -> None:
    f, h = tagger(), torch.randn(20, WIDTH).relu()
    y = descended(f, h, torch.full((LABELS,), 0.5), DESCENT, STEPS).detach()
    value = f(h, y) - torch.distributions.Bernoulli(y).entropy().sum(-1)
    best = icnn.argmin(f, h, regularizer="entropy", gradient="none").value
    start = f(h, torch.full_like(y, 0.5)) - LABELS * torch.log(torch.tensor(2.0))
    assert ((value - best) < 0.05 * (start - best)).all()


@pytest.mark.parametrize("name", WAYS)
def test_every_way_learns(name: str) -> None:
    x, y = sample()
    model = Labeller(x, y, NET, WAYS[name], iterations=5)
    before = (model(x) - y).abs().mean()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(15):
        optimizer.zero_grad()
        model.loss(x, y).backward()
        optimizer.step()
    assert (model(x) - y).abs().mean() < 0.8 * before


def test_the_energy_whose_convexity_is_given_up_is_not_convex() -> None:
    assert icnn.falsify(tagger(convex=False).double(), torch.randn(50, WIDTH).double()) is not None


def test_the_mean_of_energies_is_convex_and_has_the_mean_for_its_value() -> None:
    members = [(Features(INPUTS, 1.0, WIDTH, 0.0), tagger()) for _ in range(3)]
    f, x, y = Committee(members).double(), torch.randn(4, INPUTS).double(), torch.rand(4, LABELS).double()
    torch.testing.assert_close(f(x, y), sum(one(features(x), y) for features, one in members) / 3)
    assert icnn.falsify(f, x, samples=64, steps=10) is None


def test_without_coupling_the_mean_of_energies_predicts_by_the_mean_of_logits() -> None:
    x, y = sample()
    members = [Labeller(x, y, NET, Way(coupling=False), iterations=5) for _ in range(2)]
    logits = [member.f.logits(member.features(x)) for member in members]
    torch.testing.assert_close(
        Jury(members, iterations=5)(x), ((logits[0] + logits[1]) / 2).sigmoid(), check_dtype=False
    )


def test_the_feed_forward_net_learns() -> None:
    x, y = sample()
    net = FeedForward(INPUTS, LABELS)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    first = net.loss(x, y).item()
    for _ in range(20):
        optimizer.zero_grad()
        net.loss(x, y).backward()
        optimizer.step()
    assert net.loss(x, y).item() < 0.5 * first


def test_gaps_fall_with_the_budget_and_are_never_negative() -> None:
    found = gaps(tagger(), torch.randn(20, WIDTH), {"bundle": "bundle", "descent": "gradient"})
    for points in found.values():
        assert all(0 < point["median"] <= point["worst"] for point in points)
        assert points[-1]["worst"] < points[0]["worst"]
        assert points[-1]["evaluations"] >= points[0]["evaluations"]


def test_a_short_run_leaves_its_record_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multilabel, "SHOWN", 10)
    arguments = ["--quick", "--out", str(tmp_path), "--rows", BUNDLES, UNROLLED, "--width", "50"]
    assert main(arguments) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    rows = record["metrics"]["rows"]
    assert set(rows) == {BUNDLES, UNROLLED}
    assert all(0 <= run["threshold 0.5"]["example-F1"] <= 1 for runs in rows.values() for run in runs)
    assert {"gaps.png", "validation-expected-F1.png", "results.md"} <= {file.name for file in tmp_path.iterdir()}
    first = (tmp_path / "results.md").read_text()
    assert main(arguments) == 0
    again = json.loads((tmp_path / "record.json").read_text())
    assert first
    assert again["metrics"]["rows"][BUNDLES][0]["expected F1"] == rows[BUNDLES][0]["expected F1"]


def test_rows_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--rows is .*ICMN.*: expected one or more of"):
        Config(rows=("ICMN",))


def test_a_search_leaves_its_trials_and_is_followed(tmp_path: Path) -> None:
    arguments = ["--quick", "--out", str(tmp_path), "--rows", "feed-forward net", "--search", "2"]
    assert main(arguments) == 0
    kept = json.loads((tmp_path / "search" / "feed-forward-net" / "search.json").read_text())
    best = min(kept["trials"], key=lambda trial: trial["loss"])
    record = json.loads((tmp_path / "record.json").read_text())
    assert len(kept["trials"]) == 2
    assert record["data"]["searched"] == {"feed-forward net": best["settings"]}
    assert record["metrics"]["rows"]["feed-forward net"][0]["epochs"] == best["settings"]["epochs"]
