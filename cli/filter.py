"""`qctrun filter`: a scan in, the filtered volume on the same grid out."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
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
from qctrun.runtime.errors import InputError

if TYPE_CHECKING:
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
@reading_options
@filtering_options
def command(
    call: Call,
    source: Path | None,
    out: Path,
    overwrite: bool,
    fmt: str,
    model: Path | None,
    mask: Path | None,
    reading: Reading,
    device: str,
    threads: int | None,
    backend: str,
    precision: str,
) -> None:
    """Filter a scan with the bone-parameter-aware network.

    INPUT is a DICOM folder, a zip of one, or a NIfTI, MHA or NRRD file. calibration.json and mask.nii.gz
    beside it are found and used; that mask is kept for `qctrun params`, only --mask restricts the filter.

    \b
    Written into the folder of --out:
      <stem>_desc-nnsp_ct.nii.gz   the filtered volume, mg/cm3, on the grid of INPUT
      <stem>_desc-nnsp_ct.json     its sidecar: unit, material, calibration, model
      filter.run.json              the record of the run
    """
    from qctrun.runtime.reading import find_mask, stem_of
    from qctrun.runtime.writing import RunRecord, Staging, filtered_name, record_name, sidecar_name

    source = _named(call, source, out)
    name = filtered_name(stem_of(source), fmt)
    names = (sidecar_name(name), name, record_name("filter"))
    sources = [path for path in (source, mask, model) if path]
    with Staging(out, names, overwrite=overwrite, inputs=sources) as staging:
        options = {
            "input": source,
            "out": out,
            "format": fmt,
            "overwrite": overwrite,
            "model": model,
            "mask": mask,
            **reading.keywords(),
            "device": device,
            "threads": threads,
            "backend": backend,
            "precision": precision,
        }
        record = RunRecord("filter", ("qctrun", *call.argv), options, device={"asked": device})
        found = None if mask else find_mask(source, series_uid=reading.series_uid)
        filtered = _filtered(call, record, source, reading)
        record.options = {**options, **_mask_facts(mask, found)}
        _stage(record, staging, filtered, name)
        call.replaced(staging.commit())
    if found and not mask:
        call.say(f"found {found}; qctrun params will use it as the mask")
    call.say(f"wrote {out / name} in {sum(record.seconds.values()):.1f} s")


def _named(call: Call, source: Path | None, out: Path) -> Path:
    if source is not None:
        return source
    swallowed = out.exists() and out in map(Path, call.argv)  # typed as a word, not left to the default
    words = f"qctrun filter {shlex.quote(str(out))} --out"
    raise click.UsageError(
        "INPUT is missing"
        + f", and --out has taken {str(out)!r} as its folder; write INPUT first: {words}" * swallowed
    )


def _filtered(call: Call, record: "RunRecord", source: Path, reading: Reading) -> "Volume":
    from qctrun.cli.scans import read_mask, read_scan
    from qctrun.runtime import Filter

    options = record.options
    with record.stage("model"):  # first: a scan may take minutes to read
        words = ("device", "threads", "backend", "precision")
        network = Filter(options["model"], **{word: options[word] for word in words})
    _note_device(call, record, network)
    with record.stage("read"):
        volume = read_scan(call, record, source, reading)
        mask = read_mask(record, options["mask"], volume.grid)
    with record.stage("filter"), call.progress("filtering") as progress:
        filtered = network(volume, mask=mask, progress=progress)
    if not network.card.scores:
        filtered = filtered.warn(_UNSCORED.format(network.card))
    for warning in filtered.warnings[len(volume.warnings) :]:
        call.warn(warning)
    record.warnings += filtered.warnings
    record.filter = filtered.provenance["filter"]
    return filtered


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


def _stage(record: "RunRecord", staging: "Staging", filtered: "Volume", name: str) -> None:
    from qctrun.runtime.writing import record_name, sidecar_name, stage_image

    with record.stage("write"):
        image, sidecar = stage_image(staging, filtered, name)
        record.add_output("image", name, image, filtered.grid)
        record.add_output("sidecar", sidecar_name(name), sidecar)
    record.add_to(staging, record_name("filter"))


def _mask_facts(mask: Path | None, found: Path | None) -> dict[str, Any]:
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
