"""All races, one after the other, each in a process of its own, and one table of them all.

    python benchmarks/run.py                    # everything, into benchmarks/results
    python benchmarks/run.py --quick            # small sizes, to see that all runs; writes nothing unless told where
    python benchmarks/run.py maps_cpu command   # some of them

What the races print goes to stderr, the table to stdout. A peer or a device that is not there is named with the reason.
Ends with 1 when a race has failed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from racing import Row, environment, print_table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SMALL = "--size 24,96,96 --rounds 1"
RACES = {
    "filter_cpu": ("filter_cpu.py", "", SMALL),
    "filter_mask": ("filter_cpu.py --mask", "--size 128,512,512 --rounds 2", SMALL),
    "maps_cpu": ("maps_cpu.py", "", SMALL),
    "scaling": ("scaling.py", "", "--quick --rounds 2 --limit 5"),
    "command": ("command.py", "", "--size 20,64,64 --kinds dicom --rounds 1"),
    "gpu": ("gpu.py", "", "--rounds 5"),
}
"""Each race's script in this folder, and the words of a whole and of a quick run."""
NO_DEVICE = 5
"""Exit code of a race without its device."""


def main() -> int:
    """Run the races and print their table."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.json or (Path(scratch) if arguments.quick else RESULTS)
        began = time.perf_counter()
        outcomes = {name: _run(name, folder, arguments.quick) for name in arguments.races or RACES}
        for name, outcome in outcomes.items():
            _show(name, outcome, folder / f"{name}.json")
    print(f"\n{time.perf_counter() - began:.0f} s in all; ratio: times as long as the line that says 1.00")
    return int(any(outcome not in (0, NO_DEVICE) for outcome in outcomes.values()))


def _run(name: str, folder: Path, quick: bool) -> int:
    """Exit code of one race, which writes its own file and prints to stderr."""
    print(f"== {name}", file=sys.stderr, flush=True)
    script, whole, short = RACES[name]
    words = [*script.split(), *(short if quick else whole).split(), "--json", str(folder / f"{name}.json")]
    return subprocess.run(
        [sys.executable, *words], stdout=sys.stderr, check=False, cwd=HERE, env=environment()
    ).returncode


def _show(name: str, outcome: int, path: Path) -> None:
    if outcome:
        reason = "no CUDA device that works" if outcome == NO_DEVICE else f"failed with exit code {outcome}"
        print(f"\n{name} not run: {reason}")
        return
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows: list[Row] = report["rows"]
    print_table([{**row, "scene": f"{name}, {row['scene']}"} for row in rows], report["not_run"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("races", nargs="*", metavar="RACE", help=f"which: {', '.join(RACES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", type=_folder, metavar="DIR", help="where the results go")
    arguments = parser.parse_args()
    if unknown := set(arguments.races) - set(RACES):
        parser.error(f"wanted {', '.join(RACES)}, got {', '.join(sorted(unknown))}")
    return arguments


def _folder(text: str) -> Path:
    return Path(text).resolve()  # the races run in their own folder


if __name__ == "__main__":
    sys.exit(main())
