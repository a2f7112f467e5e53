"""The data are what they say, the nets are the flows they say, and a short run leaves what it promises."""

import json
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from experiments._planar import DATA_SETS, Labelled
from experiments.optimal_control import NETS, Net, accuracy, clouds, main, split, table, trials_table

every = pytest.mark.parametrize("name", DATA_SETS)


def simplex_point(h: Tensor, total: float) -> Tensor:
    """The nearest point of {h ≥ 0, Σ h = total}, by sorting."""
    falling = h.sort(descending=True).values
    excess = (falling.cumsum(0) - total) / torch.arange(1, len(h) + 1)
    return (h - excess[(falling > excess).sum() - 1]).clamp(min=0)


@every
def test_data_repeat_by_seed_and_are_in_halves(name: str) -> None:
    first, other = split(name, (100, 50), seed=3)
    again, _ = split(name, (100, 50), seed=3)
    changed, _ = split(name, (100, 50), seed=4)
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.points, changed.points)
    assert not torch.isin(first.points[:, 0], other.points[:, 0]).any(), "no point is in two parts"
    assert first.classes.mean() == 0.5
    assert first.points.dtype == torch.float64


@every
def test_no_line_separates_the_classes(name: str) -> None:
    points, classes = DATA_SETS[name](2000, Generator().manual_seed(0))
    features = torch.cat((points, torch.ones(2000, 1).double()), 1)
    fitted = features @ torch.linalg.lstsq(features, classes.unsqueeze(1)).solution
    assert ((fitted[:, 0] > 0.5) == (classes > 0.5)).double().mean() < 0.75


def test_classes_are_those_of_the_shapes() -> None:
    generator = Generator().manual_seed(0)
    for name in ("donut1d", "donut2d"):
        points, classes = DATA_SETS[name](1000, generator)
        radius = points.norm(dim=1)
        assert torch.equal(classes, (radius > 0.5).double())
        assert not ((radius > 0.4) & (radius < 0.6)).any()
    points, classes = DATA_SETS["squares"](1000, generator)
    assert torch.equal(classes, (points.prod(1) > 0).double())
    points, classes = DATA_SETS["spiral"](1000, generator)
    along = (points.norm(dim=1) - 0.1) / 0.9
    turned = torch.atan2(points[:, 1], points[:, 0]) / torch.pi - 3 * along
    assert torch.equal(classes, torch.cos(torch.pi * turned).lt(0).double())


@pytest.mark.parametrize("kind", NETS)
def test_gradients_are_those_of_autograd_through_the_loop(kind: str) -> None:
    net, points = Net(kind, zeros=1, layers=4, horizon=2.0), torch.randn(7, 2).double()
    y = torch.nn.functional.pad(points, (0, 1))
    for W, b, h in zip(net.weight, net.bias, net.step, strict=True):
        y = y + h * torch.tanh(y @ W.mT + b)
    byhand = torch.sigmoid(y @ net.w + net.mu)
    parameters = list(net.parameters())
    assert len(parameters) == (4 if kind == "ResNet" else 5)
    torch.testing.assert_close(net(points), byhand)
    ours, theirs = (torch.autograd.grad(values.square().sum(), parameters) for values in (net(points), byhand))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_projection_is_onto_the_simplex_and_of_that_net_alone() -> None:
    given = torch.tensor([0.9, -0.3, 0.4, 1.6, 0.0]).double()
    for kind in NETS:
        net = Net(kind, zeros=0, layers=5, horizon=2.0)
        net.step.data.copy_(given)
        net.project()
        expected = simplex_point(given, 2.0) if kind == "ODENet + simplex" else given
        torch.testing.assert_close(net.step.detach(), expected, rtol=0, atol=1e-8)


def test_the_score_counts_points() -> None:
    net = Net("ResNet", zeros=0, layers=1, horizon=1e-9)
    net.w.data.copy_(torch.tensor([1.0, 0.0]))
    points = torch.tensor([[-1.0, 5.0], [2.0, 5.0], [3.0, -5.0], [4.0, 0.0]]).double()
    data = Labelled(points, torch.tensor([0.0, 1.0, 1.0, 0.0]).double())
    assert accuracy(net, data) == 75


@pytest.mark.parametrize(("name", "zeros"), [("donut1d", 0), ("donut1d", 1), ("spiral", 0), ("spiral", 1)])
def test_pictures_show_the_classes_that_the_net_gives(name: str, zeros: int) -> None:
    (data,) = split(name, (100,), seed=0)
    net = Net("ODENet", zeros, layers=8, horizon=4.0)
    found = clouds(net, data, layers=8)
    assert list(found) == ["input", "after 2 of 8 steps", "after 4 of 8 steps", "after 8 of 8 steps"]
    for panel in ("input", "after 8 of 8 steps"):
        probability = found[panel].probability
        assert probability is not None
        torch.testing.assert_close(probability(found[panel].points), net(data.points))


def test_the_tables() -> None:
    trials = [{"zeros": 0, "horizon": 2.0, "accuracy": 50.0}, {"zeros": 1, "horizon": 2.0, "accuracy": 99.0}]
    found = {"zeros": 1, "horizon": 2.0, "accuracy": [99.0, 98.0, 96.0], "trials": trials}
    metrics = {"donut1d": {"ResNet": found}}
    assert "| donut1d, ResNet | 1 | 2 | 99.0 | 97.7 | 96.0 |" in table(metrics)
    assert "| donut1d, ResNet | 50.0 | 99.0 |" in trials_table(metrics)


def test_a_short_run_leaves_its_record_and_continues(tmp_path: Path) -> None:
    small = ["--quick", "--out", str(tmp_path)]
    assert main(small) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["name", "config", "seed", "versions", "data", "metrics", "seconds"]
    assert list(record["metrics"]) == list(DATA_SETS)
    for name, of in record["metrics"].items():
        assert list(of) == list(NETS)
        assert (tmp_path / f"{name}.png").exists()
        for found in of.values():
            assert 40 < found["accuracy"][0] <= 100
        assert of["ResNet"]["steps"] == [[0.5] * 6]
        assert sum(of["ODENet + simplex"]["steps"][0]) == pytest.approx(3)
        assert min(of["ODENet + simplex"]["steps"][0]) > -1e-8
    assert record["metrics"]["donut1d"]["ODENet"]["accuracy"][0] > 90
    (tmp_path / "record.json").unlink()
    assert main(small) == 0
    assert json.loads((tmp_path / "record.json").read_text())["metrics"] == record["metrics"]
    assert main([*small, "--seed", "1"]) == 1, "another run does not take this folder"
