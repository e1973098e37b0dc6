"""`qctrun info`: what is in a file or folder, also where that is no volume."""

from pathlib import Path
from typing import Any

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, verb
from qctrun.cli.scans import line_words
from qctrun.runtime.errors import one_line

_LONG = ("direction_lps", "image_orientation_patient", "axes", "name")
"""For programs, or said in the table; people read nine and six numbers in one word, `orientation`."""
_COLUMNS = (
    "",
    "verdict",
    "slices",
    "pixels",
    "spacing z y x [mm]",
    "axes",
    "kVp",
    "kernel",
    "values",
    "description",
)


@verb("info")
@click.argument("source", metavar="INPUT", type=PathType())
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def command(call: Call, source: Path, as_json: bool) -> None:
    """Show what is in a file or folder, also when it is not a volume.

    Of a DICOM folder or a zip of one: a line for every CT series with its size, spacing and axes (LPS: x to
    the left, y to the back, z to the head; ~ oblique), tube voltage and kernel, and whether it is the one that
    is taken, a candidate for --series-uid, or why not; -v says more of each. Of an image file: its
    geometry, type and unit, and the line it was made with. Of both: the calibration and the mask beside it.
    """
    from qctrun.runtime.json_files import json_text
    from qctrun.runtime.reading import describe

    facts = describe(source)
    text = (
        json_text(facts) if as_json else "\n".join(map(one_line, _lines(facts, bool(call.verbosity)))) + "\n"
    )
    click.echo(text, nl=False)


def _lines(facts: dict[str, Any], more: bool) -> list[str]:
    series = facts.pop("series", None)
    lines = [f"{name}: {_words(value)}" for name, value in facts.items()]
    if series is None:
        return lines
    lines += [f"series: {len(series)}", *(_table(series) if series else [])]
    for number, found in enumerate(series if more else [], start=1):
        lines.append(f"[{number}] {found['name'] or '(no uid)'}")
        lines += [f"    {name}: {_words(value)}" for name, value in found.items() if name not in _LONG]
    return lines


def _table(series: list[dict[str, Any]]) -> list[str]:
    """One line for each series, its cells below each other; what has no end stands last."""
    rows = [_COLUMNS, *(_row(number, found) for number, found in enumerate(series, start=1))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    tails = ["series", *(_tail(found) for found in series)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), tail])
        for row, tail in zip(rows, tails, strict=True)
    ]


def _row(number: int, found: dict[str, Any]) -> tuple[str, ...]:
    slices, rows, columns = found["size_zyx"]
    spacing = " x ".join("?" if mm is None else f"{mm:.4g}" for mm in found["spacing_zyx_mm"])
    oblique = "~" if "oblique" in (found["orientation"] or "") else ""
    kvp = "" if found["kvp"] is None else f"{found['kvp']:g}"
    return (
        f"[{number}]",
        found["verdict"].partition(":")[0],
        str(slices),
        f"{rows} x {columns}",
        spacing,
        (found["axes"] or "?") + oblique,
        kvp,
        found["kernel"],
        found["values"],
        found["description"],
    )


def _tail(found: dict[str, Any]) -> str:
    why = found["verdict"].partition(": ")[2]
    return ", ".join(part for part in (found["name"] or "(no uid)", found["apart_by"], why) if part)


def _words(value: Any) -> str:
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, dict) and "slope" in value:  # a line; its error would fill a page
        return f"{line_words(value)} ({_words(value.get('source'))})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        separator = "; " if isinstance(value[0], str) else " "
        return separator.join(_words(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
