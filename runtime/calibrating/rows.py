"""Discs of one slice that lie as the rods of a phantom do: evenly along a line or a shallow arc."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.discs import Disc
from qctrun.runtime.calibrating.phantoms import Phantom

Doubles = npt.NDArray[np.float64]

MOST_MISFIT_MM = 1.5
"""How far a disc may lie from the arc, root of the mean square."""
MOST_BEND = 0.15
"""Second difference of the centres across the row, as a part of their distance."""
MOST_UNEVEN = 0.06
"""Second difference along the row: by how much one gap may be longer than the next."""
MOST_STRAY = 0.06
"""How near a disc must lie to the place before the first rod or after the last to be one more rod of the row."""
_NEAR = 0.3
_SAME_RADIUS = 0.2


@dataclass(frozen=True, slots=True)
class Row:
    """Where the rods of a phantom would lie in a slice.

    Attributes
    ----------
    centres_mm : float array (rod, 2)
        x and y of every rod, seen or not: points of an arc whose x and y are parabolas of the rod's number.
    radius_mm : float
        Median of the discs.
    seen : tuple of bool
        Which of them are discs of the slice. A rod as dense as the phantom's body cannot be seen.
    misfit_mm : float
        Root mean square distance of the discs from the arc.
    """

    centres_mm: Doubles
    radius_mm: float
    seen: tuple[bool, ...]
    misfit_mm: float


def least_seen(phantom: Phantom) -> int:
    """How many rods must be seen: all but one, and never fewer than three."""
    return max(3, phantom.rods - 1)


def find_rows(discs: Sequence[Disc], phantom: Phantom) -> list[Row]:
    """Find all rows of discs that lie as the rods of the phantom, in one direction each.

    Returns
    -------
    list of Row
        Those with most rods seen first, then those that fit best; no two with the same centres.
    """
    places = np.array([(disc.x_mm, disc.y_mm) for disc in discs]).reshape(-1, 2)
    radii = np.array([disc.radius_mm for disc in discs])
    found: list[Row] = []
    for a, b in combinations(range(len(discs)), 2):
        if tuple(places[a]) > tuple(places[b]):
            a, b = b, a
        if abs(radii[a] - radii[b]) > _SAME_RADIUS * radii[a]:
            continue
        for i, j in combinations(range(phantom.rods), 2):
            step = (places[b] - places[a]) / (j - i)
            if phantom.spacing_mm[0] <= np.hypot(*step) <= phantom.spacing_mm[1]:
                row = _row(places[a] - i * step, step, places, radii, radii[a], phantom)
                if row is not None:
                    found.append(row)
    found.sort(key=lambda row: (-sum(row.seen), row.misfit_mm))
    kept: list[Row] = []
    for row in found:
        if all(np.abs(row.centres_mm - other.centres_mm).max() > row.radius_mm / 2 for other in kept):
            kept.append(row)
    return kept


def _row(
    first: Doubles, step: Doubles, places: Doubles, radii: Doubles, radius_mm: float, phantom: Phantom
) -> Row | None:
    number = np.arange(phantom.rods)
    similar = np.flatnonzero(np.abs(radii - radius_mm) <= _SAME_RADIUS * radius_mm)
    centres = first + number[:, None] * step
    # Along the chord first, with room for the arc; then closely along the arc that was found.
    for reach in (_NEAR, _NEAR / 3):
        away = np.linalg.norm(centres[:, None] - places[similar], axis=2)
        nearest = away.argmin(axis=1)
        seen = away.min(axis=1) < reach * np.hypot(*step)
        if seen.sum() < least_seen(phantom):
            return None
        discs = places[similar[nearest[seen]]]
        arc = np.polynomial.polynomial.polyfit(number[seen], discs, 2)
        centres = np.asarray(np.polynomial.polynomial.polyval(number, arc).T, np.float64)
    misfit = float(np.sqrt(np.mean(np.sum((centres[seen] - discs) ** 2, axis=1))))
    even = misfit <= MOST_MISFIT_MM and _even(centres, 2 * arc[2], phantom.spacing_mm)
    if not even or _goes_on(arc, places[similar], phantom.rods):
        return None
    return Row(centres, float(np.median(radii[similar[nearest[seen]]])), tuple(seen.tolist()), misfit)


def _even(centres: Doubles, second: Doubles, spacing_mm: tuple[float, float]) -> bool:
    """Whether the rods lie evenly on a line or a shallow arc, as far apart as they should."""
    chord = centres[-1] - centres[0]
    gap = np.linalg.norm(chord) / (len(centres) - 1)
    along = chord / np.linalg.norm(chord)
    uneven, bend = abs(second @ along) / gap, abs(second @ [-along[1], along[0]]) / gap
    return bool(uneven <= MOST_UNEVEN and bend <= MOST_BEND and spacing_mm[0] <= gap <= spacing_mm[1])


def _goes_on(arc: Doubles, places: Doubles, rods: int) -> bool:
    """Whether the row has more discs than the phantom has rods: then it is another phantom, or none."""
    ends = np.polynomial.polynomial.polyval(np.array([-1.0, rods]), arc).T
    gap = np.linalg.norm(np.polynomial.polynomial.polyval(1.0, arc) - arc[0])
    return bool((np.linalg.norm(ends[:, None] - places, axis=2) < MOST_STRAY * gap).any())
