"""Small synthetic scans on disk: a DICOM series with a trabecular core, its mask and its calibration."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from qctrun.runtime.volume import Grid, Volume
from qctrun.runtime.writing import write

SPACING_MM = (0.34, 0.172, 0.172)
ORIGIN_MM = (-10.0, 20.0, 30.0)
SIZE = (20, 44, 44)


def hounsfield(size: tuple[int, int, int] = SIZE, seed: int = 0) -> npt.NDArray[np.int16]:
    """Soft tissue around a rod of bone, with noise; (z, y, x), HU."""
    z, y, x = np.indices(size)
    bone = np.hypot(y - size[1] / 2, x - size[2] / 2) < size[1] / 3
    struts = np.where((z + y + x) % 6 < 2, 500.0, 0.0)
    noise = np.random.default_rng(seed).normal(0, 40, size)
    return np.rint(np.where(bone, struts, 40.0) + noise).astype(np.int16)


def make_series(
    folder: Path,
    *,
    size: tuple[int, int, int] = SIZE,
    kvp: float = 120.0,
    seed: int = 0,
    prefix: str = "slice",
) -> str:
    """Write a CT series as one file a slice; return its series UID."""
    folder.mkdir(parents=True, exist_ok=True)
    series, frame, study = generate_uid(), generate_uid(), generate_uid()
    for number, values in enumerate(hounsfield(size, seed)):
        dataset = _slice(values, number, kvp)
        dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID, dataset.StudyInstanceUID = (
            series,
            frame,
            study,
        )
        dataset.save_as(folder / f"{prefix}{number:03d}.dcm", enforce_file_format=True)
    return str(series)


def make_scan(folder: Path, *, size: tuple[int, int, int] = SIZE) -> Path:
    """A DICOM folder as a clinic would hand it over: slices, `calibration.json` and `mask.nii.gz`."""
    make_series(folder, size=size)
    line = {"slope": 0.8, "intercept": 2.0, "material": "HA", "source": "test rods"}
    (folder / "calibration.json").write_text(json.dumps(line))
    write_mask(folder / "mask.nii.gz", size)
    return folder


def grid(size: tuple[int, int, int] = SIZE) -> Grid:
    """Where the synthetic scans lie."""
    return Grid(size, SPACING_MM, ORIGIN_MM)


def density(size: tuple[int, int, int] = SIZE) -> Volume:
    """The synthetic scan as calibrated density."""
    return Volume(hounsfield(size).astype(np.float32) * 0.8, grid(size), "mg/cm3", "HA")


def write_mask(path: Path, size: tuple[int, int, int] = SIZE, *, spacing_mm: float | None = None) -> Path:
    """A rod of ones in the middle, on the scan's grid or on another one."""
    _, y, x = np.indices(size)
    inside = np.hypot(y - size[1] / 2, x - size[2] / 2) < size[1] / 4
    place = grid(size) if spacing_mm is None else Grid(size, (spacing_mm,) * 3)
    write(Volume(inside.astype(np.float32), place, "1"), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).unlink()
    return path


def _slice(values: npt.NDArray[np.int16], number: int, kvp: float) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName, dataset.PatientID = "Nobody^Ever", "SECRET-ID"
    dataset.KVP, dataset.ConvolutionKernel, dataset.Manufacturer = kvp, "B40", "Synthetic"
    x, y, z = ORIGIN_MM
    dataset.ImagePositionPatient = [x, y, round(z + number * SPACING_MM[0], 6)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = list(SPACING_MM[1:]), SPACING_MM[0]
    dataset.InstanceNumber = number + 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = (values + 1024).clip(0).astype("<u2").tobytes()
    return dataset
