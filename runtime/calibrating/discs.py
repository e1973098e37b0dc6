"""Round cross-sections of known size in one slice: where the edges around them all point to one centre."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Doubles = npt.NDArray[np.float64]

LEAST_EDGE_HU_MM = 3.0
"""Weaker slopes are noise; a rod that differs by 40 HU from its housing makes 12 at a blur of 1.3 mm."""
LEAST_EVENNESS = 0.5
"""The slope that 70 % of all directions reach, as a part of what 30 % reach; rods have 0.75, anatomy seldom half."""
MOST_DISCS = 80
_MOST_SEEDS = 120
_LEAST_VOTES = 0.25
_QUANTILE = 0.3
_ANGLES = 48
_STEP = 0.25
_SINE, _COSINE = (f(np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)) for f in (np.sin, np.cos))


@dataclass(frozen=True, slots=True)
class Disc:
    """A round region that is brighter or darker than what is around it.

    Attributes
    ----------
    x_mm, y_mm : float
        Its centre in the slice: column and row times the pixel's size.
    radius_mm : float
    contrast_hu : float
        Inside less outside.
    edge_hu_mm : float
        The slope across its edge that 70 % of all directions reach.
    """

    x_mm: float
    y_mm: float
    radius_mm: float
    contrast_hu: float
    edge_hu_mm: float


def find_discs(image: Doubles, pixel_mm: float, radii_mm: tuple[float, float]) -> list[Disc]:
    """Find the discs of a slice whose radius lies in a range.

    Every pixel of an edge votes for the points that lie a radius away along its gradient (Loy and Zelinsky, IEEE
    PAMI 2003;25:959: the radial symmetry transform, here with unit votes, since rods may be faint); where votes
    meet, a circle is fitted to the edge.

    Parameters
    ----------
    image : float array (y, x)
        HU, smoothed to about the pixel's size, on square pixels.
    pixel_mm : float
        Their size.
    radii_mm : (float, float)
        Least and largest radius.

    Returns
    -------
    list of Disc
        The clearest first, at most `MOST_DISCS`, none twice.
    """
    gradient = np.array(np.gradient(image, pixel_mm))
    strength = np.hypot(*gradient)
    edge = strength > LEAST_EDGE_HU_MM
    where, direction = np.argwhere(edge), (gradient[:, edge] / strength[edge]).T
    seeds = [
        seed
        for sign in (1, -1)
        for seed in _seeds(where, sign * direction, image.shape, pixel_mm, radii_mm, sign)
    ]
    found = [disc for seed in seeds if (disc := _fitted(image, pixel_mm, radii_mm, *seed))]
    found.sort(key=lambda disc: -disc.edge_hu_mm)
    kept: list[Disc] = []
    for disc in found:
        if all(np.hypot(disc.x_mm - o.x_mm, disc.y_mm - o.y_mm) > o.radius_mm / 2 for o in kept):
            kept.append(disc)
    return kept[:MOST_DISCS]


def _seeds(
    where: npt.NDArray[np.intp],
    inward: Doubles,
    shape: tuple[int, ...],
    pixel_mm: float,
    radii_mm: tuple[float, float],
    sign: int,
) -> list[tuple[float, float, float, int]]:
    """Points (y, x) in pixels, radius and sign, at which the edges of many directions point."""
    best, radius = np.zeros(shape), np.zeros(shape)
    for r in np.arange(radii_mm[0], radii_mm[1] + 0.5, 0.5) / pixel_mm:
        y, x = np.rint(where + r * inward).astype(int).T
        inside = (y >= 0) & (x >= 0) & (y < shape[0]) & (x < shape[1])
        flat = np.ravel_multi_index((y[inside], x[inside]), shape)
        votes = np.bincount(flat, minlength=best.size).reshape(shape).astype(float)
        # The sum within a blob of 1 pixel, as a part of what a whole circle one pixel thick would give.
        share = ndimage.gaussian_filter(votes, 1.0) * (2 * np.pi) / (2 * np.pi * r)
        better = share > best
        best[better], radius[better] = share[better], r
    reach = 2 * int(radii_mm[0] / pixel_mm / 2) + 1
    peaks = np.argwhere((best == ndimage.maximum_filter(best, reach)) & (best > _LEAST_VOTES))
    strongest = sorted(peaks.tolist(), key=lambda p: -best[p[0], p[1]])[:_MOST_SEEDS]
    return [(y, x, radius[y, x], sign) for y, x in strongest]


def _fitted(
    image: Doubles, pixel_mm: float, radii_mm: tuple[float, float], y: float, x: float, r: float, sign: int
) -> Disc | None:
    """The circle near a seed along which the edge is steepest, nearly all around; None where it is not.

    What counts is a low quantile of the slope over all directions, not its mean: a stronger edge that passes by on
    one side, as that of the phantom's body does, then has no pull.
    """
    radii = np.arange(0.75 * r, 1.25 * r, _STEP)
    for reach in (1.0, 0.5):
        dy, dx = (grid.ravel() * reach for grid in np.mgrid[-1:2, -1:2])
        slopes = _slopes(image, y + dy, x + dx, radii, sign)
        steepness = np.quantile(slopes, _QUANTILE, axis=1) / pixel_mm
        best, at = np.unravel_index(np.argmax(steepness), steepness.shape)
        y, x = float(y + dy[best]), float(x + dx[best])
    edge, radius_mm = float(steepness[best, at]), float(radii[at]) * pixel_mm
    steep = float(np.quantile(slopes[best, :, at], 1 - _QUANTILE)) / pixel_mm
    if edge < max(LEAST_EDGE_HU_MM, LEAST_EVENNESS * steep):
        return None
    if not radii_mm[0] <= radius_mm <= radii_mm[1]:
        return None
    around = _polar(image, np.array([y]), np.array([x]), radii[at] * np.array([0.7, 1.3]))
    inside, outside = np.median(around[0], axis=0)
    return Disc(x * pixel_mm, y * pixel_mm, radius_mm, float(inside - outside), edge)


def _slopes(image: Doubles, y: Doubles, x: Doubles, radii: Doubles, sign: int) -> Doubles:
    """How much the values fall outwards (rise, where the sign is -1) a pixel (centre, angle, radius)."""
    wide = radii[0] + _STEP * np.arange(-2, radii.size + 2)
    values = _polar(image, y, x, wide)
    return sign * (values[..., :-4] - values[..., 4:])


def _polar(image: Doubles, y: Doubles, x: Doubles, radii: Doubles) -> Doubles:
    """Values (centre, angle, radius) on circles around points."""
    places = np.stack(
        [
            y[:, None, None] + _SINE[:, None] * radii,
            x[:, None, None] + _COSINE[:, None] * radii,
        ]
    )
    found: Doubles = ndimage.map_coordinates(image, places, order=1, mode="nearest")
    return found
