"""Small DICOM series written tag by tag, so that a test knows what must come out of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

UPRIGHT = np.eye(3)
PATIENT = "Secret^Person"


def rotation(first: float, second: float, third: float) -> npt.NDArray[np.float64]:
    """A right-handed rotation from three angles in radians; its columns are the image axes x, y, z."""
    turns = np.eye(3)
    for angle, (i, j) in ((first, (0, 1)), (second, (0, 2)), (third, (1, 2))):
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        turns = turns @ turn
    return turns


def slice_dataset(stored: npt.NDArray[Any], position: Sequence[float], **tags: Any) -> Dataset:
    """One CT slice of stored values; a tag of value None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    signed = np.issubdtype(stored.dtype, np.signedinteger)
    bits = 8 * stored.dtype.itemsize
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": PATIENT,
        "PatientID": "4711",
        "SeriesInstanceUID": "1.2.3",
        "FrameOfReferenceUID": "1.2.3.4",
        "Manufacturer": "ACME",
        "ConvolutionKernel": "B60",
        "KVP": "120",
        "SliceThickness": "9.9",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
        "PixelSpacing": [0.5, 0.5],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [round(float(value), 6) for value in position],
        "RescaleSlope": "1",
        "RescaleIntercept": "0",
        **tags,
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def write_series(
    folder: Path,
    stored: npt.NDArray[Any],
    *,
    spacing: tuple[float, float, float] = (1.0, 0.5, 0.5),
    origin: Sequence[float] = (10.0, -20.0, 30.0),
    axes: npt.NDArray[np.float64] = UPRIGHT,
    slopes: Sequence[str] | None = None,
    heights: Sequence[float] | None = None,
    prefix: str = "",
    **tags: Any,
) -> list[Path]:
    """Write the slices of a volume under names without order and suffix; return their paths in array order.

    `heights` are the places of the slices along the normal in mm, in place of even ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = heights if heights is not None else [k * spacing[0] for k in range(len(stored))]
    names = np.random.default_rng(7).permutation(len(stored))
    paths = []
    for k, values in enumerate(stored):
        own = {"RescaleSlope": slopes[k]} if slopes is not None else {}
        dataset = slice_dataset(
            values,
            np.asarray(origin) + axes[:, 2] * places[k],
            **{
                "PixelSpacing": [spacing[1], spacing[2]],
                "ImageOrientationPatient": [round(float(v), 8) for v in axes[:, :2].T.ravel()],
                "InstanceNumber": int(names[k]),
                **own,
                **tags,
            },
        )
        paths.append(folder / f"{prefix}I{names[k]:04d}")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def sequence(**tags: Any) -> list[Dataset]:
    """The one item of a functional group."""
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return [item]


def functional_groups(frame_type: Sequence[str] | None = None, **tags: Any) -> Dataset:
    """Tags of an Enhanced CT frame, each in the functional group to which the standard gives it."""
    homes = {
        "PlanePositionSequence": ("ImagePositionPatient",),
        "PlaneOrientationSequence": ("ImageOrientationPatient",),
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
        "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
        "CTXRayDetailsSequence": ("KVP",),
        "CTReconstructionSequence": ("ConvolutionKernel",),
        "FrameContentSequence": (
            *("StackID", "InStackPositionNumber", "TemporalPositionIndex"),
            *("FrameAcquisitionNumber", "FrameAcquisitionDateTime"),
        ),
    }
    groups = Dataset()
    for home, names in homes.items():
        held = {name: tags.pop(name) for name in names if tags.get(name) is not None}
        if held:
            setattr(groups, home, sequence(**held))
    assert not tags, f"no functional group for {tags}"
    if frame_type is not None:
        groups.CTImageFrameTypeSequence = sequence(FrameType=list(frame_type))
    return groups


SHARED = {
    "PixelSpacing": [0.5, 0.5],
    "SliceThickness": 9.9,
    "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0],
    "RescaleSlope": 1.0,
    "RescaleIntercept": 0.0,
    "RescaleType": "HU",
    "KVP": 120.0,
    "ConvolutionKernel": "B60",
}


def enhanced_dataset(
    stored: npt.NDArray[Any],
    frames: Sequence[dict[str, Any]],
    shared: dict[str, Any] = SHARED,
    **tags: Any,
) -> Dataset:
    """An Enhanced CT object; `frames` and `shared` hold tags for `functional_groups`, one of them a frame."""
    absent = dict.fromkeys([*SHARED, "ImagePositionPatient"])
    dataset = slice_dataset(
        stored[0],
        (0, 0, 0),
        **{**absent, "SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": len(stored), **tags},
    )
    dataset.SharedFunctionalGroupsSequence = [functional_groups(**shared)]
    dataset.PerFrameFunctionalGroupsSequence = [functional_groups(**frame) for frame in frames]
    dataset.PixelData = stored.tobytes()
    return dataset


def heights(places: Sequence[float], axes: npt.NDArray[np.float64] = UPRIGHT) -> list[dict[str, Any]]:
    """Frames at these places in mm along the normal."""
    return [{"ImagePositionPatient": [float(v) for v in axes[:, 2] * place]} for place in places]
