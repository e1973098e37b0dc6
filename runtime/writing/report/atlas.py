"""The local maps of a run as rows of pictures, each quantity on one scale for all thresholds."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qctrun.runtime.errors import QctrunError
from qctrun.runtime.writing.report.page import MapRow, Shown
from qctrun.runtime.writing.report.pictures import Scale, draw_plane, number
from qctrun.runtime.writing.report.reading import Region, read_map, reason
from qctrun.runtime.writing.report.run_folder import Entry, RunFolder
from qctrun.runtime.writing.report.views import Picture, Plane

_NAME = re.compile(r"_(?:thr(?P<threshold>[\d.e+-]+)_)?(?P<quantity>BMD|SD|BVTV|TMD)map\.")


@dataclass(frozen=True, slots=True)
class Quantity:
    """How a map is shown: its name, unit, the factor to that unit, its colours, and what it is in words."""

    name: str
    unit: str
    factor: float
    colours: str
    words: str
    from_zero: bool = False


QUANTITIES = {
    "BMD": Quantity("BMD", "mg/cm³", 1, "viridis", "local bone mineral density"),
    "SD": Quantity("SD", "mg/cm³", 1, "cividis", "local standard deviation of the density", from_zero=True),
    "BVTV": Quantity("BV/TV", "%", 100, "plasma", "local share of bone", from_zero=True),
    "TMD": Quantity("TMD", "mg/cm³", 1, "inferno", "local tissue mineral density, of the bone alone"),
}
"""All colour maps are perceptually uniform; a quantity keeps its own in every report."""


@dataclass(frozen=True)
class MapFile:
    """A map that a record names."""

    quantity: str
    threshold: float | None
    entry: Entry

    @property
    def words(self) -> str:
        """What it is, for notes."""
        at = "" if self.threshold is None else f" at {self.threshold:g} mg/cm3"
        return f"the {QUANTITIES[self.quantity].name} map{at}"

    def picture_name(self, plane: str) -> str:
        """File name of its picture."""
        at = "" if self.threshold is None else f"thr{self.threshold:.10g}_"
        return f"report_{at}{self.quantity}map_{plane}.png"


def maps_of(run: RunFolder) -> list[MapFile]:
    """The maps of a run in the order in which they are shown; one of each, in the plainest kind of file."""
    found: dict[tuple[str, float | None], MapFile] = {}
    for entry in run.outputs("params", "map"):
        name = _NAME.search(Path(str(entry.get("path"))).name)
        if name:
            threshold = float(name["threshold"]) if name["threshold"] else None
            found.setdefault((name["quantity"], threshold), MapFile(name["quantity"], threshold, entry))
    order = list(QUANTITIES)
    return sorted(found.values(), key=lambda each: (order.index(each.quantity), each.threshold or 0.0))


def draw_maps(
    run: RunFolder,
    region: Region,
    density: Sequence[Picture],
    pictures: dict[str, bytes],
) -> Iterator[MapRow]:
    """Draw every map of a run over the density, into `pictures` by file name; one row a map.

    What has changed or cannot be read is noted in `run`.
    """
    planes = [(at, region.planes[at]) for at in central(region.planes)]
    for quantity, shown in QUANTITIES.items():
        files = [each for each in maps_of(run) if each.quantity == quantity]
        cuts = [(each, cut) for each in files if (cut := _cut(run, each, region)) is not None]
        if not cuts:
            continue
        scale = _scale(shown, [ends for _, (_, ends) in cuts])
        for each, (found, _) in cuts:
            row = [_draw(each, plane, density[at], found[at], scale, pictures) for at, plane in planes]
            yield MapRow(shown.name, shown.unit, _remark(each, shown), row)


def central(planes: Sequence[Plane]) -> Sequence[int]:
    """Which planes maps are shown on: the middle one of the axial ones, and the other two."""
    axial = [at for at, plane in enumerate(planes) if plane.name == "axial"]
    return [axial[len(axial) // 2], *(at for at, plane in enumerate(planes) if plane.name != "axial")]


def _draw(
    each: MapFile,
    plane: Plane,
    density: Picture,
    values: Picture,
    scale: Scale,
    pictures: dict[str, bytes],
) -> Shown:
    shown = QUANTITIES[each.quantity]
    at = "" if each.threshold is None else f", {number(each.threshold)}"
    name = each.picture_name(plane.name)
    title = f"{shown.name}{at} · {plane.name}"
    pictures[name] = draw_plane(plane, density, title, values=values * shown.factor, scale=scale)
    return Shown(name, f"{shown.name} map{at}, {plane.name}, colours from {scale.words()}")


def _cut(
    run: RunFolder, each: MapFile, region: Region
) -> tuple[Sequence[Picture], tuple[float, float]] | None:
    path = run.unchanged(each.entry, each.words)
    if path is None:
        return None
    try:
        return read_map(path, region)
    except QctrunError as error:
        run.notes.append(f"{each.words} is not shown: {reason(error)}")
        return None


def _scale(shown: Quantity, ends: Sequence[tuple[float, float]]) -> Scale:
    """Round ends that hold nearly all values of all thresholds."""
    low = 0.0 if shown.from_zero else min(low for low, _ in ends) * shown.factor
    high = max(high for _, high in ends) * shown.factor
    step = _round_step((high - low) / 4)
    low, high = step * math.floor(low / step), step * math.ceil(high / step)
    return Scale(low, high if high > low else low + step, shown.unit, shown.colours)


def _round_step(width: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50 ... that is not above a width, at least 0.1."""
    width = max(width, 0.1)
    power = 10.0 ** math.floor(math.log10(width))
    return max(step * power for step in (1, 2, 5) if step * power <= width * (1 + 1e-9))


def _remark(each: MapFile, shown: Quantity) -> str:
    at = "" if each.threshold is None else f", threshold {number(each.threshold)} mg/cm³"
    return shown.words + at
