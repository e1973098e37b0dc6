"""How the cost of maps and filter grows with the volume, the sphere, the thresholds and the threads.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json

Maps: BMD, SD, and BV/TV and TMD a threshold. scipy fft: the same sums by Fourier transforms in float32 with as many
workers, as in `maps_cpu.py`. Filter: the shipped model on the CPU. At each point all of them take turns. A point whose
turns would take more than --limit seconds, judged by the next smaller volume, is left out and named.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from inputs import DIAMETER_MM, SPACING_MM, Size, density
from maps_cpu import OURS, contender
from racing import Row, cores, parser, print_table, race, shape_words, summary, write

from qctrun.runtime import Filter

SIZES: tuple[Size, ...] = ((64, 64, 64), (128, 128, 128), (96, 256, 256), (128, 512, 512), (256, 512, 512))
DIAMETERS_MM = (2.0, 3.0, 4.3, 6.0, 8.0, 10.0)
FFT = "scipy fft, shared sphere"
"""The quickest of the other ways to the same sums, in `maps_cpu.py`."""
LOWEST_MG_CM3, STEP_MG_CM3 = 150.0, 25.0


@dataclass(frozen=True, slots=True)
class Point:
    """One place on a curve."""

    scene: str
    size: Size
    diameter_mm: float = DIAMETER_MM
    thresholds: int = 3
    threads: int = 1

    @property
    def name(self) -> str:
        """What differs from the other points of the scene."""
        return {
            "diameter": f"{self.diameter_mm:g} mm",
            "thresholds": str(self.thresholds),
            "threads": str(self.threads),
        }.get(self.scene, shape_words(self.size))


def main() -> None:
    """Walk along all curves, print a table and write the numbers."""
    made = parser(__doc__)
    made.add_argument("--limit", type=float, default=120.0, help="seconds that one point may take")
    made.add_argument("--quick", action="store_true", help="few small points")
    arguments = made.parse_args()
    rows: list[Row] = []
    not_run: dict[str, str] = {}
    voxel_seconds = 0.0
    for point in points(arguments.quick, arguments.threads):
        voxels = int(np.prod(point.size))
        if point.scene == "volume" and voxel_seconds * voxels > arguments.limit:
            not_run[f"{point.scene} {point.name}"] = f"more than {arguments.limit:g} s"
            continue
        found = measured(point, arguments.rounds, arguments.limit)
        if point.scene == "volume":  # one turn of each, and one to warm up
            voxel_seconds = 2 * sum(row["median_s"] for row in found) / voxels
        print_table(found)
        rows += found
    print_table([], not_run)
    settings = {"spacing_mm": SPACING_MM, "rounds": arguments.rounds, "limit_s": arguments.limit}
    write(arguments.json, "scaling", settings, rows, not_run)


def points(quick: bool, threads: int) -> Iterator[Point]:
    """The curves; those other than by volume on 256 x 256 x 96, or on a small volume."""
    middle = Point("", SIZES[0] if quick else SIZES[2], threads=threads)
    for size in SIZES[: 2 if quick else None]:
        yield replace(middle, scene="volume", size=size)
    for diameter_mm in DIAMETERS_MM[:: 5 if quick else 1]:
        yield replace(middle, scene="diameter", diameter_mm=diameter_mm)
    for thresholds in (1, 9) if quick else (1, 3, 5, 7, 9):
        yield replace(middle, scene="thresholds", thresholds=thresholds)
    for number in sorted({1, min(2, threads), threads, cores()}):
        yield replace(middle, scene="threads", threads=number)


def measured(point: Point, rounds: int, limit_s: float) -> list[Row]:
    """Rows of one point: fewer rounds where they would take longer than the limit."""
    levels = tuple(LOWEST_MG_CM3 + STEP_MG_CM3 * number for number in range(point.thresholds))
    runs: dict[str, Callable[[], Any]] = {
        "maps" if name == OURS else name: contender(
            name, point.size, point.diameter_mm, levels, point.threads
        )
        for name in (OURS, FFT)
    }
    if point.scene in ("volume", "threads"):
        network, volume = Filter(device="cpu", threads=point.threads), density(point.size)
        runs["filter"] = lambda: network(volume)
    once = sum(times[0] for times in race(runs, 1).values())
    seconds = race(runs, max(1, min(rounds, int(limit_s / once) - 2)), warm=0)
    facts = {
        "point": point.name,
        "voxels": int(np.prod(point.size)),
        "size": point.size,
        "diameter_mm": point.diameter_mm,
        "thresholds": point.thresholds,
        "threads": point.threads,
    }
    scene = f"{point.scene}: {point.name}"
    rows = [
        {"scene": scene, "by": point.scene, "name": name, **row, **facts}
        for name, row in summary(seconds, "maps").items()
    ]
    for row in rows:
        if row["name"] == "filter":  # does other work than the maps: no ratio
            del row["ratio"]
    return rows


if __name__ == "__main__":
    main()
