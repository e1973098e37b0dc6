"""Precision and accuracy of repeated measurements: the paper's statistics and those of precision studies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.devices import parse_device
from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.measuring.precision import (
    LSC_FACTOR,
    Interval,
    chi_square_interval,
    cluster_bootstrap,
)
from qctrun.runtime.measuring.sums import Doubles, Repeats, Sums, cluster_sums, statistics

RESAMPLES = 2000
ENOUGH_DEGREES_OF_FREEDOM = 27
"""With fewer the true precision error may well be 30 % larger than the estimate (Glüer et al. 1995)."""
ENOUGH_CLUSTERS = 10
"""With fewer a bootstrap over clusters gives intervals that are too narrow."""

STATISTICS = {
    "mean": "Mean of all values.",
    "sd": "Standard deviation over the data points, mean variance of the repetitions under the root.",
    "rms_sd": "Precision error: root mean square of the data points' SD over repetitions (N - 1); not rescaled.",
    "rms_cv_percent": "The same of the coefficients of variation; undefined where a mean is not above 0.",
    "lsc": "Least significant change, 2.77 RMS-SD: two measurements that differ more have changed (95 %).",
    "degrees_of_freedom": "Clusters x (repetitions - 1): what the precision rests on.",
    "icc_2_1": "Intraclass correlation ICC(2,1): two-way random, absolute agreement, single measurement.",
    "mean_truth": "Mean of the truth.",
    "sd_truth": "Standard deviation of the truth over the data points (n - 1).",
    "d_avg": "Mean of value less truth: the bias of Bland and Altman, the paper's dAvg.",
    "limit_low": "Lower 95 % limit of agreement of a single value with its truth.",
    "limit_high": "Upper 95 % limit of agreement.",
    "rmse": "Root mean squared difference from the truth over all values.",
    "ae_paper": "Accuracy error of Eq. 15; a bound PE/sqrt(N - 1) where its bracket is negative.",
    "ae_unbiased": "The same less Var/N instead of Var/(N - 1); a bound RMS-SD/sqrt(N) where negative.",
    "pe": "Precision error of Eq. 14, rescaled to the truth's spread; never for the LSC.",
    "psnr_paper": "20 ln(3 SD(y)/RMSE), as the paper's tables have it; no decibels.",
    "psnr_db": "20 log10(3 SD(y)/RMSE), dB.",
    "adj_r2_percent": "Squared Pearson correlation of values and truth, percent (the paper's adj. R2).",
    "slope": "Slope of the least-squares line value = slope x truth + intercept.",
    "intercept": "Its intercept.",
    "partial_r2_percent": "Squared correlation of values and truth, a line in what is given taken from both, "
    "percent.",
}
"""What each statistic means, in the order of tables. Values have the unit of the data where none is named."""


@dataclass(frozen=True, slots=True)
class AccuracyError:
    """An accuracy error, or what it cannot exceed.

    Attributes
    ----------
    value : float
        In the unit of the data.
    is_bound : bool
        The noise over repetitions explains all of the error: `value` is an upper bound.
    """

    value: float
    is_bound: bool


@dataclass(frozen=True, slots=True)
class Metrics:
    """Statistics of one quantity, None where undefined; `STATISTICS` says what each one means.

    Attributes
    ----------
    points, repetitions, clusters : int
        Complete data points, measurements of each, and clusters in which the points lie.
    dropped : int
        Data points left out because a value of theirs is missing.
    rms_sd_chi2 : (low, high), optional
        95 % interval of `rms_sd` from the degrees of freedom, for normal errors.
    intervals : mapping
        95 % bootstrap intervals (low, high) by name of the statistic, clusters drawn as a whole.
    """

    points: int
    repetitions: int
    clusters: int
    dropped: int
    mean: float | None = None
    sd: float | None = None
    rms_sd: float | None = None
    rms_cv_percent: float | None = None
    lsc: float | None = None
    degrees_of_freedom: int | None = None
    icc_2_1: float | None = None
    mean_truth: float | None = None
    sd_truth: float | None = None
    d_avg: float | None = None
    limit_low: float | None = None
    limit_high: float | None = None
    rmse: float | None = None
    ae_paper: AccuracyError | None = None
    ae_unbiased: AccuracyError | None = None
    pe: float | None = None
    psnr_paper: float | None = None
    psnr_db: float | None = None
    adj_r2_percent: float | None = None
    slope: float | None = None
    intercept: float | None = None
    partial_r2_percent: float | None = None
    rms_sd_chi2: Interval | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def lsc_chi2(self) -> Interval | None:
        """95 % interval of `lsc` from the degrees of freedom."""
        if self.rms_sd_chi2 is None:
            return None
        low, high = self.rms_sd_chi2
        return LSC_FACTOR * low, LSC_FACTOR * high

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of these numbers should be told."""
        found = []
        if self.dropped:
            found.append(
                f"{self.dropped} of {self.points + self.dropped} data points left out: values missing"
            )
        if self.points and self.repetitions == 1:
            found.append("one repetition: precision, PE and AE are undefined")
        if self.degrees_of_freedom is not None and self.degrees_of_freedom < ENOUGH_DEGREES_OF_FREEDOM:
            found.append(
                f"precision rests on {self.degrees_of_freedom} degrees of freedom; "
                f"{ENOUGH_DEGREES_OF_FREEDOM} or more are advised"
            )
        if self.intervals and self.clusters < ENOUGH_CLUSTERS:
            found.append(f"bootstrap intervals over {self.clusters} clusters are rough, likely too narrow")
        return tuple(found)


def metrics(
    x: npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    clusters: npt.ArrayLike | None = None,
    given: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    device: str = "cpu",
) -> Metrics:
    """Judge repeated measurements by themselves and, where a truth is known, against it.

    Parameters
    ----------
    x : array (repetition, point)
        Measured values; NaN where one is missing. A data point with anything missing is left out and counted.
    y : array (point), optional
        The truth. Without it only precision is judged.
    clusters : array (point), optional
        Which data points belong together (the vertebra of a patch): any labels. They are drawn together by
        the bootstrap, and count once in the degrees of freedom. Without it each data point stands alone.
    given : array (point) or (repetition, point), optional
        What is known beside x, such as raw BMD, for the partial R2.
    resamples : int
        Draws of the bootstrap, 0 for no intervals.
    seed : int
        Of the draws.
    device : str
        Where the data points are summed: "cpu", "cuda" or "cuda:N", for very many values.

    Returns
    -------
    Metrics

    Raises
    ------
    InputError
        When the shapes do not fit, a value is infinite, or there is neither a second repetition nor a truth.
    UsageError
        When `given` comes without a truth, or `resamples` is below 0.
    DeviceError
        When the GPU cannot be used.

    Notes
    -----
    Eq. 13-15 of arXiv:2011.02382 for `psnr_paper`, `pe` and `ae_paper`. `sd` takes the mean variance of the
    repetitions, as Eq. 14 does, so that PE x SD(x)/SD(y) is the RMS-SD and AE follows from RMSE and PE.
    """
    if resamples < 0 or (given is not None and y is None):
        wanted = "a truth beside given" if resamples >= 0 else "0 or more resamples"
        raise UsageError("metrics", wanted=wanted, got="none" if resamples >= 0 else str(resamples))
    values, truth, beside = _checked(x, y, given)
    complete = _complete(values, truth, beside)
    numbers, count = _clusters(clusters, complete)
    counts = (int(complete.sum()), len(values), count, int((~complete).sum()))
    if not counts[0]:
        return Metrics(*counts)
    repeats = Repeats.of(
        values[:, complete],
        None if truth is None else truth[complete],
        None if beside is None else beside[..., complete],
    )
    on = "cpu" if device == "auto" else parse_device(device)
    sums = cluster_sums(repeats, numbers, count, on)
    return _judged(repeats, sums, counts, resamples, seed)


def _checked(
    x: npt.ArrayLike, y: npt.ArrayLike | None, given: npt.ArrayLike | None
) -> tuple[Doubles, Doubles | None, Doubles | None]:
    values = _numbers("x", x)
    if values.ndim != 2 or not values.size:
        raise InputError(
            "x", wanted="an array (repetition, data point) that is not empty", got=_shape(values)
        )
    if len(values) == 1 and y is None:
        mend = "measure again: precision needs a second repetition, accuracy a truth"
        raise InputError("repetitions", wanted="two or more, or a truth", got="one and no truth", mend=mend)
    truth = None if y is None else _numbers("y", y)
    if truth is not None and truth.shape != values.shape[1:]:
        raise InputError("y", wanted=f"the truth of {values.shape[1]} data points", got=_shape(truth))
    beside = None if given is None else _numbers("given", given)
    if beside is not None and beside.shape not in (values.shape, values.shape[1:]):
        raise InputError(
            "given", wanted=f"shape {values.shape} or {values.shape[1:]} like x", got=_shape(beside)
        )
    return values, truth, beside


def _numbers(name: str, values: npt.ArrayLike) -> Doubles:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(name, wanted="an array of numbers", got=str(error)) from error
    if np.isinf(array).any():
        raise InputError(name, wanted="finite numbers, NaN where missing", got="infinity")
    return array


def _shape(array: npt.NDArray[Any]) -> str:
    return f"shape {array.shape}"


def _complete(values: Doubles, truth: Doubles | None, given: Doubles | None) -> npt.NDArray[np.bool_]:
    rows = [
        values,
        *(array[None] if array.ndim == 1 else array for array in (truth, given) if array is not None),
    ]
    complete: npt.NDArray[np.bool_] = ~np.any([np.isnan(array).any(axis=0) for array in rows], axis=0)
    return complete


def _clusters(
    clusters: npt.ArrayLike | None, complete: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.intp], int]:
    """The clusters of the complete data points as numbers from 0 on, and how many there are."""
    if clusters is None:
        count = int(complete.sum())
        return np.arange(count), count
    labels = np.asarray(clusters)
    if labels.shape != complete.shape:
        raise InputError("clusters", wanted=f"a label of {complete.size} data points", got=_shape(labels))
    found, numbers = np.unique(labels[complete], return_inverse=True)
    return numbers, len(found)


def _judged(
    repeats: Repeats,
    sums: Sums,
    counts: tuple[int, int, int, int],
    resamples: int,
    seed: int,
) -> Metrics:
    _, repetitions, clusters, _ = counts
    whole = {name: values.sum(axis=0, keepdims=True) for name, values in sums.items()}
    found = {name: _defined(values[0]) for name, values in statistics(whole, repeats).items()}
    rms_sd = found["rms_sd"]
    freedom = None if rms_sd is None else clusters * (repetitions - 1)
    errors = {
        "ae_paper": _error(found.pop("ae_paper_bracket", None), found.get("pe"), repetitions - 1),
        "ae_unbiased": _error(found.pop("ae_unbiased_bracket", None), rms_sd, repetitions),
    }
    intervals = cluster_bootstrap(sums, repeats, resamples, seed)
    known: dict[str, Any] = {**found, **errors, "lsc": None if rms_sd is None else LSC_FACTOR * rms_sd}
    known["degrees_of_freedom"] = freedom
    chi2 = None if rms_sd is None or freedom is None else chi_square_interval(rms_sd, freedom)
    return Metrics(*counts, **known, rms_sd_chi2=chi2, intervals=_of_known(intervals, known))


def _defined(value: np.float64) -> float | None:
    return float(value) if math.isfinite(value) else None


def _error(bracket: float | None, precision: float | None, divisor: int) -> AccuracyError | None:
    """The root of the bracket; where that is negative, precision/sqrt(divisor), which it is below."""
    if bracket is not None and bracket >= 0:
        return AccuracyError(math.sqrt(bracket), False)
    return (
        None if bracket is None or precision is None else AccuracyError(precision / math.sqrt(divisor), True)
    )


def _of_known(intervals: Mapping[str, Interval], known: Mapping[str, Any]) -> dict[str, Interval]:
    """The intervals of what has a value, without those of bounds."""
    return {
        name: interval
        for name, interval in intervals.items()
        if known.get(name) is not None and not getattr(known[name], "is_bound", False)
    }
