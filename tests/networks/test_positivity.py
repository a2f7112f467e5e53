"""The maps keep weights non-negative, start alike, and an unprojected network says so."""

import pytest
import torch

from icnn.networks import FICNN, POSITIVITY, project_
from icnn.networks.positivity import NonNegative


def constrained(f: torch.nn.Module) -> list[NonNegative]:
    return [part for part in f.modules() if isinstance(part, NonNegative)]


@pytest.mark.parametrize("name", POSITIVITY)
def test_inverse_undoes_the_map(name: str) -> None:
    weight = torch.logspace(-6, 2, 50, dtype=torch.float64)
    positivity = POSITIVITY[name]
    torch.testing.assert_close(positivity.forward(positivity.inverse(weight, 0.1), 0.1), weight, rtol=1e-7, atol=0)


def test_all_maps_start_as_the_same_function() -> None:
    y, values = torch.rand(20, 5), []
    for name in POSITIVITY:
        torch.manual_seed(3)
        values.append(FICNN(5, (8, 8), positivity=name)(y))
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])


@pytest.mark.parametrize("name", ["abs", "softplus"])
def test_maps_are_nonnegative_for_every_raw_weight(name: str) -> None:
    f = FICNN(4, (6, 6), positivity=name)
    with torch.no_grad():
        for part in constrained(f):
            part.raw.normal_(std=30)
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
    with pytest.raises(ValueError, match="positivity 'exp' is unknown; known are project, abs, softplus"):
        FICNN(4, positivity="exp")
