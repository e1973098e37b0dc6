"""Laws that hold for all repeated measurements."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import example, plain

from qctrun.runtime.measuring.metrics import metrics

bounded = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
LINEAR = ("sd", "rms_sd", "lsc", "sd_truth", "d_avg", "limit_low", "limit_high", "rmse", "pe")
FREE = ("rms_cv_percent", "icc_2_1", "psnr_paper", "psnr_db", "adj_r2_percent", "slope", "partial_r2_percent")


@bounded
@given(seeds, st.floats(-500, 500))
def test_a_shift_of_values_and_truth_moves_only_the_means(seed: int, shift: float) -> None:
    x, y, b = example(seed)
    found = plain(metrics(x + shift, y + shift, given=b, resamples=0))
    want = plain(metrics(x, y, given=b, resamples=0))
    moved = {"mean", "mean_truth", "intercept", "rms_cv_percent", "ae_paper", "ae_unbiased"}
    for name in set(want) - moved:
        assert found[name] == pytest.approx(want[name], rel=1e-7, abs=1e-7), name
    assert found["mean"] == pytest.approx(want["mean"] + shift)
    assert found["ae_paper"] ** 2 == pytest.approx(want["ae_paper"] ** 2, rel=1e-7, abs=1e-6)


@bounded
@given(seeds, st.floats(0.01, 100))
def test_a_change_of_unit_scales_what_has_a_unit(seed: int, scale: float) -> None:
    x, y, b = example(seed)
    found = plain(metrics(scale * x, scale * y, given=b, resamples=0))
    want = plain(metrics(x, y, given=b, resamples=0))
    for name in LINEAR:
        assert found[name] == pytest.approx(scale * want[name], rel=1e-7), name
    for name in set(FREE) & set(want):
        assert found[name] == pytest.approx(want[name], rel=1e-7), name


@bounded
@given(seeds)
def test_neither_the_order_of_points_nor_of_repetitions_matters(seed: int) -> None:
    x, y, b = example(seed)
    random = np.random.default_rng(seed)
    points, repetitions = random.permutation(40), random.permutation(3)
    want = plain(metrics(x, y, given=b, resamples=0))
    shuffled = metrics(x[repetitions][:, points], y[points], given=b[repetitions][:, points], resamples=0)
    assert plain(shuffled) == pytest.approx(want, rel=1e-8, abs=1e-8)


@bounded
@given(seeds, st.integers(2, 6))
def test_squared_errors_add_up(seed: int, repetitions: int) -> None:
    """RMSE^2 = AE^2 + Var for the unbiased AE, Eq. 15 follows from RMSE and PE; bounds where that is negative."""
    x, y, _ = example(seed, 200, repetitions)
    found = metrics(x, y, resamples=0)
    assert found.pe and found.sd and found.sd_truth and found.rms_sd and found.rmse
    assert found.ae_paper and found.ae_unbiased
    n = repetitions
    noise = (found.pe * found.sd / found.sd_truth) ** 2
    assert noise == pytest.approx(found.rms_sd**2)
    brackets = (found.rmse**2 - noise, found.rmse**2 - ((n - 1) / n + 1 / (n - 1)) * noise)
    bounds = (found.rms_sd / np.sqrt(n), found.pe / np.sqrt(n - 1))
    for error, bracket, bound in zip((found.ae_unbiased, found.ae_paper), brackets, bounds, strict=True):
        assert error.is_bound == (bracket < 0)
        assert error.value == pytest.approx(bound if error.is_bound else np.sqrt(bracket), rel=1e-6)


@bounded
@given(seeds, st.floats(0.2, 5))
def test_the_rescaled_precision_does_not_see_a_filter_that_shrinks_everything(
    seed: int, factor: float
) -> None:
    x, y, _ = example(seed)
    shrunk, whole = (metrics(values, y, resamples=0) for values in (factor * x, x))
    assert shrunk.pe == pytest.approx(whole.pe)
    assert whole.rms_sd is not None
    assert shrunk.rms_sd == pytest.approx(factor * whole.rms_sd)
