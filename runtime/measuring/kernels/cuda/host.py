"""Sums over spheres on a GPU, for arrays on the host: up, through `maps.py`, and down again.

The same whole numbers as `cpu.py`, so the same maps bit for bit; only a TMD at a BV/TV below 0.41 % may differ in
its last bit, where the soft positive part needs an exponential and a logarithm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.measuring.kernels import fixed_point
from qctrun.runtime.measuring.kernels.cuda.compiler import DriverError, cuda
from qctrun.runtime.measuring.kernels.cuda.device import is_out_of_memory, opened, too_little
from qctrun.runtime.measuring.kernels.cuda.maps import DeviceMaps, Widths, reach_of
from qctrun.runtime.measuring.kernels.cuda.transfer import Transfer

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Slabs = list[tuple[slice, ...]]

SHARE = 0.9
"""Part of the free memory that is used: the driver keeps some for kernels and its own."""


@dataclass(frozen=True, slots=True)
class _Work:
    """The box of what is wanted with the sphere's reach around it, and the slabs of slices it is done in."""

    corner: tuple[int, int, int]
    size: tuple[int, int, int]
    reach: tuple[int, int, int]

    def slabs(self, slices: int) -> Slabs:
        """Boxes of so many output slices and the reach around them; the last one lies partly over the one before,
        so that all are of one size."""
        last = self.size[0] - 2 * self.reach[0] - slices
        starts = dict.fromkeys([*range(0, last, slices), last])
        (z, y, x), (_, rows, columns) = self.corner, self.size
        tall = slices + 2 * self.reach[0]
        return [np.s_[z + s : z + s + tall, y : y + rows, x : x + columns] for s in starts]

    def inner(self, slab: tuple[slice, ...]) -> tuple[slice, ...]:
        """The outputs of a slab."""
        return tuple(slice(s.start + r, s.stop - r) for s, r in zip(slab, self.reach, strict=True))


def measure(
    values: Floats,
    wanted: Flags,
    half_widths: Widths,
    thresholds: tuple[float, ...],
    fuzzy: bool,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> tuple[Floats, Floats, list[Floats], list[Floats]]:
    """Local BMD, SD, and BV/TV and TMD a threshold, as `cpu.measure`, on the device "cuda:N".

    Raises
    ------
    OutOfMemoryError
        When not even a single slice fits into the device's free memory.
    DeviceError
        When the device fails in between.
    """
    maps = [np.full(values.shape, np.nan, np.float32) for _ in range(2 + 2 * len(thresholds))]
    work = _work(wanted, half_widths)
    if work is not None:

        def run(slabs: Slabs) -> None:
            _measure(values, wanted, half_widths, thresholds, fuzzy, work, slabs, maps, progress)

        with opened(device):
            _in_slabs(work, half_widths, device, 4 * (1 + len(maps)) + 1, run)
    bmd, sd, *bone = maps
    return bmd, sd, bone[: len(thresholds)], bone[len(thresholds) :]


def inside(mask: Flags, wanted: Flags, half_widths: Widths, device: str) -> Flags:
    """Those of the wanted voxels about which the whole sphere lies in the mask, as `cpu.inside`."""
    found = np.zeros_like(mask)
    work = _work(wanted, half_widths)
    if work is not None:
        with opened(device):
            _in_slabs(
                work,
                half_widths,
                device,
                3,
                lambda slabs: _inside(mask, wanted, half_widths, work, slabs, found),
            )
    return found


def _measure(
    values: Floats,
    wanted: Flags,
    half_widths: Widths,
    thresholds: tuple[float, ...],
    fuzzy: bool,
    work: _Work,
    slabs: Slabs,
    maps: list[Floats],
    progress: Callable[[int, int], None] | None,
) -> None:
    shape = values[slabs[0]].shape
    stream, steps = cuda.stream(), _Steps(len(slabs) * (1 + len(thresholds)), progress)
    on_device = DeviceMaps(shape, half_widths, thresholds, fuzzy)
    here, flags = cuda.device_array(shape, np.float32), cuda.device_array(shape, np.uint8)
    bmd, sd, *bone = (cuda.device_array(shape, np.float32) for _ in maps)
    transfer = Transfer(shape, stream)
    for slab in slabs:
        transfer.up(values[slab], here)
        transfer.up(wanted[slab].view(np.uint8), flags)
        bvtv, tmd = bone[: len(thresholds)], bone[len(thresholds) :]
        after = None if progress is None else lambda: steps.next(stream)
        on_device.measure(here, flags, bmd, sd, bvtv, tmd, stream, after)
        check(on_device, values[slab], half_widths, stream)
        for device_map, host_map in zip((bmd, sd, *bone), maps, strict=True):
            transfer.down(device_map, host_map[work.inner(slab)], work.reach)


def _inside(
    mask: Flags,
    wanted: Flags,
    half_widths: Widths,
    work: _Work,
    slabs: Slabs,
    found: Flags,
) -> None:
    shape, stream = mask[slabs[0]].shape, cuda.stream()
    on_device = DeviceMaps(shape, half_widths)
    here, flags, result = (cuda.device_array(shape, np.uint8) for _ in range(3))
    transfer = Transfer(shape, stream)
    for slab in slabs:
        transfer.up(mask[slab].view(np.uint8), here)
        transfer.up(wanted[slab].view(np.uint8), flags)
        on_device.inside(here, flags, result, stream)
        transfer.down(result, found[work.inner(slab)], work.reach)


class _Steps:
    """Tells of progress, one step after the other."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def next(self, stream: Any) -> None:
        """Wait for what is queued on the stream and say that a step is done."""
        if self._progress is not None:
            stream.synchronize()
            self._done += 1
            self._progress(self._done, self._total)


def _work(wanted: Flags, half_widths: Widths) -> _Work | None:
    lines = [np.flatnonzero(wanted.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not lines[0].size:
        return None
    reach = reach_of(half_widths)
    (z0, z1), (y0, y1), (x0, x1) = (
        (int(line[0]) - r, int(line[-1]) + 1 + r) for line, r in zip(lines, reach, strict=True)
    )
    return _Work((z0, y0, x0), (z1 - z0, y1 - y0, x1 - x0), reach)


def _in_slabs(
    work: _Work, half_widths: Widths, device: str, bytes_a_voxel: int, run: Callable[[Slabs], None]
) -> None:
    """Run in as few slabs as fit into the device's memory, in thinner ones where they did not."""
    free = cuda.current_context().get_memory_info().free
    slices = work.size[0] - 2 * work.reach[0]
    while True:
        size = (slices + 2 * work.reach[0], work.size[1], work.size[2])
        needed = DeviceMaps.bytes_needed(size, half_widths) + bytes_a_voxel * math.prod(size)
        if needed <= SHARE * free and _fitted(run, work.slabs(slices)):
            return
        if slices == 1:
            raise too_little(device, needed, free)
        slices = -(-slices // 2)


def _fitted(run: Callable[[Slabs], None], slabs: Slabs) -> bool:
    try:
        run(slabs)
    except DriverError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def check(on_device: DeviceMaps, values: Floats, half_widths: Widths, stream: Any) -> None:
    """Refuse what `cpu.measure` refuses: what is no density, and squares that 64 bits do not hold."""
    found = on_device.range.copy_to_host(stream=stream)
    stream.synchronize()
    widths = half_widths[half_widths >= 0]
    voxels, disc = int(np.sum(2 * widths + 1)), 1
    try:
        fixed_point.density(float(found[0]), float(found[1]), voxels, disc)
        doubtful = found[2] != 0
    except InputError:
        doubtful = True
    if doubtful:  # the range is in whole mg/cm3; the processor's own words are about the very numbers
        fixed_point.density(float(values.min()), float(values.max()), voxels, disc)
