"""The rods of a phantom in a scan: rows of discs, slab by slab, that agree with its densities and with each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from qctrun.runtime.calibrating.agreement import disagreement
from qctrun.runtime.calibrating.discs import find_discs
from qctrun.runtime.calibrating.phantoms import Phantom
from qctrun.runtime.calibrating.rows import Row, find_rows, least_seen
from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import FloatArray, Grid, Progress, Volume

Doubles = npt.NDArray[np.float64]

PIXEL_MM = 1.0
BLUR_MM = 1.2
SLAB_MM = 5.0
MOST_SLABS = 10
MOST_DRIFT = 0.1
"""How far rods may wander from slab to slab, mm per mm: a phantom that lies askew by 6 degrees."""
_CORE = 0.6
_LOWEST_HU, _HIGHEST_HU = -1000.0, 3000.0
_MANUAL = (
    "look into the scan and give their centres by --rods 'COLUMN,ROW;...', or where they lie by --slices"
)


@dataclass(frozen=True, slots=True)
class Rods:
    """Where the rods of a phantom are in a scan.

    Attributes
    ----------
    columns, rows : float array (rod, slice)
        Centres in voxels, for each slice from `first` to `last`; the rods in the phantom's order.
    first, last : int
        Slices between which they were found.
    radius_mm : float
    how : "found" or "given"
    seen : tuple of float
        Part of the slabs in which each rod was seen by itself, 0 to 1.
    """

    columns: Doubles
    rows: Doubles
    first: int
    last: int
    radius_mm: float
    how: str
    seen: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Match:
    """A row in a slab at slice `middle` whose CT numbers go with the densities; rods in the phantom's order."""

    slab: int
    middle: float
    centres_mm: Doubles
    radius_mm: float
    seen: tuple[bool, ...]
    misfit_mm: float


def find_rods(
    volume: Volume,
    phantom: Phantom,
    slices: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Rods:
    """Find the rods of a phantom that was scanned along with a patient.

    Slabs of about 5 mm are searched for discs of the rods' size, discs for rows of the phantom's layout, and rows for
    CT numbers that rise in a line with the densities, by as much as any tube makes of them, from either end. Rows of
    most slabs have to agree. Nothing that is doubtful is taken.

    Parameters
    ----------
    volume : Volume
        HU, slices along the first axis.
    phantom : Phantom
    slices : (int, int), optional
        First and last slice to look in; all when None.
    progress : callable, optional
        Told (done, total).

    Raises
    ------
    InputError
        When the rods are not found beyond doubt: what was found, and how to give their places.
    """
    if phantom.rods < 3:
        got = f"{phantom.name} with {phantom.rods}"
        raise InputError(
            "rods", wanted="three or more for finding them without being told where", got=got, mend=_MANUAL
        )
    _require_axial(volume.grid)
    slabs = _slabs(volume.grid, *_within(volume.grid, slices))
    matches: list[_Match] = []
    discs, longest = 0, 0
    for number, slab in enumerate(slabs):
        image = _image(volume.array[slab], volume.grid)
        found = find_discs(image, PIXEL_MM, (phantom.rod_diameter_mm[0] / 2, phantom.rod_diameter_mm[1] / 2))
        rows = find_rows(found, phantom)
        discs, longest = discs + len(found), max([longest, *(sum(row.seen) for row in rows)])
        matches += _matches(rows, image, phantom, number, (slab.start + slab.stop - 1) / 2)
        if progress is not None:
            progress(number + 1, len(slabs))
    chains = _chains(matches, volume.grid, len(slabs))
    if len(chains) != 1:
        raise _doubtful(phantom, len(slabs), discs, longest, matches, chains)
    return _rods(chains[0], slabs, volume.grid)


def _require_axial(grid: Grid) -> None:
    """Rods lie along the patient, so slices have to lie across."""
    normal = np.abs(np.reshape(grid.direction, (3, 3))[:, 2])
    if np.argmax(normal) != 2:
        got = ("sagittal", "coronal", "axial")[int(np.argmax(normal))]
        raise InputError("scan", wanted="axial slices to find rods in", got=f"{got} ones")


def place_rods(
    grid: Grid,
    phantom: Phantom,
    places: Sequence[tuple[float, float]],
    slices: tuple[int, int] | None = None,
) -> Rods:
    """Take rods where someone has seen them: straight along the slices, of the least diameter they may have.

    Parameters
    ----------
    grid : Grid
    phantom : Phantom
    places : sequence of (column, row)
        Centres in voxels from 0, in the order of the phantom's densities.
    slices : (int, int), optional
        First and last slice that they lie in; all when None.

    Raises
    ------
    InputError
        When there are fewer or more places than rods, or the scan has no such slices.
    """
    if len(places) != phantom.rods:
        wanted = f"the centres of all {phantom.rods} rods of {phantom.name}"
        raise InputError("--rods", wanted=wanted, got=str(len(places)))
    first, last = _within(grid, slices)
    centres = np.repeat(np.array(places, float)[:, None], last - first + 1, axis=1)
    radius_mm = phantom.rod_diameter_mm[0] / 2
    return Rods(centres[..., 0], centres[..., 1], first, last, radius_mm, "given", (1.0,) * phantom.rods)


def _within(grid: Grid, slices: tuple[int, int] | None) -> tuple[int, int]:
    first, last = slices or (0, grid.size[0] - 1)
    if not 0 <= first <= last < grid.size[0]:
        raise InputError("--slices", wanted=f"slices from 0 to {grid.size[0] - 1}", got=f"{first}-{last}")
    return first, last


def _slabs(grid: Grid, first: int, last: int) -> list[slice]:
    """Slabs of 5 mm or less, evenly spread over the slices, three of them if there are as many slices."""
    size = last - first + 1
    thick = max(min(round(SLAB_MM / grid.spacing[0]), size // 3), 1)
    starts = np.rint(first + np.linspace(0, size - thick, min(MOST_SLABS, size // thick))).astype(int)
    return [slice(int(start), int(start) + thick) for start in starts]


def _image(slices: FloatArray, grid: Grid) -> Doubles:
    """The mean of a slab on square pixels of 1 mm; pixel (row, column) lies at its number times 1 mm."""
    mean = slices.clip(_LOWEST_HU, _HIGHEST_HU).mean(axis=0, dtype=np.float64)
    spacing = np.asarray(grid.spacing[1:])
    smooth = ndimage.gaussian_filter(mean, BLUR_MM / spacing)
    size = tuple(int(n) for n in (np.asarray(mean.shape) - 1) * spacing / PIXEL_MM + 1)
    found: Doubles = ndimage.affine_transform(smooth, PIXEL_MM / spacing, output_shape=size, order=1)
    return found


def _matches(rows: Sequence[Row], image: Doubles, phantom: Phantom, slab: int, middle: float) -> list[_Match]:
    found = []
    for row in rows:
        for order in (slice(None), slice(None, None, -1)):
            if _goes_with(row, image, phantom, order):
                centres, seen = row.centres_mm[order], row.seen[order]
                found.append(_Match(slab, middle, centres, row.radius_mm, seen, row.misfit_mm))
    # Of rows that share rods, such as one shifted by a place, the one with more rods seen, then the more even one.
    found.sort(key=lambda match: (-sum(match.seen), match.misfit_mm))
    kept: list[_Match] = []
    for each in found:
        if not any(_share(each.centres_mm, other.centres_mm, each.radius_mm) for other in kept):
            kept.append(each)
    return kept


def _goes_with(row: Row, image: Doubles, phantom: Phantom, order: slice) -> bool:
    """Whether all rods lie in the picture and their CT numbers, in this order, can be the phantom's."""
    means = [_core(image, centre, row.radius_mm) for centre in row.centres_mm[order]]
    if any(mean is None for mean in means):
        return False
    return not disagreement(phantom, [mean for mean in means if mean is not None])


def _core(image: Doubles, centre_mm: Doubles, radius_mm: float) -> float | None:
    """Mean inside a rod; None where it does not lie wholly in the picture."""
    x, y = centre_mm / PIXEL_MM
    r = radius_mm / PIXEL_MM
    if not (r <= x <= image.shape[1] - 1 - r and r <= y <= image.shape[0] - 1 - r):
        return None
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    return float(image[np.hypot(rows - y, columns - x) <= _CORE * r].mean())


def _share(a: Doubles, b: Doubles, radius_mm: float) -> bool:
    return bool((np.linalg.norm(a[:, None] - b, axis=2) < radius_mm).any())


def _chains(matches: Sequence[_Match], grid: Grid, slabs: int) -> list[list[_Match]]:
    """Matches of half of the slabs or more that are one phantom; the longest where some share rods."""
    chains: list[list[_Match]] = []
    for match in matches:
        for chain in chains:
            last = chain[-1]
            gap_mm = (match.middle - last.middle) * grid.spacing[0]
            if match.slab > last.slab and _agree(match, last, gap_mm):
                chain.append(match)
                break
        else:
            chains.append([match])
    needed = (slabs + 1) // 2
    long = sorted((chain for chain in chains if len(chain) >= needed), key=len, reverse=True)
    distinct: list[list[_Match]] = []
    for chain in long:
        same = any(
            _share(chain[0].centres_mm, other[0].centres_mm, chain[0].radius_mm)
            and len(chain) < len(other) / 2
            for other in distinct
        )
        if not same:
            distinct.append(chain)
    return distinct


def _agree(match: _Match, other: _Match, gap_mm: float) -> bool:
    away = np.linalg.norm(match.centres_mm - other.centres_mm, axis=1).max()
    return bool(away <= 2.0 + MOST_DRIFT * gap_mm) and abs(match.radius_mm - other.radius_mm) < 1.5


def _rods(chain: Sequence[_Match], slabs: Sequence[slice], grid: Grid) -> Rods:
    """Straight rods through the centres of a chain, all askew by the same angle."""
    middles = np.array([match.middle for match in chain])
    centres = np.stack([match.centres_mm for match in chain])  # (slab, rod, 2)
    first, last = slabs[chain[0].slab].start, slabs[chain[-1].slab].stop - 1
    slices = np.arange(first, last + 1)
    mean_rod = np.median(centres, axis=1)
    askew = np.zeros(2)
    if len(chain) >= 3:
        askew = np.array([_theil_sen(middles, mean_rod[:, axis]) for axis in (0, 1)])
    at_zero = np.median(centres - askew * middles[:, None, None], axis=0)
    path = at_zero[:, None] + askew * slices[:, None]  # (rod, slice, 2)
    radius_mm = float(np.median([match.radius_mm for match in chain]))
    seen = tuple(float(share) for share in np.mean([match.seen for match in chain], axis=0))
    columns, rows = path[..., 0] / grid.spacing[2], path[..., 1] / grid.spacing[1]
    return Rods(columns, rows, first, last, radius_mm, "found", seen)


def _theil_sen(x: Doubles, y: Doubles) -> float:
    from scipy.stats import theilslopes

    return float(theilslopes(y, x).slope)


def _doubtful(
    phantom: Phantom,
    slabs: int,
    discs: int,
    longest: int,
    matches: Sequence[_Match],
    chains: Sequence[Sequence[_Match]],
) -> InputError:
    low, high = phantom.rod_diameter_mm
    got = f"{discs} discs of {low:g} to {high:g} mm in {slabs} slabs"
    if len(chains) > 1:
        got += f", and {len(chains)} different rows that could be it"
    elif matches:
        got += f", and a row that could be it in {len({m.slab for m in matches})} of them only"
    elif longest:
        got += (
            f", the longest row with {longest} in its places, but CT numbers that do not go with the densities"
            " or a rod outside of the picture"
        )
    else:
        got += f", no {least_seen(phantom)} of them in a row"
    wanted = f"the {phantom.rods} rods of {phantom.name}"
    return InputError("rods", wanted=wanted, got=got, mend=_MANUAL)
