"""The networks are convex in what they say, halving finds minimisers, and a short run leaves what it promises."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import icnn
from experiments._agreement import NONE, REGULARIZERS, agreement, minimiser, value
from experiments._joint import JointFICNN
from experiments.synthetic import DATA_SETS, LEARNERS, NETS, Classifier, accuracy, agreement_table, examples, main

every = pytest.mark.parametrize("name", DATA_SETS)


def plane(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)).double()


@every
def test_points_repeat_by_seed_and_have_both_classes(name: str) -> None:
    rows = examples(name, 300, seed=3)
    assert rows.shape == (300, 3)
    assert torch.equal(rows, examples(name, 300, seed=3))
    assert not torch.equal(rows, examples(name, 300, seed=4))
    assert 0.4 < rows[:100, 2].mean() < 0.6
    assert set(rows[:, 2].tolist()) == {0, 1}


def test_the_joint_network_is_the_ficnn_of_the_concatenation() -> None:
    torch.manual_seed(0)
    whole = icnn.FICNN(3, (7, 5)).double()
    torch.manual_seed(0)
    joint = JointFICNN(2, 1, (7, 5)).double()
    x, y = plane(20), torch.rand(20, 1).double()
    torch.testing.assert_close(joint(x, y), whole(torch.cat((x, y), -1)))
    slope = whole.given().tangent(torch.cat((x, y), -1)).slope[:, 2:]
    torch.testing.assert_close(joint.given(x).tangent(y).slope, slope)
    some = torch.tensor([3, 0, 11])
    torch.testing.assert_close(joint.given(x).at(some)(y[some]), joint(x, y)[some])


def test_the_joint_network_is_convex_in_point_and_label_together_and_the_picnn_is_not() -> None:
    def violation(net: str) -> float:
        torch.manual_seed(0)
        f = NETS[net]((20, 20)).double()
        (x, u), (y, v) = (plane(1000, 1), plane(1000, 2)), torch.rand(2, 1000, 1).double()
        return (f((x + u) / 2, (y + v) / 2) - (f(x, y) + f(u, v)) / 2).max().item()

    assert violation("FICNN") < 1e-12
    assert violation("PICNN") > 1e-3


def test_what_a_jointly_convex_energy_predicts_may_be_convex_in_x_or_concave() -> None:
    """relu(|x| - y) + y/2 has its minimiser at |x|, relu(|x| + y - 1) - y/2 at 1 - |x|."""
    x = torch.linspace(-1, 1, 20).unsqueeze(1)
    for sign, offset, expected in ((-1.0, 0.0, x.abs()), (1.0, -1.0, 1 - x.abs())):
        f = JointFICNN(1, 1, (2, 1))
        weights = ([[1.0, 0.0], [-1.0, 0.0]], [[0.0, sign]], [[0.0, -sign / 2]])
        with torch.no_grad():
            layers: list[Any] = list(f.layers)
            for layer, weight, bias in zip(layers, weights, (0.0, offset, 0.0), strict=True):
                layer.skip.weight.copy_(torch.tensor(weight))
                layer.skip.bias.fill_(bias)
                if layer.path is not None:
                    layer.path.raw.fill_(1.0)
        found = icnn.argmin(f, x, method="exact", gradient="none").y
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_halving_finds_minimisers_that_are_known() -> None:
    f = icnn.PICNN(2, 1, (8,), coupling=False).double()  # affine in y
    x = plane(50)
    slope = f(x, torch.ones(50, 1).double()) - f(x, torch.zeros(50, 1).double())
    expected = {"entropy": torch.sigmoid(-slope), "quadratic": (0.5 - slope).clamp(0, 1)}
    for name, regularizer in REGULARIZERS.items():
        torch.testing.assert_close(minimiser(f, x, regularizer)[:, 0], expected[name], rtol=0, atol=1e-12)
    torch.testing.assert_close(minimiser(f, x, NONE)[:, 0], (slope < 0).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_the_regulariser_is_what_icnn_takes_it_for(name: str) -> None:
    torch.manual_seed(0)
    f, x = NETS["PICNN"]((10, 10)).double(), plane(30)
    found = icnn.argmin(f, x, regularizer=REGULARIZERS[name].given, method="bundle", gradient="none")
    torch.testing.assert_close(value(f, x, found.y, REGULARIZERS[name]), found.value)
    y = torch.rand(30, 1).double().requires_grad_()
    (slope,) = torch.autograd.grad(REGULARIZERS[name].value(y).sum(), y)
    torch.testing.assert_close(slope, REGULARIZERS[name].slope(y.detach()))


def test_agreement_tells_methods_that_arrived_from_one_that_did_not() -> None:
    torch.manual_seed(0)
    f, x = NETS["FICNN"]((10, 10)).double(), 3 * plane(40)
    found = agreement(f, x, {"exact": (7, 1), "bundle": (None, 30), "gradient": (None, 2)})
    errors = {(of["regularizer"], of["method"]): of["y"] for of in found}
    assert len(errors) == 5
    assert [of["points"] for of in found if of["method"] == "exact"] == [7]
    assert max(error for (_, method), error in errors.items() if method != "gradient") < 1e-5
    assert min(error for (_, method), error in errors.items() if method == "gradient") > 1e-3
    assert "| quadratic, exact | 14 | 14 | 1.0 | 1 |" in agreement_table(found + found)


@pytest.mark.parametrize("way", LEARNERS)
def test_every_way_of_learning_lowers_its_loss(way: str) -> None:
    torch.manual_seed(0)
    model = Classifier(LEARNERS[way], NETS["PICNN"]((20, 20)))
    x, y = examples("moons", 50, seed=0).split((2, 1), -1)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    history = []
    for _ in range(10):
        loss = model.loss(x, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]
    assert ((model(x) >= 0) & (model(x) <= 1)).all()


def test_the_score_counts_classes() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0]

    rows = torch.tensor([[0.9, 0.0, 1.0], [0.9, 0.0, 0.0], [0.1, 0.0, 0.0], [0.6, 0.0, 1.0]])
    assert accuracy(Half(), rows) == 75


def test_a_short_run_leaves_its_record(tmp_path: Path) -> None:
    sizes = ["--epochs", "1", "--test", "30", "--exact", "3", "--steps", "5"]
    small = ["--quick", "--sets", "moons", *sizes, "--out", str(tmp_path)]
    assert main(small) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["name", "config", "seed", "versions", "data", "metrics", "seconds"]
    metrics = record["metrics"]
    assert [(of["net"], of["way"]) for of in metrics["scores"]] == [(net, way) for net in NETS for way in LEARNERS]
    assert len(metrics["agreement"]) == 5 * len(NETS)
    assert len(metrics["steps"]) == len(NETS)
    assert all(0 <= of["test"][0] <= 100 for of in metrics["scores"])
    assert all(0 <= of["mean"][0] <= of["largest"][0] <= 1 for of in metrics["steps"])
    for regularizer in REGULARIZERS:
        assert f"| {regularizer}, bundle | 60 | 60 |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "surfaces.png").exists()
    assert main([*small, "--seed", "1"]) == 1, "another run does not take this folder"
