"""Results of the study, there and back through JSON."""

import json
import math

import numpy as np
import pytest
import study_results

from qctrun.runtime.measuring.metrics import STATISTICS, AccuracyError, Metrics, metrics
from qctrun.train.study.results import QUANTITIES, SPLITS, UNITS, Result, chosen, result_of


def measured(noise=30.0, repetitions=3, **options):
    """Real statistics of forty points in four vertebrae; very noisy ones have a bound for their AE."""
    rng = np.random.default_rng(0)
    truth = rng.normal(300, 30, 40)
    values = truth + 5 + rng.normal(0, noise, (repetitions, 40))
    clusters = np.repeat(list("abcd"), 10)
    return metrics(values, truth, clusters=clusters, given=values - 60, resamples=50, **options)


CASES = {
    "a value for AE": measured(noise=3.0),
    "a bound for AE": measured(noise=300.0),
    "one repetition": measured(repetitions=1),
    "nothing but counts": Metrics(0, 3, 0, 7),
    "no truth": metrics(np.random.default_rng(1).normal(100, 5, (3, 12)), resamples=20),
}


def there_and_back(result):
    return result_of(json.loads(json.dumps(result.as_json())))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("threshold", [None, 225.0])
def test_json_there_and_back(name, threshold):
    """All is as before, types too: intervals are pairs, an accuracy error knows that it is a bound."""
    before = Result("positions", 2, "NNSP", 100.0, "TMD", threshold, CASES[name])
    after = there_and_back(before)
    assert after == before
    assert type(after.metrics) is Metrics
    for statistic in ("ae_paper", "ae_unbiased"):
        assert type(getattr(after.metrics, statistic)) is type(getattr(before.metrics, statistic))
    assert after.metrics.warnings == before.metrics.warnings
    assert after.metrics.lsc_chi2 == before.metrics.lsc_chi2


def test_the_cases_are_what_they_say():
    """Both kinds of accuracy error, a missing one, and intervals were really there and back."""
    bounds = [case.ae_paper.is_bound if case.ae_paper else None for case in CASES.values()]
    assert bounds == [False, True, None, None, None]
    assert CASES["a value for AE"].intervals
    assert CASES["a value for AE"].rms_sd_chi2
    assert CASES["nothing but counts"].rms_sd_chi2 is None


def test_every_statistic_survives():
    """None is dropped on the way, whatever fields the statistics have."""
    plain = {
        name: float(number) for number, name in enumerate(STATISTICS, start=1) if not name.startswith("ae_")
    }
    found = Metrics(
        400,
        3,
        5,
        1,
        **plain,
        ae_paper=AccuracyError(1.5, is_bound=True),
        ae_unbiased=AccuracyError(2.5, is_bound=False),
        rms_sd_chi2=(0.5, 2.0),
        intervals={"rmse": (1.0, 3.0), "partial_r2_percent": (10.0, 20.0)},
    )
    before = Result("vertebrae", 5, "BMD line", 360.0, "BV/TV", 125.0, found)
    after = there_and_back(before)
    for name in STATISTICS:
        assert getattr(after.metrics, name) == getattr(before.metrics, name), name
    assert after == before


def test_what_a_later_version_adds_is_passed_over():
    saved = Result("positions", 1, "raw", 100.0, "BMD", None, CASES["one repetition"]).as_json()
    saved["metrics"]["a_new_statistic"] = 3.0
    assert result_of(saved).metrics == CASES["one repetition"]


def test_not_a_number_survives():
    """JSON has no NaN of its own; Python's writes and reads it."""
    before = study_results.result("raw", 100.0, "TMD", rmse=math.nan)
    assert math.isnan(there_and_back(before).metrics.rmse)


def test_chosen():
    results = study_results.paper_results()
    assert chosen(results) == results
    some = chosen(results, filter="NNSP", mas=100.0)
    assert [one.quantity for one in some] == list(QUANTITIES)
    assert {(one.filter, one.mas) for one in some} == {("NNSP", 100.0)}
    assert chosen(results, threshold_mg_cm3=None) == [
        one for one in results if one.quantity in ("voxel", "BMD")
    ]
    assert chosen(results, fold=2) == []
    with pytest.raises(AttributeError):
        chosen(results, tube=100.0)


def test_what_is_known_of_quantities_and_splits():
    assert QUANTITIES == tuple(UNITS) == ("voxel", "BMD", "TMD", "BV/TV")
    assert UNITS["BV/TV"] == "%"
    assert tuple(SPLITS) == ("positions", "vertebrae", "donors")
