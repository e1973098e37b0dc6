"""The grid that a model was made for: onto it, filtered there, and back onto the scan's own.

One resampling each way, by the rules of `qctrun.runtime.resampling`. Both grids have the same axes and the same
middle; an axis on which the scan's voxels are as far apart as the model's is left alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qctrun.runtime.errors import OutOfMemoryError, UsageError
from qctrun.runtime.filtering.windows import Box, bounding_box, grow
from qctrun.runtime.resampling import INTERPOLATION, REACH, Line, resampled, weights
from qctrun.runtime.volume import BoolArray, FloatArray, Grid, Volume

GRIDS = ("native", "model")
"""Where to filter: on the scan's own voxels, or on voxels as the model was made for."""

SAME_SPACING = 0.01
"""Relative difference of spacings up to which an axis is not resampled."""

WARNED_SPACING = 0.1
"""Relative difference of spacings above which filtering on the scan's own voxels is warned of."""

COARSEST = 3.0
"""As many times as far apart as the model's, a scan's voxels hold too little for either grid to help."""

SPREAD = 6
"""So many voxels around are filtered too, since what comes back to a voxel depends on them: the next has 0.04 %."""

BYTES = 8
"""Memory that a voxel of the model's grid takes while it is filtered: its value before and after."""

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Detour:
    """The way onto a part of the model's grid, and back.

    Attributes
    ----------
    scan, model : Grid
        The whole of both.
    lines : three pairs of Line
        The voxels of the scan and of the model along (z, y, x).
    piece : box (z, y, x) of the scan
        What comes back.
    source : box of the scan
        What is needed of it.
    box : box of the model's grid
        Where is filtered, surroundings of the network included.
    need : bool array (z, y, x) of the box, or None
        Its voxels to filter; all when None.
    """

    scan: Grid
    model: Grid
    lines: tuple[tuple[Line, Line], ...]
    piece: Box
    source: Box
    box: Box
    need: BoolArray | None

    def there(self, array: FloatArray) -> FloatArray:
        """The scan (z, y, x) on the box.

        Raises
        ------
        OutOfMemoryError
            When the box is too large for the memory that is free.
        """
        _require_memory(self.box, self.scan)
        lines = zip(self.lines, self.source, self.box, strict=True)
        z, y, x = (
            weights(scan.part(taken.start, taken.stop), model.part(part.start, part.stop))
            for (scan, model), taken, part in lines
        )
        return resampled(array[self.source], (z, y, x))

    def back(self, array: FloatArray) -> FloatArray:
        """What lies on the box (z, y, x) on the scan's piece."""
        lines = zip(self.lines, self.box, self.piece, strict=True)
        z, y, x = (
            weights(model.part(taken.start, taken.stop), scan.part(part.start, part.stop))
            for (scan, model), taken, part in lines
        )
        return resampled(array, (z, y, x))

    def told(self, volume: Volume) -> Volume:
        """The volume with both ways in its provenance, and a warning."""
        ways = (
            ("onto the model's grid", self.scan, self.model),
            ("back onto the scan's grid", self.model, self.scan),
        )
        steps = [_step(*way) for way in ways]
        before = volume.provenance.get("resampling") or ()
        told = volume.with_array(
            volume.array, provenance={**volume.provenance, "resampling": [*before, *steps]}
        )
        return told.warn(
            f"filtered on the model's grid: resampled from {spacing_text(self.scan.spacing)} onto "
            f"{spacing_text(self.model.spacing)} and back by cubic B-splines"
        )


def require_grid(grid: str) -> None:
    """Refuse words that name no grid.

    Raises
    ------
    UsageError
    """
    if grid not in GRIDS:
        raise UsageError("grid", wanted=" or ".join(GRIDS), got=repr(grid))


def model_grid(scan: Grid, spacing_mm: Sequence[float]) -> Grid:
    """The grid of this spacing (z, y, x) that covers a scan's field.

    It has the scan's axes and middle. Its outer faces are the scan's, or up to half a voxel beyond them where the
    field is no whole number of voxels. An axis on which the scan's spacing is within 1 % is that of the scan.
    """
    return _grid_of(scan, [pair[1] for pair in _lines(scan, spacing_mm)])


def on_model_grid(volume: Volume, spacing_mm: Sequence[float]) -> Volume:
    """A volume on the grid of `model_grid`, by one resampling: for those who want to filter and to measure there.

    Parameters
    ----------
    volume : Volume
        Of any unit, finite.
    spacing_mm : (float, float, float)
        (z, y, x), as `Filter().card.spacing_mm` gives it.

    Returns
    -------
    Volume
        Its `provenance["resampling"]` says what was done. The volume itself where nothing is to be done.

    Raises
    ------
    OutOfMemoryError
        When it is too large for the memory that is free.
    """
    way = detour(volume.grid, spacing_mm, (0, 0, 0), None)
    if way is None:
        return volume
    steps = [
        *(volume.provenance.get("resampling") or ()),
        _step("onto the model's grid", way.scan, way.model),
    ]
    told = Volume(
        way.there(volume.array),
        way.model,
        volume.unit,
        volume.material,
        {**volume.provenance, "resampling": steps},
    )
    return told.warn(f"resampled from voxels of {spacing_text(way.scan.spacing)} onto the model's")


def detour(
    scan: Grid, spacing_mm: Sequence[float], halo: tuple[int, int, int], need: BoolArray | None
) -> Detour | None:
    """The way to filter a scan on a model's grid; None where the scan is on such a grid already.

    Parameters
    ----------
    scan : Grid
        Of the scan.
    spacing_mm, halo
        Of the model, (z, y, x).
    need : bool array (z, y, x) of the scan, or None
        Voxels to filter; all when None.
    """
    lines = _lines(scan, spacing_mm)
    if all(own == model for own, model in lines):
        return None
    model = _grid_of(scan, [pair[1] for pair in lines])
    piece = tuple(slice(0, n) for n in scan.size)
    if need is None:
        return Detour(scan, model, lines, piece, piece, tuple(slice(0, n) for n in model.size), None)
    piece = bounding_box(need) or piece
    box, wanted = _needed(lines, need, halo)
    source = tuple(_under(own, model, part) for (own, model), part in zip(lines, box, strict=True))
    return Detour(scan, model, lines, piece, source, box, wanted)


def _lines(scan: Grid, spacing_mm: Sequence[float]) -> tuple[tuple[Line, Line], ...]:
    lines = []
    for count, own, wanted in zip(scan.size, scan.spacing, spacing_mm, strict=True):
        line = Line(0.0, own, count)
        if abs(own / wanted - 1) <= SAME_SPACING:
            lines.append((line, line))
            continue
        voxels = math.ceil(count * own / wanted * (1 - 1e-6))
        start = ((count - 1) * own - (voxels - 1) * wanted) / 2
        lines.append((line, Line(start, wanted, voxels)))
    return tuple(lines)


def _grid_of(scan: Grid, lines: Sequence[Line]) -> Grid:
    size, spacing, starts = zip(
        *((line.count, line.spacing_mm, line.start_mm) for line in lines), strict=True
    )
    z, y, x = (start / own for start, own in zip(starts, scan.spacing, strict=True))
    return Grid(size, spacing, tuple(scan.world((z, y, x))), scan.direction)


def _needed(
    lines: tuple[tuple[Line, Line], ...], need: BoolArray, halo: tuple[int, int, int]
) -> tuple[Box, BoolArray]:
    """The box of the model's grid to compute, and in it the voxels on which the scan's depend."""
    # Where the scan's voxels are the smaller ones, none is to fall between the model's.
    z, y, x = (
        math.ceil(model.spacing_mm / own.spacing_mm / 2) if model.spacing_mm > own.spacing_mm else 0
        for own, model in lines
    )
    wide = grow(need, (z, y, x))
    around = bounding_box(wide) or tuple(slice(0, n) for n in need.shape)
    box, nearest, spread = [], [], []
    for (own, model), part, edge in zip(lines, around, halo, strict=True):
        near = np.clip(np.rint(model.centres_mm / own.spacing_mm), 0, own.count - 1).astype(np.intp)
        inside = np.flatnonzero((near >= part.start) & (near < part.stop))
        far = (SPREAD if own != model else 0) + edge
        box.append(slice(max(0, int(inside[0]) - far), min(model.count, int(inside[-1]) + far + 1)))
        nearest.append(near[box[-1]])
        spread.append(far - edge)
    z, y, x = spread
    return tuple(box), grow(wide[np.ix_(*nearest)], (z, y, x))


def _under(own: Line, model: Line, part: slice) -> slice:
    """The scan's voxels on which a part of the model's line depends."""
    if own == model:
        return part
    first, last = (model.centres_mm[[part.start, part.stop - 1]] / own.spacing_mm).tolist()
    reach = REACH + math.ceil(model.spacing_mm / own.spacing_mm)
    return slice(max(0, math.floor(first) - reach), min(own.count, math.ceil(last) + reach + 1))


def _step(what: str, before: Grid, after: Grid) -> dict[str, Any]:
    return {
        "what": what,
        "interpolation": INTERPOLATION,
        "from_spacing_zyx_mm": list(before.spacing),
        "to_spacing_zyx_mm": list(after.spacing),
    }


def _require_memory(box: Box, scan: Grid) -> None:
    size = tuple(part.stop - part.start for part in box)
    wanted, free = BYTES * math.prod(size), _free_bytes()
    if free is not None and wanted > free:
        raise OutOfMemoryError(
            f"the model's grid for a scan of {' x '.join(map(str, scan.size))} voxels of {spacing_text(scan.spacing)}",
            wanted=f"{wanted / 2**20:.0f} MB for {' x '.join(map(str, size))} voxels",
            got=f"{free / 2**20:.0f} MB free",
            mend="give a --mask, and only its surroundings are resampled; or crop the scan, or say --grid native",
        )


def _free_bytes() -> int | None:
    """Memory that can still be had; None where the system does not say."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def spacing_notes(found_mm: Sequence[float], wanted_mm: Sequence[float], grid: str) -> list[str]:
    """What is to be told of a scan's spacing (z, y, x), filtered on a grid by a model that was made for another one.

    The numbers are those of benchmarks/grids.py.
    """
    ratios = [found / wanted for found, wanted in zip(found_mm, wanted_mm, strict=True)]
    told = f"voxel spacing {spacing_text(found_mm)}: "
    if max(ratios) > COARSEST:
        return [
            f"{told}too coarse for the filter on any grid; of simulated scans of 0.7 mm and 100 mAs the shipped one "
            "made a TMD 59 mg/cm3 and a BV/TV 10 points too high, with --grid model (docs/grids.md)"
        ]
    if grid == "model" or all(abs(ratio - 1) <= WARNED_SPACING for ratio in ratios):
        return []
    made = f"{told}the filter was made for {spacing_text(wanted_mm)} and takes these for such; "
    if max(ratios) <= 1 + WARNED_SPACING:
        return [f"{made}--grid model averages them to that size, which is not tested (docs/grids.md)"]
    return [
        f"{made}say --grid model: on voxels of 0.35 mm the shipped filter left the BV/TV of simulated scans of 100 mAs "
        "1 point too high with it, 12 points without (docs/grids.md)"
    ]


def spacing_text(spacing_mm: Sequence[float]) -> str:
    """A spacing for people."""
    return " x ".join(f"{mm:.4g}" for mm in spacing_mm) + " mm (z, y, x)"
