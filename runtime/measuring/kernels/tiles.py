"""What is done to one tile, compiled: the maps of its columns, slice after slice.

Each map's kernel takes a slice as whole numbers, hands it to `discs.py`, and gives out the slice that is finished by
it. Between them these numbers stay in a core's own cache. The arrays of runs and discs are as wide as `like`.
"""

import inspect
from collections.abc import Callable
from hashlib import sha256

import numba
import numpy as np
import numpy.typing as npt

from qctrun.runtime.measuring.kernels import discs, fixed_point, formulas
from qctrun.runtime.measuring.kernels.discs import P, R, Tile, Whole, Widths, add_slice, compiled, room
from qctrun.runtime.measuring.kernels.fixed_point import DENSITY_SCALE, EXCESS_SCALE, STEP_SCALE
from qctrun.runtime.measuring.kernels.formulas import PLAIN

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]


def _kept(function: Callable[P, R]) -> Callable[P, R]:
    """Machine code that is kept on disk for the next process, where there is a folder for it."""
    try:
        # Numba's cache notices a change of this file only, so the name changes with what comes from the others.
        text = "".join(map(inspect.getsource, (discs, fixed_point, formulas)))
        function.__qualname__ += "_" + sha256(text.encode()).hexdigest()[:12]
        kept: Callable[P, R] = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except (RuntimeError, OSError):
        return compiled(function)
    return kept


_fuzzy_step = compiled(formulas.fuzzy_step)
_hard_step = compiled(formulas.hard_step)
_soft_positive = compiled(formulas.soft_positive)
_whole = compiled(formulas.whole)
_mean = compiled(formulas.mean)
_local_sd = compiled(formulas.local_sd)
_local_tmd = compiled(formulas.local_tmd)


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
    z0, z1, reach = tile[0], tile[1], half.shape[0] - 1
    around = _around(tile, half)
    v, v_runs, v_ring = room(tile, half, like)
    squares, squares_runs, squares_ring = room(tile, half, np.empty(0, np.int64))
    for z in range(z0 - reach, z1 + reach):
        _take_density(values[z], around, centre, v, squares)
        add_slice(v, half, v_runs, v_ring, z, z0, z1)
        add_slice(squares, half, squares_runs, squares_ring, z, z0, z1)
        if z - reach >= z0:
            _give_density(v_ring, squares_ring, wanted, z - reach, tile, voxels, centre, bmd, sd)


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
    z0, z1, reach = tile[0], tile[1], half.shape[0] - 1
    around = _around(tile, half)
    s, runs, s_ring = room(tile, half, like)
    u, runs, u_ring = room(tile, half, like)
    for z in range(z0 - reach, z1 + reach):
        _take_bone(values[z], around, threshold, fuzzy, centres, s, u)
        add_slice(s, half, runs, s_ring, z, z0, z1)
        add_slice(u, half, runs, u_ring, z, z0, z1)
        if z - reach >= z0:
            _give_bone(s_ring, u_ring, wanted, z - reach, tile, voxels, centres, threshold, bvtv, tmd)


@_kept
def inside(mask: Flags, wanted: Flags, tile: Tile, half: Widths, voxels: int, found: Flags) -> None:
    """Fill in True where wanted and where every voxel of the sphere is in the mask."""
    z0, z1, reach = tile[0], tile[1], half.shape[0] - 1
    y0, y1, x0, x1 = _around(tile, half)
    ones, runs, ring = room(tile, half, np.empty(0, np.int32))
    for z in range(z0 - reach, z1 + reach):
        ones[:, : x1 - x0] = mask[z, y0:y1, x0:x1]
        add_slice(ones, half, runs, ring, z, z0, z1)
        if z - reach >= z0:
            _give_inside(ring, wanted, z - reach, tile, voxels, found)


@compiled
def _around(tile: Tile, half: Widths) -> Box:
    """The rows and columns (y0, y1, x0, x1) that the spheres of a tile touch."""
    reach_y, reach_x = half.shape[1] // 2, int(half[0].max())
    return tile[2] - reach_y, tile[3] + reach_y, tile[4] - reach_x, tile[5] + reach_x


@compiled
def _take_density(plane: Floats, around: Box, centre: int, v: Whole, squares: Whole) -> None:
    y0, y1, x0, x1 = around
    for y in range(y1 - y0):
        # Rows one by one: the compiler takes many voxels at once only where it knows them to be neighbours.
        line, into, into_squares = plane[y0 + y][x0:x1], v[y], squares[y]
        for x in range(line.size):
            quanta = np.int64(_whole(line[x] * DENSITY_SCALE)) - centre
            into[x] = quanta
            into_squares[x] = quanta * quanta


@compiled
def _take_bone(
    plane: Floats, around: Box, threshold: float, fuzzy: bool, centres: tuple[int, int], s: Whole, u: Whole
) -> None:
    y0, y1, x0, x1 = around
    for y in range(y1 - y0):
        line, into_s, into_u = plane[y0 + y][x0:x1], s[y], u[y]
        for x in range(line.size):
            value = np.float64(line[x])
            part = _fuzzy_step(value, threshold) if fuzzy else _hard_step(value, threshold)
            into_s[x] = np.int64(_whole(part * STEP_SCALE)) - centres[0]
            into_u[x] = np.int64(_whole((value - threshold) * part * EXCESS_SCALE)) - centres[1]


@compiled
def _give_density(
    v_ring: Whole,
    squares_ring: Whole,
    wanted: Flags,
    z: int,
    tile: Tile,
    voxels: int,
    centre: int,
    bmd: Floats,
    sd: Floats,
) -> None:
    y0, y1, x0, x1 = tile[2:]
    v_sums, squares_sums = v_ring[z % len(v_ring)], squares_ring[z % len(v_ring)]
    for y in range(y1 - y0):
        flags, totals, squares = wanted[z, y0 + y, x0:x1], v_sums[y], squares_sums[y]
        into_bmd, into_sd = bmd[z, y0 + y, x0:x1], sd[z, y0 + y, x0:x1]
        for x in range(flags.size):
            mean = _mean(totals[x], voxels, centre, DENSITY_SCALE)
            spread = _local_sd(totals[x], squares[x], voxels, DENSITY_SCALE)
            into_bmd[x] = mean if flags[x] else np.nan
            into_sd[x] = spread if flags[x] else np.nan
    v_sums[:] = 0
    squares_sums[:] = 0


@compiled
def _give_bone(
    s_ring: Whole,
    u_ring: Whole,
    wanted: Flags,
    z: int,
    tile: Tile,
    voxels: int,
    centres: tuple[int, int],
    threshold: float,
    bvtv: Floats,
    tmd: Floats,
) -> None:
    y0, y1, x0, x1 = tile[2:]
    s_sums, u_sums = s_ring[z % len(s_ring)], u_ring[z % len(s_ring)]
    parts, excesses = np.empty(x1 - x0), np.empty(x1 - x0)
    for y in range(y1 - y0):
        flags, steps, rests = wanted[z, y0 + y, x0:x1], s_sums[y], u_sums[y]
        into_bvtv, into_tmd = bvtv[z, y0 + y, x0:x1], tmd[z, y0 + y, x0:x1]
        least = 1.0
        for x in range(flags.size):
            parts[x] = _mean(steps[x], voxels, centres[0], STEP_SCALE)
            excesses[x] = _mean(rests[x], voxels, centres[1], EXCESS_SCALE)
            least = min(least, parts[x])
            into_bvtv[x] = parts[x] if flags[x] else np.nan
        if least > PLAIN:  # the usual case, without the logarithm that is taken for one voxel at a time
            for x in range(flags.size):
                found = _local_tmd(parts[x], excesses[x], threshold, parts[x])
                into_tmd[x] = found if flags[x] else np.nan
        else:
            for x in range(flags.size):
                if flags[x]:
                    divisor = _soft_positive(parts[x])
                    into_tmd[x] = _local_tmd(parts[x], excesses[x], threshold, divisor)
    s_sums[:] = 0
    u_sums[:] = 0


@compiled
def _give_inside(ring: Whole, wanted: Flags, z: int, tile: Tile, voxels: int, found: Flags) -> None:
    y0, y1, x0, x1 = tile[2:]
    sums = ring[z % len(ring)]
    found[z, y0:y1, x0:x1] = (sums[:, : x1 - x0] == voxels) & wanted[z, y0:y1, x0:x1]
    sums[:] = 0
