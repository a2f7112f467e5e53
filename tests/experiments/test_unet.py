import pytest
import torch

import icnn
from experiments._unet import UNet, UNetPICNN
from icnn.networks import NonNegative

SHAPE, CHANNELS = (1, 16, 8), (4, 6, 8, 8)


def small(coupling: bool = True) -> UNetPICNN:
    torch.manual_seed(5)
    return UNetPICNN(SHAPE, CHANNELS, dense=7, units=5, coupling=coupling)


def test_features_stand_at_strides_one_two_four() -> None:
    unet = UNet(SHAPE, CHANNELS, dense=7)
    shapes = [(4, 16, 8), (6, 8, 4), (8, 4, 2), (8, 2, 1)]
    assert unet.shapes == shapes
    assert [tuple(u.shape) for u in unet(torch.rand(3, *SHAPE))] == [(3, *shape) for shape in shapes]


def test_without_full_matrices_a_picture_may_have_any_size() -> None:
    unet = UNet(SHAPE, CHANNELS, dense=None)
    assert [tuple(u.shape) for u in unet(torch.rand(3, 1, 32, 24))] == [
        (3, 4, 32, 24),
        (3, 6, 16, 12),
        (3, 8, 8, 6),
        (3, 8, 4, 3),
    ]


def test_pictures_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 12, 8\) cannot be halved 3 times"):
        UNet((1, 12, 8), CHANNELS, dense=7)


def test_the_energy_is_convex_in_y_and_not_linear() -> None:
    network, x = small(), torch.rand(2, *SHAPE)
    assert network.is_convex()
    assert network.piecewise_linear
    assert icnn.falsify(network, x, samples=32) is None
    y1, y2 = torch.rand(2, 2, *SHAPE)
    assert (network(x, y1) + network(x, y2) > 2 * network(x, (y1 + y2) / 2) + 1e-6).all()


def test_a_negative_weight_is_noticed_and_projected() -> None:
    network = small()
    weight = next(part.raw for part in network.modules() if isinstance(part, NonNegative))
    torch.nn.init.constant_(weight, -1)
    assert not network.is_convex()
    assert icnn.project_(network).is_convex()


def test_without_coupling_the_energy_is_linear_in_y() -> None:
    network, x = small(coupling=False), torch.rand(2, *SHAPE)
    y1, y2 = torch.rand(2, 2, *SHAPE)
    torch.testing.assert_close(network(x, y1) + network(x, y2), 2 * network(x, (y1 + y2) / 2))


def test_one_seed_starts_what_both_nets_have_alike() -> None:
    coupled, uncoupled = small().state_dict(), small(coupling=False).state_dict()
    renamed = {name.replace("layers.0.direct.logits", "layers.2.direct.logits") for name in uncoupled}
    assert renamed < coupled.keys()
    for name, value in uncoupled.items():
        assert torch.equal(value, coupled[name.replace("layers.0.direct.logits", "layers.2.direct.logits")])


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_any_batch_and_extra_dimensions_of_y(batch: tuple[int, ...]) -> None:
    network, x, y = small(), torch.rand(*batch, *SHAPE), torch.rand(4, *batch, *SHAPE)
    values = network(x, y)
    assert values.shape == (4, *batch)
    torch.testing.assert_close(values[1], network(x, y[1]))


def test_x_is_needed_and_checked() -> None:
    with pytest.raises(ValueError, match="needs x"):
        small().given(None)
    with pytest.raises(ValueError, match=r"x has shape \(1, 8, 8\)"):
        small().given(torch.rand(1, 8, 8))
