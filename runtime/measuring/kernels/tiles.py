"""What is done to one tile, compiled: the maps of its columns, slice after slice.

Of each slice come the sums of all run lengths along x, from these the discs of the sphere, and every disc goes to
the one or two output slices that it is part of. Runs, disc and the ring of unfinished output slices stay in a
core's own cache. The arrays of runs and discs are as wide as `like`.
"""

import inspect
from collections.abc import Callable
from hashlib import sha256
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from qctrun.runtime.measuring.kernels import fixed_point, formulas
from qctrun.runtime.measuring.kernels.fixed_point import DENSITY_SCALE, EXCESS_SCALE, STEP_SCALE

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Widths = npt.NDArray[np.int32]
Whole = npt.NDArray[Any]
Tile = tuple[int, int, int, int, int, int]
P = ParamSpec("P")
R = TypeVar("R")


def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Machine code that lets other threads run, made anew in each process."""
    compiled: Callable[P, R] = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


def _kept(function: Callable[P, R]) -> Callable[P, R]:
    """Machine code that is kept on disk for the next process, where there is a folder for it."""
    try:
        # Numba's cache notices a change of this file only, so the name changes with what comes from the others.
        text = inspect.getsource(formulas) + inspect.getsource(fixed_point)
        function.__qualname__ += "_" + sha256(text.encode()).hexdigest()[:12]
        kept: Callable[P, R] = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except (RuntimeError, OSError):
        return _compiled(function)
    return kept


_fuzzy_step = _compiled(formulas.fuzzy_step)
_hard_step = _compiled(formulas.hard_step)
_soft_positive = _compiled(formulas.soft_positive)
_whole = _compiled(formulas.whole)
_mean = _compiled(formulas.mean)
_local_sd = _compiled(formulas.local_sd)
_local_tmd = _compiled(formulas.local_tmd)


@_kept
def density(
    values: Floats,
    wanted: Flags,
    tile: Tile,
    half: Widths,
    voxels: int,
    centre: int,
    like: Whole,
    bmd: Floats,
    sd: Floats,
) -> None:
    """Fill in BMD and SD where wanted."""
    z0, z1, y0, y1, x0, x1 = tile
    reach_z, reach_y, reach_x = half.shape[0] - 1, half.shape[1] // 2, half[0].max()
    rows, columns = y1 - y0, x1 - x0
    v = np.empty((rows + 2 * reach_y, columns + 2 * reach_x), like.dtype)
    squares = np.empty(v.shape, np.int64)
    v_runs = np.empty((reach_x + 1, v.shape[0] * columns), like.dtype)
    squares_runs = np.empty(v_runs.shape, np.int64)
    v_ring = np.zeros((2 * reach_z + 1, rows * columns), np.int64)
    squares_ring = np.zeros(v_ring.shape, np.int64)
    for z in range(z0 - reach_z, z1 + reach_z):
        _take_density(values[z], y0 - reach_y, x0 - reach_x, centre, v, squares)
        _add_slice(v, half, v_runs, v_ring, z, z0, z1)
        _add_slice(squares, half, squares_runs, squares_ring, z, z0, z1)
        done = z - reach_z
        if done >= z0:
            v_sums, squares_sums = v_ring[done % len(v_ring)], squares_ring[done % len(v_ring)]
            for y in range(rows):
                for x in range(columns):
                    if wanted[done, y0 + y, x0 + x]:
                        total, square = v_sums[y * columns + x], squares_sums[y * columns + x]
                        bmd[done, y0 + y, x0 + x] = _mean(total, voxels, centre, DENSITY_SCALE)
                        sd[done, y0 + y, x0 + x] = _local_sd(total, square, voxels, DENSITY_SCALE)
            v_sums[:] = 0
            squares_sums[:] = 0


@_kept
def bone(
    values: Floats,
    wanted: Flags,
    tile: Tile,
    half: Widths,
    voxels: int,
    centres: tuple[int, int],
    like: Whole,
    threshold: float,
    fuzzy: bool,
    bvtv: Floats,
    tmd: Floats,
) -> None:
    """Fill in BV/TV and TMD of one threshold where wanted."""
    z0, z1, y0, y1, x0, x1 = tile
    reach_z, reach_y, reach_x = half.shape[0] - 1, half.shape[1] // 2, half[0].max()
    rows, columns = y1 - y0, x1 - x0
    s = np.empty((rows + 2 * reach_y, columns + 2 * reach_x), like.dtype)
    u = np.empty_like(s)
    runs = np.empty((reach_x + 1, s.shape[0] * columns), like.dtype)
    s_ring = np.zeros((2 * reach_z + 1, rows * columns), np.int64)
    u_ring = np.zeros_like(s_ring)
    for z in range(z0 - reach_z, z1 + reach_z):
        _take_bone(values[z], y0 - reach_y, x0 - reach_x, threshold, fuzzy, centres, s, u)
        _add_slice(s, half, runs, s_ring, z, z0, z1)
        _add_slice(u, half, runs, u_ring, z, z0, z1)
        done = z - reach_z
        if done >= z0:
            s_sums, u_sums = s_ring[done % len(s_ring)], u_ring[done % len(s_ring)]
            for y in range(rows):
                for x in range(columns):
                    if wanted[done, y0 + y, x0 + x]:
                        part = _mean(s_sums[y * columns + x], voxels, centres[0], STEP_SCALE)
                        excess = _mean(u_sums[y * columns + x], voxels, centres[1], EXCESS_SCALE)
                        bvtv[done, y0 + y, x0 + x] = part
                        tmd[done, y0 + y, x0 + x] = _local_tmd(part, excess, threshold, _soft_positive(part))
            s_sums[:] = 0
            u_sums[:] = 0


@_kept
def inside(mask: Flags, wanted: Flags, tile: Tile, half: Widths, voxels: int, found: Flags) -> None:
    """Fill in True where wanted and where every voxel of the sphere is in the mask."""
    z0, z1, y0, y1, x0, x1 = tile
    reach_z, reach_y, reach_x = half.shape[0] - 1, half.shape[1] // 2, half[0].max()
    rows, columns = y1 - y0, x1 - x0
    ones = np.empty((rows + 2 * reach_y, columns + 2 * reach_x), np.int32)
    runs = np.empty((reach_x + 1, ones.shape[0] * columns), np.int32)
    ring = np.zeros((2 * reach_z + 1, rows * columns), np.int64)
    for z in range(z0 - reach_z, z1 + reach_z):
        ones[:] = mask[z, y0 - reach_y : y1 + reach_y, x0 - reach_x : x1 + reach_x]
        _add_slice(ones, half, runs, ring, z, z0, z1)
        done = z - reach_z
        if done >= z0:
            sums = ring[done % len(ring)]
            for y in range(rows):
                for x in range(columns):
                    whole = sums[y * columns + x] == voxels
                    found[done, y0 + y, x0 + x] = whole and wanted[done, y0 + y, x0 + x]
            sums[:] = 0


@_compiled
def _take_density(values: Floats, y0: int, x0: int, centre: int, v: Whole, squares: Whole) -> None:
    for y in range(v.shape[0]):
        line, into, into_squares = values[y0 + y][x0:], v[y], squares[y]
        for x in range(into.size):
            quanta = np.int64(_whole(line[x] * DENSITY_SCALE)) - centre
            into[x] = quanta
            into_squares[x] = quanta * quanta


@_compiled
def _take_bone(
    values: Floats,
    y0: int,
    x0: int,
    threshold: float,
    fuzzy: bool,
    centres: tuple[int, int],
    s: Whole,
    u: Whole,
) -> None:
    for y in range(s.shape[0]):
        # Rows one by one: the compiler takes many voxels at once only where it knows them to be neighbours.
        line, into_s, into_u = values[y0 + y][x0:], s[y], u[y]
        for x in range(into_s.size):
            value = np.float64(line[x])
            part = _fuzzy_step(value, threshold) if fuzzy else _hard_step(value, threshold)
            into_s[x] = np.int64(_whole(part * STEP_SCALE)) - centres[0]
            into_u[x] = np.int64(_whole((value - threshold) * part * EXCESS_SCALE)) - centres[1]


@_compiled
def _add_slice(plane: Whole, half: Widths, runs: Whole, ring: Whole, z: int, z0: int, z1: int) -> None:
    """Add the discs of slice z to the sums of those output slices z0..z1 whose sphere it cuts."""
    columns = runs.shape[1] // plane.shape[0]
    _sum_runs(plane, columns, runs)
    flat = runs.reshape(runs.size)
    starts = np.empty(half.shape[1], np.int64)
    disc = np.empty(ring.shape[1], runs.dtype)
    for k in range(half.shape[0]):
        below, above = z0 <= z - k < z1, k > 0 and z0 <= z + k < z1
        if not (below or above):
            continue
        rows = 0
        for j in range(half.shape[1]):
            if half[k, j] >= 0:
                starts[rows] = half[k, j] * runs.shape[1] + j * columns
                rows += 1
        _sum_rows(flat, starts[:rows], disc)
        if below:
            _add(disc, ring[(z - k) % len(ring)])
        if above:
            _add(disc, ring[(z + k) % len(ring)])


@_compiled
def _sum_runs(plane: Whole, columns: int, runs: Whole) -> None:
    """runs[w]: for each row and output column the sum over the column itself and w neighbours on either side.

    Differences of the row's running sum. That sum may overflow: differences modulo 2^32 are right all the same.
    """
    reach = runs.shape[0] - 1
    sums = np.zeros(plane.shape[1] + 1, plane.dtype)
    for y in range(plane.shape[0]):
        line, start = plane[y], y * columns
        total = np.int64(0)
        for x in range(line.size):
            total += line[x]
            sums[x + 1] = total
        for w in range(reach + 1):
            run = runs[w, start : start + columns]
            left, right = sums[reach - w :], sums[reach + w + 1 :]
            for x in range(run.size):
                run[x] = right[x] - left[x]


@_compiled
def _sum_rows(flat: Whole, starts: Whole, disc: Whole) -> None:
    """disc[p]: the sum of flat[start + p] over the starts, all rows of the tile in one long loop, eight at a time."""
    n, i = disc.size, 0
    disc[:] = 0
    while i + 8 <= starts.size:
        a, b = flat[starts[i] :], flat[starts[i + 1] :]
        c, d = flat[starts[i + 2] :], flat[starts[i + 3] :]
        e, f = flat[starts[i + 4] :], flat[starts[i + 5] :]
        g, h = flat[starts[i + 6] :], flat[starts[i + 7] :]
        for p in range(n):
            disc[p] += a[p] + b[p] + c[p] + d[p] + e[p] + f[p] + g[p] + h[p]
        i += 8
    while i + 2 <= starts.size:
        a, b = flat[starts[i] :], flat[starts[i + 1] :]
        for p in range(n):
            disc[p] += a[p] + b[p]
        i += 2
    if i < starts.size:
        _add(flat[starts[i] : starts[i] + n], disc)


@_compiled
def _add(part: Whole, whole: Whole) -> None:
    for p in range(whole.size):
        whole[p] += part[p]
