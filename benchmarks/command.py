"""What a user waits for: the start of the program, and the stages of its two main verbs on a scan on disk.

    python benchmarks/command.py --json benchmarks/results/command.json

Start-up is wall time of a process against `python -c 'import click'`, all in turns. The stages are the seconds in the
run records of `qctrun filter` and `qctrun params --thresholds 200,225,250`; `start` is what the process took beyond
its record: the interpreter and imports. `read` holds the calibration. The first `params` of all finds no machine code
of its kernels (`cold`), the others find it. Scans lie in a temporary folder and are read from the page cache.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from inputs import THRESHOLDS_MG_CM3, Size, scan
from racing import Row, environment, parser, print_table, race, shape_words, size, summary, write

PROGRAM = [sys.executable, "-m", "qctrun.cli.main"]
SCRIPT = Path(sys.executable).with_name("qctrun")
"""What pip installs; where it is not, starts are timed by `python -m`."""
CLICK = "import click"
SIZES: tuple[Size, ...] = ((96, 256, 256), (128, 512, 512))
LARGE_VOXELS = 10_000_000
"""From here on one round is enough: a large scan takes minutes, and its stages are long against the noise."""
STARTS = 20
"""Rounds of the start-up race, which are short and noisy."""


def main() -> None:
    """Time starts and stages, print and write them."""
    made = parser(__doc__)
    made.add_argument("--size", type=size, action="append", help="z,y,x of a scan; may be said again")
    made.add_argument("--kinds", default="dicom,nifti", help="of scans")
    made.set_defaults(rounds=3)
    made.add_argument("--starts", type=int, default=STARTS, help="rounds of the start-up race")
    arguments = made.parse_args()
    rows = started(arguments.starts)
    print_table(rows)
    with tempfile.TemporaryDirectory() as kernels:
        for shape in arguments.size or SIZES:
            for kind in arguments.kinds.split(","):
                rounds = arguments.rounds if math.prod(shape) < LARGE_VOXELS else 1
                found = staged(shape, kind, rounds, arguments.threads, Path(kernels))
                print_table(found)
                rows += found
    settings = {"thresholds_mg_cm3": THRESHOLDS_MG_CM3, "threads": arguments.threads}
    write(arguments.json, "command", settings, rows)


def started(rounds: int) -> list[Row]:
    """How long processes take that do nothing but start."""
    program = [str(SCRIPT)] if SCRIPT.exists() else PROGRAM
    lines = {
        CLICK: [sys.executable, "-c", CLICK],
        "qctrun --version": [*program, "--version"],
        "qctrun --help": [*program, "--help"],
        "qctrun filter --help": [*program, "filter", "--help"],
    }
    seconds = race({name: _starter(words) for name, words in lines.items()}, rounds)
    return [{"scene": "start-up", "name": name, **row} for name, row in summary(seconds, CLICK).items()]


def staged(shape: Size, kind: str, rounds: int, threads: int, kernels: Path) -> list[Row]:
    """Stage times of both verbs on one scan; the cache of kernels may still be empty."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = scan(folder / "scan", shape, kind)
        lines = {
            "filter": ["filter", str(source), "--unit", "hu"] if kind == "nifti" else ["filter", str(source)],
            "params": ["params", "--thresholds", ",".join(f"{t:g}" for t in THRESHOLDS_MG_CM3)],
        }
        rows = []
        for verb, words in lines.items():
            line = [*words, "--device", "cpu", "--threads", str(threads), "--overwrite"]
            line += ["--quiet", "--out", str(folder / "out")]
            scene = f"{verb}, {kind} {shape_words(shape)}"
            if verb == "params" and not any(kernels.iterdir()):
                rows += _rows(f"{scene}, cold", [_stages(verb, line, folder, kernels)])
            rows += _rows(scene, [_stages(verb, line, folder, kernels) for _ in range(rounds)])
    return rows


def _starter(words: Sequence[str]) -> Callable[[], object]:
    return lambda: subprocess.run(words, stdout=subprocess.DEVNULL, check=True)


def _stages(verb: str, line: Sequence[str], folder: Path, kernels: Path) -> dict[str, float]:
    """Seconds of each stage of one call, from its record, and of the whole process."""
    kept = environment(NUMBA_CACHE_DIR=str(kernels))
    began = time.perf_counter()
    subprocess.run([*PROGRAM, *line], stdout=subprocess.DEVNULL, check=True, env=kept)
    whole = time.perf_counter() - began
    seconds = json.loads((folder / "out" / f"{verb}.run.json").read_text(encoding="utf-8"))["seconds"]
    total = seconds.pop("total")
    return {
        "start": whole - total,
        **seconds,
        "rest of the record": total - sum(seconds.values()),
        "whole command": whole,
    }


def _rows(scene: str, runs: Sequence[dict[str, float]]) -> list[Row]:
    """A row a stage, with its share of the whole."""
    whole = statistics.median(run["whole command"] for run in runs)
    rows = []
    for name in runs[0]:
        times = [run[name] for run in runs]
        middle = statistics.median(times)
        rows.append(
            {
                "scene": scene,
                "name": name,
                "median_s": middle,
                "least_s": min(times),
                "share": middle / whole,
                "rounds": len(times),
            }
        )
    return rows


if __name__ == "__main__":
    main()
