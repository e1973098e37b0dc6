"""Choosing a filter's setting on validation data, by what the tables measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import FloatArray, Progress
from qctrun.train.raster import Corner
from qctrun.train.study.filters import Candidate
from qctrun.train.study.measure import TABLE_THRESHOLD_MG_CM3, spheres

Values = npt.NDArray[np.float64]
Score = Callable[[Values, Values, Values], float]
"""Judges (filtered, raw, truth), each (sphere, quantity); less is better."""


@dataclass(frozen=True)
class Validation:
    """What may be looked at when a setting is chosen: one phantom at one tube current.

    Attributes
    ----------
    truth : float32 array (z, y, x)
        mg/cm3, on the paper's grid.
    scans : sequence of float32 arrays (z, y, x)
        Its repetitions, mg/cm3.
    positions : sequence of (z, y, x)
        Corners of the validation patches; only the spheres in their middles are measured.
    """

    truth: FloatArray
    scans: Sequence[FloatArray]
    positions: Sequence[Corner]


@dataclass(frozen=True)
class Tuned:
    """The chosen candidate of a filter.

    Attributes
    ----------
    candidate : Candidate
        The one with the least score; the first of several.
    tried : sequence of (Candidate, float)
        All of them with their scores, in the order given.
    """

    candidate: Candidate
    tried: Sequence[tuple[Candidate, float]]

    def as_json(self) -> dict[str, Any]:
        """In JSON's own types: the filter, its setting, and the score of every setting tried."""
        tried = [{"setting": dict(one.setting), "score": score} for one, score in self.tried]
        return {"filter": self.candidate.name, "setting": dict(self.candidate.setting), "tried": tried}


def structure_error(filtered: Values, raw: Values, truth: Values) -> float:
    """RMSE of TMD and of BV/TV, each as a share of that of raw, averaged: BMD has no say in it."""
    left, given = (np.sqrt(np.square(values - truth).mean(axis=0)) for values in (filtered, raw))
    return float((left / given).mean())


def tuned(
    candidates: Sequence[Candidate],
    data: Sequence[Validation],
    score: Score = structure_error,
    progress: Progress | None = None,
) -> Tuned:
    """Choose the candidate with the least score over all validation spheres of all scans.

    Parameters
    ----------
    candidates : sequence of Candidate
        Of one filter.
    data : sequence of Validation
        At one tube current. A filter sees whole scans, as it does when it is used.
    score : callable
        Given (filtered, raw, truth) as float64 arrays (sphere, quantity): TMD in mg/cm3 and BV/TV as a fraction.
    progress : callable, optional
        Told (done, total) after each candidate.

    Raises
    ------
    InputError
        When there is no candidate or no sphere to choose by, or a patch lies outside its volume.
    """
    if not candidates:
        raise InputError("tuning", wanted="at least one setting", got="none")
    if not any(len(one.scans) and len(one.positions) for one in data):
        raise InputError("tuning", wanted="at least one validation scan with a position", got="none")
    raw = _measured(data, lambda scan: scan)
    truth = np.concatenate(
        [np.tile(structure(one.truth, one.positions), (len(one.scans), 1)) for one in data]
    )
    tried = []
    for done, candidate in enumerate(candidates, start=1):
        tried.append((candidate, score(_measured(data, candidate.apply), raw, truth)))
        if progress:
            progress(done, len(candidates))
    return Tuned(min(tried, key=lambda pair: pair[1])[0], tried)


def structure(volume: FloatArray, positions: Sequence[Corner]) -> Values:
    """TMD (mg/cm3) and BV/TV (a fraction) of the spheres of 4.3 mm in the middles of patches, (position, 2).

    Parameters
    ----------
    volume : float32 array (z, y, x)
        mg/cm3, on the paper's grid.
    positions : sequence of (z, y, x)
        Corners of patches.

    Raises
    ------
    InputError
        When a patch does not lie wholly inside.
    """
    found = spheres(volume, positions, [TABLE_THRESHOLD_MG_CM3])
    return np.stack([found["TMD"][0], found["BV/TV"][0] / 100], axis=-1).astype(np.float64)


def _measured(data: Sequence[Validation], apply: Callable[[FloatArray], FloatArray]) -> Values:
    """The structure of all scans after a filter, scan after scan."""
    return np.concatenate([structure(apply(scan), one.positions) for one in data for scan in one.scans])
