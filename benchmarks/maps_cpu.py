"""The maps on the CPU beside what else can sum over spheres: BMD, SD, and BV/TV and TMD at each threshold.

    python benchmarks/maps_cpu.py                                             # 256 x 256 x 96
    python benchmarks/maps_cpu.py --diameter 10 --thresholds 225 --rounds 3 --json benchmarks/results/maps_cpu.json

Ours is `local_maps` as a program calls it, checks included. The others only make the sums that the maps need (V, V^2,
H and V H at each threshold), in float32; what follows the sums is not timed. Summing voxel by voxel takes so long that
those who do it race against ours on a small volume: compare nanoseconds a voxel only within one scene. Beside each
time stands the largest difference of its BMD, BV/TV and TMD from ours, as a part of the largest value; float32 sums
of squares lose the SD, whose difference the file tells in mg/cm3. Peak memory is that of a process which does
nothing else.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from inputs import DIAMETER_MM, SPACING_MM, THRESHOLDS_MG_CM3, Size, density
from racing import (
    Row,
    difference,
    parser,
    peak_memory_mb,
    print_table,
    race,
    shape_words,
    size,
    summary,
    tell_memory,
    write,
)
from scipy import fft, ndimage, signal, special

from qctrun.runtime import local_maps
from qctrun.runtime.measuring.kernels.formulas import FLOOR, FUZZY_WIDTH_MG_CM3
from qctrun.runtime.measuring.sphere import Sphere

OURS = "qctrun"
SMALL: Size = (32, 64, 64)

Array = npt.NDArray[np.float32]
Sum = Callable[[Array], Array]
"""One quantity (z, y, x) to its sums over spheres, zeros beyond the border."""


def main() -> None:
    """Race, compare, print and write."""
    words = parser(__doc__)
    words.add_argument("--size", type=size, default=(96, 256, 256), help="z,y,x")
    words.add_argument("--diameter", type=float, default=DIAMETER_MM, help="mm")
    words.add_argument("--thresholds", type=_numbers, default=THRESHOLDS_MG_CM3, help="mg/cm3, like 200,225")
    words.add_argument("--only", help="do nothing but this contender, for its memory")
    given = words.parse_args()
    work = functools.partial(
        contender, diameter_mm=given.diameter, thresholds=given.thresholds, threads=given.threads
    )
    if given.only:
        tell_memory(work(given.only, given.size))
        return
    options = [f"--diameter={given.diameter}", f"--thresholds={','.join(map(str, given.thresholds))}"]
    rows: list[Row] = []
    not_run: dict[str, str] = {}
    for shape, names in ((SMALL, DIRECT), (given.size, WHOLE)):
        rows += _scene(shape, names, given, work, options, not_run)
    print_table(rows, not_run)
    settings = {
        "size": list(given.size),
        "small_size": list(SMALL),
        "diameter_mm": given.diameter,
        "thresholds_mg_cm3": list(given.thresholds),
        "threads": given.threads,
        "rounds": given.rounds,
    }
    write(given.json, "maps_cpu", settings, rows, not_run)


def _scene(
    shape: Size, names: Sequence[str], given: Any, work: Any, options: list[str], not_run: dict[str, str]
) -> list[Row]:
    """Ours and all others that are installed, on one volume."""
    runs, maps = {}, {}
    for name in (OURS, *names):
        try:
            runs[name] = work(name, shape)
            maps[name] = _maps(runs[name](), shape, given.diameter, given.thresholds)
        except Exception as error:  # whatever a peer cannot do here is its own affair, and is told
            runs.pop(name, None)
            not_run[name] = str(error).partition("\n")[0] or type(error).__name__
    rows = []
    for name, row in summary(race(runs, given.rounds, warm=0), OURS).items():
        apart = [difference(found, maps[OURS][key]) for key, found in maps[name].items() if key != "SD"]
        words = (f"--size={','.join(map(str, shape))}", f"--threads={given.threads}", f"--only={name}")
        scene = f"maps, {shape_words(shape)}, {given.threads} threads"
        told = {"sd_difference_mg_cm3": float(np.nanmax(np.abs(maps[name]["SD"] - maps[OURS]["SD"])))}
        told["ns_a_voxel"] = row["median_s"] / math.prod(shape) * 1e9
        memory = peak_memory_mb(__file__, *words, *options)
        rows.append({"scene": scene, "name": name, **row, "difference": max(apart), **told, **memory})
    return rows


def contender(
    name: str, shape: Size, diameter_mm: float, thresholds: tuple[float, ...], threads: int
) -> Callable[[], Any]:
    """What one contender does in each round."""
    volume = density(shape)
    if name == OURS:
        return lambda: local_maps(volume, thresholds, diameter_mm, device="cpu", threads=threads)
    sphere = Sphere(SPACING_MM, diameter_mm)
    kernel = sphere.mask().astype(np.float32)

    def run() -> list[Array]:
        with fft.set_workers(threads):
            total = CONTENDERS[name](volume.array, kernel, threads)
            return [total(quantity) for quantity in _quantities(volume.array, thresholds)]

    return run


def _quantities(values: Array, thresholds: tuple[float, ...]) -> Any:
    """What is summed, one after the other, in float32."""
    yield values
    yield values**2
    for threshold in thresholds:
        step = special.expit((values - np.float32(threshold)) / np.float32(FUZZY_WIDTH_MG_CM3))
        yield step
        yield values * step


def _maps(found: Any, shape: Size, diameter_mm: float, thresholds: tuple[float, ...]) -> dict[Any, Array]:
    """Maps from sums, where the whole sphere lies inside; ours are maps already."""
    if isinstance(found, dict):
        return {key: volume.array for key, volume in found.items()}
    sphere = Sphere(SPACING_MM, diameter_mm)
    n = sphere.voxels
    inner = tuple(slice(half, size - half) for half, size in zip(sphere.half_size, shape, strict=True))
    means = []
    for total in found:
        mean = np.full(shape, np.nan)
        mean[inner] = total[inner].astype(np.float64) / n
        means.append(mean)
    maps: dict[Any, Any] = {"BMD": means[0]}
    maps["SD"] = np.sqrt(np.maximum(means[1] - means[0] ** 2, 0) * n / (n - 1))
    for i, threshold in enumerate(thresholds):
        part, product = means[2 + 2 * i], means[3 + 2 * i]
        maps["BVTV", threshold] = part
        with np.errstate(invalid="ignore"):  # NaN outside
            maps["TMD", threshold] = product / (FLOOR * np.logaddexp(0, part / FLOOR - 1) + FLOOR)
    return maps


def _fftconvolve(values: Array, kernel: Array, threads: int) -> Sum:
    return lambda quantity: signal.fftconvolve(quantity, kernel, mode="same")


def _oaconvolve(values: Array, kernel: Array, threads: int) -> Sum:
    return lambda quantity: signal.oaconvolve(quantity, kernel, mode="same")


def _shared_fft(values: Array, kernel: Array, threads: int) -> Sum:
    """As good as scipy's transforms get: the sphere's is taken once for all quantities."""
    full = [n + k - 1 for n, k in zip(values.shape, kernel.shape, strict=True)]
    fast = [fft.next_fast_len(n, real=True) for n in full]
    sphere = fft.rfftn(kernel, fast)
    inner = tuple(slice(k // 2, k // 2 + n) for n, k in zip(values.shape, kernel.shape, strict=True))
    return lambda quantity: fft.irfftn(fft.rfftn(quantity, fast) * sphere, fast)[inner]


def _simpleitk(values: Array, kernel: Array, threads: int) -> Sum:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    convolution = sitk.FFTConvolutionImageFilter()
    convolution.SetBoundaryCondition(convolution.ZERO_PAD)
    sphere = sitk.GetImageFromArray(kernel)
    return lambda quantity: sitk.GetArrayFromImage(
        convolution.Execute(sitk.GetImageFromArray(quantity), sphere)
    )


def _ndimage(values: Array, kernel: Array, threads: int) -> Sum:
    return lambda quantity: ndimage.convolve(quantity, kernel, mode="constant")


def _torch(values: Array, kernel: Array, threads: int) -> Sum:
    import torch

    torch.set_num_threads(threads)
    weight = torch.from_numpy(kernel)[None, None]
    padding = tuple(k // 2 for k in kernel.shape)

    def total(quantity: Array) -> Array:
        image = torch.from_numpy(quantity)[None, None]
        found: Array = torch.nn.functional.conv3d(image, weight, padding=padding)[0, 0].numpy()
        return found

    return total


CONTENDERS: dict[str, Callable[[Array, Array, int], Sum]] = {
    "scipy fftconvolve": _fftconvolve,
    "scipy fft, shared sphere": _shared_fft,
    "scipy oaconvolve": _oaconvolve,
    "SimpleITK FFT": _simpleitk,
    "scipy ndimage": _ndimage,
    "torch conv3d": _torch,
}
DIRECT = ("scipy ndimage", "torch conv3d")
WHOLE = tuple(name for name in CONTENDERS if name not in DIRECT)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


if __name__ == "__main__":
    main()
