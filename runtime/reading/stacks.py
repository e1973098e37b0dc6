"""Slices into stacks, stacks into grids: by position and orientation, never by thickness or file order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qctrun.runtime.reading.headers import Header
from qctrun.runtime.volume import DIRECTION_TOLERANCE, Grid

EVEN_TOLERANCE = 0.1
"""A slice may lie this fraction of a spacing off its even place; positions with one decimal do so."""
SIDEWAYS_TOLERANCE_MM = 0.1
"""A whole stack may drift sideways by this much; a tilted gantry drifts further within a slice or two."""
SAME_PLACE_MM = 0.01
"""Slices closer than this lie at one place."""

FloatVector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """Slices of one series that share size, pixel spacing, orientation and frame of reference.

    Attributes
    ----------
    uid, description : str
        Tags of the series.
    size : (int, int, int)
        Slices, rows, columns.
    spacing_mm : (float | None, float | None, float | None)
        Along (z, y, x); None where the tags do not say.
    grid : Grid or None
        Where the volume lies; None when the slices make no volume.
    problems : tuple of str
        Why they make no volume, with numbers; empty when they do.
    headers : tuple of Header
        The slices, ordered along the normal where that is possible.
    """

    uid: str
    description: str
    size: tuple[int, int, int]
    spacing_mm: tuple[float | None, float | None, float | None]
    orientation: tuple[float, ...] | None
    thickness_mm: float | None
    kvp: float | None
    kernel: str
    manufacturer: str
    grid: Grid | None
    problems: tuple[str, ...]
    headers: tuple[Header, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the slices, in the order of the array."""
        return tuple(header.path for header in self.headers)

    def __str__(self) -> str:
        """One line that tells a person which series this is."""
        slices = f"{self.size[0]} slice" + "s" * (self.size[0] != 1)
        spacing = " x ".join("?" if value is None else f"{value:.4g}" for value in self.spacing_mm)
        name = f" {self.description!r}" if self.description else ""
        return f"{self.uid or '(no uid)'}{name}, {slices} of {self.size[1]} x {self.size[2]}, {spacing} mm"


def stacked(headers: Sequence[Header]) -> list[Series]:
    """Sort slices into series, and split a series where its slices cannot lie in one volume."""
    groups: list[list[Header]] = []
    for header in headers:
        home = next((group for group in groups if _alike(group[0], header)), None)
        if home is None:
            groups.append([header])
        else:
            home.append(header)
    return [_series(group) for group in groups]


def _alike(a: Header, b: Header) -> bool:
    def key(header: Header) -> tuple[object, ...]:
        spacing = header.pixel_spacing_mm
        return header.series_uid, header.frame_uid, header.rows, header.columns, spacing, header.multiframe

    if key(a) != key(b) or a.orientation is None or b.orientation is None:
        return key(a) == key(b) and a.orientation == b.orientation
    return np.allclose(a.orientation, b.orientation, rtol=0, atol=DIRECTION_TOLERANCE)


def _series(group: Sequence[Header]) -> Series:
    """Lay the slices out; whatever stands against a volume goes to `problems`."""
    first = group[0]
    problems, axes = _missing(group), axes_of(first.orientation)
    ordered, gap, origin = tuple(group), None, first.position
    if axes is None and first.orientation is not None:
        problems.append(f"row and column directions {first.orientation} are not perpendicular")
    if axes is not None and all(header.position is not None for header in group):
        positions = np.array([header.position for header in group])
        order = np.argsort(positions @ axes[:, 2], kind="stable")
        ordered, positions = tuple(group[i] for i in order), positions[order]
        origin = ordered[0].position
        problems += _unevenness(positions, axes[:, 2], [header.path.name for header in ordered])
        if len(group) > 1:
            # Nine decimals of a mm: only the noise of the arithmetic is cut.
            gap = round(float((positions[-1] - positions[0]) @ axes[:, 2]) / (len(group) - 1), 9)
    if len(group) == 1 and not first.multiframe:
        problems.append("a single slice (2-D)")
    size = (len(group), first.rows, first.columns)
    grid = None
    if not problems and axes is not None and gap and origin and first.pixel_spacing_mm:
        y_mm, x_mm = first.pixel_spacing_mm
        grid = Grid(size, (gap, y_mm, x_mm), (origin[0], origin[1], origin[2]), tuple(axes.ravel().tolist()))
    return Series(
        uid=first.series_uid,
        description=first.description,
        size=size,
        spacing_mm=(None if problems else gap, *(first.pixel_spacing_mm or (None, None))),
        orientation=first.orientation,
        thickness_mm=_common([header.thickness_mm for header in group]),
        kvp=_common([header.kvp for header in group]),
        kernel=first.kernel,
        manufacturer=first.manufacturer,
        grid=grid,
        problems=tuple(problems),
        headers=ordered,
    )


def _missing(group: Sequence[Header]) -> list[str]:
    """Tags without which a slice has no place, counted."""
    found = ["an Enhanced (multi-frame) object"] if any(header.multiframe for header in group) else []
    if found:
        return found
    places = {
        "ImagePositionPatient": [header.position for header in group],
        "ImageOrientationPatient": [header.orientation for header in group],
        "PixelSpacing": [header.pixel_spacing_mm for header in group],
    }
    for tag, values in places.items():
        count = values.count(None)
        if count:
            name = group[values.index(None)].path.name
            found.append(f"no {tag} in {count} of {len(group)} slices (first: {name})")
    spacing = group[0].pixel_spacing_mm
    if spacing is not None and min(spacing) <= 0:
        found.append(f"PixelSpacing {spacing} mm")
    return found


def axes_of(orientation: tuple[float, ...] | None) -> FloatVector | None:
    """World directions of the image axes x, y and z = x cross y as columns: right-handed by construction."""
    if orientation is None:
        return None
    x, y = np.reshape(orientation, (2, 3))
    lengths = np.linalg.norm(x), np.linalg.norm(y)
    # Tags are rounded, so lengths of 1 and a right angle are asked for only to three digits, then made exact.
    if not np.allclose([*lengths, x @ y], [1, 1, 0], atol=1e-3):
        return None
    x = x / lengths[0]
    y = y - (y @ x) * x
    y = y / np.linalg.norm(y)
    return np.column_stack([x, y, np.cross(x, y)])


def _unevenness(positions: FloatVector, normal: FloatVector, names: Sequence[str]) -> list[str]:
    """Say where slices sorted along the normal are not an even, straight stack."""
    if len(positions) < 2:
        return []
    heights = (positions - positions[0]) @ normal
    drift = np.linalg.norm(positions - positions[0] - np.outer(heights, normal), axis=1)
    gaps = np.diff(heights)
    found = []
    if drift.max() > SIDEWAYS_TOLERANCE_MM:
        degrees = np.degrees(np.arctan2(drift[-1], heights[-1]))
        found.append(
            f"gantry tilt or shear of {degrees:.1f} deg: slices shift sideways by up to {drift.max():.2f} mm"
        )
    same = gaps < SAME_PLACE_MM
    if same.any():
        i = int(np.argmax(same))
        pair = f"{names[i]} and {names[i + 1]}"
        found.append(
            f"{int(same.sum())} of {len(names)} slices repeat a position (4-D or duplicates; first: {pair})"
        )
    even = np.linspace(0, heights[-1], len(heights))
    if np.abs(heights - even).max() > max(EVEN_TOLERANCE * heights[-1] / len(gaps), SAME_PLACE_MM):
        found.append(_gaps_in_words(gaps, names))
    return found


def _gaps_in_words(gaps: FloatVector, names: Sequence[str]) -> str:
    counted = Counter(f"{gap:.3f}" for gap in gaps).most_common()
    listed = ", ".join(f"{gap} x{count}" for gap, count in counted[:6]) + ", ..." * (len(counted) > 6)
    typical, widest = float(np.median(gaps)), int(np.argmax(gaps))
    absent = gaps[widest] / typical - 1 if typical > SAME_PLACE_MM else 0.0
    hint = ""
    if absent > 0.9 and abs(absent - round(absent)) < 0.1:
        hint = f"; {round(absent)} slice(s) missing after {names[widest]}"
    return f"uneven gaps along the normal: {listed} mm{hint}"


def _common(values: Sequence[float | None]) -> float | None:
    """The value that all slices share, if they do."""
    return values[0] if len(set(values)) == 1 else None
