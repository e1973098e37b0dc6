"""How sure an estimate is: the chi-square interval of a precision, and a bootstrap over clusters."""

from collections.abc import Iterator, Mapping

import numpy as np

from qctrun.runtime.measuring.sums import Repeats, Sums, statistics

CONFIDENCE = 0.95
LSC_FACTOR = 2.77
"""Two measurements differ by more than this many precisions in 5 % of cases without any change."""

_DRAWN_AT_ONCE = 1 << 22
_DEFINED = 0.95
"""An interval needs a statistic that is defined in this share of the draws."""

Interval = tuple[float, float]


def chi_square_interval(sd: float, degrees_of_freedom: int) -> Interval:
    """The 95 % interval of a standard deviation estimated with so many degrees of freedom (normal errors)."""
    from scipy.special import chdtri

    upper_tail = (1 - CONFIDENCE) / 2
    low, high = (
        sd * float(np.sqrt(degrees_of_freedom / chdtri(degrees_of_freedom, tail)))
        for tail in (upper_tail, 1 - upper_tail)
    )
    return low, high


def cluster_bootstrap(sums: Sums, repeats: Repeats, resamples: int, seed: int) -> dict[str, Interval]:
    """The 95 % percentile intervals of all statistics over draws of whole clusters with replacement.

    Parameters
    ----------
    sums : mapping
        Of each cluster.
    repeats : Repeats
        Where they come from.
    resamples : int
        How many draws; as many clusters as there are are drawn each time.
    seed : int
        The same seed gives the same intervals.

    Returns
    -------
    mapping
        Names of statistics to (low, high); none for what is hardly ever defined, nothing at all for fewer
        than two clusters or without draws.
    """
    if len(sums["n"]) < 2 or not resamples:
        return {}
    parts = [_with_roots(statistics(totals, repeats)) for totals in _draws(sums, resamples, seed)]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    defined = {name: values[np.isfinite(values)] for name, values in drawn.items()}
    tail = 100 * (1 - CONFIDENCE) / 2
    return {
        name: (float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail)))
        for name, values in defined.items()
        if values.size >= _DEFINED * resamples
    }


def _draws(sums: Mapping[str, np.ndarray], resamples: int, seed: int) -> Iterator[Sums]:
    """The totals of the draws, some hundred at a time so that memory stays small."""
    clusters = len(sums["n"])
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // clusters)
    for start in range(0, resamples, at_once):
        draws = min(at_once, resamples - start)
        chosen = random.integers(clusters, size=(draws, clusters))
        row = np.arange(draws)[:, None]
        weights = np.bincount((row * clusters + chosen).ravel(), minlength=draws * clusters)
        weights = weights.reshape(draws, clusters).astype(np.float64)
        yield {name: weights @ values for name, values in sums.items()}


def _with_roots(found: Sums) -> Sums:
    """With the lesser significant change, and accuracy errors clamped at 0 (Eq. 15) in place of brackets."""
    roots = {
        name.removesuffix("_bracket"): np.sqrt(np.maximum(0, values))
        for name, values in found.items()
        if name.endswith("_bracket")
    }
    return {**found, "lsc": LSC_FACTOR * found["rms_sd"], **roots}
