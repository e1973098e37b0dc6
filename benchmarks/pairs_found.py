"""What `qctrun pairs` has found of each scan, beside what the simulator knows."""

import csv
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pairs_steps import CACHE, LAB, PAIRS, scans_of

from qctrun.runtime.reading import load_label_map
from qctrun.train.pairs.cache import Cache
from qctrun.train.pairs.choices import StudyFile
from qctrun.train.pairs.keys import keys_of
from qctrun.train.pairs.rigid import Rigid, angle_between, distance
from qctrun.train.pairs.study_file import load_study

Row = dict[str, Any]
_POINTS = 20_000
"""Of a mask; enough for the mean and nearly the largest distance of a rigid motion."""


def compared(work: Path, names: list[str]) -> list[Row]:
    """A row a scan: residual over the mask (mean and largest, mm), angle (deg), error of the slope (%).

    Scans that were left out have a residual too, but no slope.
    """
    return [_row(work, name, scan) for name in names for scan in scans_of(work, name)]


def _row(work: Path, name: str, scan: dict[str, Any]) -> Row:
    found, true = _transform(work, name, scan["name"]), Rigid.from_dict(scan["transform"])
    mean, largest = distance(found, true, _points(work, name))
    told = _table(work)[name, scan["tube_current_mas"], scan["repetition"]]
    slope = None if told["slope"] == "n/a" else float(told["slope"])
    return {
        "specimen": name,
        "scan": scan["name"],
        "mas": scan["tube_current_mas"],
        "used": told["used"] == "true",
        "doubts": told["doubts"],
        "moved_mm": round(float(told["shift_mm"]), 2),
        "tilt_deg": round(true.angle_deg, 2),
        "residual_mm": round(mean, 5),
        "largest_mm": round(largest, 5),
        "angle_deg": round(angle_between(found, true), 5),
        "slope_error_percent": None if slope is None else round(100 * (slope / scan["slope"] - 1), 3),
        "positions": int(told["positions"]),
    }


def _transform(work: Path, name: str, scan: str) -> Rigid:
    """What was found, also of a scan that was left out: from the cache."""
    study = _study(work)
    specimen = next(each for each in study.specimens if each.name == name)
    key = keys_of(study, specimen).registered[scan]
    entry = Cache(work / PAIRS / CACHE).load(f"{name}/{scan}.registered", key)
    if entry is None:
        raise SystemExit(f"{name}, {scan}: not registered; delete {work / 'times'} and start again")
    return Rigid.from_dict(entry.facts["transform"])


@cache
def _study(work: Path) -> StudyFile:
    return load_study(work / LAB / "study.toml")


@cache
def _points(work: Path, name: str) -> npt.NDArray[np.float64]:
    """Points (n, 3) of the reference's world, spread evenly over its mask."""
    labels = load_label_map(work / LAB / name / "trabecular_mask.nii.gz")
    voxels = np.flatnonzero(labels.array)
    chosen = np.random.default_rng(0).choice(voxels, min(_POINTS, voxels.size), replace=False)
    index = np.stack(np.unravel_index(chosen, labels.array.shape), axis=-1)[:, ::-1]
    grid = labels.grid
    return index * grid.spacing[::-1] @ np.reshape(grid.direction, (3, 3)).T + grid.origin


@cache
def _table(work: Path) -> dict[tuple[str, float, int], dict[str, str]]:
    with (work / PAIRS / "pairs.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["specimen"], float(row["tube_current_mas"]), int(row["repetition"])): row
            for row in csv.DictReader(file)
        }
