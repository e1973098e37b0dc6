"""Precision and accuracy of repeated measurements: cases by hand, loops as oracle, properties, simulations."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.measuring import sums
from qctrun.runtime.measuring.metrics import STATISTICS, AccuracyError, Metrics, metrics
from qctrun.runtime.measuring.precision import chi_square_interval

Doubles = npt.NDArray[np.float64]

LINEAR = ("sd", "rms_sd", "lsc", "sd_truth", "d_avg", "limit_low", "limit_high", "rmse", "pe")
FREE = ("rms_cv_percent", "icc_2_1", "psnr_paper", "psnr_db", "adj_r2_percent", "slope", "partial_r2_percent")


def example(seed: int, points: int = 40, repetitions: int = 3) -> tuple[Doubles, Doubles, Doubles]:
    """Plausible BMD values (repetition, point), their truth, and something known beside."""
    random = np.random.default_rng(seed)
    y = random.normal(115, 30, points)
    fixed = 3 + 0.95 * y + random.normal(0, 6, points)
    x = fixed + random.normal(0, 2, (repetitions, 1)) + random.normal(0, 5, (repetitions, points))
    return x, y, y + random.normal(0, 20, (repetitions, points))


def plain(found: Metrics) -> dict[str, float]:
    """The statistics that have a value; accuracy errors without their flags."""
    values = {name: getattr(found, name) for name in STATISTICS}
    return {name: getattr(value, "value", value) for name, value in values.items() if value is not None}


def looped(x: Doubles, y: Doubles, b: Doubles) -> dict[str, float]:
    """Every statistic once more, as its definition reads, without a single array operation."""
    k, n = x.shape
    reps, points = range(k), range(n)

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    def variance(values: list[float]) -> float:
        centre = mean(values)
        return math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)

    def pearson(one: list[float], other: list[float]) -> float:
        a, c = mean(one), mean(other)
        cov = math.fsum((i - a) * (j - c) for i, j in zip(one, other, strict=True))
        return cov / math.sqrt(math.fsum((i - a) ** 2 for i in one) * math.fsum((j - c) ** 2 for j in other))

    point_mean = [mean([x[r, p] for r in reps]) for p in points]
    point_var = [variance([x[r, p] for r in reps]) for p in points]
    every_x = [x[r, p] for r in reps for p in points]
    every_y = [y[p] for _ in reps for p in points]
    every_b = [b[r, p] for r in reps for p in points]
    differences = [x[r, p] - y[p] for r in reps for p in points]
    within = mean(point_var)
    sd = math.sqrt(mean([variance([x[r, p] for p in points]) for r in reps]))
    sd_truth, rmse = math.sqrt(variance(list(y))), math.sqrt(mean([d**2 for d in differences]))
    mse_of_means = mean([(point_mean[p] - y[p]) ** 2 for p in points])
    limit = 1.96 * math.sqrt(variance([point_mean[p] - y[p] for p in points]) + (1 - 1 / k) * within)
    xy, xb, yb = pearson(every_x, every_y), pearson(every_x, every_b), pearson(every_y, every_b)
    slope = xy * math.sqrt(variance(every_x) / variance(every_y))

    grand = mean(every_x)
    column = [mean([x[r, p] for p in points]) for r in reps]
    rows_ms = k * math.fsum((value - grand) ** 2 for value in point_mean) / (n - 1)
    columns_ms = n * math.fsum((value - grand) ** 2 for value in column) / (k - 1)
    rest = [(x[r, p] - point_mean[p] - column[r] + grand) ** 2 for r in reps for p in points]
    rest_ms = math.fsum(rest) / ((n - 1) * (k - 1))
    return {
        "mean": grand,
        "sd": sd,
        "rms_sd": math.sqrt(within),
        "rms_cv_percent": 100 * math.sqrt(mean([point_var[p] / point_mean[p] ** 2 for p in points])),
        "lsc": 2.77 * math.sqrt(within),
        "degrees_of_freedom": n * (k - 1),
        "icc_2_1": (rows_ms - rest_ms) / (rows_ms + (k - 1) * rest_ms + k * (columns_ms - rest_ms) / n),
        "mean_truth": mean(list(y)),
        "sd_truth": sd_truth,
        "d_avg": mean(differences),
        "limit_low": mean(differences) - limit,
        "limit_high": mean(differences) + limit,
        "rmse": rmse,
        "ae_paper": math.sqrt(mse_of_means - within / (k - 1)),
        "ae_unbiased": math.sqrt(mse_of_means - within / k),
        "pe": math.sqrt(within * sd_truth**2 / sd**2),
        "psnr_paper": 20 * (math.log(3 * sd_truth) - math.log(rmse)),
        "psnr_db": 20 * (math.log10(3 * sd_truth) - math.log10(rmse)),
        "adj_r2_percent": 100 * xy**2,
        "slope": slope,
        "intercept": grand - slope * mean(list(y)),
        "partial_r2_percent": 100 * (xy - xb * yb) ** 2 / ((1 - xb**2) * (1 - yb**2)),
    }


# Cases that a reader can work out by hand


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


# Undefined, missing, refused


def test_values_that_do_not_vary_have_no_correlation() -> None:
    found = metrics(np.full((3, 5), 0.1), np.full(5, 0.3), resamples=0)
    assert (found.sd, found.rms_sd, found.sd_truth) == (0, 0, 0)
    undefined = ("icc_2_1", "pe", "psnr_paper", "adj_r2_percent", "slope", "intercept")
    assert [getattr(found, name) for name in undefined] == [None] * len(undefined)


def test_a_coefficient_of_variation_needs_means_above_zero() -> None:
    assert metrics([[-1, 5], [1, 6]], resamples=0).rms_cv_percent is None


def test_one_data_point_has_a_precision_and_no_spread() -> None:
    found = metrics([[10], [12]], [11])
    assert found.rms_sd == pytest.approx(math.sqrt(2))
    assert (found.sd, found.icc_2_1, found.pe, found.limit_low) == (None, None, None, None)
    assert not found.intervals


def test_one_repetition_has_accuracy_but_no_precision() -> None:
    x, y, _ = example(0)
    found = metrics(x[:1], y)
    assert found.rmse == pytest.approx(float(np.sqrt(np.mean((x[0] - y) ** 2))))
    undefined = (
        "rms_sd",
        "lsc",
        "degrees_of_freedom",
        "icc_2_1",
        "pe",
        "ae_paper",
        "ae_unbiased",
        "rms_sd_chi2",
    )
    assert [getattr(found, name) for name in undefined] == [None] * len(undefined)
    assert "one repetition" in found.warnings[0]
    with pytest.raises(InputError, match="got one and no truth"):
        metrics(x[:1])


@pytest.mark.parametrize("where", ["x", "y", "given"])
def test_a_point_with_a_missing_value_is_left_out_and_counted(where: str) -> None:
    x, y, b = example(2)
    {"x": x, "y": y, "given": b}[where][..., 7] = np.nan
    found = metrics(x, y, given=b, clusters=np.arange(40) % 4)
    without = (np.delete(array, 7, axis=-1) for array in (x, y, b, np.arange(40) % 4))
    kept_x, kept_y, kept_b, kept_clusters = without
    want = metrics(kept_x, kept_y, given=kept_b, clusters=kept_clusters)
    assert (found.points, found.dropped) == (39, 1)
    assert plain(found) == plain(want)
    assert found.intervals == want.intervals
    assert found.warnings[0] == "1 of 40 data points left out: values missing"


def test_nothing_complete_is_nothing_known() -> None:
    found = metrics([[1, np.nan], [np.nan, 2]])
    assert (found.points, found.dropped, found.clusters) == (0, 2, 0)
    assert plain(found) == {}


def test_an_interval_is_not_given_to_a_bound() -> None:
    random = np.random.default_rng(0)
    y = random.normal(0, 10, 1000)
    found = metrics(y + random.normal(0, 30, (3, 1000)), y)
    assert found.ae_paper is not None
    assert found.ae_paper.is_bound
    assert found.ae_paper.value == pytest.approx(found.pe / math.sqrt(2))  # type: ignore[operator]
    assert "ae_paper" not in found.intervals


def test_few_clusters_and_few_degrees_of_freedom_are_told() -> None:
    x, _, _ = example(3)
    told = metrics(x, clusters=np.arange(40) % 5).warnings
    assert any("10 degrees of freedom" in words for words in told)
    assert any("over 5 clusters" in words for words in told)
    assert metrics(x).warnings == ()


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ({"x": [1, 2]}, InputError, "x: wanted an array (repetition, data point)"),
        ({"x": np.empty((2, 0))}, InputError, "x: wanted an array"),
        ({"x": [[1, 2], [3]]}, InputError, "x: wanted an array of numbers"),
        ({"x": [["a"], ["b"]]}, InputError, "x: wanted an array of numbers"),
        ({"x": [[1, math.inf], [1, 1]]}, InputError, "x: wanted finite numbers, NaN where missing"),
        ({"x": [[1, 2], [3, 4]], "y": [1, 2, 3]}, InputError, "y: wanted the truth of 2 data points"),
        ({"x": [[1, 2], [3, 4]], "clusters": [1]}, InputError, "clusters: wanted a label of 2 data points"),
        (
            {"x": [[1, 2], [3, 4]], "y": [1, 2], "given": [1]},
            InputError,
            "given: wanted shape (2, 2) or (2,)",
        ),
        ({"x": [[1, 2], [3, 4]], "given": [1, 2]}, UsageError, "wanted a truth beside given"),
        ({"x": [[1, 2], [3, 4]], "resamples": -1}, UsageError, "wanted 0 or more resamples"),
    ],
)
def test_what_makes_no_sense_is_refused(call: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        metrics(**call)
    assert words in str(caught.value)


# Another way to the same numbers


@pytest.mark.parametrize("repetitions", [2, 3, 5])
def test_every_statistic_is_what_a_loop_over_its_definition_gives(repetitions: int) -> None:
    x, y, b = example(repetitions, repetitions=repetitions)
    found = metrics(x, y, given=b, resamples=0)
    assert plain(found) == pytest.approx(looped(x, y, b), rel=1e-9)
    assert set(plain(found)) == set(STATISTICS)


def test_points_are_summed_in_blocks_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, b = example(4)
    want = metrics(x, y, given=b, clusters=np.arange(40) % 7)
    monkeypatch.setattr(sums, "_BLOCK", 11)
    found = metrics(x, y, given=b, clusters=np.arange(40) % 7)
    assert plain(found) == pytest.approx(plain(want), rel=1e-12)
    assert found.intervals["rmse"] == pytest.approx(want.intervals["rmse"], rel=1e-12)


@pytest.mark.parametrize("drawn_at_once", [1, 1 << 22])
def test_the_bootstrap_is_that_of_clusters_laid_side_by_side(
    monkeypatch: pytest.MonkeyPatch, drawn_at_once: int
) -> None:
    monkeypatch.setattr("qctrun.runtime.measuring.precision._DRAWN_AT_ONCE", drawn_at_once)
    x, y, b = example(5)
    cluster = np.arange(40) % 6
    draws = []
    for chosen in np.random.default_rng(9).integers(6, size=(200, 6)):
        points = np.concatenate([np.flatnonzero(cluster == number) for number in chosen])
        draws.append(plain(metrics(x[:, points], y[points], given=b[:, points], resamples=0)))
    found = metrics(x, y, given=b, clusters=cluster, resamples=200, seed=9).intervals
    for name in set(STATISTICS) - {"degrees_of_freedom"}:
        want = np.percentile([draw[name] for draw in draws], [2.5, 97.5])
        assert found[name] == pytest.approx(want, rel=1e-9), name


def test_the_seed_makes_the_intervals() -> None:
    x, y, _ = example(6)
    first, again, other = (metrics(x, y, seed=seed).intervals for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_labels_of_clusters_may_be_words() -> None:
    x, _, _ = example(7)
    numbers = np.arange(40) % 4
    words = np.array(["L1", "L2", "L3", "L4"])[numbers]
    assert metrics(x, clusters=words) == metrics(x, clusters=numbers)


# Properties


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-500, 500))
def test_a_shift_of_values_and_truth_moves_only_the_means(seed: int, shift: float) -> None:
    x, y, b = example(seed)
    found = plain(metrics(x + shift, y + shift, given=b, resamples=0))
    want = plain(metrics(x, y, given=b, resamples=0))
    moved = {"mean", "mean_truth", "intercept", "rms_cv_percent", "ae_paper", "ae_unbiased"}
    for name in set(want) - moved:
        assert found[name] == pytest.approx(want[name], rel=1e-7, abs=1e-7), name
    assert found["mean"] == pytest.approx(want["mean"] + shift)
    assert found["ae_paper"] ** 2 == pytest.approx(want["ae_paper"] ** 2, rel=1e-7, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_a_change_of_unit_scales_what_has_a_unit(seed: int, scale: float) -> None:
    x, y, b = example(seed)
    found = plain(metrics(scale * x, scale * y, given=b, resamples=0))
    want = plain(metrics(x, y, given=b, resamples=0))
    for name in LINEAR:
        assert found[name] == pytest.approx(scale * want[name], rel=1e-7), name
    for name in set(FREE) & set(want):
        assert found[name] == pytest.approx(want[name], rel=1e-7), name


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_neither_the_order_of_points_nor_of_repetitions_matters(seed: int) -> None:
    x, y, b = example(seed)
    random = np.random.default_rng(seed)
    points, repetitions = random.permutation(40), random.permutation(3)
    want = plain(metrics(x, y, given=b, resamples=0))
    shuffled = metrics(x[repetitions][:, points], y[points], given=b[repetitions][:, points], resamples=0)
    assert plain(shuffled) == pytest.approx(want, rel=1e-8, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_squared_errors_add_up(seed: int, repetitions: int) -> None:
    """RMSE^2 = AE^2 + Var for the unbiased AE, and Eq. 15 follows from RMSE and PE."""
    x, y, _ = example(seed, 200, repetitions)
    found = plain(metrics(x, y, resamples=0))
    n = repetitions
    noise = (found["pe"] * found["sd"] / found["sd_truth"]) ** 2
    assert noise == pytest.approx(found["rms_sd"] ** 2)
    assert found["rmse"] ** 2 == pytest.approx(found["ae_unbiased"] ** 2 + noise)
    assert found["ae_paper"] ** 2 == pytest.approx(found["rmse"] ** 2 - ((n - 1) / n + 1 / (n - 1)) * noise)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5))
def test_the_rescaled_precision_does_not_see_a_filter_that_shrinks_everything(
    seed: int, factor: float
) -> None:
    x, y, _ = example(seed)
    shrunk, whole = (metrics(values, y, resamples=0) for values in (factor * x, x))
    assert shrunk.pe == pytest.approx(whole.pe)
    assert whole.rms_sd is not None
    assert shrunk.rms_sd == pytest.approx(factor * whole.rms_sd)


# Simulations with known answers


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
