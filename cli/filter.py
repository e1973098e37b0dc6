"""`qctrun filter`: a scan in, the filtered volume on the same grid out; with --params also what it measures."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
from qctrun.cli.measuring import Measuring, measuring_options, refuse_measuring
from qctrun.cli.options import (
    PathType,
    Reading,
    filtering_options,
    format_option,
    mask_option,
    output_options,
    reading_options,
    verb,
)
from qctrun.cli.scans import check_formats
from qctrun.runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from qctrun.runtime import Filter, Volume
    from qctrun.runtime.writing import RunRecord, Staging

_UNSCORED = (
    "the model {0.name} {0.version} has no scores on its card: nobody has measured how near to the truth "
    "its numbers are"
)


@verb("filter")
@click.argument("source", metavar="INPUT", required=False, type=PathType())
@output_options
@format_option
@click.option(
    "--model", type=PathType(), metavar="FILE", help="ONNX model to use. [default: the one that is shipped]"
)
@mask_option("Filter only what this mask and its surroundings need; the rest stays as it came in.")
@click.option(
    "--margin",
    "margin_mm",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="MM",
    help="Filter so far around --mask as well: half the diameter of the spheres that are measured later.",
)
@click.option(
    "--grid",
    type=click.Choice(["native", "model"]),
    default="native",
    show_default=True,
    help="Filter on the scan's own voxels, or on voxels as the model was made for, and back: one resampling each way.",
)
@click.option(
    "--params",
    "measure",
    is_flag=True,
    help="Measure as well, as `qctrun params` would afterwards; --thresholds to --json are for this.",
)
@measuring_options
@reading_options
@filtering_options
def command(
    call: Call,
    source: Path | None,
    out: Path,
    overwrite: bool,
    fmt: tuple[str, ...],
    model: Path | None,
    mask: Path | None,
    resample_labels: bool,
    margin_mm: float,
    measure: bool,
    measuring: Measuring,
    reading: Reading,
    **computing: Any,
) -> None:
    """Filter a scan with the bone-parameter-aware network.

    INPUT is a DICOM folder, a zip of one, or a NIfTI, MHA, NRRD, AIM or ISQ file. calibration.json and mask.nii.gz
    beside it are found and used; that mask is kept for `qctrun params`, only --mask restricts the filter.

    \b
    Written into the folder of --out:
      <stem>_desc-nnsp_ct.nii.gz   the filtered volume, mg/cm3, on the grid of INPUT
      <stem>_desc-nnsp_ct.json     its sidecar: unit, material, calibration, model
      <stem>_desc-nnsp_ct/         with --format dicom: a derived CT series in the study of INPUT
      filter.run.json              the record of the run
    With --params also what `qctrun params` writes, all of it or nothing; the table goes to stdout.
    """
    if measure:
        measuring.check_labels()
    else:
        refuse_measuring()
    options = {
        "input": _named(call, source, out),
        "out": out,
        "format": fmt,
        "overwrite": overwrite,
        "model": model,
        "mask": mask,
        "resample_labels": resample_labels,
        "margin_mm": margin_mm,
        **reading.keywords(),
        **computing,
    }
    if measure:
        from qctrun.cli.filter_params import run

        run(call, options, reading, measuring)
    else:
        _run(call, options, reading)


def _run(call: Call, options: dict[str, Any], reading: Reading) -> None:
    from qctrun.runtime.reading import find_mask, stem_of
    from qctrun.runtime.writing import Staging, record_name, with_sidecars

    source, mask, out = options["input"], options["mask"], options["out"]
    check_formats(source, options["format"], maps=False)
    images = filtered_names(stem_of(source), options["format"])
    names = (*with_sidecars(images), record_name("filter"))
    sources = [path for path in (source, mask, options["model"]) if path]
    with Staging(out, names, overwrite=options["overwrite"], inputs=sources) as staging:
        found = None if mask else find_mask(source, series_uid=reading.series_uid)
        record = record_of(call, options)
        network = open_network(call, record)
        volume, region = read_both(call, record, reading)
        with record.stage("filter"), call.progress("filtering") as progress:
            how = {"margin_mm": options["margin_mm"], "grid": options["grid"]}
            filtered = network(volume, mask=region, **how, progress=progress)
        filtered = note_filtered(call, record, network, volume, filtered)
        record.options = {**options, **mask_facts(mask, found)}
        stage_filtered(record, staging, filtered, images)
        record.add_to(staging, record_name("filter"))
        call.replaced(staging.commit())
    if found:
        call.say(f"found {found}; qctrun params will use it as the mask")
    call.say(f"wrote {listed(out, images)} in {sum(record.seconds.values()):.1f} s")


def record_of(call: Call, options: dict[str, Any]) -> "RunRecord":
    """The record of a run of the filter, at its beginning."""
    from qctrun.runtime.writing import RunRecord

    return RunRecord("filter", ("qctrun", *call.argv), options, device={"asked": options["device"]})


def open_network(call: Call, record: "RunRecord") -> "Filter":
    """Open the model where the options want it; before the scan, which may take minutes to read."""
    from qctrun.runtime import Filter

    options = record.options
    with record.stage("model"):
        words = ("device", "threads", "backend", "precision")
        network = Filter(options["model"], **{word: options[word] for word in words})
    _note_device(call, record, network)
    return network


def read_both(
    call: Call, record: "RunRecord", reading: Reading
) -> "tuple[Volume, npt.NDArray[np.bool_] | None]":
    """Read the scan, and the mask where one was typed."""
    from qctrun.cli.scans import read_mask, read_scan

    with record.stage("read"):
        volume = read_scan(call, record, record.options["input"], reading)
        return volume, read_mask(call, record, record.options["mask"], volume)


def note_filtered(
    call: Call, record: "RunRecord", network: "Filter", before: "Volume", filtered: "Volume"
) -> "Volume":
    """Say and note what there is to tell of a volume that was filtered; the volume then tells it, too."""
    if not network.card.scores:
        filtered = filtered.warn(_UNSCORED.format(network.card))
    for warning in filtered.warnings[len(before.warnings) :]:
        call.warn(warning)
    record.warnings += filtered.warnings
    record.filter = filtered.provenance["filter"]
    steps = [each.provenance.get("resampling") or [] for each in (before, filtered)]
    if own := steps[1][len(steps[0]) :]:
        record.filter = {**record.filter, "resampling": own}
    return filtered


def filtered_names(stem: str, formats: tuple[str, ...]) -> tuple[str, ...]:
    """What the filtered volume of a scan is called in each format."""
    from qctrun.runtime.writing import filtered_name

    return tuple(filtered_name(stem, each) for each in formats)


def listed(out: Path, images: tuple[str, ...]) -> str:
    """Paths of images as a person reads them."""
    return ", ".join(f"{out / name}{'/' * name.endswith('/')}" for name in images)


def stage_filtered(
    record: "RunRecord", staging: "Staging", filtered: "Volume", images: tuple[str, ...]
) -> dict[str, Path]:
    """Stage the filtered volume under these names; where the images and their sidecar lie for now."""
    from qctrun.runtime.writing import stage_images

    with record.stage("write"):
        written = stage_images(staging, dict.fromkeys(images, filtered), record.options["threads"])
        for name, path in written.items():
            grid = filtered.grid if name in images else None
            record.add_output("image" if grid else "sidecar", name, path, grid)
    return written


def mask_facts(mask: Path | None, found: Path | None) -> dict[str, Any]:
    """Which mask `qctrun params` is to take, and its sum, by which it sees whether the file is still the same."""
    from qctrun.runtime.writing import sum_of

    used, digest = mask or found, None
    with suppress(InputError):  # nothing was read of a mask that is only kept for later
        digest = None if used is None else sum_of(used)
    return {
        "mask": None if mask is None else mask.resolve(),
        "mask_found": None if found is None else found.resolve(),
        "mask_sha256": digest,
    }


def _named(call: Call, source: Path | None, out: Path) -> Path:
    if source is not None:
        return source
    swallowed = out.exists() and out in map(Path, call.argv)  # typed as a word, not left to the default
    words = f"qctrun filter {shlex.quote(str(out))} --out"
    raise click.UsageError(
        "INPUT is missing"
        + f", and --out has taken {str(out)!r} as its folder; write INPUT first: {words}" * swallowed
    )


def _note_device(call: Call, record: "RunRecord", network: "Filter") -> None:
    record.device = {
        **record.device,
        "used": network.device,
        "provider": network.provider,
        "backend": network.backend,
        "precision": network.precision,
        "notes": network.notes,
    }
    path = record.options["model"] or "shipped"
    record.model = {"path": path, "sha256": network.sha256, "card": network.card.as_dict()}
    for note in network.notes:
        call.say(note)
    call.detail(f"model {network.card.name} {network.card.version} on {network.device} ({network.provider})")
