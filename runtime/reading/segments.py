"""DICOM segmentations (SEG) as label maps: their segments become labels with names."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from qctrun.runtime.errors import InputError
from qctrun.runtime.extras import library
from qctrun.runtime.reading.label_names import Names
from qctrun.runtime.reading.sources import cause, files_below, is_dicom, quiet, readable
from qctrun.runtime.volume import Grid

SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
"""Segmentation Storage (BINARY and FRACTIONAL) and Label Map Segmentation Storage."""
CONTOURS = "1.2.840.10008.5.1.4.1.1.481.3"
"""RT Structure Set Storage."""

_BROKEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
)


def segments_file(path: Path) -> Path | None:
    """The DICOM file that a path names: itself, or the only one in a folder; None where it is something else.

    Raises
    ------
    InputError
        When a folder holds several.
    """
    with readable(path):
        if path.is_file():
            return path if is_dicom(path) else None
    if not path.is_dir():
        return None
    found = [file for file in files_below(path) if is_dicom(file)]
    if len(found) > 1:
        got = f"a folder of {len(found)} DICOM files"
        raise InputError(f"{path}", wanted="a label map, or one DICOM SEG", got=got, mend="name its file")
    return found[0] if found else None


def load_segments(file: Path, path: Path) -> tuple[npt.NDArray[Any], Grid, Names, str | None]:
    """Read a SEG of the types BINARY and LABELMAP.

    Parameters
    ----------
    file : Path
        The file on disk.
    path : Path
        What messages call it.

    Returns
    -------
    numbers : unsigned array (z, y, x)
        Segment numbers, 0 where there is none. Slices in between that the file leaves out are empty.
    grid : Grid
        From the first slice that the file has to the last.
    names : dict
        Segment number to its SegmentLabel.
    frame_uid : str or None
        Its frame of reference.

    Raises
    ------
    InputError
        When it is another kind of object, is damaged, holds fractions, or segments overlap.
    RuntimeMissingError
        When highdicom is not installed.
    """
    _check_class(file, path)
    highdicom = library("highdicom", "DICOM SEG")
    try:
        with quiet():
            segmentation = highdicom.seg.segread(file)
            kind = segmentation.segmentation_type.value
            if kind not in ("BINARY", "LABELMAP"):
                mend = "write it as BINARY or LABELMAP"
                raise InputError(f"{path}", wanted="whole voxels a segment", got=f"a {kind} SEG", mend=mend)
            volume = segmentation.get_volume(combine_segments=True)
            # Of (slice, row, column); so (x, y, z) is right-handed, as in a scan.
            volume = volume.ensure_handedness("LEFT_HANDED", flip_axis=0)
            names = {
                int(segment.SegmentNumber): " ".join(str(segment.SegmentLabel).split())
                for segment in segmentation.SegmentSequence
            }
            frame = str(segmentation.get("FrameOfReferenceUID") or "") or None
            return volume.array, _grid(volume), _named(names), frame
    except (*_BROKEN, ValueError) as error:
        mend = "export it as a label map without overlap" if "overlap" in str(error) else ""
        raise InputError(
            f"{path}", wanted="a sound SEG of one volume, no overlap", got=cause(error), mend=mend
        ) from error


def _check_class(file: Path, path: Path) -> None:
    try:
        with quiet():
            header = dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality"])
            found = header.get("SOPClassUID")
    except (InvalidDicomError, ValueError, *_BROKEN) as error:
        raise InputError(f"{path}", wanted="a whole DICOM file", got=cause(error)) from error
    if found == CONTOURS:
        mend = "turn its contours into a label map or a SEG first, for instance with 3D Slicer"
        raise InputError(f"{path}", wanted="a label map or a DICOM SEG", got="contours (RTSTRUCT)", mend=mend)
    if found not in SEGMENTATIONS:
        got = f"a DICOM object of class {getattr(found, 'name', found)}"
        raise InputError(f"{path}", wanted="a label map or a DICOM SEG", got=got)


def _grid(volume: Any) -> Grid:
    """highdicom's affine maps (slice, row, column) to LPS; our directions run x, y, z."""
    steps = np.asarray(volume.affine, float)[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    direction = (steps / spacing)[:, ::-1]
    size, origin = volume.array.shape, volume.affine[:3, 3]
    return Grid(size, (spacing[0], spacing[1], spacing[2]), tuple(origin), tuple(direction.ravel().tolist()))


def _named(names: Names) -> Names:
    return {label: name for label, name in names.items() if label > 0 and name}
