"""Slices into stacks, stacks into grids: by position and orientation, never by thickness or file order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from qctrun.runtime.reading.headers import MARKS, Header
from qctrun.runtime.reading.parts import NEVER_MIXED, absent_parts, by_study, overlap, parts_of
from qctrun.runtime.volume import DIRECTION_TOLERANCE, Grid

EVEN_TOLERANCE = 0.1
"""A slice may lie this fraction of a spacing off its even place; positions with one decimal do so."""
SIDEWAYS_TOLERANCE_MM = 0.1
"""A whole stack may drift sideways by this much; a tilted gantry drifts further within a slice or two."""
SAME_PLACE_MM = 0.01
"""Slices closer than this lie at one place."""

LEANS = "gantry tilt or shear"

FloatVector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """Slices of one study and series that share size, pixel spacing, orientation and frame of reference.

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
    crooked : bool
        Whether tilt or uneven gaps are all that stands against a volume.
    headers : tuple of Header
        The slices, ordered along the normal where that is possible.
    part : int
        Number among the stacks of this UID, from 1; 0 where it is the only one.
    mark : str
        The tag that tells it from other volumes at the same place, such as `AcquisitionNumber 2`.
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
    crooked: bool
    headers: tuple[Header, ...]
    part: int = 0
    mark: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the slices, in the order of the array."""
        return tuple(dict.fromkeys(header.path for header in self.headers))

    @property
    def name(self) -> str:
        """What to ask for it by: the UID, and the number behind a slash where the UID has several stacks."""
        return f"{self.uid}/{self.part}" if self.part else self.uid

    @property
    def has_extent(self) -> bool:
        """Whether there are slices at different places, even or not."""
        places = {header.position for header in self.headers}
        if len(places) < 2 or None in places or self.orientation is None:
            return False
        positions = np.array([header.position for header in self.headers])
        return bool(np.ptp(positions, axis=0).max() >= SAME_PLACE_MM)

    def is_called(self, asked: str | None) -> bool:
        """Whether a `--series-uid` names it; none names all."""
        return asked in (None, self.uid, self.name)

    def __str__(self) -> str:
        """One line that tells a person which series this is."""
        slices = f"{self.size[0]} slice" + "s" * (self.size[0] != 1)
        spacing = " x ".join("?" if value is None else f"{value:.4g}" for value in self.spacing_mm)
        name = f" {self.description!r}" if self.description else ""
        told = f"{slices} of {self.size[1]} x {self.size[2]}, {spacing} mm"
        more = "".join(f", {part}" for part in (self.kernel and f"kernel {self.kernel}", self.mark) if part)
        return f"{self.name or '(no uid)'}{name}, {told}{more}"


def stacked(headers: Sequence[Header]) -> list[Series]:
    """Sort slices into series, and split a series where its slices cannot lie in one volume."""
    groups: list[list[Header]] = []
    for header in headers:
        home = next((group for group in groups if _alike(group[0], header)), None)
        if home is None:
            groups.append([header])
        else:
            home.append(header)
    absent = absent_parts(headers)
    found = [series for group in groups for one in by_study(group) for series in _volumes(one, absent)]
    return _numbered(found)


def _volumes(group: Sequence[Header], absent: Mapping[str, str]) -> list[Series]:
    """One series, or the volumes that share its places or lie between each other."""
    series = _series(group, absent)
    parts = parts_of(group, is_clean_stack, NEVER_MIXED if is_clean(series) else MARKS)
    axes = axes_of(series.orientation)
    if not parts or axes is None or not overlap([part for _, part in parts], axes[:, 2]):
        return [series]
    return [replace(_series(part, absent), mark=mark) for mark, part in parts]


def is_clean_stack(group: Sequence[Header]) -> bool:
    """Whether these slices make a series that `is_clean`."""
    return is_clean(_series(group))


def is_clean(series: Series) -> bool:
    """Whether the slices lie at even, different heights; they may lean."""
    return series.grid is not None or (series.crooked and all(p.startswith(LEANS) for p in series.problems))


def _numbered(found: Sequence[Series]) -> list[Series]:
    """Give numbers to those that share a UID, and say what tells them apart where no tag has said it."""
    numbered = []
    for series in found:
        same = [other for other in found if other.uid == series.uid]
        if len(same) > 1:
            part = next(number for number, other in enumerate(same, 1) if other is series)
            series = replace(series, part=part, mark=series.mark or _standing(series, same))
        numbered.append(series)
    return numbered


def _standing(series: Series, same: Sequence[Series]) -> str:
    """Which of several studies, frames of reference or orientations it has."""
    place = [other is series for other in same].index(True)
    traits = {
        "study": [other.headers[0].study_uid for other in same],
        "frame of reference": [other.headers[0].frame_uid for other in same],
        "orientation": [str(other.orientation) for other in same],
    }
    different = {name: list(dict.fromkeys(values)) for name, values in traits.items()}
    return ", ".join(
        f"{name} {values.index(traits[name][place]) + 1} of {len(values)}"
        for name, values in different.items()
        if len(values) > 1
    )


def _alike(a: Header, b: Header) -> bool:
    def key(header: Header) -> tuple[object, ...]:
        spacing = header.pixel_spacing_mm
        return header.series_uid, header.frame_uid, header.rows, header.columns, spacing

    if key(a) != key(b) or a.orientation is None or b.orientation is None:
        return key(a) == key(b) and a.orientation == b.orientation
    return np.allclose(a.orientation, b.orientation, rtol=0, atol=DIRECTION_TOLERANCE)


def _series(group: Sequence[Header], absent: Mapping[str, str] = MappingProxyType({})) -> Series:
    """Lay the slices out; whatever stands against a volume goes to `problems`."""
    first = group[0]
    problems, axes = _missing(group), axes_of(first.orientation)
    problems += [absent[first.series_uid]] if first.series_uid in absent else []
    ordered, gap, origin = tuple(group), None, first.position
    crooked: list[str] = []
    if axes is None and first.orientation is not None:
        problems.append(f"row and column directions {first.orientation} are not perpendicular")
    if axes is not None and all(header.position is not None for header in group):
        positions = np.array([header.position for header in group])
        order = np.argsort(positions @ axes[:, 2], kind="stable")
        ordered, positions = tuple(group[i] for i in order), positions[order]
        origin = ordered[0].position
        crooked = _unevenness(positions, axes[:, 2], [header.name for header in ordered])
        problems += crooked
        if len(group) > 1:
            # Nine decimals of a mm: only the noise of the arithmetic is cut.
            gap = round(float((positions[-1] - positions[0]) @ axes[:, 2]) / (len(group) - 1), 9)
    if len(group) == 1:
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
        kernel=" / ".join(dict.fromkeys(header.kernel for header in group if header.kernel)),
        manufacturer=first.manufacturer,
        grid=grid,
        problems=tuple(problems),
        crooked=bool(crooked) and problems == crooked,
        headers=ordered,
    )


def _missing(group: Sequence[Header]) -> list[str]:
    """What forbids to use the tags of a slice, and tags without which it has no place, counted."""
    faults = Counter(fault for header in group for fault in header.faults)
    first = {fault: next(h.name for h in group if fault in h.faults) for fault in faults}
    found = [
        f"{fault} in {count} of {len(group)} slices (first: {first[fault]})"
        for fault, count in faults.items()
    ]
    places = {
        "ImagePositionPatient": [header.position for header in group],
        "ImageOrientationPatient": [header.orientation for header in group],
        "PixelSpacing": [header.pixel_spacing_mm for header in group],
    }
    for tag, values in places.items():
        count = values.count(None)
        if count:
            name = group[values.index(None)].name
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
        found.append(f"{LEANS} of {degrees:.1f} deg: slices shift sideways by up to {drift.max():.2f} mm")
    same = gaps < SAME_PLACE_MM
    if same.any():
        i = int(np.argmax(same))
        pair = f"{names[i]} and {names[i + 1]}"
        found.append(
            f"{int(same.sum())} of {len(names)} slices repeat a position (4-D or duplicates; first: {pair})"
        )
    if not is_even(heights):
        found.append(_gaps_in_words(gaps, names))
    return found


def is_even(heights: FloatVector) -> bool:
    """Whether slices at these heights in mm, the first at 0, are evenly spaced within tolerance."""
    even = np.linspace(0, heights[-1], len(heights))
    allowed = max(EVEN_TOLERANCE * heights[-1] / (len(heights) - 1), SAME_PLACE_MM)
    return bool(np.abs(heights - even).max() <= allowed)


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
