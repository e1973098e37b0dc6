"""DICOM headers of a folder: what each object is, and the few tags that place its CT slices in space."""

import filecmp
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.codestreams import require_inflatable
from qctrun.runtime.reading.frames import GROUPS, frames_of
from qctrun.runtime.reading.kinds import WITHOUT_PIXELS, class_kind, kind_of, storage_of
from qctrun.runtime.reading.sources import cause, files_below, is_dicom, quiet
from qctrun.runtime.reading.tags import (
    items_of,
    number_of,
    numbers_of,
    text_of,
    unreadable,
    whole_of,
    words_of,
)

MARKS = (
    *("ConvolutionKernel", "KVP", "ImageType", "FrameType", "StackID"),
    *("AcquisitionNumber", "FrameAcquisitionNumber"),
    *("TemporalPositionIdentifier", "TemporalPositionIndex"),
    *("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    *("AcquisitionDateTime", "FrameAcquisitionDateTime", "FrameReferenceDateTime", "AcquisitionTime"),
)
"""What can tell volumes at one place apart, the plainest first."""

TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription"),
    *("SeriesInstanceUID", "StudyInstanceUID"),
    *("FrameOfReferenceUID", "VolumetricProperties", "VolumeBasedCalculationTechnique"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient"),
    *("LossyImageCompression", "InConcatenationNumber", "InConcatenationTotalNumber"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
    *("RealWorldValueMappingSequence", "DerivationDescription"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "PixelRepresentation", "BitsAllocated"),
    *("Manufacturer", "ManufacturerModelName"),
    *MARKS,
    *GROUPS,
]
"""Everything that is looked at. No tag that names a patient is ever decoded."""

LOSSY_SYNTAXES = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
HOUNSFIELD_UNITS = frozenset({"[hnsf'U]", "hnsf'U", "HU"})


@dataclass(frozen=True, slots=True)
class Header:
    """One CT slice before its pixels are read; None or an empty text where the tag is missing or unreadable.

    Positions and spacings are in mm, `pixel_spacing_mm` is (y, x): between rows, then between columns.
    `frame` is its index in a multi-frame object, `faults` say why its tags cannot be used, `marks` hold the
    texts of `MARKS`, `part` is (number, of how many) in a concatenation.
    """

    path: Path
    series_uid: str
    description: str
    frame_uid: str
    rows: int
    columns: int
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
    padding_limit: int | None = None
    frame: int | None = None
    faults: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    part: tuple[int, int] | None = None
    derivation: str = ""
    study_uid: str = ""

    @property
    def name(self) -> str:
        """The file, and in it the frame, counted from 1 as viewers do."""
        return self.path.name if self.frame is None else f"{self.path.name} frame {self.frame + 1}"


def read_headers(folder: Path) -> tuple[list[Header], Counter[str]]:
    """Read the headers of all CT slices in and below a folder.

    A file that repeats an earlier one byte for byte is counted as a duplicate and left out.

    Returns
    -------
    headers, set_aside
        The slices in the order of their paths, and how many files or frames of which other kind were found.

    Raises
    ------
    InputError
        When a DICOM file is cut short, a file named `.dcm` is none, or one cannot be read at all.
    """
    headers, set_aside = [], Counter[str]()
    seen: dict[str, list[Path]] = {}
    for path in files_below(folder):
        with quiet():
            dataset = _dataset(path)
            if dataset is None:
                set_aside["file that is not DICOM"] += 1
            elif _seen_before(dataset, path, seen):
                set_aside["duplicate file"] += 1
            else:
                for kind, header in _slices(dataset, path):
                    if header is None:
                        set_aside[kind] += 1
                    else:
                        headers.append(header)
    return headers, set_aside


def in_words(set_aside: Counter[str]) -> str:
    """Spell counted kinds, `1 localizer, 2 3-D renderings`; empty when there are none."""
    return ", ".join(f"{count} {_many(kind) if count > 1 else kind}" for kind, count in set_aside.items())


def _many(kind: str) -> str:
    known = {"file that is not DICOM": "files that are not DICOM", "DICOM directory": "DICOM directories"}
    return known.get(kind, kind + "s" * (kind[-1] != "s"))


def _dataset(path: Path) -> FileDataset | None:
    damaged = {"wanted": "a whole DICOM file", "mend": "copy the scan again"}
    if not is_dicom(path):
        if path.suffix.lower() == ".dcm" and not path.name.startswith("."):
            raise InputError(f"{path}", got="a file without the DICOM mark at byte 128", **damaged)
        return None
    # What a broken header makes the library raise is open-ended; to the user it is a broken header.
    try:
        with path.open("rb") as file:
            require_inflatable(file)
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


def _complete(dataset: FileDataset, ended: bool) -> bool:
    """Whether the file reaches the tags that every object must have, and a CT image its pixels."""
    storage = storage_of(dataset, dataset.file_meta)
    if class_kind(storage) in WITHOUT_PIXELS:
        return True
    modality = text_of(dataset, "Modality")
    return bool(storage and modality) and not (modality == "CT" and ended)


def _seen_before(dataset: Dataset, path: Path, seen: dict[str, list[Path]]) -> bool:
    """Whether the file is a copy of an earlier one: the same instance, and the same bytes."""
    uid = text_of(dataset, "SOPInstanceUID")
    earlier = seen.setdefault(uid, [])
    if uid and any(filecmp.cmp(path, other, shallow=False) for other in earlier):
        return True
    earlier.append(path)
    return False


def _slices(dataset: FileDataset, path: Path) -> Iterator[tuple[str, Header | None]]:
    """The slices of an object, each as its header or as the kind of what is none."""
    storage = storage_of(dataset, dataset.file_meta)
    kind = kind_of(dataset, storage)
    if kind:
        yield kind, None
        return
    lossy = text_of(dataset.file_meta, "TransferSyntaxUID") in LOSSY_SYNTAXES
    try:
        for frame, tags, faults in frames_of(dataset, storage, TAGS):
            kind = kind_of(tags, storage)
            yield kind, None if kind else _header(tags, path, frame, faults, lossy)
    except Exception as error:
        got = f"a header that cannot be read ({cause(error)})"
        raise InputError(
            f"{path}", wanted="a whole DICOM file", got=got, mend="copy the scan again"
        ) from error


def _header(dataset: Dataset, path: Path, frame: int | None, faults: tuple[str, ...], lossy: bool) -> Header:
    maker = (text_of(dataset, name) for name in ("Manufacturer", "ManufacturerModelName"))
    number, total = (whole_of(dataset, f"InConcatenation{name}Number") for name in ("", "Total"))
    return Header(
        path=path,
        series_uid=text_of(dataset, "SeriesInstanceUID"),
        description=text_of(dataset, "SeriesDescription"),
        frame_uid=text_of(dataset, "FrameOfReferenceUID"),
        rows=whole_of(dataset, "Rows") or 0,
        columns=whole_of(dataset, "Columns") or 0,
        position=numbers_of(dataset, "ImagePositionPatient", 3),
        orientation=numbers_of(dataset, "ImageOrientationPatient", 6),
        pixel_spacing_mm=numbers_of(dataset, "PixelSpacing", 2),
        thickness_mm=number_of(dataset, "SliceThickness"),
        slope=number_of(dataset, "RescaleSlope"),
        intercept=number_of(dataset, "RescaleIntercept"),
        rescale_type=text_of(dataset, "RescaleType").upper() or _mapped_unit(dataset),
        padding=_stored(dataset, "PixelPaddingValue"),
        padding_limit=_stored(dataset, "PixelPaddingRangeLimit"),
        lossy=lossy or text_of(dataset, "LossyImageCompression") == "01",
        kvp=number_of(dataset, "KVP"),
        kernel="\\".join(words_of(dataset, "ConvolutionKernel")),
        manufacturer=" ".join(name for name in maker if name),
        frame=frame,
        faults=(*faults, *_rescale_faults(dataset)),
        marks=tuple("\\".join(words_of(dataset, name)) for name in MARKS),
        part=None if number is None or total is None else (number, total),
        derivation=text_of(dataset, "DerivationDescription"),
        study_uid=text_of(dataset, "StudyInstanceUID"),
    )


def _rescale_faults(dataset: Dataset) -> list[str]:
    """Why the stored values cannot be turned into numbers with a unit."""
    found = [
        f"{name} {text!r} is no number"
        for name in ("RescaleSlope", "RescaleIntercept")
        if (text := unreadable(dataset, name))
    ]
    if number_of(dataset, "RescaleSlope") == 0:
        found.append("a rescale slope of 0")
    if items_of(dataset, "ModalityLUTSequence"):
        found.append("a ModalityLUTSequence in place of rescale slope and intercept")
    return found


def _mapped_unit(dataset: Dataset) -> str:
    """The unit of a real-world value mapping where no rescale type stands; empty for HU."""
    for item in items_of(dataset, "RealWorldValueMappingSequence"):
        for unit in items_of(item, "MeasurementUnitsCodeSequence"):
            code = text_of(unit, "CodeValue")
            if code and code not in HOUNSFIELD_UNITS:
                return code.upper()
    return ""


def _stored(dataset: Dataset, name: str) -> int | None:
    """A stored value; its sign is often lost in the tag, or stands where pixels have none."""
    value, signed = whole_of(dataset, name), whole_of(dataset, "PixelRepresentation") == 1
    bits = min(whole_of(dataset, "BitsAllocated") or 16, 64)
    if value is not None and signed and value >= 1 << (bits - 1):
        return value - (1 << bits)
    if value is not None and not signed and value < 0:
        return value + (1 << bits)
    return value
