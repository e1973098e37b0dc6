"""Statistics of repeated measurements, all of them from sums over data points.

Sums of the clusters of data points (the patches of a vertebra, say) add up to the sums of the whole, so a
bootstrap draws clusters by adding their sums with whole weights: one matrix product for hundreds of draws.
Every function works on a batch of such totals at once, one entry for each draw, and gives NaN where a
statistic is undefined.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Sums = dict[str, Doubles]

_BLOCK = 1 << 18
_ROUNDING = 1e-12
"""A spread that is a smaller share than this of what it was computed from is none."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """Complete repeated measurements, centred so that sums of squares keep their digits.

    Attributes
    ----------
    x : float64 array (repetition, point)
        Measured values, less `x_offset`.
    y : float64 array (point), optional
        Their truth, less `y_offset`.
    given : float64 array (repetition, point), optional
        What is known beside x, less any constant.
    x_offset, y_offset : float
        What was taken off: the first value, so that what does not vary is exactly 0.
    """

    x: Doubles
    y: Doubles | None
    given: Doubles | None
    x_offset: float
    y_offset: float

    @classmethod
    def of(cls, x: Doubles, y: Doubles | None, given: Doubles | None) -> "Repeats":
        """Centre the arrays; all finite, at least one data point, `given` like x or only (point)."""
        x_offset, y_offset = float(x.flat[0]), 0.0 if y is None else float(y[0])
        if given is not None:
            given = np.broadcast_to(given - given.flat[0], x.shape)
        return cls(x - x_offset, None if y is None else y - y_offset, given, x_offset, y_offset)


def cluster_sums(repeats: Repeats, cluster: npt.NDArray[np.intp], clusters: int, device: str = "cpu") -> Sums:
    """Sum what the statistics need over the data points of each cluster.

    Parameters
    ----------
    repeats : Repeats
        The data.
    cluster : integer array (point)
        The number of each data point's cluster, 0 to `clusters` - 1.
    device : str
        "cpu" or "cuda:N"; the sums agree to rounding.

    Returns
    -------
    mapping
        Names to arrays (cluster), or (cluster, repetition) for the sums of single repetitions.
    """
    if device != "cpu":
        on_gpu = importlib.import_module("qctrun.runtime.measuring.kernels.cuda.moments")
        offsets = repeats.x_offset, repeats.y_offset
        found: Sums = on_gpu.cluster_sums(
            repeats.x, repeats.y, repeats.given, offsets, cluster, clusters, device
        )
        return found
    sums: Sums = {}
    for start in range(0, cluster.size, _BLOCK):
        here = slice(start, start + _BLOCK)
        for name, values in _features(repeats, here).items():
            part = _by_cluster(values, cluster[here], clusters)
            sums[name] = sums[name] + part if name in sums else part
    return sums


def statistics(sums: Mapping[str, Doubles], repeats: Repeats) -> Sums:
    """All statistics of a batch of totals.

    Parameters
    ----------
    sums : mapping
        As of `cluster_sums`, the first axis being the batch.
    repeats : Repeats
        Where the sums come from.

    Returns
    -------
    mapping
        Names as in `Metrics` to arrays (batch), NaN where undefined; the brackets under the roots of the
        accuracy errors as `ae_paper_bracket` and `ae_unbiased_bracket`.
    """
    repetitions = len(repeats.x)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {**_of_values(sums, repeats.x_offset), **_of_repetitions(sums, repetitions)}
        if repeats.y is not None:
            found |= _of_truth(sums, repeats)
            found |= _of_line(sums, found, repeats)
            found |= _of_errors(sums, found, repetitions)
        if repeats.y is not None and repeats.given is not None:
            found["partial_r2_percent"] = _partial_r2(sums)
    return found


def _features(repeats: Repeats, here: slice) -> Sums:
    """What is summed of each data point. Means over repetitions are m, their variance (N - 1) v."""
    x = repeats.x[:, here]
    from_first = x - x[0]  # identical repetitions have a variance of exactly 0
    m = x[0] + from_first.mean(axis=0)
    v = from_first.var(axis=0, ddof=1) if len(x) > 1 else np.full(m.shape, np.nan)
    mean = m + repeats.x_offset
    with np.errstate(divide="ignore", invalid="ignore"):
        cv2 = np.where(mean > 0, v / mean**2, np.nan)
    found = {"n": np.ones(m.shape), "m": m, "mm": m**2, "v": v, "cv2": cv2}
    found |= {"x": x.T, "xx": np.mean(x**2, axis=0)}
    if repeats.y is not None:
        y = repeats.y[here]
        d = (x - y) + (repeats.x_offset - repeats.y_offset)
        e = d.mean(axis=0)
        found |= {"y": y, "yy": y**2, "xy": m * y, "e": e, "ee": e**2, "dd": np.mean(d**2, axis=0)}
    if repeats.y is not None and repeats.given is not None:
        b = repeats.given[:, here]
        found |= {"b": b.mean(axis=0), "bb": np.mean(b**2, axis=0)}
        found |= {"xb": np.mean(x * b, axis=0), "yb": b.mean(axis=0) * y}
    return found


def _by_cluster(values: Doubles, cluster: npt.NDArray[np.intp], clusters: int) -> Doubles:
    if values.ndim == 1:
        return np.bincount(cluster, values, clusters).astype(np.float64, copy=False)
    return np.stack([_by_cluster(column, cluster, clusters) for column in values.T], axis=1)


def _of_values(s: Mapping[str, Doubles], offset: float) -> Sums:
    n = s["n"]
    of_repetitions = _central(np.mean(s["x"] ** 2, axis=1), s["xx"], n)
    return {"mean": offset + s["m"] / n, "sd": np.sqrt(of_repetitions / _above_zero(n - 1))}


def _of_repetitions(s: Mapping[str, Doubles], repetitions: int) -> Sums:
    """RMS-SD, RMS-CV and ICC(2,1) of Shrout and Fleiss from the two-way table of data points and repetitions."""
    n, k = s["n"], repetitions
    within = s["v"] / n
    between_points = k * _central(s["m"] ** 2, s["mm"], n) / _above_zero(n - 1)
    column_means = s["x"] / n[:, None]
    between_columns = n * column_means.var(axis=1, ddof=1) if k > 1 else np.full(n.shape, np.nan)
    rest = np.maximum(0, (s["v"] - between_columns) / _above_zero(n - 1))
    below = between_points + (k - 1) * rest + k * (between_columns - rest) / n
    return {
        "rms_sd": np.sqrt(within),
        "rms_cv_percent": 100 * np.sqrt(s["cv2"] / n),
        "icc_2_1": (between_points - rest) / _above_zero(below),
    }


def _of_truth(s: Mapping[str, Doubles], repeats: Repeats) -> Sums:
    n = s["n"]
    rmse = np.sqrt(s["dd"] / n)
    sd_truth = np.sqrt(_central(s["y"] ** 2, s["yy"], n) / _above_zero(n - 1))
    ratio = _above_zero(3 * sd_truth) / _above_zero(rmse)
    return {
        "mean_truth": repeats.y_offset + s["y"] / n,
        "sd_truth": sd_truth,
        "d_avg": s["e"] / n,
        "rmse": rmse,
        "psnr_paper": 20 * np.log(ratio),
        "psnr_db": 20 * np.log10(ratio),
    }


def _of_line(s: Mapping[str, Doubles], found: Sums, repeats: Repeats) -> Sums:
    """The correlation of all values with their truths, and the least-squares line x = slope y + intercept."""
    n = s["n"]
    slope = _covariance(s, "x", "y") / _above_zero(_central(s["y"] ** 2, s["yy"], n) / n)
    return {
        "adj_r2_percent": 100 * _correlation(s, "x", "y") ** 2,
        "slope": slope,
        "intercept": found["mean"] - slope * found["mean_truth"],
    }


def _of_errors(s: Mapping[str, Doubles], found: Sums, repetitions: int) -> Sums:
    """PE (Eq. 14), the brackets of AE (Eq. 15), and the 95 % limits within which single differences lie."""
    n, k = s["n"], repetitions
    within = s["v"] / n
    of_means = _central(s["e"] ** 2, s["ee"], n) / _above_zero(n - 1)
    # Bland and Altman 2007: a single difference varies more than the mean of N.
    half = 1.96 * np.sqrt(of_means + (1 - 1 / k) * within if k > 1 else of_means)
    mse = s["ee"] / n
    return {
        "limit_low": found["d_avg"] - half,
        "limit_high": found["d_avg"] + half,
        "pe": found["rms_sd"] * found["sd_truth"] / _above_zero(found["sd"]),
        "ae_paper_bracket": mse - within / (k - 1),
        "ae_unbiased_bracket": mse - within / k,
    }


def _partial_r2(s: Mapping[str, Doubles]) -> Doubles:
    """Squared correlation of x and y when a straight line in b is taken from both, percent."""
    xy, xb, yb = (_correlation(s, *pair) for pair in (("x", "y"), ("x", "b"), ("y", "b")))
    left = (1 - xb**2) * (1 - yb**2)
    left = np.where(np.minimum(1 - xb**2, 1 - yb**2) > _ROUNDING, left, np.nan)
    return 100 * (xy - xb * yb) ** 2 / left


def _correlation(s: Mapping[str, Doubles], one: str, other: str) -> Doubles:
    spreads = [_covariance(s, name, name) for name in (one, other)]
    return np.clip(_covariance(s, one, other) / np.sqrt(_above_zero(spreads[0] * spreads[1])), -1, 1)


def _covariance(s: Mapping[str, Doubles], one: str, other: str) -> Doubles:
    """Over all values of all repetitions, divided by their number."""
    first, second = (s["m" if name == "x" else name] for name in (one, other))
    if one == other:
        return _central(first**2, s[one + other], s["n"]) / s["n"]
    return np.asarray(s[one + other] / s["n"] - first * second / s["n"] ** 2)


def _central(squared_total: Doubles, squares: Doubles, n: Doubles) -> Doubles:
    """Sum of squares about the mean; exactly 0 where only rounding is left of it."""
    central = squares - squared_total / n
    return np.where(central > _ROUNDING * squares, central, 0.0)


def _above_zero(values: Doubles) -> Doubles:
    return np.where(values > 0, values, np.nan)
