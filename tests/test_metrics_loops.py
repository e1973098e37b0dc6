"""Every statistic and interval by another way: loops over the definitions, clusters laid side by side."""

import math

import numpy as np
import pytest
from metric_cases import Doubles, example, plain

from qctrun.runtime.measuring import sums
from qctrun.runtime.measuring.metrics import STATISTICS, metrics


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
