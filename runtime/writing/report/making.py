"""From a folder of results to its page and pictures; one volume is in memory at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qctrun.runtime.errors import InputError, QctrunError
from qctrun.runtime.version import VERSION
from qctrun.runtime.volume import Grid, Progress
from qctrun.runtime.writing.report import facts, numbers
from qctrun.runtime.writing.report.atlas import draw_maps, maps_of
from qctrun.runtime.writing.report.fits import FOUND_PICTURE, Fit, find_fit
from qctrun.runtime.writing.report.page import MapRow, Page, Shown, rendered, require_report
from qctrun.runtime.writing.report.pictures import GREY, draw_plane
from qctrun.runtime.writing.report.plots import THEMES, draw_histogram, draw_line
from qctrun.runtime.writing.report.reading import (
    Look,
    Region,
    look_at,
    read_raw,
    read_region,
    reason,
)
from qctrun.runtime.writing.report.run_folder import Entry, RunFolder, part

PAGE_NAME = "report.html"
_KINDS = ("raw", "filtered", "measured")

_NOT_FILTERED = (
    "No filter has run here, so there is nothing to compare.",
    "qctrun filter INPUT --out FOLDER",
)
_NOT_MEASURED = (
    "Nothing was measured yet: there are no numbers and no maps.",
    "qctrun params --mask MASK --thresholds 200,225,250 --out FOLDER",
)
_NOTHING = ("Nothing was filtered or measured yet.", "qctrun filter INPUT --params --mask MASK --out FOLDER")
_NO_MASK = (
    "No mask is known, so there is no outline, and what is measured counts air and soft tissue, too.",
    "qctrun params --mask MASK --out FOLDER --overwrite",
)
_OTHERS = {
    "raw": "the numbers here are of the scan as it came in, not of the filtered volume",
    "": "what was measured here is neither what the filter has read nor what it has written: no maps are shown",
}
_NO_LINE = ("No calibration is recorded here.", "qctrun calibrate INPUT --phantom NAME --out FOLDER")


@dataclass(frozen=True)
class Report:
    """A finished report: the page, and its pictures by file name."""

    html: str
    pictures: Mapping[str, bytes]
    notes: Sequence[str]


@dataclass
class _Work:
    """What has been made so far."""

    run: RunFolder
    slices: int
    pictures: dict[str, bytes] = field(default_factory=dict)
    looks: dict[str, Look] = field(default_factory=dict)
    missing: dict[str, tuple[str, str]] = field(default_factory=dict)


def make_report(
    run: RunFolder, *, title: str | None = None, slices: int = 1, progress: Progress | None = None
) -> Report:
    """Make the page about a run, and its pictures.

    Parameters
    ----------
    run : RunFolder
        The records and files of a run.
    title : str, optional
        What the page calls the scan; empty: nothing. Without it, the scan's file or folder name without its
        suffix, and without the folders that it lies in.
    slices : int
        How many axial planes of the density are shown.
    progress : callable, optional
        Told (done, total).

    Raises
    ------
    RuntimeMissingError
        When jinja2 or matplotlib is not installed.
    """
    require_report()
    tell = progress or (lambda done, total: None)
    work = _Work(run, slices)
    veil = facts.Veil(run, title)
    tell(0, 4)
    region = _region(work)
    if region is not None:
        _look(work, region)
    tell(1, 4)
    maps = _maps(work, region)
    tell(2, 4)
    page = _page(work, region, maps, veil, title)
    tell(3, 4)
    html = rendered(page, work.pictures)
    tell(4, 4)
    own = {name: data for name, data in work.pictures.items() if name != FOUND_PICTURE}
    return Report(html, own, tuple(run.notes))


def picture_names(run: RunFolder, slices: int) -> list[str]:
    """The file names of all pictures that a report may have."""
    planes = [*_axial_names(slices), "sagittal", "coronal"]
    density = [_picture_name(plane, kind) for plane in planes for kind in _KINDS]
    maps = [each.picture_name(plane) for each in maps_of(run) for plane in ("axial", "sagittal", "coronal")]
    plots = [_plot_name(plot, theme) for plot in ("histogram", "line") for theme in THEMES]
    return [*density, *maps, *plots]


def _region(work: _Work) -> Region | None:
    """Where the run has looked, by the geometry that its records state."""
    entry = work.run.filtered() or work.run.input("params", "image")
    if entry is None:
        return None
    place: Any = part(entry, "geometry")
    names = ("size_zyx", "spacing_zyx_mm", "origin_xyz_mm", "direction_lps")
    try:
        grid = Grid(*(place.get(name) for name in names))
    except InputError:
        work.run.notes.append("the record does not say where the volume lies; no slices are shown")
        return None
    region = read_region(work.run, grid, work.slices)
    if region.mask is None:
        work.missing["mask"] = _NO_MASK
    return region


def _look(work: _Work, region: Region) -> None:
    """Read raw and filtered, or what was measured without a filter, one after the other."""
    run, entry = work.run, work.run.filtered()
    if entry is None:
        work.missing["filter"] = _NOT_FILTERED
        _try(work, "measured", region, run.record("params"), run.input("params", "image"))
        return
    _try(work, "raw", region, run.record("filter"), run.input("filter", "image"))
    _try(work, "filtered", region, None, entry)


def _try(
    work: _Work, kind: str, region: Region, record: Mapping[str, Any] | None, entry: Entry | None
) -> None:
    """Look at one volume; say why where that does not work. With a record it is read as that run has read it."""
    from qctrun.runtime.reading import read

    words = "the filtered volume" if kind == "filtered" else "the scan as it came in"
    path = None
    if record is None and entry is not None:
        path = work.run.unchanged(entry, words)
    if entry is None or (record is None and path is None):
        return
    thresholds = (
        numbers.thresholds_of(work.run.rows)
        if kind == "raw" and work.run.measured_kind() == "filtered"
        else []
    )
    try:
        volume = read(path) if path is not None else read_raw(record or {}, entry)
        work.looks[kind] = look_at(volume, region, thresholds, words)
    except (QctrunError, OSError) as error:
        why = reason(error)
        work.run.notes.append(f"{words} is not shown: {why}")
        if kind == "raw":
            work.missing["raw"] = (f"The scan as it came in cannot be compared: {why}.", "")


def _maps(work: _Work, region: Region | None) -> list[MapRow]:
    shown = work.looks.get(work.run.measured_kind())
    if region is None or shown is None:
        return []
    return list(draw_maps(work.run, region, shown.pictures, work.pictures))


def _page(
    work: _Work, region: Region | None, maps: list[MapRow], veil: facts.Veil, title: str | None
) -> Page:
    run, line = work.run, facts.calibration_of(work.run)
    raw = work.looks.get("raw")
    slices = [] if region is None else _slices(work, region)
    fit = find_fit(run, line)
    histogram, drawn, found = _histogram(work), _line(work, line, fit.rods), _found_picture(work, fit)
    if not run.rows:
        work.missing["numbers"] = _NOTHING if region is None else _NOT_MEASURED
    if not line:
        work.missing["calibration"] = _NO_LINE
    if "params" in run.records and run.measured_kind() in _OTHERS:
        run.notes.append(_OTHERS[run.measured_kind()])
    nominal, warnings = facts.warnings_of(run, veil)
    return Page(
        title=facts.stem_of_run(run) if title is None else title,
        own_title=title is None,
        date=str(next(iter(run.records.values())).get("started", ""))[:10],
        version=VERSION,
        scan=facts.scan_facts(run, veil),
        nominal=nominal or _nominal(line),
        warnings=[*warnings, *dict.fromkeys(run.notes)],
        resampling=facts.resampling_of(run, veil),
        calibration=facts.calibration_facts(line, veil) if line else (),
        calibration_picture=drawn,
        calibration_found=found,
        headlines=numbers.headlines(run.rows),
        slices=slices,
        outlined=region is not None and region.mask is not None,
        maps=maps,
        blocks=numbers.global_blocks(run.rows),
        local_blocks=numbers.local_blocks(run.rows),
        local_remark=_local_remark(run),
        compared=numbers.compared_blocks(run.rows, raw.parameters) if raw else (),
        histogram=histogram,
        made=facts.made(run, veil),
        missing=work.missing,
    )


def _slices(work: _Work, region: Region) -> list[list[Shown]]:
    """A row a plane, in it raw beside filtered."""
    axial = iter(_axial_names(work.slices))  # a thin mask may have fewer planes than asked for
    names = [next(axial) if plane.name == "axial" else plane.name for plane in region.planes]
    return [
        [_slice(work, region, at, names[at], kind) for kind in _KINDS if kind in work.looks]
        for at in range(len(region.planes))
        if work.looks
    ]


def _slice(work: _Work, region: Region, at: int, plane_name: str, kind: str) -> Shown:
    plane, name = region.planes[at], _picture_name(plane_name, kind)
    density = work.looks[kind].pictures[at]
    title = f"{kind} · {plane_name.replace('-', ' ')}"
    work.pictures[name] = draw_plane(plane, density, title, outline=region.outlines[at])
    outlined = ", the mask outlined" * (region.outlines[at] is not None)
    return Shown(name, f"{plane_name} slice, {kind} density, grey from {GREY.words()}{outlined}")


def _histogram(work: _Work) -> Shown | None:
    counts = {kind: look.counts for kind, look in work.looks.items() if look.counts.sum()}
    if not counts:
        return None
    thresholds = numbers.thresholds_of(work.run.rows)
    return _plot(
        work,
        "histogram",
        lambda theme: draw_histogram(counts, thresholds, theme),
        f"Histogram of the density in mg/cm³, {' and '.join(counts)}",
    )


def _line(work: _Work, line: Mapping[str, Any], rods: Sequence[tuple[float, float]]) -> Shown | None:
    if any(numbers.as_number(line.get(key)) is None for key in ("slope", "intercept")):
        return None
    words = f"Density in mg/cm³ over HU: the line of the calibration{' and its rods' * bool(rods)}"
    return _plot(work, "line", lambda theme: draw_line(line, rods, theme), words)


def _plot(work: _Work, plot: str, draw: Any, words: str) -> Shown:
    for name, theme in THEMES.items():
        work.pictures[_plot_name(plot, name)] = draw(theme)
    return Shown(_plot_name(plot, "light"), words, _plot_name(plot, "dark"))


def _found_picture(work: _Work, fit: Fit) -> Shown | None:
    if fit.picture is None:
        return None
    work.pictures[FOUND_PICTURE] = fit.picture
    return Shown(
        FOUND_PICTURE, "The phantom's rods as they were found in the scan, and the line through them"
    )


def _nominal(line: Mapping[str, Any]) -> list[str]:
    """Loud in any case: also where no record carries the warning."""
    return ["The line is assumed, not measured."] if line.get("nominal") else []


def _local_remark(run: RunFolder) -> str:
    if not run.rows:
        return ""
    first = run.rows[0]
    return f"spheres of {numbers.whole(first.get('diameter_mm'))} mm, {first.get('step', '')} step"


def _axial_names(count: int) -> list[str]:
    return ["axial"] if count == 1 else [f"axial-{number}" for number in range(1, count + 1)]


def _picture_name(plane: str, kind: str) -> str:
    return f"report_{plane}_{kind}.png"


def _plot_name(plot: str, theme: str) -> str:
    return f"report_{plot}.png" if theme == "light" else f"report_{plot}_{theme}.png"
