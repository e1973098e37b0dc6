"""`qctrun info`: what is in a file or folder, also where that is no volume."""

from pathlib import Path
from typing import Any

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, verb

_LONG = ("direction_lps", "image_orientation_patient")
"""Nine and six numbers of a series, for programs; people read them in one word, `orientation`."""


@verb("info")
@click.argument("source", metavar="INPUT", type=PathType())
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def command(call: Call, source: Path, as_json: bool) -> None:
    """Show what is in a file or folder, also when it is not a volume.

    Of a DICOM folder or a zip of one: every CT series with its size, spacing (z, y, x), orientation, origin,
    tube voltage and kernel, and whether it makes a volume or why not. Of a NIfTI, MHA or NRRD file: its
    geometry, type and unit. Of both: the calibration and the mask that go with it.
    """
    from qctrun.runtime.json_files import json_text
    from qctrun.runtime.reading import describe

    facts = describe(source)
    click.echo(json_text(facts) if as_json else "\n".join(_lines(facts)) + "\n", nl=False)


def _lines(facts: dict[str, Any]) -> list[str]:
    series = facts.pop("series", None)
    lines = [f"{name}: {_words(value)}" for name, value in facts.items()]
    if series is None:
        return lines
    lines.append(f"series: {len(series)}")
    for number, found in enumerate(series, start=1):
        lines.append(f"[{number}] {found.pop('series_uid') or '(no uid)'}")
        lines += [f"    {name}: {_words(value)}" for name, value in found.items() if name not in _LONG]
    return lines


def _words(value: Any) -> str:
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        separator = "; " if isinstance(value[0], str) else " "
        return separator.join(_words(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
