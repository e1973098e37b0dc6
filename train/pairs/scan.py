"""One scan of a specimen: read, laid over the reference, judged, resampled once, calibrated; both stages cached."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as once
from typing import Any

import numpy as np

from qctrun.runtime.errors import OutputError
from qctrun.runtime.reading import Calibration, read_hu
from qctrun.runtime.volume import FloatArray, Volume
from qctrun.train.pairs.cache import Cache, Entry
from qctrun.train.pairs.calibrating import calibrated
from qctrun.train.pairs.choices import QctScan, Specimen, StudyFile
from qctrun.train.pairs.fixed import Fixed
from qctrun.train.pairs.judging import judged
from qctrun.train.pairs.keys import Keys
from qctrun.train.pairs.landmarks import read_landmarks
from qctrun.train.pairs.pictures import draw_checkerboard
from qctrun.train.pairs.register import Registered, register, resampled
from qctrun.train.pairs.rigid import Rigid
from qctrun.train.pairs.stored import facts_of, packed_picture, picture_of, volume_of
from qctrun.train.pairs.table import Row

Move = Callable[[float], None]
"""Told how much is done; a scan counts 1."""

_REGISTERED = 0.8
"""The share of a scan's time that registration takes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk works: whose scans, what is asked of them, and what is known already."""

    study: StudyFile
    specimen: Specimen
    cache: Cache
    keys: Keys

    def slot(self, scan: QctScan, stage: str, dot: str = ".") -> str:
        """Where a stage of a scan is kept."""
        return f"{self.specimen.name}/{scan.name}{dot}{stage}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a scan, but for its voxels, which stay in the cache.

    Attributes
    ----------
    registered : mapping
        Its place on the study's grid, transform and warnings.
    verdict : mapping
        Whether that can be trusted.
    calibrated : mapping, optional
        Its line and its bounds; None for a scan that is left out.
    pictures : mapping
        Names of its pictures in the cache, and their SHA-256.
    """

    scan: QctScan
    registered: dict[str, Any]
    verdict: dict[str, Any]
    calibrated: dict[str, Any] | None
    pictures: dict[str, str]

    @property
    def used(self) -> bool:
        """Whether it comes into the dataset."""
        return self.calibrated is not None

    @property
    def warnings(self) -> list[str]:
        """What a user of the scan should be told."""
        return [*self.registered["warnings"], *(self.calibrated or {}).get("warnings", ())]


def seen(at: Place, scan: QctScan, fixed: Fixed, move: Move) -> Seen:
    """Do whatever of a scan's stages is not in the cache.

    Raises
    ------
    InputError
        When the scan is not what it should be, does not lie over the reference, or cannot be calibrated.
    """
    native = once(lambda: read_hu(scan.path, unit="HU", series_uid=scan.series_uid))
    registered = _kept(at, scan, "registered", lambda: _registered(at, scan, fixed, native(), move))
    move(_REGISTERED)
    on_grid = volume_of(registered.facts["volume"], registered.arrays["hu"])
    verdict = _kept(at, scan, "judged", lambda: _judged(at, scan, fixed, on_grid, registered))
    pictures = {"checkerboard": picture_of(verdict)}
    line = None
    if verdict.facts["good"] or scan.accept:
        entry = _kept(at, scan, "calibrated", lambda: _calibrated(at, scan, fixed, native(), on_grid))
        pictures["calibration"] = picture_of(entry)
        line = entry.facts
    named = {f"{at.slot(scan, what, '_')}.png": picture for what, picture in pictures.items() if picture}
    sums = {name: at.cache.save_bytes(name, picture) for name, picture in named.items()}
    return Seen(scan, registered.facts, verdict.facts, line, sums)


def density_of(at: Place, scan: Seen) -> FloatArray:
    """A scan that is used, on the study's grid: mg/cm3, NaN where it does not reach."""
    entry = at.cache.load(at.slot(scan.scan, "registered"), at.keys.registered[scan.scan.name])
    if entry is None or scan.calibrated is None:
        raise OutputError(
            str(at.cache.folder), wanted="the cache as this run has left it", got="another", mend="try again"
        )
    line = Calibration(**scan.calibrated["line"])
    return line.apply(volume_of(entry.facts["volume"], entry.arrays["hu"])).array


def row_of(at: Place, scan: Seen, fixed: Fixed, positions: int) -> Row:
    """The scan's row in `pairs.csv`."""
    told = ("overlap", "metric", "inverse_consistency_mm", "inverse_consistency_deg", "local_shift_mm")
    return {
        "specimen": at.specimen.name,
        "donor": at.specimen.donor,
        "tube_current_mas": scan.scan.tube_current_mas,
        "repetition": scan.scan.repetition,
        "used": scan.used,
        "accepted": scan.scan.accept,
        "doubts": "; ".join(scan.verdict["reasons"]),
        **{name: scan.verdict[name] for name in told},
        **_moved(Rigid.from_dict(scan.registered["transform"]), fixed),
        **_line(scan.calibrated),
        "positions": positions if scan.used else 0,
    }


def _kept(at: Place, scan: QctScan, stage: str, make: Callable[[], Entry]) -> Entry:
    key: str = getattr(at.keys, stage)[scan.name]
    return at.cache.entry(at.slot(scan, stage), key, make)


def _registered(at: Place, scan: QctScan, fixed: Fixed, native: Volume, move: Move) -> Entry:
    points = None if scan.landmarks is None else read_landmarks(scan.landmarks)
    found = register(
        fixed,
        native,
        at.study.registration,
        points,
        progress=lambda done, total: move(_REGISTERED * 0.95 * done / max(total, 1)),
    )
    on_grid = resampled(native, found.transform, fixed.density.grid)
    facts = {
        "volume": facts_of(on_grid),
        "transform": found.transform.as_dict(),
        "second": found.second.as_dict(),
        "metric": found.metric,
        "second_metric": found.second_metric,
        "registration": found.facts,
        "warnings": list(on_grid.warnings),
    }
    return Entry(facts, {"hu": on_grid.array})


def _judged(at: Place, scan: QctScan, fixed: Fixed, on_grid: Volume, registered: Entry) -> Entry:
    told = registered.facts
    first, second = (Rigid.from_dict(told[name]) for name in ("transform", "second"))
    found = Registered(first, second, told["metric"], told["second_metric"], told["registration"])
    verdict = judged(fixed, on_grid, found)
    picture = draw_checkerboard(fixed, on_grid, f"{at.specimen.name}, {scan.name}", verdict)
    return Entry(verdict.as_dict(), packed_picture(picture))


def _calibrated(at: Place, scan: QctScan, fixed: Fixed, native: Volume, on_grid: Volume) -> Entry:
    found = calibrated(native, on_grid, fixed, at.study.calibration, scan.path)
    facts = {"line": found.line.as_dict(), "warnings": list(found.line.warnings_for(native))}
    return Entry(facts, packed_picture(found.picture))


def _moved(transform: Rigid, fixed: Fixed) -> Row:
    grid = fixed.density.grid
    z, y, x = ((count - 1) / 2 for count in grid.size)
    middle = grid.world((z, y, x))
    shift = float(np.linalg.norm(transform.points([middle])[0] - middle))
    return {"tilt_deg": transform.angle_deg, "shift_mm": shift}


def _line(facts: dict[str, Any] | None) -> Row:
    line = (facts or {}).get("line") or {}
    error = line.get("error") or {}
    low, high = error.get("slope_bounds") or (None, None)
    return {
        "slope": line.get("slope"),
        "slope_low": low,
        "slope_high": high,
        "intercept_mg_cm3": line.get("intercept"),
        "r2": error.get("r2"),
    }
