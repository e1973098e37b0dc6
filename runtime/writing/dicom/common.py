"""What all derived objects say: whose they are, what made them of what, and that they are for research."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from qctrun.runtime.reading.told import PRIVATE_CREATOR, PRIVATE_GROUP, PRIVATE_SIDECAR
from qctrun.runtime.version import VERSION
from qctrun.runtime.volume import Grid, Volume
from qctrun.runtime.writing.dicom import codes
from qctrun.runtime.writing.dicom.kept import EQUIPMENT, kept
from qctrun.runtime.writing.dicom.sources import Source, told_of

MAKER = "qctrun"
SERIES_NUMBERS_ON = 900
"""Numbers of derived series stand so far behind that of the scan."""
_LARGEST_SERIES_NUMBER = 2**31 - 1000
"""IS ends at 2^31 - 1, and less than 1000 is added."""


def save(dataset: Dataset, path: Path) -> None:
    """Write an object; what the system refuses is raised as it was said, without the library's story around it."""
    try:
        dataset.save_as(path, enforce_file_format=True)
    except OSError as error:
        while isinstance(error.__cause__, OSError):
            error = error.__cause__
        raise error from None


def add_maker(dataset: Dataset, source: Source) -> None:
    """Name this program as what made the object, and the scanner as what took the scan."""
    for name in EQUIPMENT:
        if name in dataset:
            delattr(dataset, name)
    dataset.Manufacturer = dataset.ManufacturerModelName = MAKER
    dataset.SoftwareVersions = VERSION
    dataset.ContributingEquipmentSequence = [scanner(source), processor()]


def scanner(source: Source) -> Dataset:
    """The scanner, as the scan names it."""
    dataset = kept(source.first, EQUIPMENT)
    if not dataset.get("Manufacturer"):
        dataset.Manufacturer = "unknown"
    dataset.PurposeOfReferenceCodeSequence = [codes.item(codes.ACQUISITION_EQUIPMENT)]
    return dataset


def processor() -> Dataset:
    """This program as the equipment that processed the scan."""
    dataset = Dataset()
    dataset.PurposeOfReferenceCodeSequence = [codes.item(codes.PROCESSING_EQUIPMENT)]
    dataset.Manufacturer = dataset.ManufacturerModelName = MAKER
    dataset.SoftwareVersions = VERSION
    dataset.ContributionDescription = "Density, filter and bone parameters; research use, not for diagnosis"
    return dataset


def add_private(dataset: Dataset, volume: Volume) -> None:
    """Leave what stands in the sidecar of an image of other formats, for this program to read."""
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(PRIVATE_SIDECAR, "UT", told_of(volume))


def derivation(volume: Volume) -> str:
    """In words for a person: by which line density was made, which model filtered, and what was resampled."""
    known = volume.provenance
    parts = [f"qctrun {VERSION}", _line(known.get("calibration") or {}, volume)]
    if model := known.get("filter"):
        parts.append(f"filtered by {model.get('model', '')} {model.get('version', '')}".strip())
    parts += [str(step["what"]) for step in known.get("resampling") or ()]
    words = "; ".join([*parts, "research use, not for diagnosis"])
    return words.encode("ascii", "replace").decode()[:1024]


def series_number(source: Source) -> int:
    """The number of a series derived from this one; as of a scan without a number where it is none, or too large."""
    try:
        number = int(source.first.get("SeriesNumber") or 0)
    except (TypeError, ValueError, OverflowError):
        number = 0
    return SERIES_NUMBERS_ON + (number if abs(number) <= _LARGEST_SERIES_NUMBER else 0)


def series_description(source: Source, words: str) -> str:
    """The description of the scan's series with what became of it behind, in the 64 characters that there are."""
    scan = str(source.first.get("SeriesDescription") or "").strip()
    return f"{scan[: 64 - len(words) - 1]} {words}".strip()


def reference(source: Source, k: int) -> Dataset:
    """One slice of the scan as the source image of a derived one."""
    header, frame = source.headers[k], source.frames[k]
    dataset = _instance(header)
    if frame is not None:
        dataset.ReferencedFrameNumber = frame + 1
    dataset.PurposeOfReferenceCodeSequence = [codes.item(codes.SOURCE_IMAGE)]
    dataset.SpatialLocationsPreserved = "YES"
    return dataset


def series_reference(source: Source, ks: list[int]) -> Dataset:
    """The scan's series with those of its slices that are referred to."""
    dataset = Dataset()
    dataset.SeriesInstanceUID = source.first.SeriesInstanceUID
    headers = {source.headers[k].SOPInstanceUID: source.headers[k] for k in ks}
    dataset.ReferencedInstanceSequence = [_instance(header) for header in headers.values()]
    return dataset


def position(grid: Grid, k: int) -> list[float]:
    """Of the first voxel of slice k, (x, y, z), mm."""
    return [round(float(value), 6) for value in grid.world((k, 0, 0))]


def orientation(grid: Grid) -> list[float]:
    """Directions of the rows, then of the columns."""
    rows = grid.direction
    return [round(value, 12) for value in (rows[0], rows[3], rows[6], rows[1], rows[4], rows[7])]


def _instance(header: Dataset) -> Dataset:
    dataset = Dataset()
    dataset.ReferencedSOPClassUID, dataset.ReferencedSOPInstanceUID = (
        header.SOPClassUID,
        header.SOPInstanceUID,
    )
    return dataset


def _line(line: Mapping[str, Any], volume: Volume) -> str:
    density = f"density in mg/cm3 {volume.material or ''}".strip()
    if line.get("slope") is None:
        return density
    nominal = ", NOMINAL, not measured" * bool(line.get("nominal"))
    return f"{density} = {line['slope']:g} HU {line['intercept']:+g} ({line['source']}{nominal})"
