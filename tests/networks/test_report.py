"""The report counts what is dead and sees collapse, for networks with x and without."""

import pytest
import torch

from icnn.networks import FICNN, DifferenceOfConvex, report
from icnn.networks.activations import ACTIVATIONS
from icnn.networks.network import ConvexNetwork

from .test_network import build, every_architecture, point


@every_architecture
def test_one_row_for_each_hidden_layer(name: str) -> None:
    f = build(name)
    context = () if f.x_shape is None else (point(f.x_shape, 20),)
    found = report(f, *context, y := point(f.y_shape, 20))
    assert len(found.layers) == len(f.layers) - 1
    value = f(*context, y).detach()
    assert found.sd == pytest.approx(float(value.std()))
    assert found.mean == pytest.approx(float(value.mean()))
    assert len(str(found).splitlines()) == len(f.layers) + 1


def test_features_are_those_of_the_formula() -> None:
    f, y = FICNN(3, (6,)).double(), point((3,), 30)
    z = torch.relu(f.layers[0].skip(y)).detach()  # pyright: ignore
    (layer,) = report(f, y).layers
    assert layer.units == 6
    assert layer.sd == pytest.approx(float(z.std(0).mean()))
    pairs = [torch.cosine_similarity(z[i], z[j], dim=0) for i in range(30) for j in range(30) if i != j]
    assert layer.cosine == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-9)


def test_dead_units_are_counted() -> None:
    f = FICNN(3, (6, 5))
    with torch.no_grad():
        f.layers[0].skip.bias[:2] = -1e3  # pyright: ignore
    first, second = report(f, torch.randn(50, 3)).layers
    assert first.dead == 2
    assert second.dead == 0


def test_collapse_is_seen() -> None:
    f, y = FICNN(16, (64,) * 6), torch.randn(200, 16)
    fresh = report(f, y).layers[-1]
    with torch.no_grad():
        for layer in f.layers[1:]:
            layer.path.raw.copy_(torch.rand_like(layer.path.raw) / 8)  # pyright: ignore
            layer.skip.bias.zero_()  # pyright: ignore
    last = report(f, y).layers[-1]
    assert fresh.cosine < 0.5
    assert last.cosine > 0.99
    assert last.sd > 10 * fresh.sd


class Opaque(ConvexNetwork):
    def __init__(self) -> None:
        super().__init__(None, (3,), ACTIVATIONS["relu"])

    def given(self, x=None):
        return lambda y: y.sum(-1)


def test_what_cannot_be_reported_is_refused() -> None:
    with pytest.raises(TypeError, match="Opaque has an energy of its own"):
        report(Opaque(), torch.rand(4, 3))
    with pytest.raises(ValueError, match=r"y has shape \(1, 3\), expected two or more inputs"):
        report(FICNN(3), torch.rand(1, 3))
    assert not hasattr(DifferenceOfConvex(FICNN(3), FICNN(3)), "layers")
