"""What `qctrun calibrate` has left beside a line: its rods, and the picture of what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qctrun.runtime.errors import InputError
from qctrun.runtime.writing.names import record_name
from qctrun.runtime.writing.record import read_record, sum_of
from qctrun.runtime.writing.report import numbers
from qctrun.runtime.writing.report.run_folder import RunFolder, part

FOUND_PICTURE = "calibration.png"
_LINE = ("slope", "intercept", "material")
_ROD = ("hu", "density_mg_cm3", "residual_mg_cm3")
_SAME_MG_CM3 = 0.1
_LARGEST_PICTURE_BYTES = 20_000_000
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Fit:
    """The rods of a line as (HU, mg/cm3), and a PNG of what was found; empty and None where they are not known."""

    rods: Sequence[tuple[float, float]] = ()
    picture: bytes | None = None


def find_fit(run: RunFolder, line: Mapping[str, Any]) -> Fit:
    """The rods of a line, and its picture in the folder of the run, or else beside the file that it came from.

    A picture counts if it is still what `qctrun calibrate` has drawn, by its record, and of this very line.
    """
    beside = Path(str(line["file"])).parent if line.get("file") else None
    pictures = (_picture_in(folder, line) for folder in (run.folder, beside) if folder is not None)
    return Fit(_rods(line), next((picture for picture in pictures if picture is not None), None))


def _picture_in(folder: Path, line: Mapping[str, Any]) -> bytes | None:
    path = folder / record_name("calibrate")
    try:
        record = read_record(path) if path.is_file() else {}
        same = {key: part(record, "calibration").get(key) for key in _LINE}
        if same != {key: line.get(key) for key in _LINE}:
            return None
        sums = {each.get("path"): each.get("sha256") for each in record.get("outputs") or ()}
        return _picture(folder / FOUND_PICTURE, sums.get(FOUND_PICTURE))
    except (InputError, OSError, AttributeError):  # whatever lies there is no record of a calibration
        return None


def _picture(path: Path, digest: object) -> bytes | None:
    if sum_of(path) != digest or digest is None or path.stat().st_size > _LARGEST_PICTURE_BYTES:
        return None
    data = path.read_bytes()
    return data if data.startswith(_PNG) else None


def _rods(line: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The rods in the error of a line, if their residuals are from this very line.

    Those of a phantom in water are not: its line is one for tissue.
    """
    listed = part(line, "error").get("rods")
    slope, intercept = numbers.as_number(line.get("slope")), numbers.as_number(line.get("intercept"))
    pairs = []
    for rod in listed if isinstance(listed, list) else []:
        known = rod if isinstance(rod, dict) else {}
        hu, density, residual = (numbers.as_number(known.get(key)) for key in _ROD)
        if hu is None or density is None or residual is None:
            return []
        if (
            slope is None
            or intercept is None
            or abs(slope * hu + intercept - density - residual) > _SAME_MG_CM3
        ):
            return []
        pairs.append((hu, density))
    return pairs
