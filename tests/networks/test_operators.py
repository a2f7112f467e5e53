"""Operators are linear, keep any batch dimensions, and do what the textbook operation does."""

import pytest
import torch
import torch.nn.functional as F

from icnn.networks.operators import Conv, Dense, Diagonal, Grouped, Subpixel, chain, skips

OPERATORS = [
    Dense((3,), (4,)),
    Dense((2, 3, 2), (4,)),
    Dense((4,), (2, 3, 2)),
    Conv((2, 5, 4), 3, 3),
    Conv((2, 7, 4), 3, 4, 2),
    Conv((1, 4, 3), 2, 8, 4),
    Conv((1, 5, 5), 2, 1, 3),  # sees every third pixel
    Conv((20, 5, 4), 3, 4, 2),
    Conv((2, 7), 3, 4, 2),
    Conv((20, 5), 3, 3),
    Subpixel((3, 2, 2), (2, 3, 4), 2),
    Subpixel((3, 3), (2, 5), 2),
    Diagonal((2, 3)),
    Grouped(Dense((3,), (6,)), 3),
    Grouped(Conv((2, 5, 4), 4, 3), 2),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
@pytest.mark.parametrize("batch", [(), (0,), (7,), (2, 3)])
def test_shapes_and_agreement_between_batch_and_single(operator, batch: tuple[int, ...]) -> None:
    weight = torch.randn(operator.weight_shape, dtype=torch.float64)
    value = torch.randn(*batch, *operator.inputs, dtype=torch.float64)
    image = operator(weight, value)
    assert image.shape == (*batch, *operator.outputs)
    singles = [operator(weight, one) for one in value.reshape(-1, *operator.inputs)]
    for got, expected in zip(image.reshape(-1, *operator.outputs), singles, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_linear_in_weight_and_value(operator) -> None:
    w, v = (torch.randn(2, *operator.weight_shape).double(), torch.randn(2, *operator.inputs).double())
    torch.testing.assert_close(operator(w[0], v[0] + 2 * v[1]), operator(w[0], v[0]) + 2 * operator(w[0], v[1]))
    torch.testing.assert_close(operator(w[0] + 2 * w[1], v[0]), operator(w[0], v[0]) + 2 * operator(w[1], v[0]))


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
def test_transpose_is_the_adjoint(operator, batch: tuple[int, ...]) -> None:
    weight = torch.randn(operator.weight_shape, dtype=torch.float64, requires_grad=True)
    value = torch.randn(*batch, *operator.inputs, dtype=torch.float64, requires_grad=True)
    image = torch.randn(*batch, *operator.outputs, dtype=torch.float64)
    (expected,) = torch.autograd.grad(operator(weight, value), value, image)
    back = operator.transpose(weight, image)
    assert operator.transpose(weight, image.new_zeros(0, *operator.outputs)).shape == (0, *operator.inputs)
    torch.testing.assert_close(back, expected, rtol=1e-12, atol=1e-12)
    forth = (operator(weight, value) * image).sum()
    slopes = [torch.autograd.grad(total, weight)[0] for total in ((back * value).sum(), forth)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


def test_odd_kernel_with_stride_one_is_torch_convolution() -> None:
    operator, value = Conv((2, 5, 4), 3, 3), torch.randn(6, 2, 5, 4)
    weight = torch.randn(operator.weight_shape)
    torch.testing.assert_close(operator(weight, value), F.conv2d(value, weight, padding=1))


def test_a_signal_is_torch_s_convolution_of_one_dimension() -> None:
    operator, value = Conv((2, 7), 3, 3), torch.randn(6, 2, 7)
    weight = torch.randn(operator.weight_shape)
    torch.testing.assert_close(operator(weight, value), F.conv1d(value, weight, padding=1))
    strided, weight = Conv((2, 8), 3, 4, 2), torch.randn(3, 2, 4)
    value = torch.randn(6, 2, 8)
    torch.testing.assert_close(strided(weight, value), F.conv1d(value, weight, padding=1, stride=2))


def test_groups_are_consecutive_channels() -> None:
    operator, value = Grouped(Dense((4,), (6,)), 3), torch.randn(5, 4)
    weight = torch.randn(operator.weight_shape)
    torch.testing.assert_close(operator(weight, value), (value @ weight.T).reshape(5, 2, 3))


def test_even_kernel_pads_more_below_and_right() -> None:
    operator, value = Conv((1, 2, 2), 1, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    torch.testing.assert_close(operator(torch.ones(1, 1, 2, 2), value), torch.tensor([[[10.0, 6.0], [7.0, 4.0]]]))


def test_subpixel_reaches_every_pixel_at_full_resolution() -> None:
    operator = Subpixel((2, 2, 2), (1, 4, 3), 2)
    weight = torch.randn(operator.weight_shape, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda v: operator(weight, v))(torch.randn(2, 2, 2).double()).reshape(12, 8)
    assert torch.linalg.matrix_rank(jacobian) == 8
    assert (jacobian != 0).any(1).all()


@pytest.mark.parametrize("shape", [(1, 64, 32), (1, 8, 4), (2, 7, 5)])
def test_skips_end_where_the_chain_does(shape: tuple[int, int, int]) -> None:
    convs = ((4, 8, 4), (3, 4, 2), (3, 3, 1))
    direct, stages = skips(shape, convs, (6, 1)), chain(shape, convs, (6, 1))
    assert [skip.outputs for skip in direct] == [stage.outputs for stage in stages]
    assert all(skip.inputs == shape for skip in direct)
