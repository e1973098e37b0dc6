"""What four programs make of a DICOM folder: the volumes, or the words with which they refuse."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from dicom_truth import Made
from pydicom.misc import is_dicom

from qctrun.runtime import read
from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import list_series

DCM2NIIX = shutil.which("dcm2niix")
_UNIT_HU = "say --unit hu"


@dataclass
class Outcome:
    """What came out: volumes, or why not, and what the program warned of."""

    made: list[Made] = field(default_factory=list)
    refusal: str = ""
    warnings: list[str] = field(default_factory=list)
    asked: str = ""
    """The option that a refusal asks for, where the volumes came with it."""


def by_qctrun(source: Path, *, allow_resample: bool = False) -> Outcome:
    """This program, as `qctrun filter` would read; where it asks for an option, also with that option."""
    out = Outcome()
    try:
        _add(out, source, allow_resample=allow_resample)
    except InputError as error:
        out.refusal = str(error)
        if "--series-uid" in out.refusal:
            out.asked = "--series-uid"
            for series in list_series(source):
                _try(out, source, series_uid=series.name, allow_resample=allow_resample)
        elif _UNIT_HU in out.refusal:
            out.asked = "--unit hu"
            _try(out, source, unit="HU", allow_resample=allow_resample)
    return out


def by_simpleitk(folder: Path) -> Outcome:
    """SimpleITK's series reader in the three lines that most people write."""
    out = Outcome()
    with _stderr() as said:
        try:
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
            image = reader.Execute()
        except RuntimeError as error:
            out.refusal = _last_line(str(error))
            return out
    out.warnings = [re.sub(r"^.*\): ", "", line.strip()) for line in said if "nonuniformity" in line.lower()]
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = sitk.VectorIndexSelectionCast(image, 0)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    out.made.append(_slices_first(sitk.GetArrayFromImage(image), affine))
    return out


def by_dcm2niix(folder: Path) -> Outcome:
    """dcm2niix with its defaults; every image that it writes, of four dimensions one by one."""
    import nibabel

    out = Outcome()
    if DCM2NIIX is None:
        out.refusal = "not installed"
        return out
    with tempfile.TemporaryDirectory() as room:
        words = [DCM2NIIX, "-z", "n", "-b", "n", "-f", "%j", "-o", room, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        warned = [re.sub(r"^(Warning|Error):\s*", "", line) for line in lines if _tells(line)]
        out.warnings = list(dict.fromkeys(warned))
        for path in sorted(Path(room).glob("*.nii")):
            image = nibabel.load(path)
            if image.get_data_dtype().fields is None:
                numbers = np.asarray(image.dataobj)
                frames = np.moveaxis(numbers, -1, 0) if numbers.ndim == 4 else [np.atleast_3d(numbers)]
                affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
                out.made += [_slices_first(frame.T, affine) for frame in frames]
    if not out.made:
        out.refusal = "; ".join(out.warnings[:1]) or "no image"
    return out


def by_highdicom(folder: Path) -> Outcome:
    """highdicom on the files of the folder that hold pixels, as one series."""
    import highdicom

    out = Outcome()
    try:
        found = [pydicom.dcmread(path) for path in sorted(folder.iterdir()) if is_dicom(path)]
        volume = highdicom.get_volume_from_series([one for one in found if "PixelData" in one])
        out.made.append(Made(np.asarray(volume.array), np.asarray(volume.affine)))
    except Exception as error:  # it raises what it likes; the words are what counts here
        out.refusal = _last_line(str(error)) or type(error).__name__
    return out


def _try(out: Outcome, source: Path, **options: Any) -> None:
    try:
        _add(out, source, **options)
    except InputError as error:
        out.warnings.append(str(error))


def _add(out: Outcome, source: Path, **options: Any) -> None:
    volume = read(source, calibration=(1.0, 0.0), material="HA", **options)
    grid = volume.grid
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(grid.direction, (3, 3)) * grid.spacing[::-1]
    affine[:3, 3] = grid.origin
    out.made.append(_slices_first(volume.array, affine))
    out.warnings += volume.warnings


def _slices_first(array: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> Made:
    """An array (z, y, x) with the matrix of its indices in that order, from one for (x, y, z)."""
    return Made(array, affine[:, [2, 1, 0, 3]])


def _tells(line: str) -> bool:
    """Whether a line of dcm2niix is a warning about slices and their places, or about pixels."""
    about = (
        "tilt of",
        "interslice",
        "missing",
        "single slice",
        "voxel size",
        "duplicates",
        "transfer syntax",
    )
    return any(words in line.lower() for words in about)


def _last_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ") if lines else ""


@contextmanager
def _stderr() -> Iterator[list[str]]:
    """Lines that C++ code writes to the error stream, there after the block."""
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+") as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().splitlines()
