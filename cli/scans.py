"""Reading the inputs of a verb, and telling the user and the record what was found."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qctrun.cli.call import Call
from qctrun.cli.options import Reading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from qctrun.runtime import Grid, Volume
    from qctrun.runtime.writing import RunRecord


def read_scan(call: Call, record: "RunRecord", source: Path, reading: Reading) -> "Volume":
    """Read a calibrated volume; say how it was calibrated and everything it warns of."""
    from qctrun.runtime import read

    volume = read(source, **reading.keywords())
    record.add_volume(volume)
    _say_calibration(call, record, volume.provenance["calibration"], _calibration_file(source, reading))
    for warning in volume.warnings:
        call.warn(warning)
    call.detail(f"read {source}: {volume.grid.size} voxels of {volume.grid.spacing} mm (z, y, x)")
    return volume


def read_mask(record: "RunRecord", path: Path | None, grid: "Grid") -> "npt.NDArray[np.bool_] | None":
    """True where the mask file is not zero; None without a file."""
    from qctrun.runtime.reading import read_labels

    if path is None:
        return None
    record.add_input("mask", path)
    mask: npt.NDArray[np.bool_] = read_labels(path, grid) != 0
    return mask


def _calibration_file(source: Path, reading: Reading) -> Path | None:
    from qctrun.runtime.reading import find_beside

    if reading.calibration is None:
        return find_beside(source).calibration
    return reading.calibration if isinstance(reading.calibration, Path) else None


def _say_calibration(call: Call, record: "RunRecord", line: dict[str, Any], file: Path | None) -> None:
    words = f"{line['slope']:g} HU {line['intercept']:+g} mg/cm3 {line['material']} ({line['source']})"
    if file is not None and _holds(file, line):
        record.add_input("calibration", file)
        words += f", found in {file}"
    call.say(f"calibration: {words}")


def _holds(file: Path, line: dict[str, Any]) -> bool:
    """Whether the line came from this file; one beside a volume that is density already is not used."""
    from qctrun.runtime.errors import InputError
    from qctrun.runtime.reading import load_calibration

    try:
        return load_calibration(file, line["material"]).as_dict() == line
    except InputError:
        return False
