"""Damages small valid scans by seeded chance, reads them, and judges what comes out.

A case is a family and a seed. It passes when `read` refuses in one line, or when the volume lies where a second
library finds it in the same damaged file. Cases run in worker processes, so that a crash, a hang or greed for
memory in a native library is a fault of that case and no end of the test.

    python tests/fuzzing.py 10000 benchmarks/results/fuzz.json    # all families in turn, counts by outcome
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType, ModuleType
from typing import IO, NoReturn

from qctrun.runtime.errors import InputError, OutOfMemoryError, QctrunError
from qctrun.train.machine import cpu_words

FAMILIES = (
    "dicom-bytes",
    "dicom-tags",
    "dicom-frames",
    "nifti-bytes",
    "nifti-fields",
    "mha",
    "nrrd",
    "companions",
)
SHARES = (3, 4, 2, 2, 2, 1, 1, 1)
"""How many of sixteen cases each family gets."""

CASE_SECONDS = 20
"""What one case of a few kilobytes may take; also the silence after which a worker is killed."""
SPARE_BYTES = 2**30
"""What a worker may take beside what its libraries take when they are loaded."""


class HangError(BaseException):
    """Raised by the alarm; no `except Exception` of the code under test can swallow it."""


class WrongPlaceError(AssertionError):
    """The volume lies somewhere else than the tags say."""


@dataclass
class Tally:
    """What became of the cases: counts by family and outcome, and the faults with their seeds."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, family: str, seed: int, outcome: str, fault: str = "") -> None:
        """Count one case."""
        self.outcomes.setdefault(family, Counter())[outcome] += 1
        if fault:
            self.faults.append(f"{family} {seed}: {outcome}: {fault}")

    @property
    def total(self) -> int:
        """How many cases have run."""
        return sum(sum(counts.values()) for counts in self.outcomes.values())


def damaged(data: bytes, chance: Random, first: int = 0, last: int | None = None) -> bytes:
    """The bytes with one to four mutations between `first` and `last`: flips, cuts, insertions, repeats."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        end = max(first + 1, min(len(content), last or len(content)))
        at = chance.randrange(first, end)
        length = chance.choice((1, 2, 4, 8, 40))
        match chance.randrange(8):
            case 0 | 1 | 2:
                if at < len(content):
                    content[at] ^= 1 << chance.randrange(8)
            case 3:
                content[at : at + length] = chance.randbytes(length)
            case 4:
                content[at : at + length] = bytes([chance.choice((0, 255, 0x5C, 0x30))]) * length
            case 5:
                del content[at : at + length]
            case 6:
                content[at:at] = content[at : at + length] or chance.randbytes(length)
            case 7:
                if chance.random() < 0.3:
                    del content[at:]
    return bytes(content)


def run(family: str, first: int, count: int) -> Tally:
    """Run cases `first` to `first + count - 1` of a family in worker processes."""
    tally, seed, end = Tally(), first, first + count
    while seed < end:
        worker = _worker(family, seed, end - seed)
        assert worker.stdout is not None
        for line in _lines(worker.stdout):
            outcome, _, fault = line.partition("\t")
            tally.add(family, seed, outcome, fault)
            seed += 1
        code = _ended(worker)
        if code == 1:
            raise RuntimeError(f"the worker itself failed at {family} {seed}")
        if seed < end:
            tally.add(family, seed, "hang" if code is None else "crash", f"exit status {code}")
            seed += 1
    return tally


def judged(action: Callable[[], None]) -> tuple[str, str]:
    """Outcome of one case, and its fault if it is one."""
    signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
    try:
        action()
    except OutOfMemoryError as error:
        return "greed", str(error)
    except InputError as error:
        text = str(error)
        return (
            ("refused", "") if text.isprintable() and len(text) < 4000 else ("odd message", repr(text)[:500])
        )
    except QctrunError as error:
        return "other kind", repr(error)[:500]
    except WrongPlaceError as error:
        return "wrong", " ".join(str(error).split())[:500]
    except HangError:
        return "hang", f"more than {CASE_SECONDS} s"
    except Exception as error:
        return "traceback", " ".join(f"{type(error).__name__}: {error}".split())[:500]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read", ""


def cases_of(family: str) -> ModuleType:
    """The module that makes the cases of a family: `case(family, seed, folder)`."""
    import fuzzing_dicom
    import fuzzing_images

    return fuzzing_dicom if family.startswith("dicom") else fuzzing_images


def _worker(family: str, first: int, count: int) -> subprocess.Popen[str]:
    words = [sys.executable, __file__, "--worker", family, str(first), str(count)]
    quiet = {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    # What native libraries print is no fault here; tests on messages look at it.
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **quiet}
    )


def _ended(worker: subprocess.Popen[str]) -> int | None:
    """How a worker that says nothing more has ended; None where it had to be killed."""
    try:
        return worker.wait(timeout=2)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
        return None


def _lines(stream: IO[str]) -> Iterator[str]:
    """Lines of a worker until it ends, or until it has been silent for too long."""
    rest = b""
    while select.select([stream], [], [], 3 * CASE_SECONDS)[0]:
        piece = os.read(stream.fileno(), 2**16)
        if not piece:
            return
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in whole)


def _work(family: str, first: int, count: int) -> None:
    """What a worker does: one line on stdout for each case."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print to stdout do not spoil the lines
    cases = cases_of(family)
    signal.signal(signal.SIGALRM, _ring)
    with tempfile.TemporaryDirectory(prefix="qctrun-fuzz-") as name:
        judged(cases.case(family, 0, Path(name) / "warm"))  # seed 0 is undamaged
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))
        for seed in range(first, first + count):
            action = cases.case(family, seed, Path(name) / "case")
            print(*judged(action), sep="\t", file=out, flush=True)


def _ring(number: int, frame: FrameType | None) -> NoReturn:
    raise HangError


def main(words: list[str]) -> int:
    if words[0] == "--worker":
        _work(words[1], int(words[2]), int(words[3]))
        return 0
    tally = Tally()
    for family, share in zip(FAMILIES, SHARES, strict=True):
        found = run(family, 1, -(-int(words[0]) * share // sum(SHARES)))
        tally.outcomes |= found.outcomes
        tally.faults += found.faults
        print(family, dict(found.outcomes[family]), *found.faults, sep="\n  ")
    if len(words) > 1:
        told = {
            "machine": cpu_words(),
            "mutations": tally.total,
            "outcomes": tally.outcomes,
            "faults": tally.faults,
        }
        Path(words[1]).write_text(json.dumps(told, indent=2) + "\n")
    return bool(tally.faults)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import fuzzing  # by its own name, so that there is one class of each name

    sys.exit(fuzzing.main(sys.argv[1:]))
