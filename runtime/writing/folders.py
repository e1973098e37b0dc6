"""An output that is a folder: the slices of one DICOM series, whole or not there.

In a list of outputs its name ends in `/`. What else may lie in such a folder belongs to somebody: it is never
removed, and a folder that holds any is not replaced.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

_SLICE = re.compile(r"slice-\d{4,}\.dcm")


def slice_name(number: int) -> str:
    """What the slice of this number (from 1 on) is called in its folder."""
    return f"slice-{number:04d}.dcm"


def is_folder(name: str) -> bool:
    """Whether an output of this name is a folder."""
    return name.endswith("/")


def slices_in(folder: Path) -> list[Path]:
    """The slices in a folder, in their order."""
    found = [path for path in folder.iterdir() if _SLICE.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def stranger_in(folder: Path) -> Path | None:
    """Something in a folder that is no slice; None where there is nothing else."""
    known = set(slices_in(folder))
    return next((path for path in sorted(folder.iterdir()) if path not in known), None)


def remove(path: Path) -> None:
    """Take away a file, or a folder of slices; strangers in the folder stay, and so does it then."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for file in slices_in(path):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # a stranger lies in it
        path.rmdir()


def flush(path: Path) -> None:
    """Have the disk take up a file, or a folder with all that is in it."""
    for each in (*(slices_in(path) if path.is_dir() else ()), path):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
