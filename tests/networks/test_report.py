"""The report counts what is dead and sees collapse, for networks with x and without."""

import pytest
import torch

from icnn.networks import FICNN, POSITIVITY, DifferenceOfConvex, MaxAffine, NonNegative, Signed, project_, report
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
        f.layers[0].skip.bias.zero_()[:2] = -1e3  # pyright: ignore
    first, second = report(f, torch.randn(50, 3)).layers
    assert first.dead == 2
    assert second.dead == 0


@pytest.mark.parametrize("positivity", POSITIVITY)
@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-3])
def test_dead_weights_are_those_that_do_nothing_and_cannot_leave(positivity: str, size: float) -> None:
    """Under "abs" and "project" a small weight moves as freely as a large one; at zero it does not."""
    f, y = FICNN(3, (6, 5), positivity=positivity).double(), point((3,), 20)
    assert [layer.dead_weights for layer in report(f, y).layers] == [None, 0.0]
    path = f.layers[1].path
    assert isinstance(path, NonNegative)
    with torch.no_grad():
        path.raw[0, :3] = path.positivity.raw(torch.full((3,), size * path.scale, dtype=torch.float64), path.scale)
    dead = size == 0 or (size == 1e-8 and positivity in ("square", "softplus", "exp"))
    found = report(f, y)
    assert found.layers[1].dead_weights == pytest.approx(3 / 30 if dead else 0)
    assert found.dead_weights == 0
    assert ("10.0%" in str(found)) == dead


@pytest.mark.parametrize("positivity", ["square", "softplus", "exp"])
def test_an_optimiser_does_not_move_dead_weights(positivity: str) -> None:
    f, y = FICNN(3, (6,), positivity=positivity).double(), point((3,), 50)
    path = f.layers[1].path
    assert isinstance(path, NonNegative)
    with torch.no_grad():
        path.raw[0, 0] = path.positivity.raw(torch.tensor(1e-9 * path.scale).double(), path.scale)
    before, optimiser = path.weight.detach().clone(), torch.optim.SGD(f.parameters(), 1e-3)
    assert report(f, y).dead_weights == pytest.approx(1 / 6)
    for _ in range(20):
        optimiser.zero_grad()
        (f(y) - y.square().sum(-1)).square().mean().backward()
        optimiser.step()
    change = (path.weight - before).abs().detach()[0]
    assert change[0] < 1e-3 * change[1:].max()
    assert report(f, y).dead_weights == pytest.approx(1 / 6)


def test_projection_kills_weights() -> None:
    f, y = FICNN(3, (6, 5), positivity="project"), torch.randn(20, 3)
    path = f.layers[2].path
    assert isinstance(path, NonNegative)
    with torch.no_grad():
        path.raw[0, :2] = -1.0
    assert report(f, y).dead_weights == pytest.approx(2 / 5)
    assert report(project_(f), y).dead_weights == pytest.approx(2 / 5)


def test_only_weights_that_must_keep_a_sign_are_counted() -> None:
    f, y = FICNN(3, (4,), positivity="square", monotone=(1, 0, -1)), torch.randn(20, 3)
    skip = f.layers[0].skip
    assert isinstance(skip, Signed)
    with torch.no_grad():
        skip.raw[:] = 0.0
    (layer,) = report(f, y).layers
    assert layer.dead_weights == 1.0
    with torch.no_grad():
        skip.raw[:, 2] = 1.0
    assert report(f, y).layers[0].dead_weights == 0.5
    assert report(MaxAffine(3), y).dead_weights is None


def test_the_quadratic_term_counts_with_f() -> None:
    f, y = FICNN(3, (4,), quadratic=1, positivity="project"), torch.randn(20, 3)
    assert f.quadratic is not None
    assert f.quadratic.diagonal is not None
    with torch.no_grad():
        f.quadratic.diagonal.raw.zero_()
    assert report(f, y).dead_weights == pytest.approx(3 / 7)


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
