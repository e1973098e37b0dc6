"""`qctrun filter --params`: filtered and measured in one go, written as the two verbs would write it."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qctrun.cli.call import Call
from qctrun.cli.filter import (
    mask_facts,
    note_filtered,
    open_network,
    read_both,
    record_of,
    stage_filtered,
)
from qctrun.cli.measuring import (
    Measuring,
    Regions,
    map_names,
    note_maps,
    output_names,
    print_rows,
    read_regions,
    stage_measurement,
    table_rows,
)
from qctrun.cli.options import Reading
from qctrun.cli.targets import near

if TYPE_CHECKING:
    from qctrun.runtime import Trip, Volume
    from qctrun.runtime.writing import RunRecord, Staging
    from qctrun.runtime.writing.tables import Row


def run(call: Call, options: dict[str, Any], reading: Reading, measuring: Measuring) -> None:
    """Filter, measure and write everything, or nothing; print the table."""
    from qctrun.runtime.reading import find_mask, stem_of
    from qctrun.runtime.writing import Staging, filtered_name, record_name, sidecar_name

    source, mask, out = options["input"], options["mask"], options["out"]
    found = None if mask else find_mask(source, series_uid=reading.series_uid)
    measuring.check_inside(mask or found)
    name = filtered_name(stem_of(source), options["format"])
    maps = map_names(stem_of(name), measuring.thresholds, options["format"])
    names = [sidecar_name(name), name, *output_names(maps), record_name("filter"), record_name("params")]
    sources = [path for path in (source, mask or found, options["model"], measuring.labels) if path]
    with Staging(out, names, overwrite=options["overwrite"], inputs=sources) as staging:
        filtering = record_of(call, options)
        facts = mask_facts(mask, found)
        params = _params_record(call, options, measuring, out / name, facts["mask"] or facts["mask_found"])
        if found:
            call.say(f"found the mask {near(found)}")
        trip, regions = _trip(call, filtering, params, reading)
        filtering.options = {**options, **facts}
        image, sidecar = stage_filtered(filtering, staging, trip.filtered, name)
        filtering.add_to(staging, record_name("filter"))
        with params.stage("read"):
            copy = _read_back(staging, {name: image, sidecar_name(name): sidecar}, name)
        rows = _stage(call, params, staging, trip, copy, regions, maps)
        call.replaced(staging.commit())
    print_rows(rows, as_json=measuring.json)
    seconds = sum(filtering.seconds.values()) + sum(params.seconds.values())
    call.say(f"wrote {out / name}, the table and {len(maps)} maps in {seconds:.1f} s")


def _params_record(
    call: Call, options: dict[str, Any], measuring: Measuring, image: Path, mask: Path | None
) -> "RunRecord":
    """The record of the measurement, with the options of `qctrun params` after `qctrun filter`."""
    from qctrun.runtime.writing import RunRecord

    plain = Reading(calibration=None, material=None, unit=None, series_uid=None, strict=False)
    same = {name: options[name] for name in ("out", "overwrite", "format", "device", "threads")}
    words = {"input": image, "mask": mask, **same, **measuring.keywords(), **plain.keywords()}
    return RunRecord("params", ("qctrun", *call.argv), words, device={"asked": options["device"]})


def _trip(
    call: Call, filtering: "RunRecord", params: "RunRecord", reading: Reading
) -> "tuple[Trip, Regions]":
    """Open, read, filter and measure; the filtered volume tells all that there is to tell of it."""
    from dataclasses import replace

    from qctrun.runtime import filter_and_measure

    network = open_network(call, filtering)
    volume, typed = read_both(call, filtering, reading)
    with params.stage("read"):
        regions = read_regions(call, params, volume.grid)
    options = params.options
    with call.progress("filtering and measuring") as progress:
        trip = filter_and_measure(
            volume,
            network,
            options["thresholds"],
            options["diameter_mm"],
            options["step"],
            mask=regions.mask,
            inside=options["inside"],
            filter_mask=typed,
            margin_mm=filtering.options["margin_mm"],
            threads=options["threads"],
            progress=progress,
        )
    for step, seconds in trip.seconds.items():
        (filtering if step in ("upload", "filter") else params).seconds[step] = seconds
    filtered = note_filtered(call, filtering, network, volume, trip.filtered)
    return replace(trip, filtered=filtered), regions


def _read_back(staging: "Staging", lies: dict[str, Path], name: str) -> "Volume":
    """The filtered volume as `qctrun params` would read it: what is measured is what was written."""
    from qctrun.runtime import read

    with tempfile.TemporaryDirectory(prefix="qctrun-") as folder:
        for final, hidden in lies.items():
            (Path(folder) / final).symlink_to(hidden.resolve())
        volume = read(Path(folder) / name)
    inputs = [{**each, "path": str(staging.path(name))} for each in volume.provenance["inputs"]]
    return volume.with_array(volume.array, provenance={**volume.provenance, "inputs": inputs})


def _stage(
    call: Call,
    params: "RunRecord",
    staging: "Staging",
    trip: "Trip",
    copy: "Volume",
    regions: Regions,
    names: "dict[Any, str]",
) -> "list[Row]":
    from qctrun.runtime.trip import maps_of_copy

    params.add_volume(copy)
    maps = maps_of_copy(trip.maps, copy)
    note_maps(call, params, copy, maps)
    rows = table_rows(call, params, copy, regions, maps)
    stage_measurement(params, staging, rows, {names[key]: found for key, found in maps.items()})
    return rows
