"""The targets of the convex regression are convex and not affine, and their data are what the docstring says."""

import pytest
import torch

from benchmarks._convex_targets import HALF_WIDTH, NOISE, TARGETS, Draw, regression


@pytest.mark.parametrize("d", [5, 20])
@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_convex_and_curved(name: str, d: int) -> None:
    f = TARGETS[name](Draw(d, seed=3))
    a, b = (HALF_WIDTH * (2 * torch.rand(2000, d) - 1) for _ in range(2))
    depth = (f(a) + f(b)) / 2 - f((a + b) / 2)
    assert (depth >= -1e-4 * f(a).abs().max()).all()
    assert depth.mean() > 0.01 * f(a).std()


def test_data_are_standardised_and_the_same_for_the_same_seed() -> None:
    one, again, other = (regression("2-norm", 5, seed, 4000, 1000) for seed in (0, 0, 1))
    assert one.observations.mean().item() == pytest.approx(0, abs=0.01)
    assert one.observations.var().item() == pytest.approx(1 + NOISE**2, abs=0.02)
    assert one.inputs.var().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(one.test_values, again.test_values)
    assert not torch.equal(one.test_values, other.test_values)
