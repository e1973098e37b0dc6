"""What shows that an engine computes the right numbers: it is compared with the judge, onnxruntime on the CPU."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qctrun.runtime.errors import DeviceError, ModelError
from qctrun.runtime.filtering.engines import Engine, require_size
from qctrun.runtime.filtering.model import MEND
from qctrun.runtime.volume import FloatArray

PROBE_SIZE = (21, 41, 41)
"""Voxels of the window that is filtered once at the start, and of the pieces that are checked later on a GPU."""
CPU_TOLERANCE = 1e-5
GPU_TOLERANCE = {"fp32": 1e-4, "tf32": 2e-3, "fp16": 2e-3}
"""Largest difference from the judge, relative to the largest value; TF32 misses that of fp32, and bfloat16 its own."""
LEAST_SCALE = 100.0
"""mg/cm3 that a difference is relative to at the least: in a window of air no number is large."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How far an engine is from the judge on a window of noise; None in the session where there is no judge.

    Attributes
    ----------
    rms_mg_cm3, most_mg_cm3 : float
        Root mean square and largest absolute value of the difference.
    rms_relative, most_relative : float
        The same, divided by the judge's root mean square and largest absolute value.
    """

    rms_mg_cm3: float
    most_mg_cm3: float
    rms_relative: float
    most_relative: float


def probe() -> FloatArray:
    """The window of noise, mg/cm3, that every engine filters once at the start."""
    return np.random.default_rng(0).normal(200, 200, PROBE_SIZE).astype(np.float32)


def difference(found: FloatArray, expected: FloatArray) -> SelfTest:
    """How far a result is from the judge's.

    Raises
    ------
    ModelError
        When it has another size.
    """
    require_size(found, expected.shape)
    miss = found.astype(np.float64) - expected
    rms, most = float(np.sqrt(np.mean(miss**2))), float(np.abs(miss).max())
    rms_of_all = float(np.sqrt(np.mean(expected.astype(np.float64) ** 2)))
    return SelfTest(rms, most, rms / (rms_of_all or 1), most / (float(np.abs(expected).max()) or 1))


def require_filter(
    judge: Engine, window: FloatArray, expected: FloatArray, halo: tuple[int, int, int]
) -> None:
    """Refuse a model whose numbers are not finite, or reach further than its card says: windows would show.

    Raises
    ------
    ModelError
    """
    if not np.isfinite(expected).all():
        raise ModelError("model", wanted="finite numbers", got="NaN or infinity", mend=MEND)
    first, right = tuple(slice(h + 1, None) for h in halo), tuple(slice(h, None) for h in halo)
    cut = window[first]
    if not cut[right].size:  # a halo that is larger than the window can be judged by
        return
    miss = np.abs(judge.run(cut)[right] - expected[first][right]).max()
    if miss > CPU_TOLERANCE * np.abs(expected).max():
        wanted = f"results that reach no further than its card's halo, {halo} voxels (z, y, x)"
        raise ModelError("model", wanted=wanted, got="a wider reach", mend=MEND)


def prove(
    judge: Engine,
    window: FloatArray,
    result: FloatArray,
    halo: tuple[int, int, int],
    tolerance: float,
    device: str,
) -> None:
    """Let the judge filter two far corners and the middle of a window, and compare.

    Raises
    ------
    DeviceError
        When one of them differs by more than `tolerance`, relative to its largest value.
    """
    for take, inside, whole in _pieces(window.shape, halo):
        expected = judge.run(window[take])[inside]
        scale = max(LEAST_SCALE, float(np.abs(expected).max()), float(np.abs(window[take]).max()))
        require_same(float(np.abs(result[whole] - expected).max()) / scale, tolerance, device)


def require_same(error: float, tolerance: float, device: str) -> None:
    """Raise a DeviceError where a relative difference is not within the tolerance; NaN is not."""
    if error <= tolerance:
        return
    on_cpu = device == "cpu"
    raise DeviceError(
        f"device {device}",
        wanted=f"onnxruntime's numbers on the CPU within {tolerance:g}",
        got=f"a relative difference of {error:.2g}",
        mend='use the backend "onnxruntime"'
        if on_cpu
        else 'update the NVIDIA driver and cuDNN, or use the device "cpu"',
    )


def _pieces(
    size: tuple[int, ...], halo: tuple[int, int, int]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]]]:
    """Both far corners and the middle of a window: what to filter, what of that is right, and where that lies."""
    for place in (0.0, 0.5, 1.0):
        take, inside, whole = [], [], []
        for n, side, h in zip(size, PROBE_SIZE, halo, strict=True):
            side = max(side, 4 * h)
            start = int(place * max(0, n - side))
            stop = min(n, start + side)
            low, high = (start if start == 0 else start + h), (stop if stop == n else stop - h)
            take.append(slice(start, stop))
            inside.append(slice(low - start, high - start))
            whole.append(slice(low, high))
        yield tuple(take), tuple(inside), tuple(whole)
