"""One picture of a calibration: the rods as they were found, the line with what it leaves over, and the drift."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.calibrating.drift import AT_MG_CM3
from qctrun.runtime.calibrating.measure import CORE
from qctrun.runtime.calibrating.reference import ReferenceLine
from qctrun.runtime.calibrating.rods_line import RodsLine
from qctrun.runtime.extras import library
from qctrun.runtime.volume import Volume

Doubles = npt.NDArray[np.float64]

_LINE, _ROD, _BAD = "#1b6ca8", "#1b9e55", "#d1495b"
_DPI = 110
_MOST_POINTS = 3000


def draw_rods(volume: Volume, found: RodsLine) -> bytes:
    """Draw slices with the rods circled and named, the fit, its residuals and the drift; PNG bytes.

    Parameters
    ----------
    volume : Volume
        HU, as it was measured.
    found : RodsLine

    Raises
    ------
    RuntimeMissingError
        When matplotlib is not installed.
    """
    figure = library("matplotlib.figure", "picture").Figure(figsize=(12, 11), layout="constrained")
    first, last = found.readings.first, found.readings.last
    slices = list(dict.fromkeys([first, (first + last) // 2, last]))
    parts = figure.add_gridspec(len(slices) + 1, 3, height_ratios=[1] * len(slices) + [1.7])
    for row, z in enumerate(slices):
        _draw_slice(figure.add_subplot(parts[row, :]), volume, found, z)
    fit, residuals, drift = (figure.add_subplot(parts[-1, column]) for column in range(3))
    _draw_fit(fit, found)
    _draw_residuals(residuals, found)
    _draw_drift(drift, found)
    line = found.calibration
    figure.suptitle(
        f"{found.phantom.title}: mg {line.material}/cm³ = {line.slope:.4f} HU {line.intercept:+.1f}",
        fontsize=12,
    )
    return _png(figure)


def draw_reference(found: ReferenceLine) -> bytes:
    """Draw the regression on a reference scan and what it leaves over; PNG bytes. Raises what `draw_rods` does."""
    figure = library("matplotlib.figure", "picture").Figure(figsize=(12, 5), layout="constrained")
    axes, residuals = figure.subplots(1, 2)
    line = found.calibration
    x, y = found.densities_mg_cm3, found.values_hu
    ends = np.array([x.min(), x.max()])
    axes.hexbin(x, y, gridsize=60, bins="log", cmap="Greys")
    axes.plot(ends, (ends - line.intercept) / line.slope, color=_LINE)
    _draw_left_out(axes, x, y, found)
    axes.set(xlabel=f"reference, mg {line.material}/cm³", ylabel="scan, HU", title="means of 5 mm spheres")
    left = line.slope * y + line.intercept - x
    residuals.hexbin(x, left, gridsize=60, bins="log", cmap="Greys")
    _draw_left_out(residuals, x, left, found)
    residuals.axhline(0, color=_LINE)
    residuals.set(xlabel=f"reference, mg {line.material}/cm³", ylabel="left over, mg/cm³", title="residuals")
    figure.suptitle(
        f"{line.source}: mg {line.material}/cm³ = {line.slope:.4f} HU {line.intercept:+.1f}", fontsize=12
    )
    return _png(figure)


def _draw_left_out(axes: Any, x: Doubles, y: Doubles, found: ReferenceLine) -> None:
    """Spheres that the line does not rest on; a few thousand show where they lie as well as all."""
    out = np.flatnonzero(~found.kept)
    if out.size:
        some = out[:: out.size // _MOST_POINTS + 1]
        share = 100 * out.size / found.kept.size
        label = f"left out: {share:.2g} %"
        axes.plot(x[some], y[some], ".", ms=2, alpha=0.5, color=_BAD, label=label)
        axes.legend(fontsize=8, markerscale=4)


def _draw_slice(axes: Any, volume: Volume, found: RodsLine, z: int) -> None:
    from matplotlib.patches import Ellipse

    rods, (dy, dx) = found.rods, volume.grid.spacing[1:]
    columns, rows = rods.columns[:, z - rods.first], rods.rows[:, z - rods.first]
    values = [rod.hu for rod in found.readings.rods]
    axes.imshow(
        volume.array[z],
        cmap="gray",
        vmin=min(values) - 200,
        vmax=max(values) + 100,
        aspect=dy / dx,
        interpolation="nearest",
    )
    for column, row, density, kept in zip(
        columns, rows, found.phantom.densities_mg_cm3, found.line.kept, strict=True
    ):
        colour = _ROD if kept else _BAD
        for radius_mm, style in ((rods.radius_mm, "--"), (CORE * rods.radius_mm, "-")):
            size = 2 * radius_mm / dx, 2 * radius_mm / dy
            axes.add_patch(Ellipse((column, row), *size, fill=False, color=colour, ls=style, lw=1.2))
        axes.annotate(
            f"{density:g}",
            (column, row - 1.15 * rods.radius_mm / dy),
            ha="center",
            va="bottom",
            color="white",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.15", "fc": colour, "ec": "none"},
        )
    room = 2.4 * rods.radius_mm
    axes.set_xlim(
        max(columns.min() - room / dx, -0.5), min(columns.max() + room / dx, volume.grid.size[2] - 0.5)
    )
    axes.set_ylim(min(rows.max() + room / dy, volume.grid.size[1] - 0.5), max(rows.min() - room / dy, -0.5))
    axes.set_ylabel(f"slice {z}\nrow")
    axes.tick_params(labelsize=7)


def _draw_fit(axes: Any, found: RodsLine) -> None:
    line, densities = found.line, np.array(found.phantom.densities_mg_cm3)
    # In tissue; of a rod with another amount of water only its distance from the line is its own.
    values = line.gain_hu * densities + line.offset_hu + line.residuals_hu
    ends = np.array([densities.min(), densities.max()])
    doubt = [rod.doubt_hu for rod in found.readings.rods]
    axes.plot(ends, line.gain_hu * ends + line.offset_hu, color=_LINE, label="line")
    for kept, colour, label in ((True, _ROD, "used"), (False, _BAD, "left out")):
        here = line.kept == kept
        if here.any():
            axes.errorbar(
                densities[here],
                values[here],
                np.array(doubt)[here],
                fmt="o",
                color=colour,
                label=label,
                capsize=3,
            )
    axes.set(xlabel=f"mg {found.phantom.material}/cm³", ylabel="HU", title="rods; bars: streaks in them")
    axes.legend(fontsize=8)


def _draw_residuals(axes: Any, found: RodsLine) -> None:
    left = found.line.residuals_hu / found.line.gain_hu
    names = [f"{density:g}" for density in found.phantom.densities_mg_cm3]
    axes.bar(range(len(left)), left, color=[_ROD if kept else _BAD for kept in found.line.kept])
    axes.axhline(0, color=_LINE)
    axes.set_xticks(range(len(left)), names)
    axes.set(xlabel=f"mg {found.phantom.material}/cm³", ylabel="off the line, mg/cm³", title="residuals")


def _draw_drift(axes: Any, found: RodsLine) -> None:
    line = found.calibration
    hu = (AT_MG_CM3 - line.intercept) / line.slope
    slices = np.arange(found.readings.first, found.readings.last + 1)
    axes.plot(slices, found.slice_slopes * hu + found.slice_intercepts, "o-", ms=3, color=_ROD)
    axes.axhline(AT_MG_CM3, color=_LINE)
    title = "too few slices for a drift"
    if found.drift is not None:
        title = f"drift {found.drift.density_mg_cm3:+.1f} ± {found.drift.density_se_mg_cm3:.1f} mg/cm³"
    axes.set(xlabel="slice", ylabel=f"what {hu:.0f} HU are, mg/cm³", title=title)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
