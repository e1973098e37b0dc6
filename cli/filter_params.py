"""`qctrun filter --params`: filtered and measured in one go, written as the two verbs would write it."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qctrun.cli.call import Call
from qctrun.cli.filter import (
    filtered_names,
    listed,
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
    by_name,
    map_names,
    note_maps,
    output_names,
    print_rows,
    read_regions,
    stage_measurement,
    table_rows,
)
from qctrun.cli.options import Reading
from qctrun.cli.params import measured_maps
from qctrun.cli.scans import check_formats
from qctrun.cli.targets import near

if TYPE_CHECKING:
    from qctrun.runtime import Trip, Volume
    from qctrun.runtime.volume import MapKey
    from qctrun.runtime.writing import RunRecord, Staging
    from qctrun.runtime.writing.dicom import Source
    from qctrun.runtime.writing.tables import Row


def run(call: Call, options: dict[str, Any], reading: Reading, measuring: Measuring) -> None:
    """Filter, measure and write everything, or nothing; print the table."""
    from qctrun.runtime.reading import find_mask, stem_of
    from qctrun.runtime.writing import Staging, filtered_stem, record_name, with_sidecars

    source, mask, out = options["input"], options["mask"], options["out"]
    check_formats(source, options["format"], maps=True)
    found = None if mask else find_mask(source, series_uid=reading.series_uid)
    measuring.check_inside(mask or found)
    stem = stem_of(source)
    images = filtered_names(stem, options["format"])
    maps = map_names(filtered_stem(stem), measuring.thresholds, options["format"])
    names = [*with_sidecars(images), *output_names(maps), record_name("filter"), record_name("params")]
    files = (source, mask or found, options["model"], measuring.labels, measuring.label_names)
    sources = [path for path in files if path]
    with Staging(out, names, overwrite=options["overwrite"], inputs=sources) as staging:
        filtering = record_of(call, options)
        facts = mask_facts(mask, found)
        params = _params_record(
            call, options, measuring, out / images[0], facts["mask"] or facts["mask_found"]
        )
        if found:
            call.say(f"found the mask {near(found)}")
        trip, regions = _trip(call, filtering, params, reading)
        filtering.options = {**options, **facts}
        written = stage_filtered(filtering, staging, trip.filtered, images)
        filtering.add_to(staging, record_name("filter"))
        with params.stage("read"):
            copy, headers = _read_back(staging, written, images)
        rows = _stage(call, params, staging, trip, copy, headers, regions, maps)
        call.replaced(staging.commit())
    print_rows(rows, as_json=measuring.json)
    seconds = sum(filtering.seconds.values()) + sum(params.seconds.values())
    call.say(f"wrote {listed(out, images)}, the table and {len(maps)} maps in {seconds:.1f} s")


def _params_record(
    call: Call, options: dict[str, Any], measuring: Measuring, image: Path, mask: Path | None
) -> "RunRecord":
    """The record of the measurement, with the options of `qctrun params` after `qctrun filter`."""
    from qctrun.runtime.writing import RunRecord

    plain = Reading(None, None, None, None, False, False)
    kept = ("out", "overwrite", "resample_labels", "format", "device", "threads")
    same = {name: options[name] for name in kept}
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
        regions = read_regions(call, params, volume)
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
            grid=filtering.options["grid"],
            threads=options["threads"],
            progress=progress,
        )
    for step, seconds in trip.seconds.items():
        (filtering if step in ("upload", "filter") else params).seconds[step] = seconds
    filtered = note_filtered(call, filtering, network, volume, trip.filtered)
    return replace(trip, filtered=filtered), regions


def _read_back(
    staging: "Staging", lies: dict[str, Path], images: tuple[str, ...]
) -> "tuple[Volume, Source | None]":
    """The first image as `qctrun params` would read it, and its headers for DICOM: what was written is measured."""
    from qctrun.runtime import read
    from qctrun.runtime.writing import is_dicom_output

    with tempfile.TemporaryDirectory(prefix="qctrun-") as folder:
        for final, hidden in lies.items():
            _link(Path(folder) / final, hidden.resolve())
        volume, headers = read(Path(folder) / images[0]), None
        if any(map(is_dicom_output, images)):
            from qctrun.runtime.writing.dicom import source_of

            headers = source_of(volume)
    inputs = [{**each, "path": str(staging.path(images[0]))} for each in volume.provenance["inputs"]]
    return volume.with_array(volume.array, provenance={**volume.provenance, "inputs": inputs}), headers


def _link(final: Path, hidden: Path) -> None:
    """A file by its final name, or a folder of that name with the same files: a folder's name is the scan's."""
    if not hidden.is_dir():
        final.symlink_to(hidden)
        return
    final.mkdir()
    for file in hidden.iterdir():
        (final / file.name).symlink_to(file)


def _stage(
    call: Call,
    params: "RunRecord",
    staging: "Staging",
    trip: "Trip",
    copy: "Volume",
    headers: "Source | None",
    regions: Regions,
    names: "dict[MapKey, tuple[str, ...]]",
) -> "list[Row]":
    params.add_volume(copy)
    maps = _maps_of(call, params, trip, copy, regions)
    rows = table_rows(call, params, copy, regions, maps)
    stage_measurement(params, staging, rows, by_name(maps, names), headers)
    return rows


def _maps_of(
    call: Call, params: "RunRecord", trip: "Trip", copy: "Volume", regions: Regions
) -> "dict[MapKey, Volume]":
    """The maps of what was written: those of the trip, or new ones where the 16 bits of DICOM hold other numbers."""
    from qctrun.runtime.trip import maps_of_copy

    if not (copy.array == trip.filtered.array).all():
        return measured_maps(call, params, copy, regions)
    maps = maps_of_copy(trip.maps, copy)
    note_maps(call, params, copy, maps)
    return maps
