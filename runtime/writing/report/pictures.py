"""One picture a plane: grey density, an outline or a map in colour, the patient's sides, bars of length and colour."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.writing.report.views import Picture, Plane

GROUND, INK, QUIET, LINE = "#0b0e12", "#f2f4f6", "#9aa4af", "#ffb454"
DPI = 100
WIDTH_IN = 6.4
STRIP_IN = 1.0
_BAR_STEPS = 256
_EDGE = 0.025
_FINE = 4


@dataclass(frozen=True, slots=True)
class Scale:
    """What colours mean: from `low` to `high` in `unit`, by matplotlib's colour map `colours`."""

    low: float
    high: float
    unit: str
    colours: str

    def words(self) -> str:
        """The scale in words, for those who do not see it."""
        return f"{number(self.low)} to {number(self.high)} {self.unit}"


GREY = Scale(-200.0, 800.0, "mg/cm³", "gray")
"""The window of every picture of density, the same in every report."""


def number(value: float) -> str:
    """A tick in as few digits as it needs, with a true minus sign."""
    return f"{value:.6g}".replace("-", "−")


def draw_plane(
    plane: Plane,
    density: Picture,
    title: str,
    *,
    outline: Picture | None = None,
    values: Picture | None = None,
    scale: Scale = GREY,
) -> bytes:
    """Draw one plane.

    Parameters
    ----------
    plane : Plane
        Which one it is.
    density : array
        Its grey picture, mg/cm3.
    title : str
        What it is, drawn below it.
    outline : whole numbers, optional
        Labels, each of which gets a line around it.
    values : array, optional
        A map laid over it without any transparency, so that its colours are those of the bar; NaN: none there.
    scale : Scale
        Of the map, or of the density where there is no map.

    Returns
    -------
    bytes
        A PNG of 640 pixels in width.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture_in = WIDTH_IN * plane.field_mm[0] / plane.field_mm[1]
    figure = Figure(figsize=(WIDTH_IN, picture_in + STRIP_IN), dpi=DPI, facecolor=GROUND)
    FigureCanvasAgg(figure)
    share = STRIP_IN / (picture_in + STRIP_IN)
    axes = figure.add_axes((0, share, 1, 1 - share), facecolor="black")
    _draw_density(axes, plane, density)
    if values is not None:
        _draw_values(axes, plane, values, scale)
    if outline is not None:
        _draw_outline(axes, plane, outline)
    _limit(axes, plane, density)
    _draw_edges(axes, plane)
    _draw_ruler(axes, plane)
    _draw_strip(figure, title, scale, share)
    return png(figure)


def png(figure: Any) -> bytes:
    """A figure as PNG, the same bytes for the same picture."""
    from PIL import Image

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "png")
    return file.getvalue()


def _extent(picture: Picture, plane: Plane) -> tuple[float, float, float, float]:
    rows, columns = picture.shape
    return 0.0, columns * plane.spacing_mm[1], rows * plane.spacing_mm[0], 0.0


def _draw_density(axes: Any, plane: Plane, density: Picture) -> None:
    smooth = "antialiased" if max(plane.spacing_mm) < 2 * min(plane.spacing_mm) else "nearest"
    axes.imshow(
        density,
        cmap=GREY.colours,
        vmin=GREY.low,
        vmax=GREY.high,
        extent=_extent(density, plane),
        interpolation=smooth,
    )
    axes.set_axis_off()


def _draw_values(axes: Any, plane: Plane, values: Picture, scale: Scale) -> None:
    axes.imshow(
        np.ma.masked_invalid(values),
        cmap=scale.colours,
        vmin=scale.low,
        vmax=scale.high,
        extent=_extent(values, plane),
        interpolation="nearest",
    )


def _draw_outline(axes: Any, plane: Plane, outline: Picture) -> None:
    """Lines along the edges of voxels, for which each is cut into finer ones; one line a label."""
    fine = np.pad(np.kron(outline, np.ones((_FINE, _FINE), outline.dtype)), 1)
    down, right = (
        (np.arange(count) - 0.5) * step / _FINE
        for count, step in zip(fine.shape, plane.spacing_mm, strict=True)
    )
    for label in np.unique(outline[outline != 0]):
        axes.contour(right, down, fine == label, levels=[0.5], colors=[LINE], linewidths=1.8)


def _limit(axes: Any, plane: Plane, density: Picture) -> None:
    """Show the field of view of the plane, the picture in its middle."""
    _, right, bottom, _ = _extent(density, plane)
    high, wide = plane.field_mm
    axes.set_xlim(right / 2 - wide / 2, right / 2 + wide / 2)
    axes.set_ylim(bottom / 2 + high / 2, bottom / 2 - high / 2)
    axes.set_aspect("equal")


def _draw_edges(axes: Any, plane: Plane) -> None:
    places = ((_EDGE, 0.5), (1 - _EDGE, 0.5), (0.5, 1 - _EDGE), (0.5, _EDGE))
    sides = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (across, along) in zip(plane.edges, places, sides, strict=True):
        _write(axes, x, y, letter, size=17, weight="bold", ha=across, va=along)


def _draw_ruler(axes: Any, plane: Plane) -> None:
    """A bar of a round length, about a fifth of the picture."""
    wide = plane.field_mm[1]
    length = max(step for step in (1, 2, 5, 10, 20, 50, 100) if step <= max(1, 0.25 * wide))
    end, share = 1 - 2 * _EDGE, length / wide
    for colour, thickness in (("black", 6.0), (INK, 3.0)):
        place = {"color": colour, "lw": thickness, "solid_capstyle": "butt", "transform": axes.transAxes}
        axes.plot((end - share, end), (0.06, 0.06), **place)
    _write(axes, end - share / 2, 0.075, f"{length} mm", size=14, ha="center", va="bottom")


def _write(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=3, foreground="black", alpha=0.7)]
    axes.text(x, y, text, color=INK, transform=axes.transAxes, path_effects=edge, parse_math=False, **style)


def _draw_strip(figure: Any, title: str, scale: Scale, share: float) -> None:
    """Below the picture: what it is, and what its colours mean."""
    figure.text(0.03, share / 2, title, color=INK, size=16, va="center", parse_math=False)
    axes = figure.add_axes((0.46, share * 0.57, 0.34, share * 0.17))
    bar: npt.NDArray[np.float64] = np.linspace(0, 1, _BAR_STEPS)[None]
    axes.imshow(bar, cmap=scale.colours, aspect="auto", extent=(scale.low, scale.high, 0, 1))
    axes.set_yticks([])
    middle = (scale.low + scale.high) / 2
    ticks = (scale.low, middle, scale.high)
    axes.set_xticks(ticks, [number(tick) for tick in ticks], color=QUIET, size=14.5)
    axes.tick_params(length=0, pad=5)
    axes.spines[:].set_visible(False)
    figure.text(0.825, share * 0.65, scale.unit, color=QUIET, size=14.5, va="center")
