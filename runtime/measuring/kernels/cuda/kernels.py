"""What each thread of a GPU does to single voxels and rows: densities, quanta, running sums, and maps from sums.

The running sum of a row of quanta makes a run along x the difference of two numbers, right modulo 2^32 even where
the running sum itself overflows. `spheres.py` sums the runs of a sphere.

A `plan` is an array (quantity, 2) of int64 on the device: the centre that is taken off the quanta, and how many
runs an int32 holds, 0 where one run is too much already. Kernels come as a pair, narrow and wide; the one that the
plan does not mean returns at once, so nobody on the host has to wait for the range of the data.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

import math

import numpy as np

from qctrun.runtime.measuring.kernels.cuda import formulas
from qctrun.runtime.measuring.kernels.cuda.compiler import cuda, float32, int32, int64, kernel, on_device
from qctrun.runtime.measuring.kernels.cuda.formulas import floor, product, product32
from qctrun.runtime.measuring.kernels.fixed_point import (
    DENSITY_SCALE,
    EXCESS_SCALE,
    LIMIT_MG_CM3,
    STEP_SCALE,
)

DENSITY, SQUARE, STEP, EXCESS, ONES = range(5)
"""The kinds of quantity: V, V^2, H_s, (V - t) H_s, and 1 in a mask."""
NOT_FINITE, NO_DENSITY = 1, 2
"""What the third number of a range can say about the data."""

_LARGEST = 2**31 - 1
_MANY_ROWS = 2**20
_OUTSIDE = int(LIMIT_MG_CM3) + 1
_DENSITY, _SQUARE, _STEP, _EXCESS, _ONES = (np.int32(kind) for kind in range(5))


@kernel
def calibrate(hu, slope, intercept, density):
    """density = slope HU + intercept in float32, each operation rounded, as the processor does it. Flat arrays."""
    for i in range(cuda.grid(1), hu.size, cuda.gridsize(1)):
        density[i] = product32(float32(hu[i]), slope) + intercept


@kernel
def fill(array, value):
    """The value everywhere in a flat array."""
    for i in range(cuda.grid(1), array.size, cuda.gridsize(1)):
        array[i] = value


@kernel
def find_range(values, found):
    """Whole mg/cm3 below and above all of a flat array into found[0] and [1], what is wrong into [2]."""
    shared = cuda.shared.array(3, int32)
    if cuda.threadIdx.x == 0:
        shared[0], shared[1], shared[2] = _OUTSIDE, -_OUTSIDE, 0
    cuda.syncthreads()
    low, high, wrong = _OUTSIDE, -_OUTSIDE, 0
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        value = float(values[i])
        if not math.isfinite(value):
            wrong |= NOT_FINITE
            continue
        if abs(value) > LIMIT_MG_CM3:
            wrong |= NO_DENSITY
        value = min(max(value, -LIMIT_MG_CM3), LIMIT_MG_CM3)
        low, high = min(low, floor(value)), max(high, int64(math.ceil(value)))
    cuda.atomic.min(shared, 0, int32(low))
    cuda.atomic.max(shared, 1, int32(high))
    cuda.atomic.or_(shared, 2, int32(wrong))
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        cuda.atomic.min(found, 0, shared[0])
        cuda.atomic.max(found, 1, shared[1])
        cuda.atomic.or_(found, 2, shared[2])


@kernel
def make_plan(found, thresholds, run, plan):
    """The plan of V, V^2 and of H_s and (V - t) H_s for each threshold, from the range; one thread."""
    low, high = min(found[0], found[1]), max(found[0], found[1])
    _choose(plan, 0, low * DENSITY_SCALE, high * DENSITY_SCALE, run)
    plan[1, 0], plan[1, 1] = plan[0, 0], 0
    for i in range(thresholds.size):
        _choose(plan, 2 + 2 * i, 0.0, STEP_SCALE, run)
        above = max(high - thresholds[i], 0.0)
        _choose(plan, 3 + 2 * i, -3.0 * EXCESS_SCALE, above * EXCESS_SCALE, run)


@on_device
def _choose(plan, slot, low, high, run):
    """As fixed_point.Quantity: the centre, and how many runs of so many voxels fit."""
    reach = int((high - low) / 2.0) + 2
    plan[slot, 0] = floor((low + high) / 2.0)
    plan[slot, 1] = min(_LARGEST // (reach * run), _MANY_ROWS)


@on_device
def _quanta(value, kind, threshold, fuzzy, centre):
    """A quantity of one voxel in whole numbers, the same as on the processor."""
    if kind == _ONES:
        return int64(value)
    if kind <= _SQUARE:
        density = int64(formulas.whole(product(value, DENSITY_SCALE))) - centre
        return density * density if kind == _SQUARE else density
    part = formulas.fuzzy_step(value, threshold) if fuzzy else formulas.hard_step(value, threshold)
    if kind == _STEP:
        return int64(formulas.whole(product(part, STEP_SCALE))) - centre
    return int64(formulas.whole(product(product(value - threshold, part), EXCESS_SCALE))) - centre


@on_device
def _prefix(values, corner, kind, threshold, fuzzy, centre, size, prefix):
    """One row a block: a step of the running sum doubles the neighbours that a number has in it."""
    sums = cuda.shared.array(0, int64)
    me, threads = cuda.threadIdx.x, cuda.blockDim.x
    row, z, y = cuda.blockIdx.x, cuda.blockIdx.x // size[1], cuda.blockIdx.x % size[1]
    start = row * (size[2] + 1)
    if me == 0:
        prefix[start] = 0
    before = int64(0)
    for x0 in range(0, size[2], threads):
        here = int64(0)
        if x0 + me < size[2]:
            value = float(values[corner[0] + z, corner[1] + y, corner[2] + x0 + me])
            here = _quanta(value, kind, threshold, fuzzy, centre)
        reach = 1
        source = 0
        sums[me] = here
        cuda.syncthreads()
        while reach < threads:
            here = sums[source + me]
            if me >= reach:
                here += sums[source + me - reach]
            source = threads - source
            sums[source + me] = here
            reach *= 2
            cuda.syncthreads()
        if x0 + me < size[2]:
            prefix[start + x0 + me + 1] = before + sums[source + me]
        before += sums[source + threads - 1]
        cuda.syncthreads()


@kernel
def prefix_narrow(values, corner, kind, threshold, fuzzy, plan, slot, size, prefix):
    """Running sums (slice, row, column + 1), flat, modulo 2^32, of the box of this size from this corner on."""
    if plan[slot, 1] > 0:
        _prefix(values, corner, kind, threshold, fuzzy, plan[slot, 0], size, prefix)


@kernel
def prefix_wide(values, corner, kind, threshold, fuzzy, plan, slot, size, prefix):
    """The same modulo 2^64."""
    if plan[slot, 1] == 0:
        _prefix(values, corner, kind, threshold, fuzzy, plan[slot, 0], size, prefix)


@kernel
def finish_density(totals, squares, wanted, box, voxels, plan, bmd, sd):
    """BMD and SD where wanted in the box, from the sums of V and V^2."""
    for i in range(cuda.grid(1), totals.size, cuda.gridsize(1)):
        z, y, x = _place(i, box)
        if wanted[z, y, x]:
            bmd[z, y, x] = formulas.mean(totals[i], voxels, plan[0, 0], DENSITY_SCALE)
            sd[z, y, x] = formulas.local_sd(totals[i], squares[i], voxels, DENSITY_SCALE)


@kernel
def finish_bone(totals, excesses, wanted, box, voxels, plan, slot, threshold, bvtv, tmd):
    """BV/TV and TMD where wanted in the box, from the sums of H_s and (V - t) H_s."""
    for i in range(cuda.grid(1), totals.size, cuda.gridsize(1)):
        z, y, x = _place(i, box)
        if wanted[z, y, x]:
            part = formulas.mean(totals[i], voxels, plan[slot, 0], STEP_SCALE)
            excess = formulas.mean(excesses[i], voxels, plan[slot + 1, 0], EXCESS_SCALE)
            bvtv[z, y, x] = part
            tmd[z, y, x] = formulas.local_tmd(part, excess, threshold, formulas.soft_positive(part))


@kernel
def finish_inside(totals, wanted, box, voxels, found):
    """Where wanted in the box and all voxels of the sphere were counted."""
    for i in range(cuda.grid(1), totals.size, cuda.gridsize(1)):
        z, y, x = _place(i, box)
        found[z, y, x] = wanted[z, y, x] and totals[i] == voxels


@on_device
def _place(i, box):
    """The voxel of number i in the box."""
    rows = i // box[5]
    return box[0] + rows // box[4], box[1] + rows % box[4], box[2] + i % box[5]
