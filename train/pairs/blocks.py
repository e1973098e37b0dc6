"""What is left of a shift, piece by piece: blocks of the reference looked for in a scan that was laid over it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from qctrun.runtime.volume import BoolArray, FloatArray
from qctrun.train.pairs.fixed import Fixed

BLOCK_MM = 6.0
"""A few trabeculae across."""
NEAREST_MM, MANY = 2.5, 100
"""How far apart the middles of blocks are at least, and about how many there are at most."""
SEARCH_MM = 1.2
"""A block is looked for this far away, along each axis; trabeculae repeat after about as much."""
LOW_PASS_MM = 0.3
"""Sigma that takes noise off both volumes; what is left of trabeculae still tells a place."""
WITHIN = 0.7
"""The share of a block that must lie in the mask."""

Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Where blocks of the reference were found again.

    Attributes
    ----------
    middles_mm, shifts_mm : float arrays (block, 3)
        (z, y, x) along the grid's axes: where from the grid's corner, and how far off the best place.
    peaks : float array (block,)
        Correlation at the best place.
    repeats : float
        How often each piece of the mask is looked at, because blocks overlap: so many blocks say one thing.
    """

    middles_mm: Vectors
    shifts_mm: Vectors
    peaks: npt.NDArray[np.float64]
    repeats: float


def matched(fixed: Fixed, scan: FloatArray) -> Blocks:
    """Look for every block of the mask in a scan (z, y, x) on the reference's grid; NaN counts as its mean.

    The best place of a block is the peak of the correlation coefficient, with a parabola along each axis between
    voxels; where the peak lies at the edge of the search it is taken as it is.
    """
    spacing = np.asarray(fixed.density.grid.spacing)
    near, reach = _voxels(BLOCK_MM / 2, spacing), _voxels(SEARCH_MM, spacing)
    known = np.isfinite(scan)
    filled = np.where(known, scan, scan[known].mean() if known.any() else 0.0)
    sigma = (LOW_PASS_MM / spacing).tolist()
    low = [
        ndimage.gaussian_filter(array, sigma) for array in (fixed.density.array, filled.astype(np.float32))
    ]
    mask = fixed.mask & known
    step_mm = max(NEAREST_MM, float(np.cbrt(mask.sum() * spacing.prod() / MANY)))
    found = [
        (middle, *_match(low[0], low[1], mask, middle, near, reach))
        for middle in _middles(mask, near, near + reach, _voxels(step_mm, spacing))
    ]
    middles, shifts, peaks = zip(*found, strict=True) if found else ((), (), ())
    return Blocks(
        np.reshape(np.array(middles, np.float64), (-1, 3)) * spacing,
        np.reshape(np.array(shifts, np.float64), (-1, 3)) * spacing,
        np.array(peaks, np.float64),
        max(1.0, (BLOCK_MM / step_mm) ** 3),
    )


def _voxels(mm: float, spacing: Vectors) -> npt.NDArray[np.intp]:
    return np.maximum(1, np.rint(mm / spacing)).astype(np.intp)


def _middles(
    mask: BoolArray, near: npt.NDArray[np.intp], room: npt.NDArray[np.intp], step: npt.NDArray[np.intp]
) -> Iterator[npt.NDArray[np.intp]]:
    """Middles of blocks on a raster about the middle of the mask, with room to be looked for."""
    index = np.argwhere(mask)
    if not len(index):
        return
    centre = np.rint(index.mean(0)).astype(np.intp)
    axes = []
    for middle, far, low, high, own, size in zip(
        centre, step, index.min(0), index.max(0), room, mask.shape, strict=True
    ):
        places = np.arange(middle - (middle - low) // far * far, high + 1, far)
        axes.append(places[(places >= own) & (places < size - own)])
    for middle in np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3):
        if mask[tuple(slice(m - n, m + n + 1) for m, n in zip(middle, near, strict=True))].mean() >= WITHIN:
            yield middle


def _match(
    reference: FloatArray,
    scan: FloatArray,
    mask: BoolArray,
    middle: npt.NDArray[np.intp],
    near: npt.NDArray[np.intp],
    reach: npt.NDArray[np.intp],
) -> tuple[Vectors, float]:
    """Shift in voxels (z, y, x) of a block, and its correlation there."""
    inner = tuple(slice(m - n, m + n + 1) for m, n in zip(middle, near, strict=True))
    outer = tuple(slice(m - n - r, m + n + r + 1) for m, n, r in zip(middle, near, reach, strict=True))
    # Only what lies in the mask is looked for: a piece of cortex would be found in any bone of this shape.
    inside = mask[inner].astype(np.float64)
    count = inside.sum()
    block = reference[inner] * inside
    block = (block - block.sum() / count) * inside
    field = scan[outer].astype(np.float64) - scan[outer].mean()
    size = [fft.next_fast_len(n, real=True) for n in field.shape]
    shape, spectrum = np.conj(fft.rfftn(inside, size)), fft.rfftn(field, size)
    places = tuple(slice(0, 2 * r + 1) for r in reach)
    product = fft.irfftn(spectrum * np.conj(fft.rfftn(block, size)), size)[places]
    mean = fft.irfftn(spectrum * shape, size)[places] / count
    square = fft.irfftn(fft.rfftn(field**2, size) * shape, size)[places] / count
    spread = np.sqrt(np.maximum(square - mean**2, 1e-12))
    values = product / (spread * np.sqrt(count * max(float((block**2).sum()), 1e-6)))
    peak = np.unravel_index(int(np.argmax(values)), values.shape)
    fine = np.array([_top(values, peak, axis) for axis in range(3)])
    return fine - reach, float(values[peak])


def _top(values: Vectors, peak: tuple[np.intp, ...], axis: int) -> float:
    """Where the parabola through a peak and its neighbours along an axis is highest."""
    at = int(peak[axis])
    if not 0 < at < values.shape[axis] - 1:
        return float(at)
    before, here, after = (float(values[(*peak[:axis], at + step, *peak[axis + 1 :])]) for step in (-1, 0, 1))
    return at + 0.5 * (before - after) / min(before - 2 * here + after, -1e-12)
