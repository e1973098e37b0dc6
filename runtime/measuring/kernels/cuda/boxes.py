"""Boxes of volumes that lie on a GPU: taken out, and put back where they are wanted."""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

import math
from typing import Any

from qctrun.runtime.measuring.kernels.cuda.compiler import cuda, kernel, on_device
from qctrun.runtime.measuring.kernels.cuda.maps import each_voxel

Box = tuple[slice, ...]


def take(values: Any, where: Box, box: Any, stream: Any) -> None:
    """Queue on a stream: box = values[where].

    Parameters
    ----------
    values, box : float32 arrays (z, y, x) on the device
    where : three slices
        Of the shape of `box`.
    """
    each_voxel(take_box, box.size, stream)(values, _start(where), box)


def put(box: Any, keep: Box, values: Any, where: Box, need: Any, stream: Any) -> None:
    """Queue on a stream: values[where] = box[keep], where `need` says so.

    Parameters
    ----------
    box, values : float32 arrays (z, y, x) on the device
    keep, where : three slices each
        Of one shape.
    need : uint8 array of the shape of `values` on the device, or None
        Not 0 where a value is to be put; everywhere when None.
    """
    size = tuple(part.stop - part.start for part in where)
    place = _start(keep), size, _start(where)
    if need is None:
        each_voxel(put_all, math.prod(size), stream)(box, *place, values)
    else:
        each_voxel(put_needed, math.prod(size), stream)(box, *place, need, values)


def _start(box: Box) -> tuple[int, ...]:
    return tuple(part.start for part in box)


@kernel
def take_box(values, start, box):
    """The box that starts at this corner."""
    size = box.shape
    for i in range(cuda.grid(1), box.size, cuda.gridsize(1)):
        z, y, x = _place(i, size)
        box[z, y, x] = values[start[0] + z, start[1] + y, start[2] + x]


@kernel
def put_all(box, keep, size, start, values):
    """So much of a box, from the corner `keep` on, into the values from `start` on."""
    for i in range(cuda.grid(1), size[0] * size[1] * size[2], cuda.gridsize(1)):
        z, y, x = _place(i, size)
        values[start[0] + z, start[1] + y, start[2] + x] = box[keep[0] + z, keep[1] + y, keep[2] + x]


@kernel
def put_needed(box, keep, size, start, need, values):
    """The same where it is needed."""
    for i in range(cuda.grid(1), size[0] * size[1] * size[2], cuda.gridsize(1)):
        z, y, x = _place(i, size)
        if need[start[0] + z, start[1] + y, start[2] + x]:
            values[start[0] + z, start[1] + y, start[2] + x] = box[keep[0] + z, keep[1] + y, keep[2] + x]


@on_device
def _place(i, size):
    rows = i // size[2]
    return rows // size[1], rows % size[1], i % size[2]
