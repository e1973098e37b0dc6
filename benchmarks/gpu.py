"""The GPU checked against the CPU, and timed: from int16 in pinned memory to eight maps in pinned memory.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json

Correct first: filter in each precision and all maps against the CPU's on fresh noise. Then times by CUDA events, of
upload, filter, maps and download apart, warm-up excluded, median of many; then the peers that are installed, on data
that lie on the device. Needs no network. Without a GPU that works: one line, and exit code 5.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from inputs import DIAMETER_MM, LINE, SPACING_MM, THRESHOLDS_MG_CM3, Size, density, hounsfield
from racing import (
    Row,
    difference,
    gpu,
    installed,
    parser,
    print_table,
    race,
    shape_words,
    size,
    summary,
    write,
)

from qctrun.runtime import Filter, Grid, local_maps
from qctrun.runtime.errors import DeviceError, QctrunError, RuntimeMissingError
from qctrun.runtime.measuring.maps import planned
from qctrun.runtime.measuring.sphere import Sphere

LARGE: Size = (128, 512, 512)
CHECKED: Size = (40, 160, 160)
PRECISIONS = ("fp32", "tf32", "fp16")
GOAL_S, PAPER_S = 0.25, 2.0
STEPS = ("upload", "filter", "maps", "download")


def main() -> int:
    """Check, time, print, write; the exit code."""
    made = parser(__doc__)
    made.add_argument("--size", type=size, default=LARGE, help="z,y,x of what is timed")
    made.set_defaults(rounds=30)
    arguments = made.parse_args()
    try:
        device = _device()
        rows = [*checked_filter(), *checked_maps(), *precisions(arguments.size, arguments.rounds)]
        trip_rows, verdicts = trip(arguments.size, arguments.rounds)
        found, not_run = peers(arguments.size, arguments.rounds)
    except QctrunError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return error.exit_code
    rows += trip_rows + found
    print(device)
    print_table(rows, not_run)
    print("\n".join(verdicts))
    settings = {"size": arguments.size, "rounds": arguments.rounds, "verdicts": verdicts}
    write(arguments.json, "gpu", settings, rows, not_run)
    return 0


def checked_filter() -> list[Row]:
    """Largest difference of each precision from the CPU, as a part of the largest value."""
    volume = density(CHECKED)
    expected = Filter(device="cpu", backend="onnxruntime")(volume).array
    return [
        {
            "scene": "filter, against the CPU",
            "name": name,
            "difference": difference(Filter(device="cuda", precision=name)(volume).array, expected),
        }
        for name in PRECISIONS
    ]


def checked_maps() -> list[Row]:
    """The same for the maps, and how many voxels are not the CPU's to the last bit."""
    volume = density(CHECKED)
    found, expected = (
        local_maps(volume, THRESHOLDS_MG_CM3, DIAMETER_MM, device=device) for device in ("cuda", "cpu")
    )
    return [
        {
            "scene": "maps, against the CPU",
            "name": str(key),
            "difference": difference(found[key].array, expected[key].array),
            "voxels_that_differ": int(
                np.sum(found[key].array.view(np.int32) != expected[key].array.view(np.int32))
            ),
        }
        for key in expected
    ]


def precisions(shape: Size, rounds: int) -> list[Row]:
    """What opening, the first call (which builds cuDNN's plans) and a later call cost, host arrays in and out."""
    volume = density(shape)
    rows = []
    for name in PRECISIONS:
        began = time.perf_counter()
        network = Filter(device="cuda", precision=name)
        opened = time.perf_counter()
        network(volume)
        first = time.perf_counter()
        times = race({name: lambda network=network: network(volume)}, max(3, rounds // 5), warm=0)[name]
        whole = {
            "opened": opened - began,
            "first call": first - opened,
            "later call": statistics.median(times),
        }
        rows += [
            {
                "scene": f"filter {name}, {shape_words(shape)}, from and to pageable memory",
                "name": step,
                "median_s": s,
            }
            for step, s in whole.items()
        ]
    return rows


def trip(shape: Size, rounds: int) -> tuple[list[Row], list[str]]:
    """Times of the steps of the one trip by CUDA events, and what they are against the goals."""
    from numba import cuda

    made = _trip(shape)
    for _ in range(3):
        _all_steps(made)
    times: dict[str, list[float]] = {step: [] for step in (*STEPS, "whole trip")}
    for _ in range(rounds):
        marks = [cuda.event() for _ in range(len(STEPS) + 1)]
        began = time.perf_counter()
        marks[0].record(made.stream)
        for step, mark in zip(STEPS, marks[1:], strict=True):
            getattr(made, step)()
            mark.record(made.stream)
        marks[-1].synchronize()
        times["whole trip"].append(time.perf_counter() - began)
        for step, before, after in zip(STEPS, marks, marks[1:], strict=False):
            times[step].append(before.elapsed_time(after) / 1000)
    scene = f"one trip, {shape_words(shape)}, int16 to {2 + 2 * len(THRESHOLDS_MG_CM3)} maps, pinned, fp32"
    rows = [
        {
            "scene": scene,
            "name": name,
            "median_s": statistics.median(found),
            "least_s": min(found),
            "rounds": rounds,
        }
        for name, found in times.items()
    ]
    whole = statistics.median(times["whole trip"])
    goals = {"goal": GOAL_S, "the paper's": PAPER_S}
    return rows, [
        f"{word} {limit:g} s: {'met' if whole <= limit else 'MISSED'} ({whole:.3f} s)"
        for word, limit in goals.items()
    ]


def peers(shape: Size, rounds: int) -> tuple[list[Row], dict[str, str]]:
    """The maps against others that make the same sums; all data on the device, every turn waited for."""
    made = _trip(shape)
    _all_steps(made)
    expected = local_maps(density(shape), THRESHOLDS_MG_CM3, DIAMETER_MM, device="cuda")["BMD"].array
    runs: dict[str, Callable[[], Any]] = {"qctrun": lambda: (made.maps(), made.stream.synchronize())}
    differences, not_run = {}, {}
    for name, (module, build) in {"torch conv3d": ("torch", _torch), "cupyx FFT": ("cupy", _cupyx)}.items():
        if not installed(module):
            not_run[name] = f"{module} is not installed"
            continue
        try:
            run = build(shape)
            differences[name] = difference(_mean(run()), expected)
        except Exception as error:  # whatever a peer cannot do here is its own affair, and is told
            not_run[name] = str(error).partition("\n")[0]
        else:
            runs[name] = run
    found = summary(race(runs, max(3, rounds // 5)), "qctrun")
    scene = f"maps on the device, {shape_words(shape)}"
    return [
        {"scene": scene, "name": name, **row, "difference": differences.get(name)}
        for name, row in found.items()
    ], not_run


def _device() -> str:
    """The GPU in words; a DeviceError or RuntimeMissingError where none works."""
    try:
        from numba import cuda

        there = cuda.is_available()
    except ImportError as error:
        mend = 'pip install "qctrun[cuda]"'
        raise RuntimeMissingError("numba-cuda", wanted="it installed", got=str(error), mend=mend) from None
    if not there:
        raise DeviceError("device cuda", wanted="a CUDA device", got="none that works")
    return ", ".join((gpu() or {"name": "unknown GPU"}).values())


class _Trip:
    """The package's trip with pinned memory at both ends; its steps are put on its stream and not waited for."""

    def __init__(self, shape: Size) -> None:
        from numba import cuda

        from qctrun.runtime.trip_cuda import DeviceTrip

        work = planned(Grid(shape, SPACING_MM), THRESHOLDS_MG_CM3, DIAMETER_MM, "fuzzy", None, False)
        line = LINE["slope"], LINE["intercept"]
        self._way = DeviceTrip(Filter(device="cuda"), work, line, np.int16)
        self.stream, self.filter, self.maps = self._way.stream, self._way.filter, self._way.measure
        self._scan = cuda.pinned_array(shape, np.int16)
        self._scan[...] = hounsfield(shape)
        self._results = [cuda.pinned_array(shape, np.float32) for _ in self._way.results]

    def upload(self) -> None:
        """The scan, calibrated on the device."""
        self._way.scan.copy_to_device(self._scan, stream=self.stream)
        self._way.calibrate()

    def download(self) -> None:
        """The filtered volume and all maps."""
        for device, host in zip(self._way.results, self._results, strict=True):
            device.copy_to_host(host, stream=self.stream)


def _trip(shape: Size) -> Any:
    return _Trip(shape)


def _all_steps(made: Any) -> None:
    for step in STEPS:
        getattr(made, step)()
    made.stream.synchronize()


def _torch(shape: Size) -> Callable[[], Any]:
    import torch

    torch.backends.cudnn.allow_tf32 = False
    values = torch.from_numpy(density(shape).array).cuda()[None, None]
    kernel = torch.from_numpy(_sphere()).cuda()[None, None]
    half = [n // 2 for n in kernel.shape[2:]]

    def run() -> Any:
        sums = [
            torch.nn.functional.conv3d(quantity, kernel, padding=half)[0, 0]
            for quantity in _quantities(values, torch.sigmoid)
        ]
        torch.cuda.synchronize()
        return sums[0]

    return run


def _cupyx(shape: Size) -> Callable[[], Any]:
    import cupy
    from cupyx.scipy.signal import fftconvolve
    from cupyx.scipy.special import expit

    values, kernel = cupy.asarray(density(shape).array), cupy.asarray(_sphere())

    def run() -> Any:
        sums = [fftconvolve(quantity, kernel, mode="same") for quantity in _quantities(values, expit)]
        cupy.cuda.get_current_stream().synchronize()
        return sums[0]

    return run


def _sphere() -> npt.NDArray[np.float32]:
    return Sphere(SPACING_MM, DIAMETER_MM).mask().astype(np.float32)


def _mean(sums: Any) -> npt.NDArray[np.float32]:
    """Sums of a peer over the sphere, on the host as means."""
    host = sums.get() if hasattr(sums, "get") else sums.cpu().numpy()
    return np.asarray(host / _sphere().sum(), np.float32)


def _quantities(values: Any, sigmoid: Callable[[Any], Any]) -> Any:
    """What the maps are sums of: two, and two more a threshold."""
    yield values
    yield values * values
    for threshold in THRESHOLDS_MG_CM3:
        step = sigmoid((values - threshold) / 10)
        yield step
        yield step * values


if __name__ == "__main__":
    sys.exit(main())
