"""What `pairs.py` found, for people: demands with their answers, a table, a page, a figure."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Row = dict[str, Any]
RESIDUAL_MM, ANGLE_DEG, SHARE = 0.05, 0.1, 0.95
SLOPE_MEDIAN, SLOPE_MOST = 1.0, 4.0
NO_WORSE = 1.1
MINUTES, MEMORY_MB, AGAIN_S = 10.0, 8000.0, 10.0
NEW = {"donors": "an unseen donor", "positions": "unseen positions"}
"""What the networks of each split are judged on."""
UNITS = {"TMD": "mg/cm3", "BV/TV": "%"}
COLOURS = {"raw": "#B9B9B9", "aligned": "#000000", "pairs": "#D55E00"}


def demands(found: Row) -> list[Row]:
    """Each demand: `what`, `wanted`, `got`, `met`."""
    times = found["times"]
    seconds = [each["seconds"] for each in times["specimens"].values()]
    memory = [each["peak_mb"] for each in times["specimens"].values()]
    listed = [*_of_scans(found["scans"])] if "scans" in found else []
    for split, told in found.get("networks", {}).items():
        listed += _of_networks(told["rows"], NEW[split])
    return [
        *listed,
        _at_most("longest specimen, min", max(seconds) / 60, MINUTES),
        _at_most("most memory, MB", max(memory), MEMORY_MB, "{:.0f}"),
        _at_most("everything cached, s", times["again_s"], AGAIN_S),
    ]


def table_text(found: Row) -> str:
    """The demands and all scans, aligned for a terminal."""
    lines = [["", "wanted", "got", "met"], *_cells(found["demands"])]
    text = _aligned(lines)
    if "scans" in found:
        text += "\n" + _aligned(
            [list(_SCAN), *([str(row[key]) for key in _SCAN.values()] for row in found["scans"])]
        )
    return text


def write_page(found: Row, folder: Path) -> None:
    """Write pairs-proof.md, and pairs-proof.png where there is all to draw."""
    drawn = "networks" in found
    if drawn:
        from pairs_figure import draw

        draw(found, folder / "pairs-proof.png")
    (folder / "pairs-proof.md").write_text(_page(found, drawn), encoding="utf-8")


def rmse(rows: Iterable[Row], kind: str, mas: float, quantity: str, *, raw: bool = False) -> list[float]:
    """RMSE of each seed's network of a kind; of the raw scans, the same for all."""
    return [
        row["rmse"]
        for row in rows
        if (row["kind"], row["mas"], row["quantity"], row["filter"])
        == (kind, mas, quantity, "raw" if raw else "NNSP")
    ]


def _of_scans(scans: Sequence[Row]) -> list[Row]:
    def share(good: Callable[[Row], bool]) -> float:
        return sum(map(good, scans)) / len(scans)

    slopes = np.abs([row["slope_error_percent"] for row in scans if row["slope_error_percent"] is not None])
    near = share(lambda row: row["residual_mm"] < RESIDUAL_MM)
    straight = share(lambda row: row["angle_deg"] < ANGLE_DEG)
    return [
        _at_least(f"share of scans with a residual under {RESIDUAL_MM} mm", near, SHARE),
        _at_least(f"share of scans turned by less than {ANGLE_DEG} deg", straight, SHARE),
        _at_most("error of the slope, median, %", float(np.median(slopes)), SLOPE_MEDIAN),
        _at_most("error of the slope, 95 % of scans, %", _most(slopes), SLOPE_MOST),
    ]


def _of_networks(rows: Sequence[Row], on: str) -> list[Row]:
    found = []
    for mas in sorted({row["mas"] for row in rows}):
        for quantity in UNITS:
            ours, best = (np.mean(rmse(rows, kind, mas, quantity)) for kind in ("pairs", "aligned"))
            what = f"RMSE of {quantity} at {mas:g} mAs, {on}, pairs / aligned"
            found.append(_at_most(what, float(ours / best), NO_WORSE))
    return found


def _most(errors: npt.NDArray[np.float64]) -> float:
    """What 95 % of the scans do not exceed: a value that one of them has, none between two."""
    return float(np.quantile(errors, SHARE, method="inverted_cdf"))


def _at_least(what: str, got: float, wanted: float) -> Row:
    return {"what": what, "wanted": f"{wanted:g} or more", "got": f"{got:.3f}", "met": got >= wanted}


def _at_most(what: str, got: float, wanted: float, form: str = "{:.2f}") -> Row:
    return {"what": what, "wanted": f"{wanted:g} or less", "got": form.format(got), "met": got <= wanted}


_SCAN = {
    "specimen": "specimen",
    "scan": "scan",
    "moved mm": "moved_mm",
    "tilt deg": "tilt_deg",
    "residual mm": "residual_mm",
    "largest mm": "largest_mm",
    "angle deg": "angle_deg",
    "slope error %": "slope_error_percent",
    "doubts": "doubts",
}


def _cells(listed: Sequence[Row]) -> list[list[str]]:
    return [[row["what"], row["wanted"], row["got"], "yes" if row["met"] else "NO"] for row in listed]


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = ("| " + " | ".join(line) + " |\n" for line in lines)
    return head + "|---" * len(lines[0]) + "|\n" + "".join(rest)


def _page(found: Row, drawn: bool) -> str:
    parts = [_INTRODUCTION.format(count=len(found["specimens"]), machine=found["machine"])]
    parts += ["![Residuals, slope errors and what they cost a network](pairs-proof.png)\n"] * drawn
    parts += ["## Demands\n", _markdown([["", "wanted", "got", "met"], *_cells(found["demands"])])]
    if "networks" in found:
        parts += ["## What it costs a network\n", _networks(found)]
    if "scans" in found:
        parts += ["## By specimen\n", _markdown([_SPECIMEN, *_by_specimen(found)])]
    return "\n".join(parts) + _END


_INTRODUCTION = """# Pairs, proved in silico

A simulated laboratory: {count} specimens under HR-pQCT at 82 um with noise of its own, and QCT scans of them as DICOM
series on the scanner's own grid, shifted by up to 10 mm and tilted by up to 10 degrees, each with a line from HU to
density of its own. `qctrun pairs` sees no more than a laboratory does. What it finds is held against what only the
simulator knows. Measured on {machine}, by `benchmarks/pairs.py`; `benchmarks/results/pairs.json` has all numbers.
"""

_END = """
The residual of a scan is the mean distance, over the trabecular mask, between where the found and the true transform
put a point; a scan that was left out as doubtful counts too. The slope is that of its line from HU to mg/cm3, of the
scans that were kept. Both networks have the same recipe, seeds and patches, and are judged in scans that are perfectly
aligned, against the density without noise: spheres of 4.3 mm, 225 mg/cm3. The trainings are short, to be compared and
not to be used: on an unseen donor the error of the network itself is so large that errors of the pairs could hide in
it, which is why positions are held apart too.

What it does not show: real scanners also bend space, harden beams and see the table, and real bone is no random field.
"""

_SPECIMEN = [
    "specimen",
    "scans",
    "left out",
    "positions",
    "residual, mm",
    "largest, mm",
    "slope error, %",
    "min",
    "MB",
]


def _by_specimen(found: Row) -> list[list[str]]:
    lines = []
    for name, times in found["times"]["specimens"].items():
        scans = [row for row in found["scans"] if row["specimen"] == name]
        slopes = [abs(row["slope_error_percent"]) for row in scans if row["slope_error_percent"] is not None]
        numbers = [
            str(len(scans)),
            str(sum(not row["used"] for row in scans)),
            str(max(row["positions"] for row in scans)),
            f"{np.mean([row['residual_mm'] for row in scans]):.4f}",
            f"{max(row['largest_mm'] for row in scans):.4f}",
            f"{np.mean(slopes):.2f}" if slopes else "n/a",
            f"{times['seconds'] / 60:.1f}",
            f"{times['peak_mb']:.0f}",
        ]
        lines.append([name, *numbers])
    return lines


def _networks(found: Row) -> str:
    recipe = found["recipe"]
    seeds = len({row["seed"] for told in found["networks"].values() for row in told["rows"]})
    steps = f"{recipe['epochs']} epochs of {recipe['steps_per_epoch']} steps"
    return f"Recipe `{recipe['name']}`, {steps}, seeds: {seeds}.\n" + "".join(
        _of_split(NEW[split], told) for split, told in found["networks"].items()
    )


def _of_split(on: str, told: Row) -> str:
    rows, count = told["rows"], told["positions"]
    lines = [[f"RMSE on {on}", "raw", "aligned", "pairs"]]
    for mas in sorted({row["mas"] for row in rows}):
        for quantity, unit in UNITS.items():
            raw = rmse(rows, "aligned", mas, quantity, raw=True)[0]
            both = [f"{np.mean(rmse(rows, kind, mas, quantity)):.2f}" for kind in ("aligned", "pairs")]
            lines.append([f"{quantity}, {unit}, {mas:g} mAs", f"{raw:.2f}", *both])
    return (
        f"\n{count['train']} positions to train, {count['validation']} to stop, {count['test']} to judge:\n\n"
        + _markdown(lines)
    )
