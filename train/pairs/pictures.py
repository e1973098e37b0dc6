"""A registration to look at: three cuts through the reference and the scan, tile by tile."""

import io
import textwrap
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from qctrun.runtime.extras import library
from qctrun.runtime.volume import FloatArray, Volume
from qctrun.train.pairs.fixed import Fixed
from qctrun.train.pairs.judging import Verdict

TILE_MM = 4.0
"""Side of a tile: some trabeculae across."""
SOFT_MM = 0.25
"""A Gaussian over the scan, in the picture only: its noise would hide what there is to see."""
PERCENTILES = (2.0, 99.8)
"""Of the values in the mask, from black to white; of each volume its own. Cortex is white."""

_GOOD, _DOUBTED, _MASK = "#1b9e55", "#d1495b", "#f2a541"
_NAMES = ("axial (z)", "coronal (y)", "sagittal (x)")
_DPI = 110

Plane = npt.NDArray[np.float64]


def draw_checkerboard(fixed: Fixed, on_grid: Volume, title: str, verdict: Verdict) -> bytes:
    """Draw three cuts through the middle of the mask; PNG bytes.

    Above, tiles of reference and scan in turn: trabeculae and cortex go on over the borders where the two agree.
    Below, the scan with the edges of the reference over it. The outline is the mask's.

    Parameters
    ----------
    fixed : Fixed
    on_grid : Volume
        The scan on the reference's grid; NaN where it does not reach, drawn black.
    title : str
    verdict : Verdict
        Its words are written below.

    Raises
    ------
    RuntimeMissingError
        When matplotlib is not installed.
    """
    figure = library("matplotlib.figure", "picture").Figure(figsize=(13, 9.6), layout="constrained")
    rows = figure.subplots(2, 3)
    spacing = fixed.density.grid.spacing
    scan = _softened(on_grid.array, spacing)
    windows = [_window(array, fixed) for array in (fixed.density.array, scan)]
    for axis in range(3):
        place = int(np.rint(np.argwhere(fixed.mask)[:, axis].mean()))
        cuts = [np.take(array, place, axis) for array in (fixed.density.array, scan, fixed.mask)]
        scale = [d for other, d in enumerate(spacing) if other != axis]
        grey = [_grey(cut, window) for cut, window in zip(cuts, windows, strict=False)]
        _draw(rows[0, axis], _tiles(grey, scale), cuts[2], scale, f"{_NAMES[axis]}: reference and scan")
        _draw(rows[1, axis], grey[1], cuts[2], scale, f"{_NAMES[axis]}: edges of the reference on the scan")
        _draw_edges(rows[1, axis], grey[0], scale)
    figure.suptitle(title, fontsize=13)
    words = _words(verdict)
    figure.supxlabel(words, fontsize=9.5, color=_GOOD if verdict.good else _DOUBTED)
    with io.BytesIO() as png:
        figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
        return png.getvalue()


def _softened(array: FloatArray, spacing_mm: tuple[float, float, float]) -> FloatArray:
    """A Gaussian over what is known."""
    known = np.isfinite(array)
    sigma = [SOFT_MM / d for d in spacing_mm]
    weight = ndimage.gaussian_filter(known.astype(np.float32), sigma)
    sums = ndimage.gaussian_filter(np.where(known, array, 0).astype(np.float32), sigma)
    return np.where(known, sums / np.maximum(weight, 1e-6), np.nan).astype(np.float32)


def _window(array: FloatArray, fixed: Fixed) -> tuple[float, float]:
    """From black to white."""
    values = array[fixed.mask]
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, PERCENTILES).tolist()
    return low, max(high, low + 1e-3)


def _grey(cut: FloatArray, window: tuple[float, float]) -> Plane:
    grey: Plane = np.nan_to_num(np.clip((cut - window[0]) / (window[1] - window[0]), 0, 1), nan=0.0)
    return grey


def _tiles(grey: list[Plane], scale: list[float]) -> Plane:
    """Tiles of two cuts in turn."""
    down, along = (np.arange(n) * d // TILE_MM for n, d in zip(grey[0].shape, scale, strict=True))
    return np.where((down[:, None] + along[None, :]) % 2 == 0, grey[0], grey[1])


def _draw(axes: Any, cut: Plane, mask: npt.NDArray[np.bool_], scale: list[float], title: str) -> None:
    extent = (0.0, cut.shape[1] * scale[1], cut.shape[0] * scale[0], 0.0)
    if "axial" not in title:  # the head is up
        extent = (extent[0], extent[1], 0.0, extent[2])
    axes.imshow(
        cut, cmap="gray", vmin=0, vmax=1, extent=extent, origin="upper" if "axial" in title else "lower"
    )
    if mask.any() and not mask.all():
        axes.contour(*_centres(cut, scale), mask, levels=[0.5], colors=_MASK, linewidths=0.8)
    axes.set_title(f"{title}, mm", fontsize=10)
    axes.tick_params(labelsize=8)


def _draw_edges(axes: Any, grey: Plane, scale: list[float]) -> None:
    smooth = ndimage.gaussian_filter(grey, [0.15 / d for d in scale])
    if np.ptp(smooth) > 0:
        axes.contour(*_centres(grey, scale), smooth, levels=[0.5], colors="#4cc9f0", linewidths=0.5)


def _centres(cut: Plane, scale: list[float]) -> tuple[Plane, Plane]:
    down, along = ((np.arange(n) + 0.5) * d for n, d in zip(cut.shape, scale, strict=True))
    return along, down


def _words(verdict: Verdict) -> str:
    shift = (
        "no blocks" if np.isnan(verdict.local_shift_mm) else f"local shift {verdict.local_shift_mm:.3f} mm"
    )
    numbers = (
        f"overlap {verdict.overlap:.1%}, metric {verdict.metric:.3g}, two starts "
        f"{verdict.inverse_consistency_mm:.3f} mm and {verdict.inverse_consistency_deg:.3f}° apart, {shift}"
    )
    told = "good" if verdict.good else "DOUBTED: " + "; ".join(verdict.reasons)
    return "\n".join([numbers, *textwrap.wrap(told, 150)])
