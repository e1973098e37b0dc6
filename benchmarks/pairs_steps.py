"""The steps of `pairs.py` that run the program: a laboratory on disk, `qctrun pairs` on it, and what each one took.

A specimen is timed from nothing, in processes of its own; what has been timed once is kept and not done again.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-m", "qctrun.cli.main")
LAB, PAIRS, CACHE = "lab", "pairs", ".cache"
_POLL_S = 0.2


def kept(path: Path, key: Any, make: Callable[[], Any]) -> Any:
    """What `make` gave for this key, from a JSON file where an earlier run has left it."""
    key = json.loads(json.dumps(key))
    with suppress(OSError, ValueError, KeyError):
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["key"] == key:
            return told["value"]
    value = json.loads(json.dumps(make()))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({"key": key, "value": value}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return value


def laboratory(work: Path, options: Sequence[str]) -> list[str]:
    """Write the study, as far as it is not there; the names of its specimens."""
    run("study", "lab", "--out", work / LAB, *options)
    return [each["name"] for each in _truth(work)["specimens"]]


def scans_of(work: Path, specimen: str) -> list[dict[str, Any]]:
    """What only the simulator knows of the scans of a specimen."""
    return next(each["scans"] for each in _truth(work)["specimens"] if each["name"] == specimen)


def timed(work: Path, names: Sequence[str]) -> dict[str, Any]:
    """Run `qctrun pairs`, specimen by specimen, then on the whole study, then once more with nothing left to do.

    Returns
    -------
    dict
        `specimens`: seconds and peak memory of each, MB; `joined_s`: from all of them to one dataset; `again_s`.
    """
    specimens = {
        name: kept(work / "times" / f"{name}.json", "1", partial(_alone, work, name)) for name in names
    }
    return {"specimens": specimens, **kept(work / "times" / "whole.json", list(names), partial(_whole, work))}


def run(*words: object) -> tuple[float, float]:
    """The program with these words: seconds, and the most memory that its processes held at once, MB.

    The memory is the sum of what each of them has held at most so far: never less than the truth.

    Raises
    ------
    SystemExit
        When it fails; it has said why.
    """
    line = [*PROGRAM, *map(str, words)]
    print("$ qctrun", *words, flush=True)
    began, peak = time.perf_counter(), 0.0
    with subprocess.Popen(line, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(_peak_mb(pid) for pid in _family(process.pid)))
            time.sleep(_POLL_S)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: qctrun {' '.join(map(str, words))}")
    print(f"  {seconds:.1f} s, {peak:.0f} MB", flush=True)
    return seconds, peak


def _alone(work: Path, name: str) -> dict[str, float]:
    """One specimen from nothing: what an earlier run has left of it would make the time too short."""
    head, *specimens = (work / LAB / "study.toml").read_text(encoding="utf-8").split("[[specimen]]\n")
    own = next(text for text in specimens if f'name = "{name}"\n' in text)
    study = work / LAB / f"study-{name}.toml"
    study.write_text(f"{head}[[specimen]]\n{own}", encoding="utf-8")
    shutil.rmtree(work / PAIRS / CACHE / name, ignore_errors=True)
    seconds, peak = run("pairs", study, "--out", work / PAIRS, "--overwrite")
    return {"seconds": round(seconds, 1), "peak_mb": round(peak)}


def _whole(work: Path) -> dict[str, float]:
    words = ("pairs", work / LAB / "study.toml", "--out", work / PAIRS, "--overwrite")
    joined, _ = run(*words)
    again, _ = run(*words)
    return {"joined_s": round(joined, 2), "again_s": round(again, 2)}


def _truth(work: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((work / LAB / "truth.json").read_text(encoding="utf-8"))
    return told


def _family(pid: int) -> list[int]:
    """A process and all that come from it."""
    found = [pid]
    for each in found:
        with suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def _peak_mb(pid: int) -> float:
    """VmHWM of a process; 0 when it has ended."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    return 0.0
