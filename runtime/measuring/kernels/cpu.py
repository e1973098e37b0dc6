"""Sums over spheres on the processor's cores: exact, in whole numbers, a tile of columns at a time.

This file cuts the work into tiles and hands them to threads; `tiles.py` is what is done to a tile.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise
from typing import Any

import numpy as np

from qctrun.runtime.measuring.kernels import fixed_point, tiles
from qctrun.runtime.measuring.kernels.discs import Tile, Widths
from qctrun.runtime.measuring.kernels.tiles import Flags, Floats

TILE_ROWS, TILE_COLUMNS = 48, 256
"""Outputs of a tile in y and x. Narrower tiles measured slower: more of each is border, and their loops are short."""


def measure(
    values: Floats,
    wanted: Flags,
    half_widths: Widths,
    thresholds: tuple[float, ...],
    fuzzy: bool,
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Floats, Floats, list[Floats], list[Floats]]:
    """Local BMD, SD, and BV/TV and TMD a threshold.

    Parameters
    ----------
    values : float32 array (z, y, x)
        Finite densities.
    wanted : bool array (z, y, x)
        Where to compute; the sphere about each of these voxels lies inside the array.
    half_widths : int32 array (slices, rows)
        The sphere, as in `Sphere.half_widths`.
    thresholds : floats
        In mg/cm3.
    fuzzy : bool
        Whether the step is fuzzy or hard.
    threads : int, optional
        How many tiles at a time; as many as there are cores when None.
    progress : callable, optional
        Told of finished tiles, and of how many there are.

    Returns
    -------
    (bmd, sd, [bvtv], [tmd])
        float32 arrays (z, y, x), NaN where not wanted.
    """
    half, voxels, disc_voxels = _sphere(half_widths)
    pieces = _tiles(wanted, half, threads)
    bmd, sd, *rest = _blank(values.shape, 2 + 2 * len(thresholds), threads)
    bvtv, tmd = rest[::2], rest[1::2]
    if not pieces:
        return bmd, sd, bvtv, tmd
    low, high = _range(values, pieces, half)
    v = fixed_point.density(low, high, voxels, disc_voxels)
    s = fixed_point.step(disc_voxels)

    def one(tile: Tile) -> None:
        _run(tiles.density, values, wanted, tile, half, voxels, v.centre, np.empty(0, v.disc), bmd, sd)
        for threshold, bv, tm in zip(thresholds, bvtv, tmd, strict=True):
            u = fixed_point.excess(high, threshold, disc_voxels)
            like = np.empty(0, np.promote_types(s.disc, u.disc))
            centres = (s.centre, u.centre)
            _run(tiles.bone, values, wanted, tile, half, voxels, centres, like, threshold, fuzzy, bv, tm)

    _in_threads(one, pieces, threads, progress)
    return bmd, sd, bvtv, tmd


def inside(mask: Flags, wanted: Flags, half_widths: Widths, threads: int | None) -> Flags:
    """Those of the wanted voxels about which the whole sphere lies in the mask."""
    half, voxels, _ = _sphere(half_widths)
    found = np.zeros_like(mask)
    pieces = _tiles(wanted, half, threads)
    _in_threads(
        lambda tile: _run(tiles.inside, mask, wanted, tile, half, voxels, found), pieces, threads, None
    )
    return found


def _sphere(half_widths: Widths) -> tuple[Widths, int, int]:
    """Its lower half from the centre slice on (the upper one is the same), its voxels, those of the centre slice."""
    half = np.ascontiguousarray(half_widths[half_widths.shape[0] // 2 :])
    discs = [int(np.sum(2 * rows[rows >= 0] + 1)) for rows in half]
    return half, 2 * sum(discs) - discs[0], discs[0]


def _blank(shape: tuple[int, ...], count: int, threads: int | None) -> list[Floats]:
    """Maps without a value. To touch so much memory for the first time takes long enough for several threads."""
    with ThreadPoolExecutor(_workers(threads)) as pool:
        return list(pool.map(lambda _: np.full(shape, np.nan, np.float32), range(count)))


def _tiles(wanted: Flags, half: Widths, threads: int | None) -> list[Tile]:
    """Cut the box of what is wanted into tiles (z0, z1, y0, y1, x0, x1), and leave out the empty ones."""
    plane = _any(wanted, 0)
    if not plane.any():
        return []
    z0, z1 = _extent(_any(wanted, (1, 2)))
    y0, y1 = _extent(_any(plane, 1))
    columns = [
        (z0, z1, *rows, *columns)
        for rows in _cuts(y0, y1, _rows(y1 - y0, _workers(threads)))
        for columns in _cuts(*_extent(_any(plane, 0)), TILE_COLUMNS)
        if plane[slice(*rows), slice(*columns)].any()
    ]
    # A slim box gives every core work only when it is cut in z too, where a cut costs two half spheres.
    parts = -(-2 * _workers(threads) // len(columns))
    depth = max(-(-(z1 - z0) // parts), 4 * half.shape[0])
    return [(a, b, *tile[2:]) for tile in columns for a, b in _cuts(z0, z1, depth)]


def _rows(height: int, workers: int) -> int:
    """How many a tile may have, so that all workers end at the same time unless tiles became too flat for that."""
    pieces = -(-height // TILE_ROWS)
    alike = -(-pieces // workers) * workers
    return -(-height // alike) if height >= alike * TILE_ROWS // 2 else TILE_ROWS


def _any(flags: Flags, axis: int | tuple[int, ...]) -> Flags:
    found: Flags = np.logical_or.reduce(flags, axis=axis)
    return found


def _extent(line: Flags) -> tuple[int, int]:
    found = np.flatnonzero(line)
    return int(found[0]), int(found[-1]) + 1


def _cuts(start: int, stop: int, largest: int) -> list[tuple[int, int]]:
    pieces = -(-(stop - start) // largest)
    edges = [start + (stop - start) * i // pieces for i in range(pieces + 1)]
    return list(pairwise(edges))


def _range(values: Floats, pieces: list[Tile], half: Widths) -> tuple[float, float]:
    """The least and the greatest value that any of the spheres can touch."""
    reach = (half.shape[0] - 1, half.shape[1] // 2, int(half[0].max()))
    corners = np.array(pieces)
    box = tuple(
        slice(corners[:, 2 * i].min() - reach[i], corners[:, 2 * i + 1].max() + reach[i]) for i in range(3)
    )
    return float(values[box].min()), float(values[box].max())


def _workers(threads: int | None) -> int:
    return threads or len(os.sched_getaffinity(0))


def _in_threads(
    work: Callable[[Tile], None],
    pieces: list[Tile],
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Our own threads instead of a parallel loop: tiles of unlike cost spread evenly, callers never collide,
    a fork does no harm, and an interruption ends the work after the tiles in hand."""
    pool = ThreadPoolExecutor(min(_workers(threads), max(len(pieces), 1)))
    try:
        waiting = [pool.submit(work, tile) for tile in pieces]
        for done, future in enumerate(as_completed(waiting), 1):
            future.result()
            if progress is not None:
                progress(done, len(pieces))
    finally:
        pool.shutdown(cancel_futures=True)


def _run(kernel: Callable[..., None], *arguments: Any) -> None:
    try:
        kernel(*arguments)
    except OSError:  # compiled, but the cache on disk could not be written; the kernel itself has not run yet
        kernel(*arguments)
