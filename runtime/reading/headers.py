"""DICOM headers of a folder: what each object is, and the few tags that place a CT slice in space."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.sources import cause, files_below, is_dicom, quiet

TAGS = [
    *(
        "SOPClassUID",
        "Modality",
        "ImageType",
        "SeriesInstanceUID",
        "SeriesDescription",
        "FrameOfReferenceUID",
    ),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PixelSpacing", "SliceThickness"),
    *("ImagePositionPatient", "ImageOrientationPatient", "LossyImageCompression"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelRepresentation"),
    *("KVP", "ConvolutionKernel", "Manufacturer", "ManufacturerModelName"),
]
"""Everything that is looked at. No tag that names a patient is ever decoded."""

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
RAW_DATA = "1.2.840.10008.5.1.4.1.1.66"
ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
RENDERINGS = frozenset({"3D", "VRT", "SSD", "MIP", "MINIP"})


@dataclass(frozen=True, slots=True)
class Header:
    """One CT slice before its pixels are read; None or an empty text where the tag is missing or unreadable.

    Positions and spacings are in mm, `pixel_spacing_mm` is (y, x): between rows, then between columns.
    """

    path: Path
    series_uid: str
    description: str
    frame_uid: str
    rows: int
    columns: int
    multiframe: bool
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    thickness_mm: float | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    padding: int | None
    lossy: bool
    kvp: float | None
    kernel: str
    manufacturer: str


def read_headers(folder: Path) -> tuple[list[Header], Counter[str]]:
    """Read the headers of all CT slices in and below a folder.

    Returns
    -------
    headers, set_aside
        The slices in the order of their paths, and how many files of which other kind were found.

    Raises
    ------
    InputError
        When a DICOM file is cut short, a file named `.dcm` is none, or one cannot be read at all.
    """
    headers, set_aside = [], Counter[str]()
    for path in files_below(folder):
        with quiet():
            dataset = _dataset(path)
            kind = "file that is not DICOM" if dataset is None else _kind(dataset, path)
            if kind or dataset is None:
                set_aside[kind] += 1
            else:
                headers.append(_header(dataset, path))
    return headers, set_aside


def in_words(set_aside: Counter[str]) -> str:
    """Spell counted kinds, `1 localizer, 2 3-D renderings`; empty when there are none."""
    return ", ".join(
        f"{count} {kind}" + "s" * (count > 1 and kind[-1] != "s") for kind, count in set_aside.items()
    )


def _dataset(path: Path) -> FileDataset | None:
    damaged = {"wanted": "a whole DICOM file", "mend": "copy the scan again"}
    if not is_dicom(path):
        if path.suffix.lower() == ".dcm" and not path.name.startswith("."):
            raise InputError(f"{path}", got="a file without the DICOM mark at byte 128", **damaged)
        return None
    # What a broken header makes the library raise is open-ended; to the user it is a broken header.
    try:
        with path.open("rb") as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
            # The reader stops where the pixels begin; without pixels it runs to the end (deflated files always).
            ended = (
                not file.read(1)
                and dataset.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian
            )
    except Exception as error:
        raise InputError(
            f"{path}", got=f"a header that cannot be read ({cause(error)})", **damaged
        ) from error
    if not _complete(dataset, ended):
        raise InputError(f"{path}", got="no pixel data: absent, or cut off", **damaged)
    return dataset


def _kind(dataset: FileDataset, path: Path) -> str:
    """The name of what is not a CT slice; empty for a slice."""
    image_type = _words(dataset, "ImageType")
    storage = _class(dataset)
    if storage == MEDIA_DIRECTORY:
        return "DICOM directory"
    if not _is_ct(dataset):
        return f"{_text(dataset, 'Modality') or 'unnamed'} object"
    if RENDERINGS & set(image_type):
        return "3-D rendering"
    if "LOCALIZER" in image_type:
        return "localizer"
    if storage.startswith((SECONDARY_CAPTURE, RAW_DATA)):
        return "secondary capture" if storage.startswith(SECONDARY_CAPTURE) else "raw data object"
    return "colour picture" if _whole(dataset, "SamplesPerPixel") not in (None, 1) else ""


def _header(dataset: FileDataset, path: Path) -> Header:
    maker = (_text(dataset, name) for name in ("Manufacturer", "ManufacturerModelName"))
    return Header(
        path=path,
        series_uid=_text(dataset, "SeriesInstanceUID"),
        description=_text(dataset, "SeriesDescription"),
        frame_uid=_text(dataset, "FrameOfReferenceUID"),
        rows=_whole(dataset, "Rows") or 0,
        columns=_whole(dataset, "Columns") or 0,
        multiframe=_class(dataset) in ENHANCED_CT or (_whole(dataset, "NumberOfFrames") or 1) > 1,
        position=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing_mm=_numbers(dataset, "PixelSpacing", 2),
        thickness_mm=_number(dataset, "SliceThickness"),
        slope=_number(dataset, "RescaleSlope"),
        intercept=_number(dataset, "RescaleIntercept"),
        rescale_type=_text(dataset, "RescaleType").upper(),
        padding=_padding(dataset),
        lossy=_text(dataset, "LossyImageCompression") == "01",
        kvp=_number(dataset, "KVP"),
        kernel="\\".join(_words(dataset, "ConvolutionKernel")),
        manufacturer=" ".join(part for part in maker if part),
    )


def _is_ct(dataset: FileDataset) -> bool:
    return _text(dataset, "Modality") == "CT"


def _complete(dataset: FileDataset, ended: bool) -> bool:
    """Whether the file reaches the tags that every object must have, and a CT image its pixels."""
    storage = _class(dataset)
    if storage.startswith((MEDIA_DIRECTORY, RAW_DATA)):
        return True
    return bool(storage and _text(dataset, "Modality")) and not (_is_ct(dataset) and ended)


def _class(dataset: FileDataset) -> str:
    """SOP class of the object; anonymisers blank it in one of the two places where it stands."""
    return _text(dataset.file_meta, "MediaStorageSOPClassUID") or _text(dataset, "SOPClassUID")


def _padding(dataset: FileDataset) -> int | None:
    """Stored value outside of the scan circle; its sign is often lost in the tag, never in the pixels."""
    value = _whole(dataset, "PixelPaddingValue")
    if value is not None and value > 32767 and _whole(dataset, "PixelRepresentation") == 1:
        return value - 65536
    return value


def _value(dataset: Dataset, name: str) -> Any:
    """The tag's value, or None where its text breaks the rules of its type."""
    try:
        return dataset.get(name)
    except Exception:
        return None


def _words(dataset: Dataset, name: str) -> tuple[str, ...]:
    value = _value(dataset, name)
    items: Iterable[Any] = (
        value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else (value,)
    )
    return tuple(str(item).strip() for item in items if item not in (None, ""))


def _text(dataset: Dataset, name: str) -> str:
    return " ".join(_words(dataset, name))


def _numbers(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(word) for word in _words(dataset, name))
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _number(dataset: Dataset, name: str) -> float | None:
    values = _numbers(dataset, name, 1)
    return values[0] if values else None


def _whole(dataset: Dataset, name: str) -> int | None:
    value = _number(dataset, name)
    return None if value is None else int(value)
