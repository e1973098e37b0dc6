"""From a slice to sums over spheres, compiled: runs along x, discs of runs, and the ring of unfinished spheres.

Of each slice come the sums of all run lengths along x, from these the discs of the sphere, and every disc goes to
the one or two output slices that it is part of. Rows of runs and sums begin where a cache line does: a load across two
lines counts twice, and loads are what the time goes into. So a tile is padded to whole lines, with zeros.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Widths = npt.NDArray[np.int32]
Whole = npt.NDArray[Any]
Tile = tuple[int, int, int, int, int, int]
LINE = 64
"""Bytes of a cache line."""
P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Machine code that lets other threads run, made anew in each process."""
    made: Callable[P, R] = numba.njit(nogil=True, error_model="numpy")(function)
    return made


@compiled
def room(tile: Tile, half: Widths, like: Whole) -> tuple[Whole, Whole, Whole]:
    """Room for one quantity of a tile, in zeros.

    The tile's slice with what is around it (row, column) and its runs (width, row, column), as wide as `like`, and the
    ring of sums (slice, row, column).
    """
    rows, columns = tile[3] - tile[2], tile[5] - tile[4]
    reach_y, reach_x = half.shape[1] // 2, int(half[0].max())
    in_line = LINE // like.itemsize
    padded = -(-columns // in_line) * in_line
    plane = np.zeros((rows + 2 * reach_y, padded + 2 * reach_x), like.dtype)
    runs = _aligned((reach_x + 1) * plane.shape[0] * padded, like).reshape(
        reach_x + 1, plane.shape[0], padded
    )
    depth = 2 * half.shape[0] - 1
    ring = _aligned(depth * rows * padded, np.empty(0, np.int64)).reshape(depth, rows, padded)
    return plane, runs, ring


@compiled
def add_slice(plane: Whole, half: Widths, runs: Whole, ring: Whole, z: int, z0: int, z1: int) -> None:
    """Add the discs of slice z to the sums of those output slices z0..z1 whose sphere it cuts."""
    _sum_runs(plane, runs)
    padded, area = runs.shape[2], ring.shape[1] * ring.shape[2]
    flat, sums = runs.reshape(runs.size), ring.reshape(len(ring), area)
    starts = np.empty(half.shape[1], np.int64)
    disc = _aligned(area, runs)
    for k in range(half.shape[0]):
        below, above = z0 <= z - k < z1, k > 0 and z0 <= z + k < z1
        if not (below or above):
            continue
        rows = 0
        for j in range(half.shape[1]):
            if half[k, j] >= 0:
                starts[rows] = (half[k, j] * runs.shape[1] + j) * padded
                rows += 1
        _sum_rows(flat, starts[:rows], disc)
        if below and above:
            _add_twice(disc, sums[(z - k) % len(ring)], sums[(z + k) % len(ring)])
        elif below:
            _add(disc, sums[(z - k) % len(ring)])
        else:
            _add(disc, sums[(z + k) % len(ring)])


@compiled
def _aligned(size: int, like: Whole) -> Whole:
    """Zeros from the start of a cache line on."""
    zeros = np.zeros(size + LINE // like.itemsize, like.dtype)
    skipped = -zeros.ctypes.data % LINE // like.itemsize
    return zeros[skipped : skipped + size]


@compiled
def _sum_runs(plane: Whole, runs: Whole) -> None:
    """runs[w]: for each row and column of the tile the sum over the column itself and w neighbours on either side.

    Each from the one before, three at a time while the sum is at hand.
    """
    reach, columns = runs.shape[0] - 1, runs.shape[2]
    for y in range(plane.shape[0]):
        line = plane[y]
        runs[0, y] = line[reach : reach + columns]
        w = 1
        while w + 3 <= reach + 1:
            before, first, second, third = runs[w - 1, y], runs[w, y], runs[w + 1, y], runs[w + 2, y]
            a, b, c = line[reach - w :], line[reach - w - 1 :], line[reach - w - 2 :]
            d, e, f = line[reach + w :], line[reach + w + 1 :], line[reach + w + 2 :]
            for x in range(columns):
                total = before[x] + a[x] + d[x]
                first[x] = total
                total += b[x] + e[x]
                second[x] = total
                third[x] = total + c[x] + f[x]
            w += 3
        while w <= reach:
            before, first = runs[w - 1, y], runs[w, y]
            a, d = line[reach - w :], line[reach + w :]
            for x in range(columns):
                first[x] = before[x] + a[x] + d[x]
            w += 1


@compiled
def _sum_rows(flat: Whole, starts: Whole, disc: Whole) -> None:
    """disc[p]: the sum of flat[start + p] over the starts, all rows of the tile in one long loop.

    Twelve at a time, since after each such loop the sums go to memory and come back.
    """
    i = 0
    disc[:] = 0
    while i + 12 <= starts.size:
        a, b, c = flat[starts[i] :], flat[starts[i + 1] :], flat[starts[i + 2] :]
        d, e, f = flat[starts[i + 3] :], flat[starts[i + 4] :], flat[starts[i + 5] :]
        g, h, j = flat[starts[i + 6] :], flat[starts[i + 7] :], flat[starts[i + 8] :]
        k, m, n = flat[starts[i + 9] :], flat[starts[i + 10] :], flat[starts[i + 11] :]
        for p in range(disc.size):
            disc[p] += a[p] + b[p] + c[p] + d[p] + e[p] + f[p] + g[p] + h[p] + j[p] + k[p] + m[p] + n[p]
        i += 12
    while i + 4 <= starts.size:
        a, b = flat[starts[i] :], flat[starts[i + 1] :]
        c, d = flat[starts[i + 2] :], flat[starts[i + 3] :]
        for p in range(disc.size):
            disc[p] += a[p] + b[p] + c[p] + d[p]
        i += 4
    while i < starts.size:
        _add(flat[starts[i] : starts[i] + disc.size], disc)
        i += 1


@compiled
def _add(part: Whole, whole: Whole) -> None:
    for p in range(whole.size):
        whole[p] += part[p]


@compiled
def _add_twice(part: Whole, one: Whole, other: Whole) -> None:
    for p in range(part.size):
        one[p] += part[p]
        other[p] += part[p]
