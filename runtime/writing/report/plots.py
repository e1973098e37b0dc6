"""The two plots of the report, each for a light and for a dark page: densities over the mask, and the line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.writing.report.pictures import number, png
from qctrun.runtime.writing.report.reading import BINS_MG_CM3

SIZE_IN = (8.4, 3.9)
LINE_SIZE_IN = (5.0, 3.2)


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a page: behind, for words, for what is quiet, for two curves and for lines."""

    ground: str
    ink: str
    quiet: str
    raw: str
    filtered: str
    mark: str


THEMES = {
    "light": Theme("#ffffff", "#1b2127", "#66717c", "#9aa6b2", "#0b7285", "#c2571a"),
    "dark": Theme("#171c22", "#e9edf1", "#97a3af", "#7d8a97", "#4cc4d8", "#ff9f5a"),
}


def draw_histogram(
    counts: Mapping[str, npt.NDArray[np.int64]], thresholds: Sequence[float], theme: Theme
) -> bytes:
    """Draw how the densities over the mask are spread, raw and filtered, with the thresholds as lines.

    Parameters
    ----------
    counts : mapping of "raw", "filtered" or "measured" to whole numbers
        Voxels in each bin of `BINS_MG_CM3`.
    thresholds : sequence of floats
        mg/cm3.
    theme : Theme
        Of the page.
    """
    figure, axes = _figure(theme)
    low, high = _ends(counts.values())
    width = 10.0 * (2 if min(found.sum() for found in counts.values()) < 20_000 else 1)
    for name, found in counts.items():
        colour = theme.raw if name == "raw" else theme.filtered
        share = _coarser(found, int(width / 10)) / max(1, found.sum()) * 100
        edges = BINS_MG_CM3[:: int(width / 10)]
        axes.stairs(share, edges, color=colour, lw=2, label=name, fill=False)
        axes.stairs(share, edges, color=colour, alpha=0.18, fill=True)
    named = {"label": f"threshold {', '.join(map(number, thresholds))}"}
    for threshold in thresholds:
        axes.axvline(threshold, color=theme.mark, lw=1, ls=(0, (4, 3)), **named)
        named = {}  # one entry in the legend for all of them
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("density, mg/cm³", color=theme.quiet, size=11)
    axes.set_ylabel(f"voxels, % in {number(width)} mg/cm³", color=theme.quiet, size=11)
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=11, loc="upper right")
    return png(figure)


def draw_line(line: Mapping[str, Any], rods: Sequence[tuple[float, float]], theme: Theme) -> bytes:
    """Draw density over HU: the line of a calibration, and its rods where they are known.

    Parameters
    ----------
    line : mapping
        `slope`, mg/cm3 per HU, and `intercept`, mg/cm3.
    rods : sequence of (HU, mg/cm3)
        What was measured and what it is made of.
    theme : Theme
        Of the page.
    """
    figure, axes = _figure(theme, LINE_SIZE_IN)
    ends = [hu for hu, _ in rods] or [-100.0, 1000.0]
    room = 0.06 * (max(ends) - min(ends) or 100.0)
    hu = np.array((min(ends) - room, max(ends) + room))
    axes.plot(hu, line["slope"] * hu + line["intercept"], color=theme.filtered, lw=2, label="line")
    if rods:
        axes.plot(*zip(*rods, strict=True), "o", ms=8, mfc=theme.ground, mec=theme.mark, mew=2, label="rods")
        axes.legend(frameon=False, labelcolor=theme.ink, fontsize=11, loc="upper left")
    axes.set_xlim(*hu)
    axes.set_xlabel("CT number, HU", color=theme.quiet, size=11)
    axes.set_ylabel("density, mg/cm³", color=theme.quiet, size=11)
    return png(figure)


def _figure(theme: Theme, size_in: tuple[float, float] = SIZE_IN) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_in, dpi=130, facecolor=theme.ground, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor(theme.ground)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.quiet)
    axes.tick_params(colors=theme.quiet, labelsize=10, length=0, pad=6)
    axes.grid(axis="y", color=theme.quiet, alpha=0.22, lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _coarser(counts: npt.NDArray[np.int64], by: int) -> npt.NDArray[np.int64]:
    return np.asarray(counts.reshape(-1, by).sum(axis=1), dtype=np.int64)


def _ends(counts: Any) -> tuple[float, float]:
    """Where the histograms begin and end, but for one voxel in five hundred on either side."""
    lows, highs = [], []
    for found in counts:
        total = np.cumsum(found) / max(1, found.sum())
        lows.append(BINS_MG_CM3[int(np.searchsorted(total, 0.002))])
        highs.append(BINS_MG_CM3[min(len(found), int(np.searchsorted(total, 0.998)) + 1)])
    return float(min(lows)) - 20.0, float(max(highs)) + 20.0
