"""The known maps are optimal transports, the score sees what is wrong, and a short run leaves what it promises."""

import json
from pathlib import Path

import pytest
import torch
from torch import Generator

from experiments._measures import Pair, best_linear, gaussians, mixture, moment_map, unexplained
from experiments.transport import Scale, main

PAIRS = {"gaussians": gaussians, "mixture": mixture}


def samples(pair: Pair, count: int = 50_000) -> tuple[torch.Tensor, torch.Tensor]:
    return pair.source(count, Generator().manual_seed(1)), pair.target(count, Generator().manual_seed(2))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("d", [2, 5])
def test_the_map_carries_one_to_the_other(name: str, d: int) -> None:
    pair = PAIRS[name](d, 0)
    x, y = samples(pair)
    image = pair.transport(x)
    torch.testing.assert_close(image.mean(0), y.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(image.mT), torch.cov(y.mT), rtol=0, atol=0.1)


@pytest.mark.parametrize("name", PAIRS)
def test_the_map_is_the_gradient_of_a_convex_function(name: str) -> None:
    pair = PAIRS[name](3, 0)
    x, _ = samples(pair, 20)
    jacobian = torch.vmap(torch.func.jacrev(lambda point: pair.transport(point[None])[0]))(x)
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=1e-5)
    assert torch.linalg.eigvalsh(jacobian).min() > -1e-5


def test_the_score_and_its_yardsticks() -> None:
    pair = mixture(3, 0)
    x, y = samples(pair)
    true = pair.transport(x)
    assert unexplained(true, true) == 0
    assert unexplained(true.mean(0).expand_as(true), true) == pytest.approx(100, rel=1e-3)
    linear, moments = unexplained(best_linear(x, true), true), unexplained(moment_map(x, x, y), true)
    assert 1 < linear <= moments < 50
    straight = gaussians(3, 0)
    x, y = samples(straight)
    assert unexplained(best_linear(x, straight.transport(x)), straight.transport(x)) < 1e-6
    assert unexplained(moment_map(x, x, y), straight.transport(x)) < 0.1


def test_a_scale_is_undone() -> None:
    x, _ = samples(mixture(3, 0), 500)
    scale = Scale(x)
    assert scale(x).var(0).mean().item() == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(scale.back(scale(x)), x)


def test_a_short_run_learns_and_leaves_its_record(tmp_path: Path) -> None:
    small = ["--quick", "--out", str(tmp_path)]
    assert main(small) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["name", "config", "seed", "versions", "data", "metrics", "seconds"]
    for name, found in record["metrics"].items():
        assert found["icnn"][0] < 30, name
    assert "| mixture | 2 |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "mixture-seed0.png").exists()
    assert main([*small, "--seed", "1"]) == 1, "another run does not take this folder"
