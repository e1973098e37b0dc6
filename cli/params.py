"""`qctrun params`: a volume in, a table of bone parameters and their local maps out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
from qctrun.cli.measuring import (
    Measuring,
    Regions,
    by_name,
    map_names,
    measuring_options,
    note_maps,
    output_names,
    print_rows,
    read_regions,
    stage_measurement,
    table_rows,
)
from qctrun.cli.options import (
    PathType,
    Reading,
    computing_options,
    format_option,
    mask_option,
    output_options,
    reading_options,
    verb,
)
from qctrun.cli.scans import check_formats
from qctrun.cli.targets import target_of

if TYPE_CHECKING:
    from qctrun.runtime import Volume
    from qctrun.runtime.volume import MapKey
    from qctrun.runtime.writing import RunRecord


@verb("params")
@click.argument("source", metavar="[INPUT]", required=False, type=PathType())
@mask_option(
    "Which voxels count: those that are not 0. [default: mask.nii.gz beside INPUT, or the one of the filter]"
)
@measuring_options
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
    resample_labels: bool,
    fmt: tuple[str, ...],
    measuring: Measuring,
    reading: Reading,
    device: str,
    threads: int | None,
) -> None:
    """Measure BMD, BV/TV and TMD: one table and local maps.

    INPUT is a DICOM folder, a zip of one, or a NIfTI, MHA, NRRD, AIM or ISQ file. Without INPUT the volume is measured
    that the last `qctrun filter` has written into the folder of --out, with the mask of that run.

    \b
    Written into the folder of --out:
      params.csv, params.json        one row a label and threshold; what the columns mean
      <stem>_BMDmap.nii.gz, _SDmap   local maps, mg/cm3
      <stem>_thr200_BVTVmap, _TMDmap local maps of each threshold
                                     (--format dicom: Parametric Maps, .dcm)
      params.run.json                the record of the run
    """
    measuring.check_labels()
    target = target_of(call, source, out, mask, reading.series_uid)
    measuring.check_inside(target.mask)
    options = {
        "input": target.image,
        "out": out,
        "overwrite": overwrite,
        "mask": target.mask,
        "resample_labels": resample_labels,
        "format": fmt,
        **measuring.keywords(),
        **reading.keywords(),
        "device": device,
        "threads": threads,
    }
    _run(call, options, reading)


def _run(call: Call, options: dict[str, Any], reading: Reading) -> None:
    from qctrun.runtime.reading import stem_of
    from qctrun.runtime.writing import RunRecord, Staging, record_name

    check_formats(options["input"], options["format"], maps=True)
    names = map_names(stem_of(options["input"]), options["thresholds"], options["format"])
    record = RunRecord("params", ("qctrun", *call.argv), options, device={"asked": options["device"]})
    sources = [options[role] for role in ("input", "mask", "labels", "label_names") if options[role]]
    with Staging(
        options["out"],
        [*output_names(names), record_name("params")],
        overwrite=options["overwrite"],
        inputs=sources,
    ) as staging:
        volume, regions = _read(call, record, reading)
        maps = measured_maps(call, record, volume, regions)
        rows = table_rows(call, record, volume, regions, maps)
        stage_measurement(record, staging, rows, by_name(maps, names))
        call.replaced(staging.commit())
    print_rows(rows, as_json=options["json"])
    call.say(
        f"wrote the table and {len(maps)} maps to {options['out']} in {sum(record.seconds.values()):.1f} s"
    )


def _read(call: Call, record: "RunRecord", reading: Reading) -> "tuple[Volume, Regions]":
    from qctrun.cli.scans import read_scan

    with record.stage("read"):
        volume = read_scan(call, record, record.options["input"], reading)
        return volume, read_regions(call, record, volume)


def measured_maps(
    call: Call, record: "RunRecord", volume: "Volume", regions: Regions
) -> "dict[MapKey, Volume]":
    """Measure the local maps as the options of the record say; say and note what there is to tell of them."""
    from qctrun.runtime import local_maps

    options = record.options
    with record.stage("maps"), call.progress("local maps") as progress:
        maps = local_maps(
            volume,
            options["thresholds"],
            options["diameter_mm"],
            options["step"],
            regions.mask,
            inside=options["inside"],
            device=options["device"],
            threads=options["threads"],
            progress=progress,
        )
    note_maps(call, record, volume, maps)
    return maps
