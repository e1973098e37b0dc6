"""Scans as an archive holds them, with patient and study, and the volumes read from them; for tests of DICOM output."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from dicom_series import UPRIGHT, write_series
from pydicom.dataset import Dataset

from qctrun.runtime import Volume, read

LINE = (0.8, 2.0)
PATIENT = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "Müller^Änne",
    "PatientID": "4711",
    "PatientBirthDate": "19500203",
    "PatientSex": "F",
    "PatientAge": "074Y",
    "StudyInstanceUID": "1.2.3.4.5",
    "StudyDate": "20240506",
    "StudyTime": "070809",
    "StudyID": "S1",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "Doe^Jo",
    "StudyDescription": "Rücken",
    "SeriesNumber": 3,
    "SeriesDescription": "LWS 0,6 B60",
    "AcquisitionNumber": 1,
    "PatientPosition": "HFS",
    "BodyPartExamined": "LSPINE",
    "PositionReferenceIndicator": "",
    "LossyImageCompression": "00",
}
CROOKED = {
    "upright": UPRIGHT,
    "flipped": np.diag([1.0, -1.0, -1.0]),
    "sagittal": np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
}


def stored(shape: Sequence[int] = (5, 6, 7), seed: int = 0) -> npt.NDArray[np.int16]:
    """Stored values from air to enamel."""
    return np.random.default_rng(seed).integers(-1000, 2500, tuple(shape), dtype=np.int16)


def scan(folder: Path, values: npt.NDArray[Any] | None = None, **options: Any) -> Volume:
    """Write a scan with patient and study (see `write_series` for the options) and read it as density."""
    write_series(folder, stored() if values is None else values, **{**PATIENT, **options})
    return read(folder, calibration=LINE, material="HA")


def written(folder: Path) -> list[Dataset]:
    """The slices of a derived series in the order of their names."""
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def faults(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "CTImage" in told.stderr + told.stdout or "ParametricMap" in told.stderr + told.stdout
    return [line for line in (told.stderr + told.stdout).splitlines() if line.startswith("Error")]
