"""The demonstration: a simulated scan on disk, and what filtering it buys, in numbers and in one picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from qctrun.runtime import Grid, Volume, local_maps, parameters, read, write
from qctrun.runtime.errors import InputError
from qctrun.runtime.measuring import Parameters
from qctrun.runtime.reading import load_calibration
from qctrun.runtime.volume import MapKey
from qctrun.train.insilico.series import write_series
from qctrun.train.insilico.vertebra import vertebra

SLOPE_MG_CM3_PER_HU = 0.8
PICTURED_THRESHOLD_MG_CM3 = 225.0
_MAKER = "qctrun demo"


@dataclass(frozen=True)
class Measured:
    """One of raw, filtered and truth: the volume, its global rows and its local maps."""

    volume: Volume
    rows: Sequence[Parameters]
    maps: Mapping[MapKey, Volume]


def make_scan(folder: Path, *, seed: int = 0, mas: float = 100.0) -> None:
    """Write a simulated vertebra into `folder`, where there is none yet.

    `scan/` holds the DICOM series with `mask.nii.gz` and `calibration.json`; `truth.nii.gz` beside it is what a
    noise-free high-resolution scanner sees on the same grid, mg HA/cm3.
    """
    made = vertebra(seed)
    phantom = made.phantom
    scan = folder / "scan"
    write_series(phantom.scan(mas, 0) / SLOPE_MG_CM3_PER_HU, phantom.spacing_mm, scan, mas=mas, seed=seed)
    calibration = {
        "slope": SLOPE_MG_CM3_PER_HU,
        "intercept": 0.0,
        "material": "HA",
        "source": f"{_MAKER}: the line with which the simulated scan was written",
    }
    (scan / "calibration.json").write_text(json.dumps(calibration, indent=2) + "\n")
    grid = read(scan).grid
    _write_mask(made.mask, grid, scan / "mask.nii.gz")
    write(Volume(phantom.truth, grid, "mg/cm3", "HA"), folder / "truth.nii.gz")


def is_simulated(scan: Path) -> bool:
    """Whether a folder is a scan that `make_scan` wrote: its calibration says so."""
    try:
        return load_calibration(scan / "calibration.json").source.startswith(_MAKER)
    except InputError:
        return False


def measured(volume: Volume, thresholds: Sequence[float], mask: npt.NDArray[np.bool_]) -> Measured:
    """Measure a volume as `qctrun params` does."""
    return Measured(volume, parameters(volume, thresholds, mask), local_maps(volume, thresholds, mask=mask))


def compared(found: Mapping[str, Measured]) -> str:
    """Raw, filtered and truth side by side: global parameters, then the errors of the local maps.

    Parameters
    ----------
    found : mapping of "raw", "filtered" and "truth"
        The three, measured over the same mask at the same thresholds.
    """
    names = ("raw", "filtered", "truth")
    lines = [f"{'over the mask':<34}" + "".join(f"{name:>10}" for name in names)]
    firsts = [found[name].rows for name in names]
    lines.append(_line("BMD, mg/cm3", [rows[0].bmd_mg_cm3 for rows in firsts]))
    for same in zip(*firsts, strict=True):
        t = same[0].threshold_mg_cm3
        lines.append(_line(f"TMD at {t:g}, mg/cm3", [row.tmd_mg_cm3 for row in same]))
        lines.append(_line(f"BV/TV at {t:g}, %", [100 * row.bvtv for row in same]))
    lines.append(f"{'local maps, RMSE against truth':<34}" + "".join(f"{name:>10}" for name in names[:2]))
    for key in found["truth"].maps:
        lines.append(_line(*_map_errors(key, found)))
    return "\n".join(lines)


def rmse(got: Volume, want: Volume) -> float:
    """Root mean squared difference of two maps where both have a value, in their unit."""
    return float(np.sqrt(np.nanmean(np.square(got.array.astype(np.float64) - want.array))))


def _map_errors(key: MapKey, found: Mapping[str, Measured]) -> tuple[str, list[float | None]]:
    truth = found["truth"].maps[key]
    percent = truth.unit == "1"
    name = f"{key[0].replace('BVTV', 'BV/TV')} at {key[1]:g}" if isinstance(key, tuple) else key
    errors = [rmse(found[which].maps[key], truth) * (100 if percent else 1) for which in ("raw", "filtered")]
    return f"{name}, {'%' if percent else truth.unit}", list(errors)


def _line(what: str, values: Sequence[float | None]) -> str:
    return f"  {what:<32}" + "".join("       n/a" if value is None else f"{value:10.2f}" for value in values)


def _write_mask(mask: npt.NDArray[np.bool_], grid: Grid, path: Path) -> None:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    sitk.WriteImage(image, str(path), useCompression=True)
