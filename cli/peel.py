"""`qctrun peel`: a mask in, the inside of each of its labels out."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
from qctrun.cli.measuring import label_options
from qctrun.cli.options import Command, PathType, output_options, verb

if TYPE_CHECKING:
    from qctrun.runtime.measuring.peel import Peeled
    from qctrun.runtime.reading import LabelMap
    from qctrun.runtime.writing import RunRecord, Staging

_COLUMNS = ("label", "name", "before_mm3", "filled_mm3", "after_mm3", "left", "pieces")


def _labels(command: Command) -> Command:
    for option in reversed(label_options("Which labels to peel, by number or name. [default: all]")):
        command = option(command)
    return command


@verb("peel")
@click.argument("source", metavar="MASK", type=PathType())
@click.option(
    "--mm",
    type=click.FloatRange(min=0, min_open=True),
    required=True,
    metavar="MM",
    help="Thickness of the rim that is taken off.",
)
@_labels
@click.option(
    "--keep",
    type=click.Choice(["largest", "all"]),
    default="largest",
    show_default=True,
    help="Of a label that falls apart: its largest piece, or all of them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON instead of a table.")
@output_options
def command(
    call: Call,
    source: Path,
    mm: float,
    label_ids: tuple[int | str, ...] | None,
    label_names: Path | None,
    keep: str,
    as_json: bool,
    out: Path,
    overwrite: bool,
) -> None:
    """Take the trabecular inside of a vertebral mask.

    MASK is a mask or label map: NIfTI, MHA, NRRD, AIM or DICOM SEG. A voxel stays when its centre lies at least --mm
    from the surface of its own label; what lies beyond the border of the image counts as outside. Small holes are
    filled before.

    \b
    Written into the folder of --out:
      <stem>_desc-peeled_mask.nii.gz  the inside, on the grid of MASK, for --mask and --labels
      <stem>_desc-peeled_mask.json    its sidecar: what was done, and the names of the labels
      peel.run.json                   the record of the run
    """
    options = {
        "input": source,
        "mm": mm,
        "label_ids": label_ids,
        "label_names": label_names,
        "keep": keep,
        "json": as_json,
        "out": out,
        "overwrite": overwrite,
    }
    _run(call, options)


def _run(call: Call, options: dict[str, Any]) -> None:
    from qctrun.runtime.reading import stem_of
    from qctrun.runtime.writing import RunRecord, Staging, record_name, sidecar_name
    from qctrun.runtime.writing.names import peeled_name

    source, out = options["input"], options["out"]
    name = peeled_name(stem_of(source))
    names = (sidecar_name(name), name, record_name("peel"))
    sources = [path for path in (source, options["label_names"]) if path]
    with Staging(out, names, overwrite=options["overwrite"], inputs=sources) as staging:
        record = RunRecord("peel", ("qctrun", *call.argv), options)
        labels, only = _read(record)
        peeled = _peel(record, labels, only)
        rows = [_row(one, labels) for one in peeled[1]]
        record.warnings += [*labels.notes, *_warnings(peeled[1], options["keep"])]
        _stage(record, staging, labels, peeled, name)
        call.replaced(staging.commit())
    for warning in record.warnings:
        call.warn(warning)
    _print(rows, options)
    call.say(f"wrote {out / name} in {sum(record.seconds.values()):.1f} s")


def _read(record: "RunRecord") -> "tuple[LabelMap, tuple[int, ...] | None]":
    """The whole map, and which of its labels are asked for."""
    from qctrun.runtime.reading import load_label_map
    from qctrun.runtime.reading.labels import kept
    from qctrun.runtime.writing.record import geometry_of

    options = record.options
    with record.stage("read"):
        labels = load_label_map(options["input"], names=options["label_names"])
        record.add_input("mask", options["input"], geometry=geometry_of(labels.grid))
        if options["label_names"] is not None and options["label_names"].is_file():
            record.add_input("label_names", options["label_names"])
        asked = options["label_ids"]
        return labels, None if asked is None else kept(labels, asked, options["input"]).present


def _peel(
    record: "RunRecord", labels: "LabelMap", only: tuple[int, ...] | None
) -> "tuple[Any, list[Peeled]]":
    from qctrun.runtime.measuring.peel import peel

    options = record.options
    with record.stage("peel"):
        return peel(labels.array, labels.grid.spacing, options["mm"], only=only, keep=options["keep"])


def _stage(
    record: "RunRecord", staging: "Staging", labels: "LabelMap", peeled: "tuple[Any, list[Peeled]]", name: str
) -> None:
    from qctrun.runtime.version import VERSION
    from qctrun.runtime.writing import record_name, sidecar_name
    from qctrun.runtime.writing.labels import stage_labels

    options, (inside, found) = record.options, peeled
    sidecar = {
        "LabelNames": {one.label: labels.names[one.label] for one in found if one.label in labels.names},
        "PeeledMM": options["mm"],
        "Keep": options["keep"],
        "Labels": [asdict(one) for one in found],
        "Sources": [str(options["input"])],
        "Warnings": list(record.warnings),
        "qctrunVersion": VERSION,
    }
    with record.stage("write"):
        image, side = stage_labels(staging, inside, labels.grid, name, sidecar)
        record.add_output("labels", name, image, labels.grid)
        record.add_output("sidecar", sidecar_name(name), side)
    record.add_to(staging, record_name("peel"))


def _warnings(found: "list[Peeled]", keep: str) -> list[str]:
    gone = [f"{one.label} (at most {one.largest_mm:g} mm)" for one in found if one.largest_mm is not None]
    border = [str(one.label) for one in found if one.at_border]
    split = [f"{one.label} ({one.pieces})" for one in found if one.pieces > 1]
    told = {
        "labels of which nothing is left: {}": gone,
        "labels at the border of the image, which was taken for their surface: {}": border,
        "labels that fell apart, of whose pieces only the largest is kept: {}": split * (keep == "largest"),
    }
    return [words.format(", ".join(which)) for words, which in told.items() if which]


def _row(one: "Peeled", labels: "LabelMap") -> dict[str, Any]:
    said = asdict(one)
    left = one.after_mm3 / one.before_mm3
    return {"label": one.label, "name": labels.names.get(one.label), "left": left, **said}


def _print(rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    from qctrun.runtime.json_files import json_text

    if options["json"]:
        click.echo(json_text(rows), nl=False)
        return
    lines = [list(_COLUMNS), *([_cell(name, row[name]) for name in _COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    click.echo(f"{options['mm']:g} mm peeled off; volumes in mm3, what is left as a share")
    for line in lines:
        click.echo("  ".join(map(str.rjust, line, widths)))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "n/a"
    return f"{value:.{3 if name == 'left' else 1}f}" if isinstance(value, float) else str(value)
