"""Write an in-silico scan as the DICOM series that a scanner would have sent."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

_UNKNOWN = (
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID"),
    *("AccessionNumber", "PositionReferenceIndicator", "AcquisitionNumber"),
)

HU_RANGE = (-8192, 8191)
"""What is stored; wide enough that noise is not clipped, which would shift means."""


def write_series(
    scan_hu: npt.NDArray[np.float32],
    spacing_mm: tuple[float, float, float],
    folder: Path,
    *,
    mas: float,
    seed: int,
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> list[Path]:
    """Write one CT slice a file, axial, head first, in HU.

    Parameters
    ----------
    scan_hu : float32 array (z, y, x)
        Hounsfield units; rounded to integers.
    spacing_mm : (float, float, float)
        Grid (z, y, x).
    folder : Path
        Created when absent.
    mas, seed
        Tube current-time product for the header, and what the series' UIDs are made from.
    centre_mm : (float, float, float)
        Where the middle of the grid lies in the scanner's world (x, y, z).

    Returns
    -------
    list of Path
        The files, in the order of z.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.clip(np.rint(scan_hu), *HU_RANGE).astype("<i2")
    origin = [c - (n - 1) / 2 * d for c, n, d in zip(centre_mm[::-1], scan_hu.shape, spacing_mm, strict=True)]
    paths = []
    for index, slice_hu in enumerate(stored):
        path = folder / f"{index + 1:04d}.dcm"
        header = _header(
            index,
            slice_hu.shape,
            spacing_mm,
            (origin[2], origin[1], origin[0] + index * spacing_mm[0]),
            mas,
            seed,
        )
        header.PixelData = slice_hu.tobytes()
        pydicom.dcmwrite(path, header, enforce_file_format=True)
        paths.append(path)
    return paths


def _header(
    index: int,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float, float],
    position: tuple[float, float, float],
    mas: float,
    seed: int,
) -> FileDataset:
    def uid(*parts: object) -> UID:
        return generate_uid(entropy_srcs=["qctrun", "in-silico", str(seed), str(mas), *map(str, parts)])

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid("slice", index)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    facts = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series"),
        "FrameOfReferenceUID": uid("frame"),
        "Modality": "CT",
        "BodyPartExamined": "SPINE",
        "Manufacturer": "qctrun (simulated)",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SeriesDescription": f"in-silico vertebra {mas:g} mAs",
        "SeriesNumber": 1,
        "InstanceNumber": index + 1,
        "PatientName": "in-silico",
        "PatientID": "in-silico",
        # Known to nobody, but the standard wants to see that they were thought of (type 2).
        **dict.fromkeys(_UNKNOWN, ""),
        "PatientPosition": "HFS",
        "KVP": 120,
        "Exposure": round(mas),
        "ConvolutionKernel": "in-silico",
        "PixelSpacing": [spacing_mm[1], spacing_mm[2]],
        "SliceThickness": spacing_mm[0],
        "ImagePositionPatient": [round(value, 6) for value in position],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "Rows": shape[0],
        "Columns": shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "HU",
    }
    header = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    for keyword, value in facts.items():
        setattr(header, keyword, value)
    return header
