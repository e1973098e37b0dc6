"""What a path is, which files are below it, and how a zip is opened without trusting it."""

import errno
import os
import re
import shutil
import stat
import struct
import tempfile
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import SimpleITK as sitk

from qctrun.runtime.errors import InputError, OutputError
from qctrun.runtime.formats import READABLE, UNFINISHED, Format, suffix_of, without_version

WANTED = "a DICOM folder, a zip of one, or a .nii, .nii.gz, .mha, .mhd, .nrrd, .aim, .isq file"

MAX_ZIP_BYTES = 16 * 2**30
MAX_ZIP_MEMBERS = 100_000
MAX_ZIP_RATIO = 100
FREE_ZIP_BYTES = 2**28
"""The ratio counts only above this size: a small scan of much air packs better than 100 to 1."""
MAX_ZIP_LIST = 400 * MAX_ZIP_MEMBERS
"""Bytes of the list of members at the end of a zip: names of some 350 characters for all that are allowed."""
MAX_NAME, MAX_MEMBER_PATH = 255, 1024
"""Bytes of a name, and characters of a path, in a zip."""

_MENDS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "ask for permission to read it"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "give the file itself, not a link",
    errno.EIO: "copy it again",
}
_ENCRYPTED = 1
_ZIP_TAIL = 2**16 + 200
"""Where a zip says how long its list of members is: before the longest comment that it may end with."""


def format_of(path: Path) -> Format:
    """Say what a path is.

    Raises
    ------
    InputError
        When there is nothing at the path, nothing that this package reads, or no permission to look.
    """
    with readable(path):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder", wanted=WANTED)
        if path.is_dir():
            return "dicom"
    suffix = suffix_of(path)
    if suffix:
        return READABLE[suffix]
    if is_dicom(path):
        raise InputError(
            f"{path}", wanted="a folder of DICOM slices", got="one DICOM file", mend="give its folder"
        )
    raise InputError(f"{path}", wanted=WANTED, got="another kind of file")


def stem_of(path: str | Path) -> str:
    """Name of a scan: the file's without its suffixes (`.nii.gz` counts as one), or the folder's."""
    path = Path(path)
    with readable(path):
        if path.is_dir():
            return path.resolve().name
    suffix = suffix_of(path)
    return without_version(path.name)[: -len(suffix)] if suffix else path.stem


def is_dicom(path: Path) -> bool:
    """Whether a file carries the DICOM magic word."""
    with readable(path), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def files_below(folder: Path) -> list[Path]:
    """All files in and below a folder, sorted; without what a run is writing there, or has left when it was killed.

    Raises
    ------
    InputError
        When a folder on the way cannot be listed, or a link leads to a folder or nowhere; its slices would be
        missing without a word.
    """
    with readable(folder):
        found = []
        for parent, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(UNFINISHED)]
            _refuse_links(parent, folders, names)
            found += [Path(parent) / name for name in names if not name.startswith(UNFINISHED)]
        return sorted(path for path in found if path.is_file())


def _refuse_links(parent: str, folders: list[str], names: list[str]) -> None:
    """Refuse links that lead to a folder or nowhere: what lies behind them would be missing without a word."""
    for kind, listed in (("a link to a folder", folders), ("a link that leads nowhere", names)):
        for path in (Path(parent) / name for name in listed):
            if path.is_symlink() and (kind == "a link to a folder" or not path.exists()):
                mend = "put the files themselves there, or give the folder that they are in"
                raise InputError(f"{path}", wanted="files of the scan, or links to them", got=kind, mend=mend)


def zip_names(path: Path) -> list[PurePosixPath]:
    """The files in a zip, after the checks that make unpacking it harmless."""
    with _opened_zip(path) as archive:
        return [PurePosixPath(member.filename) for member in _members(archive, path)]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the system says when it lets nobody read, or follow a path, into an InputError that names it."""
    try:
        yield
    except OSError as error:
        mend = _MENDS.get(error.errno or 0)
        if mend is None:
            raise
        raise InputError(f"{error.filename or path}: cannot be read: {error.strerror}", mend=mend) from error


@contextmanager
def opened_folder(path: Path) -> Iterator[Path]:
    """Yield the DICOM folder that a path names; a zip is unpacked for as long as the context lasts."""
    if path.is_dir():
        yield path
        return
    with _temporary_folder() as folder:
        with _opened_zip(path) as archive:
            for member in _members(archive, path):
                _unpack(archive, member, folder / member.filename, path)
        yield folder


@contextmanager
def opened_file(path: Path) -> Iterator[Path]:
    """Yield a file on disk; `scan.zip/mask.nii.gz` is unpacked for as long as the context lasts."""
    with readable(path):
        archives = [parent for parent in path.parents if parent.is_file()]
    if not archives:
        yield path
        return
    with _temporary_folder() as folder, _opened_zip(archives[0]) as archive:
        name = path.relative_to(archives[0]).as_posix()
        member = next((m for m in _members(archive, archives[0]) if m.filename == name), None)
        if member is None:
            raise InputError(f"{path}: no such file in the zip")
        _unpack(archive, member, folder / path.name, archives[0])
        yield folder / path.name


def cause(error: Exception) -> str:
    """The last line of a library's message, where the cause stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\(0x[0-9a-f]+\)", "", lines[-1])[:200] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's and ITK's remarks on harmless header faults off the user's screen.

    What hushes them belongs to the process, not to a thread: the first thread in keeps the state that it
    finds, and the last one out brings it back.
    """
    with _HUSH.lock:
        if not _HUSH.inside:
            _HUSH.restore.enter_context(_hushed())
        _HUSH.inside += 1
    try:
        yield
    finally:
        with _HUSH.lock:
            _HUSH.inside -= 1
            if not _HUSH.inside:
                _HUSH.restore.close()


@dataclass
class _Hush:
    """How many readers want silence now, and what brings the noise back."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    inside: int = 0
    restore: ExitStack = field(default_factory=ExitStack)


_HUSH = _Hush()


@contextmanager
def _hushed() -> Iterator[None]:
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="qctrun-") as folder:
        yield Path(folder)


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with readable(path):
            _check_directory(path)
            opened = zipfile.ZipFile(path)
        with opened as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(
            f"{path}", wanted="a whole zip file", got=str(error), mend="copy it again"
        ) from error


def _check_directory(path: Path) -> None:
    """Refuse a list of members too long to be read at all; each of them would become an object in memory."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(-min(file.tell(), _ZIP_TAIL), os.SEEK_CUR)
        tail = file.read()
    found = []
    for mark, layout, at in ((b"PK\5\6", "<I", 12), (b"PK\6\6", "<Q", 40)):
        start = tail.rfind(mark)
        if start >= 0 and start + at + struct.calcsize(layout) <= len(tail):
            found.append(struct.unpack_from(layout, tail, start + at)[0])
    length = max((size for size in found if size != 2**32 - 1), default=0)
    if length > MAX_ZIP_LIST:
        got = f"a list of members of {length} bytes"
        raise InputError(f"{path}", wanted="the size of a CT scan", got=got, mend="unpack it yourself")


def _members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """Plain files of an archive, after the checks that make unpacking it harmless."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    size = sum(member.file_size for member in members)
    # Members may share their bytes, so that they add up to more than there are.
    packed = min(sum(member.compress_size for member in members), path.stat().st_size)
    bomb = size > FREE_ZIP_BYTES and size > MAX_ZIP_RATIO * packed
    if len(members) > MAX_ZIP_MEMBERS or size > MAX_ZIP_BYTES or bomb:
        got = f"{len(members)} files, {size / 2**20:.0f} MiB unpacked from {packed / 2**20:.1f} MiB"
        raise InputError(
            f"{path}", wanted="the size of a CT scan", got=got, mend="unpack it yourself if you trust it"
        )
    for member in members:
        _check_member(member, path)
    _check_names(members, path)
    return members


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    if _leads_outside(member):
        got = f"member {member.filename!r}"
        raise InputError(f"{path}", wanted="plain files below one folder", got=got)
    if member.flag_bits & _ENCRYPTED:
        mend = "unpack it yourself"
        raise InputError(f"{path}", wanted="a plain zip", got=f"{member.filename}: encrypted", mend=mend)
    # The other ways to pack have no bound on what a few bytes grow to in memory.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        got = f"{member.filename}: packed in way {member.compress_type}"
        mend = "unpack it yourself"
        raise InputError(f"{path}", wanted="members stored or deflated", got=got, mend=mend)
    longest = max(len(os.fsencode(part)) for part in PurePosixPath(member.filename).parts)
    if not member.filename.isprintable() or longest > MAX_NAME or len(member.filename) > MAX_MEMBER_PATH:
        got = f"member {member.filename[:80]!r} of {len(member.filename)} characters"
        raise InputError(f"{path}", wanted="names that a file can have", got=got, mend="unpack it yourself")


def _check_names(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuse a name that stands twice, or that is a file here and a folder there."""
    names = [PurePosixPath(member.filename) for member in members]
    folders = {folder for name in names for folder in name.parents}
    seen: set[PurePosixPath] = set()
    for name in names:
        if name in seen or name in folders:
            raise InputError(f"{path}", wanted="each name once", got=f"member {str(name)!r} twice")
        seen.add(name)


def _leads_outside(member: zipfile.ZipInfo) -> bool:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    return is_link or name.is_absolute() or ".." in name.parts or ":" in (name.parts or (":",))[0]


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, path: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 2**20)
            if sink.tell() != member.file_size:
                raise EOFError(f"{sink.tell()} bytes where its list of members says {member.file_size}")
    except (RuntimeError, EOFError, zlib.error) as error:
        raise InputError(f"{path}", wanted="a plain zip", got=f"{member.filename}: {error}") from error
    except OSError as error:
        mend = "free space or point TMPDIR elsewhere"
        raise OutputError(f"{path}: cannot unpack to {target.parent}: {error.strerror}", mend=mend) from error
