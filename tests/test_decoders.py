"""Decoders: the best set against all sets and the quadratic-time recursion, its F against samples and scikit-learn."""

from fractions import Fraction
from itertools import product
from math import inf

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, fbeta_score

from icnn import decoders

BETAS = (0.5, 1.0, 2.0, 2**0.5)


def f_score(s: np.ndarray, y: np.ndarray, beta: float, zero_division: float) -> float:
    size = s.sum() + beta**2 * y.sum()
    return (1 + beta**2) * (s @ y) / size if size else zero_division


def by_enumeration(p: np.ndarray, s: np.ndarray, beta: float, zero_division: float) -> float:
    """E F(s, y) over all y."""
    everything = [np.array(y) for y in product((0, 1), repeat=len(p))]
    return sum(np.where(y, p, 1 - p).prod() * f_score(s, y, beta, zero_division) for y in everything)


def quadratic_time(p: list[Fraction], beta_squared: int = 1) -> list[Fraction]:
    """E F of the k most probable labels, k = 1, ..., L, in rational numbers: algorithm 1 of Ye et al. (2012)."""
    p, L = sorted(p, reverse=True), len(p)
    hits = [[Fraction(1)]]  # hits[k][i]: probability of i labels among the first k
    for q in p:
        padded = [Fraction(0), *hits[-1], Fraction(0)]
        hits.append([(1 - q) * padded[i + 1] + q * padded[i] for i in range(len(hits[-1]) + 1)])
    inverse = {i: Fraction(1, i) for i in range(1, (1 + beta_squared) * L + 1)}  # E 1 / (i + β² number of the rest)
    scores = []
    for k in range(L, 0, -1):
        terms = (i * hits[k][i] * inverse[k + beta_squared * i] for i in range(1, k + 1))
        scores.append((1 + beta_squared) * sum(terms, Fraction(0)))
        q = p[k - 1]
        reach = (1 + beta_squared) * (k - 1)
        inverse = {i: q * inverse[i + beta_squared] + (1 - q) * inverse[i] for i in range(1, reach + 1)}
    return scores[::-1]


def rows(L: int) -> np.ndarray:
    """Probabilities: random ones, ties, zeros and ones, near certainty."""
    rng = np.random.default_rng(L)
    tied = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], (3, L))
    return np.concatenate((rng.random((3, L)), rng.random((2, L)) ** 6, tied, np.full((1, L), 0.3), np.zeros((1, L))))


@pytest.mark.parametrize("zero_division", [0.0, 1.0])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("L", [1, 2, 4])
def test_the_set_is_the_best_of_all_sets(L: int, beta: float, zero_division: float) -> None:
    p = rows(L)
    found = decoders.expected_f1(torch.from_numpy(p), beta, zero_division)
    for row, labels, value in zip(p, found.labels.numpy().astype(int), found.value.tolist(), strict=True):
        sets = [np.array(s) for s in product((0, 1), repeat=L)]
        best = max(by_enumeration(row, s, beta, zero_division) for s in sets)
        assert value == pytest.approx(best, rel=1e-13, abs=1e-15)
        assert by_enumeration(row, labels, beta, zero_division) == pytest.approx(best, rel=1e-13, abs=1e-15)


def test_the_set_is_the_best_of_all_sets_of_eight_labels() -> None:
    p = rows(8)
    y = np.array(list(product((0, 1), repeat=8)))
    f = 2 * (y @ y.T) / np.maximum(y.sum(1)[:, None] + y.sum(1), 1)
    expected = np.where(y, p[:, None], 1 - p[:, None]).prod(-1) @ f
    np.testing.assert_allclose(decoders.expected_f1(torch.from_numpy(p)).value, expected.max(1), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("beta_squared", [1, 4])
def test_the_value_is_that_of_the_quadratic_time_algorithm(beta_squared: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.integers(0, 2**10 + 1, 30) ** 3 / 2.0**30
    expected = quadratic_time([Fraction(q) for q in p], beta_squared)
    found = decoders.expected_f1(torch.from_numpy(p), beta_squared**0.5)
    assert found.value.item() == pytest.approx(float(max(expected)), rel=1e-13)
    assert int(found.labels.sum()) == 1 + expected.index(max(expected))


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("L", [1, 159, 100_000])
def test_the_exponential_sum_is_the_reciprocal(L: int, beta: float) -> None:
    least, most = 1 + beta**2, (1 + beta**2) * L
    c = torch.logspace(np.log10(least), np.log10(most), 200, dtype=torch.float64)
    found = sum(weight * torch.exp(-c * node) for node, weight in decoders._exponential_sum(least, most))
    torch.testing.assert_close(found, 1 / c, rtol=1e-14, atol=0)


def test_many_labels_do_not_cancel() -> None:
    L, q = 2000, 1e-3
    p = torch.full((L,), q, dtype=torch.float64)
    p[0] = 1.0  # F of {0}: 2 / (2 + m), m binomial
    m = torch.arange(L, dtype=torch.float64)
    binomial = torch.distributions.Binomial(L - 1, torch.tensor(q, dtype=torch.float64)).log_prob(m).exp()
    found = decoders.expected_f1(p)
    assert found.labels.nonzero().tolist() == [[0]]
    assert found.value.item() == pytest.approx((binomial * 2 / (2 + m)).sum().item(), rel=1e-11)
    certain = torch.rand(3, L).round()
    assert torch.equal(decoders.expected_f1(certain).labels, certain.bool())
    torch.testing.assert_close(decoders.expected_f1(certain).value, torch.ones(3), rtol=0, atol=1e-6)


def test_the_value_is_the_mean_f1_of_samples() -> None:
    p = torch.rand(20, dtype=torch.float64) ** 3
    found = decoders.expected_f1(p, zero_division=1.0)
    y = torch.bernoulli(p.expand(40_000, -1)).bool().numpy()
    s = found.labels.expand(40_000, -1).numpy()
    assert found.value.item() == pytest.approx(f1_score(y, s, average="samples", zero_division=1.0), abs=0.005)  # pyright: ignore


def test_equal_sets_and_equal_labels_are_told_apart_alike() -> None:
    assert decoders.expected_f1(torch.tensor([1.0, 0.5])).labels.tolist() == [True, False]  # F = 5/6 for both sets
    assert decoders.expected_f1(torch.tensor([0.2, 0.9, 0.9])).labels.tolist() == [False, True, True]
    assert not decoders.expected_f1(torch.zeros(4)).labels.any()
    assert decoders.top_k(torch.tensor([0.5, 0.7, 0.5, 0.5]), 2).tolist() == [True, True, False, False]


def test_an_empty_set_needs_a_reward() -> None:
    p = torch.full((2, 3), 0.05)
    assert decoders.expected_f1(p).labels.any(-1).all()
    empty = decoders.expected_f1(p, zero_division=1.0)
    assert not empty.labels.any()
    torch.testing.assert_close(empty.value, torch.full((2,), 0.95**3))


def test_a_larger_beta_takes_no_smaller_set() -> None:
    p = torch.rand(50, 12, dtype=torch.float64)
    sizes = torch.stack([decoders.expected_f1(p, beta).labels.sum(-1) for beta in (0.3, 1.0, 2.0, 5.0)])
    assert (sizes.diff(dim=0) >= 0).all()
    assert (sizes.diff(dim=0) > 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_batches(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    p = torch.rand(*batch, 7, dtype=dtype)
    found = decoders.expected_f1(p)
    assert found.labels.shape == p.shape
    assert found.value.shape == batch
    assert found.value.dtype == dtype
    assert decoders.threshold(p).shape == decoders.top_k(p, 2).shape == p.shape
    for i in np.ndindex(batch):
        alone = decoders.expected_f1(p[i])
        assert torch.equal(alone.labels, found.labels[i])
        assert torch.equal(alone.value, found.value[i])


def test_a_level_for_each_label() -> None:
    p = torch.tensor([[0.2, 0.5], [0.6, 0.6]])
    assert decoders.threshold(p).tolist() == [[False, True], [True, True]]
    assert decoders.threshold(p, torch.tensor([0.1, 0.55])).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("zero_division", [0.0, 1.0])
@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_the_best_threshold_is_the_best_of_all_levels(beta: float, zero_division: float) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        p = torch.from_numpy(rng.integers(0, 9, (6, 4)) / 8.0)
        labels = torch.from_numpy(rng.random((6, 4)) < 0.3)

        def score(level: float) -> float:
            predicted = decoders.threshold(p, level).numpy()  # noqa: B023
            return float(fbeta_score(labels, predicted, beta=beta, average="samples", zero_division=zero_division))  # noqa: B023 # pyright: ignore

        best = max(score(level) for level in [*p.unique().tolist(), inf])
        assert score(decoders.best_threshold(p, labels, beta, zero_division)) == pytest.approx(best, rel=1e-12)


def test_the_best_threshold_lies_in_the_middle() -> None:
    p, labels = torch.tensor([[0.9, 0.4, 0.1]]), torch.tensor([[True, True, False]])
    assert decoders.best_threshold(p, labels) == 0.25
    assert decoders.best_threshold(p, torch.zeros_like(labels), zero_division=1.0) == inf
    next_to_it = torch.nextafter(torch.tensor(0.4), torch.tensor(0.0))
    close = torch.stack((p[0, 0], p[0, 1], next_to_it)).unsqueeze(0)
    assert decoders.threshold(close, decoders.best_threshold(close, labels)).tolist() == labels.tolist()


def test_the_door() -> None:
    p = torch.full((2, 3), 0.5)
    for bad in (-0.1, 1.1, torch.nan):
        with pytest.raises(ValueError, match="expected probabilities in"):
            decoders.expected_f1(torch.tensor([0.5, bad]))
    with pytest.raises(ValueError, match=r"p has shape \(2, 0\)"):
        decoders.expected_f1(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="k is 4, expected 0 <= k <= 3"):
        decoders.top_k(p, 4)
    with pytest.raises(ValueError, match="beta is 0"):
        decoders.expected_f1(p, beta=0.0)
    with pytest.raises(ValueError, match="zero_division is 2"):
        decoders.expected_f1(p, zero_division=2.0)


def test_labels_of_another_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # the door itself, not the annotation, refuses
    with pytest.raises(ValueError, match=r"labels has shape \(2, 2\), expected that of p, \(2, 3\)"):
        decoders.best_threshold(torch.full((2, 3), 0.5), torch.zeros(2, 2, dtype=torch.bool))
