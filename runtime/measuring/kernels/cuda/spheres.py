"""Sums over spheres on a GPU, from the running sums of rows: whole numbers, the same as on the processor.

`march_*` goes down the slices with a tile of columns: of each slice it takes the running sums to shared memory, sums
the discs of the sphere and adds them to a ring of unfinished sums. `direct` adds run after run from global memory,
for spheres whose tile does not fit. Widths of runs are arguments, so one compilation serves every sphere.

Arrays are flat. `box` is (z, y, x, slices, rows, columns): where the first sum lies in `wanted`, and how many there
are. `half` has a row for each slice of the lower half sphere, the centre's first: how many of its lines along x are
empty at either end, then the half width of each line. The running sums are those of the box and the sphere's reach
around it, `size` (slices, rows, columns) without the leading 0 of each row. Indices into shared memory are unsigned:
Numba looks at signed ones for a minus.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

import numpy as np

from qctrun.runtime.measuring.kernels.cuda.compiler import cuda, int32, int64, kernel, on_device

LANES = 32
COLUMNS = 2 * LANES
"""Columns of a tile: two a thread, so that looking up a run's width serves two sums."""

_ONE, _LANES = np.uint32(1), np.uint32(LANES)


@kernel
def march_narrow(prefix, half, wanted, box, size, depth, plan, slot, totals):
    """Sums of a quantity whose runs fit into int32. Blocks of (LANES, rows) threads, grid (x, y, z by depth)."""
    rows = plan[slot, 1]
    if rows > 0 and _anything(wanted, box, depth):
        ring, plane = cuda.shared.array(0, int64), cuda.shared.array(0, int32)
        _march(prefix, half, box, size, depth, ring, plane, 2, rows, totals)


@kernel
def march_wide(prefix, half, wanted, box, size, depth, plan, slot, totals):
    """The same with runs of int64."""
    if plan[slot, 1] == 0 and _anything(wanted, box, depth):
        ring = cuda.shared.array(0, int64)
        _march(prefix, half, box, size, depth, ring, ring, 1, 0, totals)


@kernel
def direct(prefix, half, wanted, box, size, narrow, plan, slot, totals):
    """Sums of a sphere of any size, a thread each."""
    if (plan[slot, 1] > 0) != narrow:
        return
    reach_z, columns = half.shape[0] - 1, size[2] + 1
    reach_x = (size[2] - box[5]) // 2
    for i in range(cuda.grid(1), totals.size, cuda.gridsize(1)):
        line, x = i // box[5], i % box[5]
        z, y = line // box[4], line % box[4]
        if wanted[box[0] + z, box[1] + y, box[2] + x]:
            total = int64(0)
            for k in range(-reach_z, reach_z + 1):
                for j in range(half[abs(k), 0], half.shape[1] - 1 - half[abs(k), 0]):
                    width = half[abs(k), j + 1]
                    at = ((z + reach_z + k) * size[1] + y + j) * columns + x + reach_x
                    total += _run(prefix, at - width, at + width + 1, narrow)
            totals[i] = total


@on_device
def _run(prefix, start, stop, narrow):
    run = int64(prefix[stop]) - int64(prefix[start])
    return int64(int32(run)) if narrow else run


@on_device
def _anything(wanted, box, depth):
    """Whether the tile of this block has a wanted voxel."""
    z0, y = cuda.blockIdx.z * depth, cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y
    x0 = cuda.blockIdx.x * COLUMNS + cuda.threadIdx.x
    mine = 0
    if y < box[4]:
        for z in range(z0, min(z0 + depth, box[3])):
            for x in range(x0, min(x0 + COLUMNS, box[5]), LANES):
                if wanted[box[0] + z, box[1] + y, box[2] + x]:
                    mine = 1
    return cuda.syncthreads_or(mine) != 0


@on_device
def _march(prefix, half, box, size, depth, ring, plane, cells, rows, totals):
    """The ring lies at the start of shared memory, the plane after it; `cells` of the plane fill one of the ring."""
    me, line, tall = cuda.threadIdx.x, cuda.threadIdx.y, cuda.blockDim.y
    x0, y0 = cuda.blockIdx.x * COLUMNS, cuda.blockIdx.y * tall
    z0 = cuda.blockIdx.z * depth
    z1 = min(z0 + depth, box[3])
    reach_z, slots = half.shape[0] - 1, 2 * half.shape[0] - 1
    reach_x = (size[2] - box[5]) // 2
    pitch = COLUMNS + 2 * reach_x + 1
    mine, step = line * COLUMNS + me, tall * COLUMNS
    first = slots * step * cells
    at = np.uint32(first + line * pitch + me + reach_x)
    for slot in range(slots):
        ring[slot * step + mine] = 0
        ring[slot * step + mine + LANES] = 0
    for s in range(z0, z1 + 2 * reach_z):
        cuda.syncthreads()
        _take_plane(prefix, s, y0, x0, size, tall + half.shape[1] - 2, pitch, plane, first)
        cuda.syncthreads()
        for k in range(reach_z + 1):
            below, above = s - reach_z - k, s - reach_z + k
            upper, lower = k > 0 and z0 <= above < z1, z0 <= below < z1
            if lower or upper:
                one, other = _disc(plane, half, k, at, np.uint32(pitch), rows, cells)
                if lower:
                    _add(ring, below % slots * step + mine, one, other)
                if upper:
                    _add(ring, above % slots * step + mine, one, other)
        if s - 2 * reach_z >= z0:
            _give(
                ring,
                (s - 2 * reach_z) % slots * step + mine,
                s - 2 * reach_z,
                y0 + line,
                x0 + me,
                box,
                totals,
            )


@on_device
def _take_plane(prefix, s, y0, x0, size, tall, pitch, plane, first):
    """Copy what the discs of the tile need of slice s; 0 beyond the volume, where nobody looks."""
    columns = size[2] + 1
    for row in range(cuda.threadIdx.y, tall, cuda.blockDim.y):
        line = (s * size[1] + y0 + row) * columns + x0
        for x in range(cuda.threadIdx.x, pitch, LANES):
            known = y0 + row < size[1] and x0 + x < columns
            plane[first + row * pitch + x] = prefix[line + x] if known else 0


@on_device
def _disc(plane, half, k, at, pitch, rows, cells):
    """Sums over disc k of the two columns of a thread. Of narrow runs as many are added in int32 as fit."""
    one, other = int64(0), int64(0)
    entries = np.uint32(half.shape[1])
    skipped = np.uint32(half[k, 0])
    row, stop_row = _ONE + skipped, entries - skipped
    at = at + skipped * pitch
    while row < stop_row:
        end = stop_row if cells == 1 else min(row + np.uint32(rows), stop_row)
        part, part_other = int32(0), int32(0)
        while row < end:
            width = np.uint32(half[k, row])
            stop, start = at + width + _ONE, at - width
            run = int64(plane[stop]) - int64(plane[start])
            run_other = int64(plane[stop + _LANES]) - int64(plane[start + _LANES])
            if cells == 1:
                one, other = one + run, other + run_other
            else:
                part, part_other = int32(int64(part) + run), int32(int64(part_other) + run_other)
            row = row + _ONE
            at = at + pitch
        one, other = one + int64(part), other + int64(part_other)
    return one, other


@on_device
def _add(ring, cell, one, other):
    ring[cell] += one
    ring[cell + LANES] += other


@on_device
def _give(ring, cell, z, y, x, box, totals):
    """Write out the finished sums and empty their place."""
    if y < box[4] and x < box[5]:
        totals[(z * box[4] + y) * box[5] + x] = ring[cell]
    if y < box[4] and x + LANES < box[5]:
        totals[(z * box[4] + y) * box[5] + x + LANES] = ring[cell + LANES]
    ring[cell] = 0
    ring[cell + LANES] = 0
