"""Statistics that are undefined, values that are missing, and calls that are refused."""

import math
from typing import Any

import numpy as np
import pytest
from metric_cases import example, plain

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.measuring.metrics import metrics


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
