"""Volumes and scans to race on: noise of bone's mean and spread, at the paper's voxel size, the same every time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from qctrun.runtime import Grid, Volume
from qctrun.train.insilico.series import write_series

SPACING_MM = (0.34, 0.172, 0.172)
THRESHOLDS_MG_CM3 = (200.0, 225.0, 250.0)
DIAMETER_MM = 4.3
LINE: dict[str, Any] = {"slope": 0.8, "intercept": 0.0, "material": "HA", "source": "made up for a benchmark"}

Size = tuple[int, int, int]


def density(size: Size) -> Volume:
    """A volume (z, y, x), mg/cm3."""
    values = np.random.default_rng(0).standard_normal(size, np.float32)
    return Volume(values * np.float32(330) + np.float32(120), Grid(size, SPACING_MM), "mg/cm3", "HA")


def hounsfield(size: Size) -> npt.NDArray[np.int16]:
    """The same as a scanner would store it, HU (z, y, x)."""
    return np.rint(np.clip(density(size).array, -1024, 3071)).astype(np.int16)


def scan(folder: Path, size: Size, kind: str) -> Path:
    """Write a scan with its calibration; return what `qctrun filter` is to be given.

    Parameters
    ----------
    folder : path
        Made.
    size : (z, y, x)
        In voxels.
    kind : "dicom" or "nifti"
        A series of one file a slice, or one compressed file.
    """
    folder.mkdir(parents=True)
    (folder / "calibration.json").write_text(json.dumps(LINE), encoding="utf-8")
    if kind == "dicom":
        write_series(hounsfield(size).astype(np.float32), SPACING_MM, folder, mas=100.0, seed=0)
        return folder
    image = sitk.GetImageFromArray(hounsfield(size))
    image.SetSpacing(SPACING_MM[::-1])
    path = folder / "scan.nii.gz"
    sitk.WriteImage(image, str(path))
    return path
