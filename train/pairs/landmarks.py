"""Points that somebody has seen in both scanners, from a small CSV file: where a registration starts."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import Grid

COLUMNS = ("reference_x", "reference_y", "reference_z", "scan_x", "scan_y", "scan_z")
FEWEST = 3
MOST_CHARACTERS = 100_000
OUTSIDE_MM = 5.0
"""So far beyond the outermost voxels a landmark may lie; a click at the rim of an image is a little outside."""

Landmarks = npt.NDArray[np.float64]


def read_landmarks(path: Path) -> Landmarks:
    """Read pairs of points.

    Returns
    -------
    float array (point, 6)
        x, y, z in the reference's world and x, y, z in the scan's, mm (LPS).

    Raises
    ------
    InputError
        When the file cannot be read, a column is missing, a row has more values than columns, a value is no finite
        number, or there are fewer than three points.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(str(path), wanted="CSV in UTF-8", got="other bytes") from error
    if "\0" in text or len(text) > MOST_CHARACTERS:
        raise InputError(str(path), wanted="a small CSV file", got="something else")
    rows = csv.DictReader(text.splitlines())
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        got = f"no {missing[0]} in {text[:60].partition(chr(10))[0]!r}"
        raise InputError(str(path), wanted=f"the columns {','.join(COLUMNS)}", got=got)
    points = []
    for row in rows:
        where = f"{path}: line {rows.line_num}"
        if None in row:  # a decimal comma makes two values of one
            raise InputError(
                where, wanted=f"{len(rows.fieldnames or ())} values", got="more", mend="write 1.5"
            )
        points.append([_number(row[name], f"{where}: {name}") for name in COLUMNS])
    if len(points) < FEWEST:
        raise InputError(str(path), wanted=f"{FEWEST} points or more", got=str(len(points)))
    return np.asarray(points, np.float64)


def require_inside(points_mm: Landmarks, reference: Grid, scan: Grid) -> None:
    """Refuse landmarks that cannot be points of the two images, and say what they might be instead.

    Raises
    ------
    InputError
        When a point lies outside of the image that it should be seen in.
    """
    sides = ("reference", points_mm[:, :3], reference, scan), ("scan", points_mm[:, 3:], scan, reference)
    for what, points, own, other in sides:
        outside = ~_inside(points, own)
        if outside.any():
            raise InputError(
                f"landmarks, points of the {what}",
                wanted=f"points inside of it: {_reach(own)}",
                got=f"{outside.sum()} of {len(points)} outside, like {_words(points[outside][0])}",
                mend=_guess(points, own, other),
            )


def _guess(points: Landmarks, own: Grid, other: Grid) -> str:
    """What was meant, when some usual slip explains all points."""
    slips = (
        (points * [-1, -1, 1], own, "they seem to be RAS: give x and y the other sign"),
        (points, other, "the columns of reference and scan seem to be exchanged"),
        (points[:, ::-1], own, "x, y and z seem to stand in the order z, y, x"),
        (points * 1000, own, "they seem to be metres: give mm"),
        (points * 10, own, "they seem to be cm: give mm"),
    )
    found = (words for tried, grid, words in slips if _inside(tried, grid).all())
    return next(found, "are they points of these two images, in mm and LPS?")


def _inside(points: Landmarks, grid: Grid) -> npt.NDArray[np.bool_]:
    along_mm = (points - grid.origin) @ np.reshape(grid.direction, (3, 3))
    last_mm = (np.asarray(grid.size[::-1]) - 1) * grid.spacing[::-1]
    return np.asarray(((along_mm > -OUTSIDE_MM) & (along_mm < last_mm + OUTSIDE_MM)).all(1))


def _reach(grid: Grid) -> str:
    """The box around the corners of a grid, in words."""
    ends = [(0.0, float(n - 1)) for n in grid.size]
    corners = np.array([grid.world((z, y, x)) for z in ends[0] for y in ends[1] for x in ends[2]])
    bounds = zip("xyz", corners.min(0), corners.max(0), strict=True)
    return ", ".join(f"{axis} {low:.0f} to {high:.0f}" for axis, low, high in bounds) + " mm (LPS)"


def _words(point: Landmarks) -> str:
    return ", ".join(f"{mm:.4g}" for mm in point)


def _number(text: str | None, what: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(what, wanted="a finite number of mm", got=repr(text))
    return value
