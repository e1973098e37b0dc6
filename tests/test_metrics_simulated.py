"""Simulated measurements with known answers."""

import math

import numpy as np
import pytest
from metric_cases import plain

from qctrun.runtime.measuring.metrics import metrics


def test_known_components_of_variance_are_recovered() -> None:
    """Spread 30, noise 5, a lasting error of 6 about a bias of 1.5."""
    random = np.random.default_rng(11)
    y = random.normal(100, 30, 200_000)
    fixed = y + 1.5 + random.normal(0, 6, y.size)
    found = plain(metrics(fixed + random.normal(0, 5, (3, y.size)), y, resamples=0))
    assert found["rms_sd"] == pytest.approx(5, rel=0.01)
    assert found["icc_2_1"] == pytest.approx(936 / (936 + 25), rel=0.002)
    assert found["d_avg"] == pytest.approx(1.5, abs=0.05)
    assert found["ae_unbiased"] == pytest.approx(math.hypot(1.5, 6), rel=0.01)
    assert found["ae_paper"] == pytest.approx(math.sqrt(1.5**2 + 36 - 25 / 6), rel=0.01)  # subtracts too much
    assert found["limit_high"] - found["limit_low"] == pytest.approx(2 * 1.96 * math.sqrt(36 + 25), rel=0.01)


def test_a_shift_between_repetitions_counts_as_imprecision_and_lowers_agreement() -> None:
    """Repetitions at -2, 0 and 2, of variance 4."""
    random = np.random.default_rng(11)
    fixed = random.normal(100, 30, 200_000)
    x = fixed + np.array([[-2.0], [0.0], [2.0]]) + random.normal(0, 5, (3, fixed.size))
    found = plain(metrics(x, resamples=0))
    assert found["rms_sd"] == pytest.approx(math.sqrt(25 + 4), rel=0.01)
    assert found["icc_2_1"] == pytest.approx(900 / (900 + 25 + 4), rel=0.002)


def test_the_chi_square_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(12)
    held = 0
    for _ in range(1000):
        x = random.normal(100, 20, 14) + random.normal(0, 4, (3, 14))
        found = metrics(x, resamples=0).rms_sd_chi2
        assert found is not None
        held += found[0] <= 4 <= found[1]
    assert 0.93 <= held / 1000 <= 0.97


def test_the_bootstrap_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Thirty vertebrae with an error of their own, ten patches in each."""
    random = np.random.default_rng(13)
    cluster = np.repeat(np.arange(30), 10)
    held, alone = 0, 0
    for seed in range(200):
        y = random.normal(100, 20, 300)
        x = y + 2 + random.normal(0, 5, 30)[cluster] + random.normal(0, 3, (3, 300))
        found = metrics(x, y, clusters=cluster, resamples=400, seed=seed).intervals["d_avg"]
        naive = metrics(x, y, resamples=400, seed=seed).intervals["d_avg"]
        held += found[0] <= 2 <= found[1]
        alone += naive[0] <= 2 <= naive[1]
    assert 0.88 <= held / 200 <= 0.99
    assert alone / 200 < 0.7  # patches of one vertebra are not independent
