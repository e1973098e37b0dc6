"""Local maps between arrays that lie on a GPU: nothing waits for the host and nothing is copied to it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.measuring.kernels.cuda import kernels, spheres
from qctrun.runtime.measuring.kernels.cuda.arrays import as_flags, flat, on_device
from qctrun.runtime.measuring.kernels.cuda.compiler import cuda

Widths = npt.NDArray[np.int32]
Triple = tuple[int, int, int]
Box = tuple[int, int, int, int, int, int]

SHARED_BYTES = 48 * 1024
"""Shared memory of a block that every GPU has."""
TILE_ROWS = (8, 4, 2, 1)
"""Rows of a tile, from the best; the first whose ring and plane fit is taken."""
THREADS = 128
SCAN_THREADS = 128
"""Threads that make the running sum of a row."""
BLOCKS = 4096
"""Blocks of a loop over single voxels; each goes on with another voxel until there is none."""
TILES = 2048
"""Tiles that keep a large GPU busy; a slim volume is cut along z to get as many."""
RANGE_BLOCKS = 512
SAFE_RUN = 500
"""Voxels of a run that fits into int32 for V and H_s, whatever the densities."""

_ONES_PLAN = np.array([[0, 2**20]], np.int64)
_EMPTY_RANGE = np.array([2**30, -(2**30), 0], np.int32)


class DeviceMaps:
    """Measures volumes of one size with one sphere on the current GPU, and keeps the memory for it.

    One volume at a time: calls on the same stream follow each other, other streams need an object of their own.

    Parameters
    ----------
    shape : (int, int, int)
        Of the volumes (z, y, x).
    half_widths : int32 array (slices, rows)
        The sphere, as in `Sphere.half_widths`.
    thresholds : floats
        In mg/cm3; none where only `inside` is called.
    fuzzy : bool
        Whether the step is fuzzy or hard.
    box : (z0, y0, x0, slices, rows, columns), optional
        Where to compute: voxels about which the whole sphere lies in the volume. All of those when None.

    Attributes
    ----------
    range : device int32 array (3,)
        Of the volume measured last: whole mg/cm3 below and above all of it, and what is wrong with it:
        `NOT_FINITE`, `NO_DENSITY` or 0. Where it is not 0 the maps mean nothing.
    """

    def __init__(
        self,
        shape: Triple,
        half_widths: Widths,
        thresholds: tuple[float, ...] = (),
        fuzzy: bool = True,
        box: Box | None = None,
    ) -> None:
        reach = reach_of(half_widths)
        self._box = box or _inner(shape, reach)
        z, y, x, slices, rows, columns = self._box
        self._corner = z - reach[0], y - reach[1], x - reach[2]
        self._size = slices + 2 * reach[0], rows + 2 * reach[1], columns + 2 * reach[2]
        self._fuzzy, self._thresholds, self._run = fuzzy, thresholds, 2 * reach[2] + 1
        self._slots = range(2, 2 + 2 * len(thresholds), 2)
        self._voxels = int(np.sum(2 * half_widths[half_widths >= 0] + 1))
        table = _table(half_widths)
        self._slices = len(table)
        self._half, self._ones = cuda.to_device(table), cuda.to_device(_ONES_PLAN)
        self._no_range = cuda.to_device(_EMPTY_RANGE)
        self._on_device = cuda.to_device(np.array(thresholds, np.float64))
        self._plan = cuda.device_array((2 + 2 * len(thresholds), 2), np.int64)
        self.range = cuda.to_device(_EMPTY_RANGE)
        cells, sums = _cells(self._box, self._size)
        self._narrow, self._wide = cuda.device_array(cells, np.int32), cuda.device_array(cells, np.int64)
        self._first, self._second = (cuda.device_array(sums, np.int64) for _ in range(2))
        self._shape = shape
        self._everywhere: Any = None

    @staticmethod
    def bytes_needed(size: Triple, half_widths: Widths) -> int:
        """Device memory that an object takes for a volume with flags of what is wanted, but for some kilobytes.

        Those of a volume that is measured wherever the sphere fits are made with the first one, a byte a voxel.
        """
        cells, sums = _cells(_inner(size, reach_of(half_widths)), size)
        return 12 * cells + 16 * sums

    def measure(
        self,
        values: Any,
        wanted: Any,
        bmd: Any,
        sd: Any,
        bvtv: list[Any],
        tmd: list[Any],
        stream: Any = 0,
        after: Any = None,
    ) -> None:
        """Queue the maps of a volume on a stream: NaN where not wanted or outside the box.

        Parameters
        ----------
        values : float32 array (z, y, x) on the device
            Densities. Anything with `__cuda_array_interface__`, C-contiguous, as all the others here.
        wanted : uint8 or bool array (z, y, x) on the device, or None
            Where to compute, within the box; everywhere in it when None.
        bmd, sd : float32 arrays (z, y, x) on the device
            To be filled in; `bvtv` and `tmd` hold one a threshold.
        stream : numba.cuda stream
            Numba's own or `cuda.external_stream(pointer)`.
        after : callable, optional
            Called whenever a pair of maps is queued: BMD and SD, then BV/TV and TMD of each threshold.
        """
        wanted = self._flags(wanted, stream)
        values, bmd, sd = (on_device(each, np.float32, self._shape) for each in (values, bmd, sd))
        bone = [
            tuple(on_device(each, np.float32, self._shape) for each in pair)
            for pair in zip(bvtv, tmd, strict=True)
        ]
        for each in (bmd, sd, *(array for pair in bone for array in pair)):
            each_voxel(kernels.fill, each.size, stream)(flat(each), np.float32(np.nan))
        self._make_plan(values, stream)
        if not self._first.size:
            return
        self._sum(values, wanted, kernels.DENSITY, 0, 0.0, self._first, stream)
        self._sum(values, wanted, kernels.SQUARE, 1, 0.0, self._second, stream)
        known = self._first, self._second, wanted, self._box, self._voxels, self._plan
        each_voxel(kernels.finish_density, self._first.size, stream)(*known, bmd, sd)
        for slot, (threshold, pair) in zip(
            self._slots, zip(self._thresholds, bone, strict=True), strict=True
        ):
            if after is not None:
                after()
            self._sum(values, wanted, kernels.STEP, slot, threshold, self._first, stream)
            self._sum(values, wanted, kernels.EXCESS, slot + 1, threshold, self._second, stream)
            each_voxel(kernels.finish_bone, self._first.size, stream)(*known, slot, threshold, *pair)
        if after is not None:
            after()

    def inside(self, mask: Any, wanted: Any, found: Any, stream: Any = 0) -> None:
        """Queue on a stream: into `found` 1 where wanted and the whole sphere lies in the mask, else 0.

        All are uint8 or bool arrays (z, y, x) on the device with 0 and 1; `wanted` may be None as in `measure`.
        """
        wanted = self._flags(wanted, stream)
        mask, found = as_flags(mask, self._shape), as_flags(found, self._shape)
        each_voxel(kernels.fill, found.size, stream)(flat(found), np.uint8(0))
        if self._first.size:
            self._sum(mask, wanted, kernels.ONES, 0, 0.0, self._first, stream, self._ones)
            finish = each_voxel(kernels.finish_inside, self._first.size, stream)
            finish(self._first, wanted, self._box, self._voxels, found)

    def _flags(self, wanted: Any, stream: Any) -> Any:
        if wanted is not None:
            return as_flags(wanted, self._shape)
        if self._everywhere is None:
            self._everywhere = cuda.device_array(self._shape, np.uint8)
            fill = each_voxel(kernels.fill, self._everywhere.size, stream)
            fill(flat(self._everywhere), np.uint8(1))
        return self._everywhere

    def _make_plan(self, values: Any, stream: Any) -> None:
        self.range.copy_to_device(self._no_range, stream=stream)
        kernels.find_range[RANGE_BLOCKS, THREADS, stream](flat(values), self.range)
        kernels.make_plan[1, 1, stream](self.range, self._on_device, self._run, self._plan)

    def _sum(
        self,
        values: Any,
        wanted: Any,
        kind: int,
        slot: int,
        threshold: float,
        totals: Any,
        stream: Any,
        plan: Any = None,
    ) -> None:
        """Queue the sums of one quantity over all spheres, in int32 as well as int64 where either may be right."""
        plan = self._plan if plan is None else plan
        never_wide = self._run <= SAFE_RUN and kind not in (kernels.SQUARE, kernels.EXCESS)
        for narrow in (True, False):
            if (narrow and kind == kernels.SQUARE) or (never_wide and not narrow):
                continue
            prefix = self._narrow if narrow else self._wide
            scan = kernels.prefix_narrow if narrow else kernels.prefix_wide
            rows = self._size[0] * self._size[1]
            scan[rows, SCAN_THREADS, stream, 16 * SCAN_THREADS](
                values, self._corner, kind, threshold, self._fuzzy, plan, slot, self._size, prefix
            )
            self._sum_spheres(prefix, wanted, narrow, plan, slot, totals, stream)

    def _sum_spheres(
        self, prefix: Any, wanted: Any, narrow: bool, plan: Any, slot: int, totals: Any, stream: Any
    ) -> None:
        where = prefix, self._half, wanted, self._box, self._size
        tile = tile_rows(self._slices, self._size, self._box, 4 if narrow else 8)
        if tile is None:
            each_voxel(spheres.direct, totals.size, stream)(*where, narrow, plan, slot, totals)
            return
        rows, shared = tile
        slices, lines, columns = self._box[3:]
        across = -(-columns // spheres.COLUMNS), -(-lines // rows)
        # A slim box gives every core work only when it is cut in z too, where a cut costs two half spheres.
        parts = -(-TILES // (across[0] * across[1]))
        depth = max(-(-slices // parts), 4 * self._slices)
        march = spheres.march_narrow if narrow else spheres.march_wide
        grid = (*across, -(-slices // depth))
        march[grid, (spheres.LANES, rows), stream, shared](*where, depth, plan, slot, totals)


def reach_of(half_widths: Widths) -> Triple:
    """How far a sphere reaches from its centre along (z, y, x), voxels."""
    return half_widths.shape[0] // 2, half_widths.shape[1] // 2, int(half_widths.max())


def calibrate(hu: Any, slope: float, intercept: float, density: Any, stream: Any = 0) -> None:
    """Queue on a stream: density = slope HU + intercept, the same bits as `Calibration.apply`.

    Parameters
    ----------
    hu : int16 or float32 array on the device
        In HU.
    slope, intercept : float
        In mg/cm3 per HU and mg/cm3.
    density : float32 array of the same shape on the device
        To be filled in, mg/cm3.
    """
    hu = on_device(hu)
    density = on_device(density, np.float32, hu.shape)
    line = np.float32(slope), np.float32(intercept)
    each_voxel(kernels.calibrate, hu.size, stream)(flat(hu), *line, flat(density))


def tile_rows(slices: int, size: Triple, box: Box, item_bytes: int) -> tuple[int, int] | None:
    """Rows of a tile and the shared memory it takes, bytes; None where not even the least fits.

    Parameters
    ----------
    slices : int
        Of the lower half sphere, its centre's included.
    size, box : as in `spheres`
        Whose difference is the sphere's reach.
    item_bytes : int
        4 for running sums modulo 2^32, 8 for 2^64.
    """
    pitch = spheres.COLUMNS + size[2] - box[5] + 1
    for rows in TILE_ROWS:
        ring = 8 * (2 * slices - 1) * rows * spheres.COLUMNS
        plane = item_bytes * (rows + size[1] - box[4]) * pitch
        if ring + plane <= SHARED_BYTES:
            return rows, ring + plane
    return None


def _table(half_widths: Widths) -> Widths:
    """`half` as `spheres` wants it: of each disc how many lines are empty at either end, then all widths."""
    half = half_widths[half_widths.shape[0] // 2 :]
    empty = np.argmax(half >= 0, axis=1).astype(np.int32)
    return np.ascontiguousarray(np.column_stack([empty, half]))


def _inner(size: Triple, reach: Triple) -> Box:
    """The box of all voxels about which the whole sphere lies in a volume."""
    slices, rows, columns = (max(n - 2 * r, 0) for n, r in zip(size, reach, strict=True))
    return *reach, slices, rows, columns


def _cells(box: Box, size: Triple) -> tuple[int, int]:
    """How many running sums and how many sums over spheres a box has."""
    sums = box[3] * box[4] * box[5]
    return (size[0] * size[1] * (size[2] + 1) if sums else 0), sums


def each_voxel(kernel: Any, size: int, stream: Any) -> Any:
    """A loop over so many voxels, ready to be called."""
    return kernel[max(1, min(BLOCKS, -(-size // THREADS))), THREADS, stream]
