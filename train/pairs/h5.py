"""HDF5 files that are written whole or not at all, and read without trusting them."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.extras import library
from qctrun.runtime.writing.files import writing

CHUNK = (32, 64, 64)
"""Voxels (z, y, x) of a chunk, 0.5 MB."""
FORMAT = ("v110", "v110")
"""HDF5 1.10 and later read it; its headers have checksums."""
SLACK = 1 << 20
"""Bytes that HDF5 needs at most between two calls of `reserve` for indices and headers."""
SUM = "attributes_sha256"
MOST_PACKED = 1032
"""Deflate makes nothing smaller than by this: whoever claims more lies about a size."""


@contextmanager
def new_file(path: Path) -> Iterator[Any]:
    """A file to fill, under a hidden name until the block ends well; then it takes the place of an earlier one.

    HDF5 does not survive a disk that refuses in mid-write, so room is asked for before: see `reserve`.

    Raises
    ------
    OutputError
        When the disk refuses; the earlier file is still there then.
    """
    h5py = library("h5py", "pairs")
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        part.unlink(missing_ok=True)
        try:
            with part.open("xb") as empty:  # never through a link that somebody has put there
                _allocate(empty.fileno(), 0, SLACK)  # there is room for a start
            with h5py.File(part, "w", libver=FORMAT, locking=False) as file:
                reserve(file, 0)
                yield file
            h5py.File(part, "r+", locking=False).close()  # cuts off what was reserved and not needed
            _flush(part)
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def reserve(file: Any, size: int) -> None:
    """Have the disk set aside so many bytes, and some for HDF5's own use, behind what the file has now.

    Where the system or its file system knows no such thing, nothing is done.

    Raises
    ------
    OSError
        When it has no room for them.
    """
    _allocate(file.id.get_vfd_handle(), file.id.get_filesize(), size + SLACK)


def new_array(group: Any, name: str, shape: tuple[int, ...], kind: str) -> Any:
    """Room for an array: packed by chunks, each with a checksum, no dates."""
    if 0 in shape:
        return group.create_dataset(name, shape, kind, track_times=False)
    own = shape[-3:]
    chunks = (1,) * (len(shape) - len(own)) + tuple(map(min, own, CHUNK[-len(own) :]))
    packing = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
    return group.create_dataset(name, shape, kind, chunks=chunks, track_times=False, **packing)


def fill(data: Any, where: Any, array: npt.NDArray[Any]) -> None:
    """Write values into an array that has room for them, once the disk has.

    Raises
    ------
    OSError
        When it has not.
    """
    # Deflate makes noise larger, by a few bytes in a thousand.
    reserve(data.file, array.nbytes + array.nbytes // 100)
    data[where] = array


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file to read; whatever HDF5 finds wrong with it inside the block is one line.

    Raises
    ------
    InputError
        When it is not there, is no HDF5 file, or is damaged.
    """
    h5py = library("h5py", "pairs")
    try:
        if not path.is_file():
            raise InputError(
                str(path), wanted="a dataset of pairs", got="no such file", mend="type: qctrun pairs"
            )
        if not h5py.is_hdf5(path):
            raise InputError(
                str(path), wanted="a dataset of pairs (HDF5)", got="another kind of file, or a damaged one"
            )
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        got = "a file that is damaged or was written by something else"
        mend = "write it anew with qctrun pairs"
        raise InputError(
            str(path), wanted="a dataset of pairs", got=f"{got} ({error})"[:200], mend=mend
        ) from error


def member(group: Any, name: str) -> Any:
    """What stands in a group under a name, in this very file: links to elsewhere are refused.

    Raises
    ------
    KeyError
        When it is not there or is a link.
    """
    h5py = library("h5py", "pairs")
    if not isinstance(group, h5py.Group) or not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise KeyError(f"no {name}")
    return group[name]


def whole_array(group: Any, name: str, dimensions: int, kind: str) -> npt.NDArray[Any]:
    """Read an array, once its claims about itself can be true.

    Raises
    ------
    KeyError, ValueError
        When it is not there, lies outside of the file, is of another type, or is larger than its bytes allow.
    """
    data = member(group, name)
    if not isinstance(data, library("h5py", "pairs").Dataset) or data.is_virtual or data.external:
        raise ValueError(f"{name} is not an array of this file")
    if data.dtype != np.dtype(kind) or len(data.shape) != dimensions:
        raise ValueError(f"{name} has another type or shape")
    if data.size * data.dtype.itemsize > MOST_PACKED * data.id.get_storage_size():
        raise ValueError(f"{name} claims more than the file holds")
    array = np.empty(data.shape, data.dtype)
    if data.size:
        data.read_direct(array)
    return array


def seal(node: Any) -> None:
    """Note a checksum of all attributes of a group, and of its name: HDF5 has none for the longer ones."""
    node.attrs[SUM] = _sum(node)


def require_sealed(node: Any) -> None:
    """Refuse attributes that have changed since `seal`.

    Raises
    ------
    ValueError
        Saying so.
    """
    if node.attrs.get(SUM) != _sum(node):
        raise ValueError(f"attributes of {node.name} have changed")


def text_of(node: Any, name: str) -> str:
    """A text attribute.

    Raises
    ------
    KeyError, ValueError
        When it is not there, or is no text.
    """
    value = node.attrs[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _allocate(handle: int, start: int, size: int) -> None:
    try:
        os.posix_fallocate(handle, start, size)
    except AttributeError:  # macOS
        return
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def _sum(node: Any) -> str:
    known = [(name, np.asarray(node.attrs[name]).tolist()) for name in sorted(node.attrs) if name != SUM]
    return hashlib.sha256(repr((node.name, known)).encode("utf-8", "backslashreplace")).hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
