"""Reading the inputs of a verb, and telling the user and the record what was found."""

from collections.abc import Mapping
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
    _say_calibration(call, record, volume.provenance)
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


def _say_calibration(call: Call, record: "RunRecord", provenance: Mapping[str, Any]) -> None:
    line, file = provenance["calibration"], provenance.get("calibration_file")
    known = line["slope"] is not None
    words = f"{line['slope']:g} HU {line['intercept']:+g} mg/cm3 {line['material']}" if known else ""
    if said := provenance.get("density_from"):
        by = "its sidecar says" if said == "sidecar" else "--unit says"
        made = f"made with {words}, {line['source']}" if known else "by what line is not known"
        call.say(f"density in mg/cm3 {line['material']}, as {by} ({made})")
        return
    words += f" ({line['source']})"
    if file is not None:
        record.add_input("calibration", Path(file))
        words += f", found in {file}"
    call.say(f"calibration: {words}")
