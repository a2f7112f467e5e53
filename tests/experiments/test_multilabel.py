"""Every way to learn an energy of label sets learns; the energy is convex where it says so; a short run continues."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import icnn
from experiments._gaps import gaps
from experiments._labellers import WAYS, FeedForward, Labeller, Way, descended, weighted_squares
from experiments._tagger import Tagger
from experiments.multilabel import BUNDLES, UNROLLED, main

INPUTS, LABELS = 12, 4


def tagger(**options) -> Tagger:
    frequencies = torch.linspace(0.1, 0.6, LABELS)
    settings: dict[str, Any] = dict(width=30, units=6, dropout=0.0) | options
    return Tagger(INPUTS, frequencies, 1.0, **settings)


def sample(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.nn.functional.normalize(torch.randn(n, INPUTS).relu(), dim=-1)
    y = (x @ torch.randn(INPUTS, LABELS) > 0).float()
    y[:, 1] = y[:, 0] * (1 - y[:, 2])
    return x, y


@pytest.mark.parametrize("coupling", [True, False])
def test_the_energy_is_convex_in_the_labels(coupling: bool) -> None:
    f = tagger(coupling=coupling).double()
    assert icnn.falsify(f, torch.randn(5, INPUTS).double(), samples=64, steps=10) is None


def test_without_coupling_the_argmin_is_a_sigmoid() -> None:
    f = tagger(coupling=False).double()
    x = sample()[0].double()
    h = torch.relu(f.features(f.contrast * x))
    y = icnn.argmin(f, x, regularizer="entropy", gradient="none").y
    torch.testing.assert_close(y, f.logits(h).sigmoid(), rtol=0, atol=1e-9)


def test_one_seed_starts_the_features_alike_with_and_without_coupling() -> None:
    torch.manual_seed(3)
    with_it = tagger()
    torch.manual_seed(3)
    without = tagger(coupling=False)
    assert torch.equal(with_it.features.weight, without.features.weight)
    assert torch.equal(with_it.logits.weight, without.logits.weight)


def test_descent_in_logits_comes_to_the_minimum_of_a_convex_energy() -> None:
    f, x = tagger(), sample()[0]
    y = descended(f.given(x), (len(x), LABELS), create_graph=False).detach()
    value = f(x, y) - torch.distributions.Bernoulli(y).entropy().sum(-1)
    best = icnn.argmin(f, x, regularizer="entropy", gradient="none").value
    start = f(x, torch.full_like(y, 0.5)) - LABELS * torch.log(torch.tensor(2.0))
    assert ((value - best) < 0.01 * (start - best)).all()


@pytest.mark.parametrize("name", WAYS)
def test_every_way_learns(name: str) -> None:
    way = WAYS[name]
    x, y = sample()
    model = Labeller(tagger(coupling=way.coupling, convex=way.convex), way, iterations=5)
    before = weighted_squares(way.positive, model(x), y).mean()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(x, y).backward()
        optimizer.step()
    assert weighted_squares(way.positive, model(x), y).mean() < 0.5 * before


def test_the_energy_whose_convexity_is_given_up_is_not_convex_in_general() -> None:
    f = tagger(convex=False).double()
    with torch.no_grad():
        f.layers[-1].path.weight.neg_()  # pyright: ignore
    assert icnn.falsify(f, torch.randn(50, INPUTS).double()) is not None


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
    model = Labeller(tagger(), Way(), 5)
    found = gaps(model.f, sample()[0], {"bundle": "bundle", "descent": "gradient"})
    for points in found.values():
        assert all(0 < point["median"] <= point["worst"] for point in points)
        assert points[-1]["worst"] < points[0]["worst"]
        assert points[-1]["evaluations"] >= points[0]["evaluations"]


def test_a_short_run_leaves_its_record_and_continues(tmp_path: Path) -> None:
    arguments = ["--quick", "--out", str(tmp_path), "--rows", BUNDLES, UNROLLED, "--width", "50"]
    assert main(arguments) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    rows = record["metrics"]["rows"]
    assert set(rows) == {BUNDLES, UNROLLED}
    assert all(0 <= run["threshold 0.5"]["example-F1"] <= 1 for runs in rows.values() for run in runs)
    assert {"gaps.png", "validation.png", "results.md"} <= {file.name for file in tmp_path.iterdir()}
    first = (tmp_path / "results.md").read_text()
    assert main(arguments) == 0
    again = json.loads((tmp_path / "record.json").read_text())
    assert first
    assert again["metrics"]["rows"][BUNDLES][0]["expected F1"] == rows[BUNDLES][0]["expected F1"]
