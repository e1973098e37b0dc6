"""All files of a run or none: hidden names first, then everything moved into place together.

The order of the moves matters. Names are placed in the order in which they were announced, the last one is
the seal: the run record of a verb, the image of a single `write`. A run that does the work of two verbs has both
records at its end, and both are seals. Old seals are taken away before anything moves, the new ones come last. So
whoever finds a seal finds the very files it describes, also after a power cut in between; and when a move fails,
what was placed before it is taken away again.

Without leave to overwrite, each name is claimed as it is placed: of two runs that started at once, one wins,
and the other takes back its own files and touches none of the first.

A run that overwrites replaces the whole earlier run: files that only the old record lists go with it. Else an
image of another format would stay behind, and read with the new run's sidecar of the same name.

An output may be a folder of slices (`folders.py`); its name ends in `/`. It is filled under a hidden name, too, and
moved as a whole.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from qctrun.runtime.errors import InputError, OutputError, OutputExistsError
from qctrun.runtime.formats import UNFINISHED, is_utf8, suffix_of
from qctrun.runtime.json_files import read_json
from qctrun.runtime.writing.folders import flush, is_folder, remove, stranger_in

_RECORD = ".run.json"
_ELSEWHERE = "choose another folder"
_MENDS = {
    errno.ENOSPC: f"free some space or {_ELSEWHERE}",
    errno.EDQUOT: f"free some space or {_ELSEWHERE}",
    errno.EACCES: f"ask for permission to write there or {_ELSEWHERE}",
    errno.EPERM: f"ask for permission to write there or {_ELSEWHERE}",
    errno.EROFS: f"the file system is read-only, {_ELSEWHERE}",
    errno.ENOTDIR: f"a part of the path is a file, {_ELSEWHERE}",
    errno.EISDIR: "a folder has the name of an output, move it away",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class Staging:
    """The outputs of one run in one folder, placed together by `commit` or not at all.

    Use it as a context manager around the whole run: entering checks what can be checked before any work is
    done, leaving without `commit` (an error, Ctrl-C) takes away every hidden file, and the folder if it was
    made here.

    Parameters
    ----------
    folder : path
        Made with its parents when it is not there.
    names : sequence of str
        All final file names, in the order of placing, the seal last; run records are seals, too. A name that
        ends in `/` is that of a folder of slices.
    overwrite : bool
        Whether files of these names may be replaced, and the other outputs that the old run record lists
        may be removed.
    inputs : sequence of paths
        What the run reads: none of it may be replaced or removed.
    """

    def __init__(
        self,
        folder: str | Path,
        names: Sequence[str],
        *,
        overwrite: bool = False,
        inputs: Sequence[Path] = (),
    ) -> None:
        self.folder = Path(folder)
        self.names = tuple(names)
        self.overwrite = overwrite
        self.inputs = tuple(inputs)
        self._hidden: dict[str, Path] = {}
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        """Check and make the folder.

        Raises
        ------
        OutputExistsError
            When an output is already there and `overwrite` is not set, or is what the run reads.
        OutputError
            When the folder cannot be made or nothing can be written into it.
        """
        if not is_utf8(self.folder):
            got, mend = "a path that is not UTF-8", "choose another folder"
            raise OutputError(f"cannot write {self.folder}", got=got, mend=mend)
        with writing(self.folder):
            self._refuse_existing()
            self._refuse_inputs()
        try:
            with writing(self.folder):
                self._make_folder()
                probe = self.folder / f"{UNFINISHED}{secrets.token_hex(4)}.probe"
                try:
                    probe.write_bytes(b"qctrun")
                finally:
                    probe.unlink(missing_ok=True)
        except BaseException:
            self._sweep()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sweep()

    def path(self, name: str) -> Path:
        """Where the output will be in the end."""
        return self.folder / name

    def hidden(self, name: str) -> Path:
        """Where to write the output now: a hidden name in the same folder, with the same suffixes.

        A folder is there then, and empty.
        """
        if name not in self.names:
            raise KeyError(name)
        if name not in self._hidden:
            with writing(self.folder):
                self._make_folder()  # another run that had made it may have been stopped and taken it away
            suffix = "" if is_folder(name) else suffix_of(Path(name)) or Path(name).suffix
            self._hidden[name] = self.folder / f"{UNFINISHED}{secrets.token_hex(4)}{suffix}"
            if is_folder(name):
                with writing(self.path(name)):
                    self._hidden[name].mkdir()
        return self._hidden[name]

    def add_text(self, name: str, text: str) -> Path:
        """Write a small text output (UTF-8); return where it lies for now."""
        return self.add_bytes(name, text.encode("utf-8", "backslashreplace"))

    def add_bytes(self, name: str, content: bytes) -> Path:
        """Write an output that is at hand as a whole; return where it lies for now."""
        with writing(self.path(name)):
            self.hidden(name).write_bytes(content)
        return self.hidden(name)

    def commit(self) -> tuple[str, ...]:
        """Flush everything to the disk and move it into place, the seal last.

        Returns
        -------
        tuple of str
            Names of the earlier run's files that were removed and not written again.

        Raises
        ------
        OutputExistsError
            When another run has placed an output meanwhile and `overwrite` is not set.
        OutputError
            When the disk refuses. In both cases nothing of this run is left.
        """
        placed: list[Path] = []
        with writing(self.folder), _alone_in(self.folder):
            for hidden in self._hidden.values():
                flush(hidden)
            left_over = self._left_over()
            try:
                if self.overwrite:
                    for name in (*self._seals(), *left_over):
                        remove(self.path(name))
                for name in (name for name in self.names if name in self._hidden):
                    self._make_way(name)
                    placed.append(self.path(name))
                    self._hidden[name].replace(placed[-1])
                flush(self.folder)
            except BaseException:
                for path in placed:
                    with suppress(OSError):
                        remove(path)
                raise
        self._hidden.clear()
        self._made.clear()
        return left_over

    def _refuse_existing(self) -> None:
        # A link that leads nowhere stands in the way, too: it is somebody's, and not to be written through.
        there = [name for name in self.names if _is_there(self.path(name))]
        for name in there:
            with writing(self.path(name)):
                if self.path(name).is_dir() and not is_folder(name):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                if is_folder(name):
                    self._refuse_strangers(self.path(name))
        if there and not self.overwrite:
            more = f" and {len(there) - 1} more" * (len(there) > 1)
            kind = "folder" if is_folder(there[0]) else "file"
            raise self._exists(there[0], f"a {kind} that is already there{more}")

    def _refuse_strangers(self, folder: Path) -> None:
        """Nothing but slices of this package may be replaced by others."""
        stranger = stranger_in(folder)  # a file of this name is no folder, which the system says here
        if stranger is not None:
            wanted, got = "a folder of slices of this program", f"one with {stranger.name} in it"
            raise OutputExistsError(str(folder), wanted=wanted, got=got, mend="move that away")

    def _make_way(self, name: str) -> None:
        """Without leave to overwrite, claim the name by an empty file or folder, which only one run can."""
        path = self.path(name)
        try:
            if self.overwrite and is_folder(name):
                remove(path)  # a folder takes the place of an empty one only
            elif not self.overwrite:
                path.mkdir() if is_folder(name) else path.open("xb").close()
        except FileExistsError:
            raise self._exists(name, "one that another run has written meanwhile") from None

    def _exists(self, name: str, got: str) -> OutputExistsError:
        mend = "say --overwrite (overwrite=True) or choose another folder"
        return OutputExistsError(str(self.path(name)), wanted="a name that is free", got=got, mend=mend)

    def _refuse_inputs(self) -> None:
        touched = [self.path(name) for name in (*self.names, *self._left_over())]
        for source in self.inputs:
            if any(_same(path, source) for path in touched):
                raise OutputExistsError(
                    str(source),
                    wanted="an input that this run leaves alone",
                    got="an output of the earlier run, which would be replaced",
                    mend="choose another folder",
                )

    def _left_over(self) -> tuple[str, ...]:
        """What the old records list, is there, and is not written again."""
        if not self.overwrite:
            return ()
        listed = dict.fromkeys(name for seal in self._seals() for name in _listed(self.path(seal)))
        written = self._hidden or self.names  # what is announced may in the end not be written
        others = {name: self.path(name) for name in listed if name not in written}
        return tuple(
            name for name, path in others.items() if path.is_file() or (is_folder(name) and path.is_dir())
        )

    def _seals(self) -> tuple[str, ...]:
        records = (name for name in self.names[:-1] if name.endswith(_RECORD))
        return (*records, self.names[-1])

    def _make_folder(self) -> None:
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._made.append(folder)
        if not self.folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.folder))

    def _sweep(self) -> None:
        for hidden in self._hidden.values():
            with suppress(OSError):
                shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink(missing_ok=True)
        for folder in reversed(self._made):
            with suppress(OSError):  # someone else has put something there
                folder.rmdir()


def _same(path: Path, source: Path) -> bool:
    try:
        return path.samefile(source)
    except OSError:  # one of them is not there, or cannot be
        return False


def _is_there(path: Path) -> bool:
    """Whether something has this name, be it a link to nowhere."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one run at a time move its files into a folder, or two that overwrite would mix theirs."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _listed(record: Path) -> list[str]:
    """The outputs that a run record names in its own folder; none where the file is no such record."""
    if not record.name.endswith(_RECORD):
        return []
    try:
        found = read_json(record)
    except InputError:
        return []
    outputs = found.get("outputs")
    if not str(found.get("schema")).startswith("qctrun/run/") or not isinstance(outputs, list):
        return []
    names = [str(output.get("path")) for output in outputs if isinstance(output, dict)]
    # A path could lead out of the folder.
    return [name for name in names if Path(name).name == name.removesuffix("/") not in ("", ".", "..")]


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in the place of an earlier one, whole or not at all: there is never a moment without one.

    Raises
    ------
    OutputError
        When the disk refuses; the earlier file is still there then.
    """
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        part.unlink(missing_ok=True)
        try:
            with part.open("xb") as file:  # never through a link that somebody has put there
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses inside the block into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        mend = _MENDS.get(error.errno or 0, _ELSEWHERE)
        raise OutputError(f"cannot write {path}", got=reason[:1].lower() + reason[1:], mend=mend) from error
