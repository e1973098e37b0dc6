"""Specimens walked in processes of their own, a few at a time: what is stopped stops at once, and whole.

A process of its own each, also when there is only one at a time: registration is a library's loop that Ctrl-C cannot
break, and memory that a specimen took is given back for certain.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any

from qctrun.runtime.devices import parse_threads
from qctrun.runtime.errors import OutOfMemoryError, QctrunError
from qctrun.train.pairs.cache import Cache
from qctrun.train.pairs.choices import Specimen, StudyFile
from qctrun.train.pairs.walked import Walked

_SPAWN = multiprocessing.get_context("spawn")
_THREADS = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "NUMBA_NUM_THREADS")
_BLAS_THREADS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Always one: products of matrices change in the last digits with their number, and with it all that follows."""
_PATIENCE_S = 1.0
"""What a worker gets to take away its unfinished files."""

Say = Callable[[str], None]
Move = Callable[[float], None]


@dataclass
class _Worker:
    """A process that walks one specimen, and how many of its scans are done."""

    process: Any
    told: Connection
    scans: int
    done: float = 0.0
    walked: Walked | None = field(default=None)


def walk_all(
    study: StudyFile, specimens: Sequence[Specimen], cache: Cache, jobs: int, say: Say, move: Move
) -> list[Walked]:
    """Walk specimens, at most `jobs` at a time; returned in the order in which they end.

    Parameters
    ----------
    say : function
        Told a line for each scan.
    move : function
        Told how many scans of all these specimens are done, with fractions.

    Raises
    ------
    QctrunError
        What a worker has raised; the others are stopped then, and the cache keeps what they had done.
    OutOfMemoryError
        When the system has ended a worker.
    """
    left, working, ended = list(specimens), list[_Worker](), list[_Worker]()
    with _threads_shared(min(jobs, len(left))):
        try:
            while left or working:
                while left and len(working) < jobs:
                    with _deaf():
                        working.append(_started(study, left.pop(0), cache))
                for told in wait([worker.told for worker in working]):
                    worker = next(each for each in working if each.told is told)
                    if _listened(worker, say):
                        working.remove(worker)
                        ended.append(worker)
                move(sum(worker.done for worker in (*working, *ended)))
        finally:
            _stop(working)
    return [worker.walked for worker in ended if worker.walked is not None]


def _started(study: StudyFile, specimen: Specimen, cache: Cache) -> _Worker:
    hears, tells = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_work, args=(study, specimen, cache, tells), daemon=True)
    process.start()
    tells.close()
    return _Worker(process, hears, len(specimen.scans))


@contextmanager
def _deaf() -> Iterator[None]:
    """Hear of a stop after the block only, when the new worker is in the list of those to be stopped.

    The worker inherits this and stays deaf to Ctrl-C, which a terminal sends to all its processes: it is stopped by
    the main process alone.
    """
    resource_tracker.ensure_running()  # the first worker's start would start it, and that makes all hear again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(study: StudyFile, specimen: Specimen, cache: Cache, tells: Connection) -> None:
    """The worker's whole life; its last word is what it has walked, or why it could not."""
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # takes away what is half-written
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        from qctrun.train.pairs.specimen import walk

        moved = [-1.0]

        def move(done: float) -> None:
            if done - moved[0] >= 0.01:  # so that telling costs nothing
                moved[0] = done
                tells.send(done)

        tells.send(walk(study, specimen, cache, tells.send, move))
    except Exception as error:
        with suppress(BrokenPipeError):  # the main process was killed
            tells.send(_told(error, specimen))


def _end_with_parent() -> None:
    """End when the main process is no more: it was killed, and its next run must find nobody at work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _told(error: Exception, specimen: Specimen) -> Exception:
    """An error that survives the way to the main process."""
    where = f"specimen {specimen.name}"
    if isinstance(error, QctrunError):
        return type(error)(f"{where}: {error}")
    if isinstance(error, MemoryError):
        mend = "take fewer --jobs, crop the scans to the bone, or use a machine with more"
        return OutOfMemoryError(f"{where}: out of memory", mend=mend)
    return RuntimeError(f"{where}: {type(error).__name__}: {error}")


def _listened(worker: _Worker, say: Say) -> bool:
    """Take one message; True when it was the last."""
    try:
        message = worker.told.recv()
    except EOFError:
        worker.process.join()
        mend = "take fewer --jobs, crop the scans to the bone, or use a machine with more memory"
        got = f"an end by the system (exit status {worker.process.exitcode})"
        raise OutOfMemoryError("a worker", wanted="its result", got=got, mend=mend) from None
    if isinstance(message, float | int):
        worker.done = message
    elif isinstance(message, str):
        say(message)
    elif isinstance(message, Exception):
        raise message
    else:
        worker.walked, worker.done = message, worker.scans
        worker.process.join()
        return True
    return False


def _stop(working: Sequence[_Worker]) -> None:
    for worker in working:
        worker.process.terminate()
    for worker in working:
        worker.process.join(_PATIENCE_S)
        worker.process.kill()  # deep in a library's loop
        worker.process.join()


@contextmanager
def _threads_shared(jobs: int) -> Iterator[None]:
    """Workers at once share the cores, or what the user has set; their results do not depend on how many."""
    each = str(max(1, parse_threads(None) // max(1, jobs)))
    wanted = dict.fromkeys(_BLAS_THREADS, "1") | {name: os.environ.get(name, each) for name in _THREADS}
    before = {name: os.environ[name] for name in wanted if name in os.environ}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            del os.environ[name]
        os.environ.update(before)
