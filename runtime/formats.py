"""The kinds of files that are read and written, known by the ends of their names."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Literal

Format = Literal["dicom", "dicom-zip", "nifti", "mha", "nrrd"]

READABLE: dict[str, Format] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".mha": "mha",
    ".mhd": "mha",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".zip": "dicom-zip",
}
"""What `read` understands; longer suffixes stand before those that they end in."""

WRITABLE = (".nii.gz", ".nii", ".mha", ".nrrd")
"""What `write` understands."""

DICOM = "dicom"
FORMATS = ("nii.gz", "mha", "nrrd", DICOM)
"""What an image can be written as on request; the first is the default."""

UNFINISHED = ".qctrun-"
"""How the names of outputs begin that are still being written; no reader takes them for part of a scan."""


def suffix_of(path: PurePath, among: Iterable[str] = READABLE) -> str:
    """The known suffix of a file name, in small letters, `.nii.gz` taken as one; empty when it has none."""
    return next((suffix for suffix in among if path.name.lower().endswith(suffix)), "")


def is_utf8(path: PurePath) -> bool:
    """Whether the bytes of a path are UTF-8, as ITK takes for granted."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
