"""The kinds of files that are read and written, known by the ends of their names."""

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Literal

Format = Literal["dicom", "dicom-zip", "nifti", "mha", "nrrd", "aim", "isq"]

READABLE: dict[str, Format] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".mha": "mha",
    ".mhd": "mha",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".aim": "aim",
    ".isq": "isq",
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
    name = without_version(path.name).lower()
    return next((suffix for suffix in among if name.endswith(suffix)), "")


def without_version(name: str) -> str:
    """`C0001.ISQ;1` as `C0001.ISQ`: OpenVMS, on which Scanco's scanners run, numbers the versions of a file."""
    return re.sub(r"(?i)(?<=\.aim|\.isq);[0-9]+$", "", name)


def is_utf8(path: PurePath) -> bool:
    """Whether the bytes of a path are UTF-8, as ITK takes for granted."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
