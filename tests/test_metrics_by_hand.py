"""Precision and accuracy of repeated measurements: cases that a reader can work out by hand."""

import math

import numpy as np
import pytest
from metric_cases import example, plain

from qctrun.runtime.measuring.metrics import AccuracyError, metrics
from qctrun.runtime.measuring.precision import chi_square_interval


def test_two_repetitions_of_three_points_by_hand() -> None:
    """Means 2 3 4, each with variance 2; the truth is these means."""
    found = metrics([[1, 2, 3], [3, 4, 5]], [2, 3, 4], resamples=0)
    assert (found.points, found.repetitions, found.clusters, found.dropped) == (3, 2, 3, 0)
    assert plain(found) == pytest.approx(
        {
            "mean": 3,
            "sd": 1,
            "rms_sd": math.sqrt(2),
            "rms_cv_percent": 100 * math.sqrt((2 / 4 + 2 / 9 + 2 / 16) / 3),
            "lsc": 2.77 * math.sqrt(2),
            "degrees_of_freedom": 3,
            "icc_2_1": 1 / 3,  # rows 2, columns 6, rest 0: 2 / (2 + 2 x 6 / 3)
            "mean_truth": 3,
            "sd_truth": 1,
            "d_avg": 0,
            "limit_low": -1.96,  # variance 0 of the means and (1 - 1/2) x 2 within
            "limit_high": 1.96,
            "rmse": 1,
            "ae_paper": math.sqrt(2),
            "ae_unbiased": 1,
            "pe": math.sqrt(2),
            "psnr_paper": 20 * math.log(3),
            "psnr_db": 20 * math.log10(3),
            "adj_r2_percent": 40,  # covariance 2/3, variances 5/3 and 2/3
            "slope": 1,
            "intercept": 0,
        }
    )
    assert found.ae_paper == AccuracyError(pytest.approx(math.sqrt(2)), True)
    assert found.ae_unbiased == AccuracyError(pytest.approx(1), True)


def test_a_constant_offset_is_all_accuracy_and_no_precision() -> None:
    found = metrics([[12, 13, 17]] * 3, [10, 11, 15], resamples=0)
    assert (found.rms_sd, found.lsc, found.pe, found.icc_2_1) == (0, 0, 0, 1)
    assert (found.d_avg, found.rmse, found.limit_low, found.limit_high) == (2, 2, 2, 2)
    assert found.ae_paper == found.ae_unbiased == AccuracyError(2, False)
    assert (found.slope, found.intercept, found.adj_r2_percent) == pytest.approx((1, 2, 100))


def test_perfect_measurements_have_no_error_and_an_undefined_psnr() -> None:
    found = metrics([[1, 2, 4]] * 2, [1, 2, 4], resamples=0)
    assert found.ae_paper == AccuracyError(0, False)
    assert (found.rmse, found.psnr_paper, found.psnr_db) == (0, None, None)


def test_the_published_intraclass_correlation_of_shrout_and_fleiss() -> None:
    """Psychological Bulletin 86 (1979), Table 2: six targets, four judges, ICC(2,1) = 0.29."""
    targets = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert metrics(np.transpose(targets)).icc_2_1 == pytest.approx(0.29, abs=0.005)


def test_root_mean_square_and_not_the_mean_of_standard_deviations() -> None:
    found = metrics([[100, 100], [100, 106]], resamples=0)
    assert found.rms_sd == pytest.approx(3)  # SDs 0 and sqrt(18), whose mean would be 2.12
    assert found.lsc == pytest.approx(8.31)


def test_the_chi_square_interval_is_that_of_the_printed_tables() -> None:
    """Chi-square of 10 degrees of freedom: 20.483 above and 3.247 below."""
    assert chi_square_interval(2, 10) == pytest.approx(
        (2 * (10 / 20.483) ** 0.5, 2 * (10 / 3.247) ** 0.5), rel=1e-4
    )


def test_the_intervals_of_the_least_significant_change_are_those_of_the_precision() -> None:
    found = metrics(example(0)[0], seed=1)
    assert found.rms_sd_chi2 is not None
    assert found.lsc_chi2 == pytest.approx([2.77 * end for end in found.rms_sd_chi2])
    assert found.intervals["lsc"] == pytest.approx([2.77 * end for end in found.intervals["rms_sd"]])


def test_what_is_given_leaves_nothing_when_it_is_the_truth_or_the_value() -> None:
    x, y, _ = example(0)
    assert metrics(x, y, given=y, resamples=0).partial_r2_percent is None
    assert metrics(x, y, given=2 * x + 3, resamples=0).partial_r2_percent is None
    constant = metrics(x, y, given=np.ones_like(y), resamples=0)
    assert constant.partial_r2_percent is None


def test_what_the_value_knows_beyond_the_given_is_found_by_residuals() -> None:
    x, y, b = example(1)
    every_y, every_b = np.broadcast_to(y, x.shape).ravel(), b.ravel()
    left = [v - np.polyval(np.polyfit(every_b, v, 1), every_b) for v in (x.ravel(), every_y)]
    want = 100 * np.corrcoef(*left)[0, 1] ** 2
    assert metrics(x, y, given=b, resamples=0).partial_r2_percent == pytest.approx(want)
