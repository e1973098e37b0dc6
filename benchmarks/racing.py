"""What every race shares: turns taken one by one, medians and ratios, memory, the machine, and the file they go to.

A race's own script says who runs (`contenders`: words to functions of no arguments) and hands them to `race`.
Scripts lie side by side and import this as `import racing`, which `python benchmarks/NAME.py` makes possible.
"""

import argparse
import contextlib
import ctypes
import datetime
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.nvidia import cudnn_version

Contenders = Mapping[str, Callable[[], Any]]
Row = dict[str, Any]
"""One line of a table: `scene` and `name`, and numbers: median_s, least_s, ratio, difference, own_mb, peak_mb."""

PACKAGES = [
    "qctrun",
    "numpy",
    "scipy",
    "numba",
    "numba-cuda",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch",
    "SimpleITK",
    "itk-bonemorphometry",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "click",
]
INSTRUCTION_SETS = [
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "sve",
]
COLUMNS = {
    "median_s": ("median s", "{:.4g}"),
    "least_s": ("least s", "{:.4g}"),
    "ratio": ("ratio", "{:.2f}"),
    "difference": ("difference", "{:.1e}"),
    "own_mb": ("own MB", "{:.0f}"),
    "peak_mb": ("peak MB", "{:.0f}"),
}


def race(contenders: Contenders, rounds: int, warm: int = 1, seed: int = 0) -> dict[str, list[float]]:
    """Let all run once a round, in another order each round, so that no one has the quiet moments for itself.

    Parameters
    ----------
    contenders : dict of functions
        What is timed; results are thrown away.
    rounds : int
        How often each is timed.
    warm : int
        How often each runs beforehand, untimed: compilers, caches and memory settle.
    seed : int
        Decides the order.

    Returns
    -------
    dict of lists
        Seconds of each contender, round by round.
    """
    for run in contenders.values():
        for _ in range(warm):
            run()
    order, dice = list(contenders), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        dice.shuffle(order)
        for name in order:
            began = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def summary(seconds: Mapping[str, Sequence[float]], ours: str) -> dict[str, Row]:
    """Median, least, and the median as a multiple of that of `ours` (above 1: slower than `ours`)."""
    base = statistics.median(seconds[ours])
    return {
        name: {
            "median_s": statistics.median(times),
            "least_s": min(times),
            "ratio": statistics.median(times) / base,
            "rounds": len(times),
        }
        for name, times in seconds.items()
    }


def difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest difference as a part of the largest expected value, where both are numbers.

    Raises
    ------
    AssertionError
        When the shapes differ, or nothing can be compared: such contenders have not done the same work.
    """
    assert found.shape == expected.shape, f"{found.shape} is not {expected.shape}"
    both = np.isfinite(found) & np.isfinite(expected)
    assert both.any(), "no voxel to compare"
    return float(np.max(np.abs(found[both] - expected[both])) / np.max(np.abs(expected[both])))


def peak_memory_mb(script: str | Path, *words: str) -> dict[str, float]:
    """What `tell_memory` says in a process of its own: {"peak_mb": ..., "own_mb": ...}.

    Parameters
    ----------
    script : path
        The race's own file, `__file__`.
    words : str
        Its arguments; they must make it call `tell_memory` with one contender and end.
    """
    done = subprocess.run(
        [sys.executable, str(script), *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(),
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def tell_memory(contender: Callable[[], Any]) -> None:
    """Run a contender twice and print, as JSON, the peak of the process and what the second run needed of its own.

    The first run loads and compiles; `own_mb` counts from what was held after it, the results included.
    """
    contender()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide what the second run takes
    peak, before = _held_mb("VmHWM:"), _held_mb("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    contender()
    again = _held_mb("VmHWM:")
    print(json.dumps({"peak_mb": round(max(peak, again), 1), "own_mb": round(max(again - before, 0), 1)}))


def surroundings() -> dict[str, Any]:
    """The machine and the versions, without the machine's name or any path."""
    cpu = _table_of("/proc/cpuinfo")
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    found = gpu()
    memory_kib = int(_table_of("/proc/meminfo").get("MemTotal", "0").split()[0])
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": cpu.get("model name") or platform.machine(),
        "cores": cores(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "memory_gb": round(memory_kib * 1024 / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "gpu": found,
        "cudnn": cudnn_version() if found else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": _versions(),
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def gpu() -> dict[str, str] | None:
    """Name, driver and memory of the first GPU as nvidia-smi gives them; None where there is none."""
    fields = ("name", "driver_version", "memory.total")
    words = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    values = [part.strip() for part in said.partition("\n")[0].split(",")]
    return dict(zip(fields, values, strict=False)) if values[0] else None


def installed(module: str) -> bool:
    """Whether a peer can be imported; looking does not import it."""
    return importlib.util.find_spec(module) is not None


def environment(**more: str) -> dict[str, str]:
    """The environment for a script of this folder, which finds its neighbours also in Python's safe-path mode."""
    paths = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def write(
    path: Path | None,
    name: str,
    settings: Mapping[str, Any],
    rows: Sequence[Row],
    not_run: Mapping[str, str] | None = None,
) -> None:
    """Write a race's rows as JSON, with machine and versions; nothing without a path.

    Parameters
    ----------
    path : Path, optional
        The file; its folder is made.
    name : str
        Of the race.
    settings : dict
        Sizes, threads, rounds: what someone needs to run it again.
    rows : list of dicts
        As `Row`; extra keys are kept.
    not_run : dict
        Contenders that did not run, and why.
    """
    if path is None:
        return
    report = {"race": name, "settings": dict(settings), "rows": list(rows), "not_run": dict(not_run or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**report, **surroundings()}, indent=1) + "\n", encoding="utf-8")


def print_table(rows: Sequence[Row], not_run: Mapping[str, str] | None = None) -> None:
    """Print rows for people: only columns that some row fills, a heading for each scene."""
    shown = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    width = max((len(row["name"]) for row in rows), default=4) + 2
    scene = None
    for row in rows:
        if row.get("scene") != scene:
            scene = row.get("scene")
            print(f"\n{scene}\n  {'':<{width}}" + "".join(f"{COLUMNS[key][0]:>12}" for key in shown))
        print(f"  {row['name']:<{width}}" + "".join(f"{_cell(key, row.get(key)):>12}" for key in shown))
    for name, why in (not_run or {}).items():
        print(f"  not run: {name}: {why}")
    sys.stdout.flush()


def parser(words: str | None) -> argparse.ArgumentParser:
    """A race's parser, with what all of them take: --rounds, --threads and --json."""
    made = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=5, help="how often each contender is timed")
    made.add_argument("--threads", type=int, default=cores(), help="threads of each contender")
    made.add_argument("--json", type=Path, help="where the results go")
    return made


def size(text: str) -> tuple[int, int, int]:
    """A volume's size from words: z,y,x."""
    z, y, x = map(int, text.split(","))
    return z, y, x


def shape_words(shape: Iterable[int]) -> str:
    """A size (z, y, x) as people say it: x times y times z."""
    return " x ".join(str(n) for n in reversed(tuple(shape)))


def _cell(key: str, value: float | None) -> str:
    return "" if value is None else COLUMNS[key][1].format(value)


def _held_mb(field: str) -> float:
    return int(_table_of("/proc/self/status")[field.rstrip(":")].split()[0]) * 1024 / 1e6


def _table_of(path: str) -> dict[str, str]:
    """The `word : value` lines of a file of /proc, the first of each word; empty where there is no such file."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            word, _, value = line.partition(":")
            found.setdefault(word.strip(), value.strip())
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
