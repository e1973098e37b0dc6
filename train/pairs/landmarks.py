"""Points that somebody has seen in both scanners, from a small CSV file: where a registration starts."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError

COLUMNS = ("reference_x", "reference_y", "reference_z", "scan_x", "scan_y", "scan_z")
FEWEST = 3
MOST_CHARACTERS = 100_000


def read_landmarks(path: Path) -> npt.NDArray[np.float64]:
    """Read pairs of points.

    Returns
    -------
    float array (point, 6)
        x, y, z in the reference's world and x, y, z in the scan's, mm (LPS).

    Raises
    ------
    InputError
        When the file cannot be read, a column is missing, a value is no finite number, or there are fewer than three
        points.
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
        raise InputError(str(path), wanted=f"the columns {','.join(COLUMNS)}", got=f"no {missing[0]}")
    points = [
        [_number(row[name], f"{path}: line {rows.line_num}: {name}") for name in COLUMNS] for row in rows
    ]
    if len(points) < FEWEST:
        raise InputError(str(path), wanted=f"{FEWEST} points or more", got=str(len(points)))
    return np.asarray(points, np.float64)


def _number(text: str | None, what: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(what, wanted="a finite number of mm", got=repr(text))
    return value
