"""`qctrun params`: a volume in, a table of bone parameters and their local maps out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
from qctrun.cli.options import (
    PathType,
    Reading,
    computing_options,
    format_option,
    label_ids,
    mask_option,
    numbers,
    output_options,
    reading_options,
    verb,
)
from qctrun.cli.targets import near, target_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from qctrun.runtime import Volume
    from qctrun.runtime.measuring import Parameters
    from qctrun.runtime.volume import MapKey
    from qctrun.runtime.writing import RunRecord, Staging
    from qctrun.runtime.writing.tables import Row

_NO_VOXELS = (
    "labels without a voxel that counts: {}; their rows say 0 voxels; do mask and labels belong together?"
)
_NO_MASK = "no mask: air and soft tissue count too; give --mask FILE to measure bone"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was read: the density, and on its grid (z, y, x) the voxels that count and the labels."""

    volume: "Volume"
    mask: "npt.NDArray[np.bool_] | None"
    labels: "npt.NDArray[np.int32] | None"


@verb("params")
@click.argument("source", metavar="[INPUT]", required=False, type=PathType())
@click.option(
    "--thresholds",
    callback=numbers,
    default="225",
    show_default=True,
    metavar="T,T,...",
    help="Densities in mg/cm3 from which a voxel counts as bone.",
)
@click.option(
    "--diameter",
    "diameter_mm",
    type=click.FloatRange(min=0, min_open=True),
    default=4.3,
    show_default=True,
    metavar="MM",
    help="Diameter of the spheres of the local maps.",
)
@click.option(
    "--step",
    type=click.Choice(["fuzzy", "hard"]),
    default="fuzzy",
    show_default=True,
    help="Threshold step of the local maps.",
)
@mask_option(
    "Which voxels count: those that are not 0. [default: mask.nii.gz beside INPUT, or the one of the filter]"
)
@click.option("--labels", type=PathType(), metavar="FILE", help="Label map: one row more for each label.")
@click.option(
    "--label-ids", "ids", callback=label_ids, metavar="ID,ID,...", help="Which labels to take. [default: all]"
)
@click.option(
    "--inside",
    is_flag=True,
    help="Local maps only where the sphere lies wholly in the mask; without a mask, "
    "in the union of all labels taken.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON instead of a table.")
@output_options
@format_option
@reading_options
@computing_options
def command(
    call: Call,
    source: Path | None,
    out: Path,
    overwrite: bool,
    mask: Path | None,
    labels: Path | None,
    ids: tuple[int, ...] | None,
    as_json: bool,
    fmt: str,
    reading: Reading,
    **settings: Any,
) -> None:
    """Measure BMD, BV/TV and TMD: one table and local maps.

    INPUT is a DICOM folder, a zip of one, or a NIfTI, MHA or NRRD file. Without INPUT the volume is measured
    that the last `qctrun filter` has written into the folder of --out, or else into ./qctrun-out, with the mask
    of that run.

    \b
    Written into the folder of --out:
      params.csv, params.json        one row a label and threshold; what the columns mean
      <stem>_BMDmap.nii.gz, _SDmap   local maps, mg/cm3
      <stem>_thr200_BVTVmap, _TMDmap local maps of each threshold
      params.run.json                the record of the run
    """
    if ids and not labels:
        raise click.UsageError("--label-ids needs --labels FILE")
    target = target_of(call, source, out, mask, reading.series_uid)
    if settings["inside"] and not (target.mask or labels):
        raise click.UsageError("--inside needs --mask FILE or --labels FILE")
    options = {
        "input": target.image,
        "out": out,
        "overwrite": overwrite,
        "mask": target.mask,
        "labels": labels,
        "label_ids": ids,
        "json": as_json,
        "format": fmt,
        **reading.keywords(),
        **settings,
    }
    _run(call, options, reading)


def _run(call: Call, options: dict[str, Any], reading: Reading) -> None:
    from qctrun.runtime.reading import stem_of
    from qctrun.runtime.writing import RunRecord, Staging, rows_text, table_text

    names = _map_names(stem_of(options["input"]), options["thresholds"], options["format"])
    record = RunRecord("params", ("qctrun", *call.argv), options, device={"asked": options["device"]})
    sources = [path for path in (options["input"], options["mask"], options["labels"]) if path]
    with Staging(
        options["out"], _all_names(names), overwrite=options["overwrite"], inputs=sources
    ) as staging:
        inputs = _read(call, record, reading)
        maps = _maps(call, record, inputs)
        rows = _rows(call, record, inputs, maps)
        _stage(record, staging, rows, {names[key]: found for key, found in maps.items()})
        call.replaced(staging.commit())
    shown = [{**row, "mask": str(near(Path(row["mask"])))} for row in rows]
    click.echo(rows_text(rows) if options["json"] else table_text(shown), nl=False)
    call.say(
        f"wrote the table and {len(maps)} maps to {options['out']} in {sum(record.seconds.values()):.1f} s"
    )


def _map_names(stem: str, thresholds: tuple[float, ...], fmt: str) -> "dict[MapKey, str]":
    from qctrun.runtime.writing import map_name

    keys: list[MapKey] = ["BMD", "SD", *((name, t) for t in thresholds for name in ("BVTV", "TMD"))]
    return {key: map_name(stem, key, fmt) for key in keys}


def _all_names(maps: "dict[MapKey, str]") -> list[str]:
    from qctrun.runtime.writing import DICTIONARY_NAME, TABLE_NAME, record_name, sidecar_name

    images = [name for image in maps.values() for name in (sidecar_name(image), image)]
    return [*images, DICTIONARY_NAME, TABLE_NAME, record_name("params")]


def _read(call: Call, record: "RunRecord", reading: Reading) -> Inputs:
    from qctrun.cli.scans import read_mask, read_scan
    from qctrun.runtime.reading import read_labels

    options = record.options
    with record.stage("read"):
        volume = read_scan(call, record, options["input"], reading)
        mask = read_mask(record, options["mask"], volume.grid)
        labels = None
        if options["labels"] is not None:
            record.add_input("labels", options["labels"])
            labels = read_labels(options["labels"], volume.grid, options["label_ids"])
            mask = labels != 0 if mask is None else mask
    if mask is None:
        call.warn(_NO_MASK)
        record.warnings.append(_NO_MASK)
    return Inputs(volume, mask, labels)


def _maps(call: Call, record: "RunRecord", inputs: Inputs) -> "dict[MapKey, Volume]":
    from qctrun.runtime import local_maps

    options = record.options
    with record.stage("maps"), call.progress("local maps") as progress:
        maps = local_maps(
            inputs.volume,
            options["thresholds"],
            options["diameter_mm"],
            options["step"],
            inputs.mask,
            inside=options["inside"],
            device=options["device"],
            threads=options["threads"],
            progress=progress,
        )
    record.device = {**record.device, "used": maps["BMD"].provenance["map"]["device"]}
    warnings = maps["BMD"].warnings
    for warning in warnings[len(inputs.volume.warnings) :]:
        call.warn(warning)
    record.warnings += warnings
    return maps


def _rows(call: Call, record: "RunRecord", inputs: Inputs, maps: "dict[MapKey, Volume]") -> "list[Row]":
    from qctrun.runtime.measuring import map_means, parameters
    from qctrun.runtime.writing import case_of, parameter_rows

    options, labels = record.options, inputs.labels
    with record.stage("parameters"):
        found = parameters(inputs.volume, options["thresholds"], inputs.mask, labels)
        _tell_of_empty(call, record, found)
        regions = {p.label: None if labels is None or p.label is None else labels == p.label for p in found}
        return parameter_rows(
            inputs.volume,
            found,
            {label: map_means(maps, region) for label, region in regions.items()},
            image=str(options["input"]),
            case_id=case_of(inputs.volume.provenance["stem"]),
            mask=str(options["mask"] or options["labels"] or "none"),
            labels=str(options["labels"] or "none"),
            diameter_mm=options["diameter_mm"],
            step=options["step"],
        )


def _tell_of_empty(call: Call, record: "RunRecord", found: "list[Parameters]") -> None:
    empty = dict.fromkeys(str(region.label) for region in found if not region.voxels)
    if empty:
        warning = _NO_VOXELS.format(", ".join(empty))
        call.warn(warning)
        record.warnings.append(warning)


def _stage(record: "RunRecord", staging: "Staging", rows: "list[Row]", maps: "dict[str, Volume]") -> None:
    from qctrun.runtime import writing

    with record.stage("write"):
        for name, found in maps.items():
            image, sidecar = writing.stage_image(staging, found, name)
            record.add_output("map", name, image, found.grid)
            record.add_output("sidecar", writing.sidecar_name(name), sidecar)
        table = staging.add_text(writing.TABLE_NAME, writing.csv_text(rows))
        record.add_output("table", writing.TABLE_NAME, table)
        dictionary = staging.add_text(writing.DICTIONARY_NAME, writing.dictionary_text())
        record.add_output("dictionary", writing.DICTIONARY_NAME, dictionary)
    record.add_to(staging, writing.record_name("params"))
