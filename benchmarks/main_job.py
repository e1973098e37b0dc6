"""How long the main job takes and how much memory it needs, each stage in a process of its own.

    python benchmarks/main_job.py                         # 256 x 256 x 80, the demonstration's size
    python benchmarks/main_job.py --size 128,512,512 --json benchmarks/results/main_job.json

Stages: `filter` (the shipped model on onnxruntime, CPU), `maps` (BMD, SD, BV/TV and TMD at three thresholds,
4.3 mm spheres) and `fft` (the same eight sums by scipy.signal.fftconvolve in float32, for comparison).
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft, signal, special

from qctrun.runtime import Filter, Grid, Volume, local_maps
from qctrun.runtime.measuring.sphere import Sphere

SPACING_MM = (0.34, 0.172, 0.172)
THRESHOLDS_MG_CM3 = (200.0, 225.0, 250.0)


def main() -> None:
    """Run every stage in its own process, print a table and write the numbers."""
    arguments = _arguments()
    if arguments.stage:
        print(json.dumps(_measured(STAGES[arguments.stage], arguments.size, arguments.repeats)))
        return
    results = {}
    print(f"{'stage':<8} {'median s':>9} {'least s':>9} {'peak MB':>9}")
    for stage in STAGES:
        words = [sys.executable, __file__, "--stage", stage, "--size", ",".join(map(str, arguments.size))]
        done = subprocess.run(
            [*words, "--repeats", str(arguments.repeats)], stdout=subprocess.PIPE, text=True, check=True
        )
        results[stage] = found = json.loads(done.stdout)
        print(
            f"{stage:<8} {found['median_s']:9.2f} {found['least_s']:9.2f} {found['peak_mb']:9.0f}", flush=True
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"size": arguments.size, "stages": results, **_surroundings()}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def _filter(volume: Volume) -> Callable[[], object]:
    network = Filter(device="cpu")
    return lambda: network(volume)


def _maps(volume: Volume) -> Callable[[], object]:
    return lambda: local_maps(volume, THRESHOLDS_MG_CM3, device="cpu")


def _fft(volume: Volume) -> Callable[[], object]:
    kernel = Sphere(SPACING_MM, 4.3).mask().astype(np.float32)

    def run() -> None:
        values = volume.array
        with fft.set_workers(len(os.sched_getaffinity(0))):
            for quantity in (values, values**2):
                signal.fftconvolve(quantity, kernel, mode="same")
            for threshold in THRESHOLDS_MG_CM3:
                step = special.expit((values - np.float32(threshold)) / np.float32(10))
                for quantity in (step, step * values):
                    signal.fftconvolve(quantity, kernel, mode="same")

    return run


STAGES: dict[str, Callable[[Volume], Callable[[], object]]] = {"filter": _filter, "maps": _maps, "fft": _fft}


def _measured(
    stage: Callable[[Volume], Callable[[], object]], size: tuple[int, int, int], repeats: int
) -> dict[str, Any]:
    array = np.random.default_rng(0).normal(120, 330, size).astype(np.float32)
    run = stage(Volume(array, Grid(size, SPACING_MM), "mg/cm3", "HA"))
    run()  # compiles, allocates and warms up
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "median_s": float(np.median(seconds)),
        "least_s": min(seconds),
        "peak_mb": peak,
        "repeats": repeats,
    }


def _surroundings() -> dict[str, Any]:
    packages = ("qctrun", "numpy", "scipy", "numba", "onnxruntime")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=lambda s: tuple(map(int, s.split(","))), default=(80, 256, 256), help="z,y,x"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stage", choices=STAGES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
