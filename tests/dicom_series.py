"""Small DICOM series written tag by tag, so that a test knows what must come out of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

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
