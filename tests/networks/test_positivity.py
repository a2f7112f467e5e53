"""The maps keep weights non-negative, start alike, and an unprojected network says so."""

import pytest
import torch

from icnn.networks import FICNN, POSITIVITY, Constrained, convert, project_

from .test_network import build, every_architecture, point


def constrained(f: torch.nn.Module) -> list[Constrained]:
    return [part for part in f.modules() if isinstance(part, Constrained)]


@pytest.mark.parametrize("name", POSITIVITY)
def test_inverse_undoes_the_map(name: str) -> None:
    weight = torch.logspace(-6, 2, 50, dtype=torch.float64)
    positivity = POSITIVITY[name]
    torch.testing.assert_close(positivity.forward(positivity.inverse(weight, 0.1), 0.1), weight, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", POSITIVITY)
def test_maps_have_a_slope_of_about_one_at_a_weight_of_the_size_of_the_scale(name: str) -> None:
    positivity, scale = POSITIVITY[name], 0.02
    raw = positivity.raw(torch.tensor(scale, dtype=torch.float64), scale).requires_grad_()
    (slope,) = torch.autograd.grad(positivity.forward(raw, scale), raw)
    assert 0.5 < slope < 2.001


def test_all_maps_start_as_the_same_function() -> None:
    y, values = torch.rand(20, 5), []
    for name in POSITIVITY:
        torch.manual_seed(3)
        values.append(FICNN(5, (8, 8), positivity=name)(y))
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])


@pytest.mark.parametrize("name", sorted(set(POSITIVITY) - {"project"}))
def test_maps_are_nonnegative_for_every_raw_weight(name: str) -> None:
    f = FICNN(4, (6, 6), positivity=name)
    with torch.no_grad():
        for part in constrained(f):
            part.raw.normal_(std=30 * part.scale)
    before = {key: value.clone() for key, value in f.state_dict().items()}
    assert f.is_convex()
    assert project_(f) is f
    assert all(torch.equal(value, before[key]) for key, value in f.state_dict().items())


def test_unprojected_network_is_reported_until_projection() -> None:
    f = FICNN(4, (6, 6), positivity="project")
    assert f.is_convex()
    free = f.layers[1].skip.weight.detach().clone()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    with torch.no_grad():
        constrained(f)[-1].raw[0, 2] = -1e-6
    f(torch.rand(3, 4))
    assert not f.is_convex(), "a forward pass must not project"
    assert project_(f).is_convex()
    assert torch.equal(f.layers[1].skip.weight, free)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def test_nan_is_not_convex() -> None:
    f = FICNN(4, (6,), positivity="abs")
    with torch.no_grad():
        constrained(f)[0].raw[0, 0] = torch.nan
    assert not f.is_convex()


def test_unknown_map_is_refused() -> None:
    with pytest.raises(ValueError, match="positivity 'relu' is unknown; known are project, abs, square, softplus, exp"):
        FICNN(4, positivity="relu")


@pytest.mark.parametrize("start", POSITIVITY)
@pytest.mark.parametrize("to", POSITIVITY)
@every_architecture
def test_conversion_keeps_the_function(name: str, start: str, to: str) -> None:
    f = build(name, positivity=start)
    with torch.no_grad():
        for part in constrained(f):
            part.raw.add_(part.scale * torch.randn_like(part.raw))  # far and near, and after projection zero
    other = convert(project_(f), to)
    context = () if f.x_shape is None else (point(f.x_shape, 50),)
    y = point(f.y_shape, 50)
    torch.testing.assert_close(other(*context, y), f(*context, y), rtol=1e-12, atol=1e-12)
    assert {part.positivity.name for part in constrained(other)} == {to}
    assert {part.positivity.name for part in constrained(f)} == {start}
    assert other.is_convex()
    assert other.activation == f.activation
    assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in f.parameters()}


@pytest.mark.parametrize("to", ["square", "softplus", "exp"])
def test_conversion_keeps_weights_of_any_size(to: str) -> None:
    f = FICNN(4, (6,), positivity="project").double()
    weight = constrained(f)[0].raw
    with torch.no_grad():
        weight.copy_(constrained(f)[0].scale * torch.logspace(-20, 4, 6, dtype=torch.float64))
    torch.testing.assert_close(constrained(convert(f, to))[0].weight, weight.detach(), rtol=1e-12, atol=1e-17)


def test_conversion_refuses_what_is_not_convex_and_unknown_maps() -> None:
    f = FICNN(4, (6,), positivity="project")
    with pytest.raises(ValueError, match="positivity 'relu' is unknown"):
        convert(f, "relu")
    with torch.no_grad():
        constrained(f)[0].raw[0, 0] = -1
    with pytest.raises(ValueError, match=r"negative weights.*project_"):
        convert(f, "exp")
