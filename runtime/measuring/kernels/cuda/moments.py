"""Sums of repeated measurements over clusters of data points on a GPU: float64, the same bits every time.

Each block adds the points of one piece of a cluster, each thread its share in a fixed order, the threads' sums in a
fixed tree; the host adds the pieces. So the sums differ from the processor's by rounding alone.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.measuring.kernels.cuda.compiler import cuda, float64, kernel, on_device
from qctrun.runtime.measuring.kernels.cuda.device import opened

Doubles = npt.NDArray[np.float64]

THREADS = 128
"""Of a block: a power of 2."""
POINTS = 8192
"""Data points of a piece."""
OF_VALUES = ("m", "mm", "v", "cv2", "xx")
OF_TRUTH = ("y", "yy", "xy", "e", "ee", "dd")
OF_GIVEN = ("b", "bb", "xb", "yb")
SINGLE = len(OF_VALUES) + len(OF_TRUTH) + len(OF_GIVEN)
"""From this number on the sums are those of single repetitions."""


def cluster_sums(
    x: Doubles,
    y: Doubles | None,
    given: Doubles | None,
    offsets: tuple[float, float],
    cluster: npt.NDArray[np.intp],
    clusters: int,
    device: str,
) -> dict[str, Doubles]:
    """What `sums.cluster_sums` gives, computed on the device "cuda:N".

    Parameters
    ----------
    x, y, given, offsets : as in `sums.Repeats`
    cluster : integer array (point)
        The number of each data point's cluster, 0 to `clusters` - 1.

    Raises
    ------
    DeviceError, OutOfMemoryError
        When the device cannot be used, or does not hold the data.
    """
    order = np.argsort(cluster, kind="stable")
    starts, stops, owners = _pieces(cluster[order])
    known = [
        OF_VALUES,
        OF_TRUTH if y is not None else (),
        OF_GIVEN if y is not None and given is not None else (),
    ]
    names = [name for group in known for name in group]
    numbers = np.array([*range(len(names)), *range(SINGLE, SINGLE + len(x))], np.int64)
    nothing = np.zeros((1, 1))
    arrays = (
        np.ascontiguousarray(x[:, order]),
        nothing[0] if y is None else y[order],
        nothing if given is None else np.ascontiguousarray(given[:, order]),
    )
    with opened(device):
        parts = cuda.device_array((numbers.size, starts.size), np.float64)
        on_gpu = [cuda.to_device(array) for array in (*arrays, starts, stops, numbers)]
        sum_pieces[starts.size, THREADS](*on_gpu, *offsets, parts)
        found = parts.copy_to_host()
    totals = [np.bincount(owners, part, clusters).astype(np.float64, copy=False) for part in found]
    single = np.stack(totals[len(names) :], axis=1)
    count = np.bincount(cluster, minlength=clusters).astype(np.float64)
    return {"n": count, **dict(zip(names, totals[: len(names)], strict=True)), "x": single}


def _pieces(cluster: npt.NDArray[np.intp]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Where pieces of sorted clusters start and stop, and whose they are."""
    edges = np.flatnonzero(np.diff(cluster, prepend=-1, append=-1))
    cuts = np.arange(0, cluster.size, POINTS)
    starts = np.union1d(edges[:-1], cuts)
    return starts, np.append(starts[1:], cluster.size), cluster[starts]


@kernel
def sum_pieces(x, y, given, starts, stops, numbers, x_offset, y_offset, parts):
    """Each of the numbered sums over each piece, a piece a block, into parts (sum, piece)."""
    shared = cuda.shared.array(THREADS, float64)
    me, piece = cuda.threadIdx.x, cuda.blockIdx.x
    for i in range(numbers.size):
        total = 0.0
        for point in range(starts[piece] + me, stops[piece], THREADS):
            total += _feature(numbers[i], x, y, given, point, x_offset, y_offset)
        shared[me] = total
        half = THREADS // 2
        cuda.syncthreads()
        while half > 0:
            if me < half:
                shared[me] += shared[me + half]
            half //= 2
            cuda.syncthreads()
        if me == 0:
            parts[i, piece] = shared[0]
        cuda.syncthreads()


@on_device
def _feature(number, x, y, given, p, x_offset, y_offset):
    """Of one data point what `sums._features` calls by the names above."""
    if number >= SINGLE:
        return x[number - SINGLE, p]
    m = _mean(x, p)
    if number < 2:
        return m if number == 0 else m * m
    if number < 4:
        v = _variance(x, p)
        mean = m + x_offset
        if number == 3:
            return v / (mean * mean) if mean > 0.0 else math.nan
        return v
    if number == 4:
        return _product(x, x, p) / x.shape[0]
    if number < 11:
        return _of_truth(number, x, y[p], p, m, x_offset - y_offset)
    b = _mean(given, p)
    if number == 11:
        return b
    if number == 12:
        return _product(given, given, p) / x.shape[0]
    return _product(x, given, p) / x.shape[0] if number == 13 else b * y[p]


@on_device
def _of_truth(number, x, y, p, m, shift):
    if number < 8:
        return y if number == 5 else (y * y if number == 6 else m * y)
    total, squares = 0.0, 0.0
    for r in range(x.shape[0]):
        d = (x[r, p] - y) + shift
        total += d
        squares += d * d
    e = total / x.shape[0]
    if number == 10:
        return squares / x.shape[0]
    return e if number == 8 else e * e


@on_device
def _mean(x, p):
    """Mean over repetitions, from the first one on: identical ones have exactly their value."""
    total = 0.0
    for r in range(x.shape[0]):
        total += x[r, p] - x[0, p]
    return x[0, p] + total / x.shape[0]


@on_device
def _variance(x, p):
    """Variance over repetitions (N - 1), NaN of a single one."""
    if x.shape[0] == 1:
        return math.nan
    # From the deviations anew: the mean of identical repetitions less the first must be exactly 0.
    total, centre = 0.0, 0.0
    for r in range(x.shape[0]):
        centre += (x[r, p] - x[0, p]) / x.shape[0]
    for r in range(x.shape[0]):
        d = (x[r, p] - x[0, p]) - centre
        total += d * d
    return total / (x.shape[0] - 1)


@on_device
def _product(one, other, p):
    total = 0.0
    for r in range(one.shape[0]):
        total += one[r, p] * other[r, p]
    return total
