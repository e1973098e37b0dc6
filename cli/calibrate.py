"""`qctrun calibrate`: a scan in, its line from HU to density out, by phantom rods or by a reference scan."""

import re
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, mask_option, output_options, verb

if TYPE_CHECKING:
    from qctrun.runtime import Volume
    from qctrun.runtime.calibrating.phantoms import Phantom
    from qctrun.runtime.calibrating.reference import ReferenceLine
    from qctrun.runtime.calibrating.rods_line import RodsLine
    from qctrun.runtime.writing import RunRecord, Staging

FILE_NAME = "calibration.json"
PICTURE_NAME = "calibration.png"
SCHEMA = "qctrun/calibration/1"

Places = tuple[tuple[float, float], ...]


def _rods(ctx: click.Context, param: click.Parameter, value: str | None) -> Places | None:
    """Callback: pairs of numbers with semicolons between them."""
    if value is None:
        return None
    try:
        found = tuple(tuple(float(part) for part in pair.split(",")) for pair in value.split(";"))
    except ValueError:
        found = ()
    if not found or any(len(pair) != 2 or not all(0 <= part < 1e6 for part in pair) for pair in found):
        raise click.BadParameter(
            f"wanted COLUMN,ROW;COLUMN,ROW;... in voxels like 126,431;177,436, got {value!r}"
        )
    return tuple((pair[0], pair[1]) for pair in found)


def _slices(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Callback: the first and the last slice."""
    if value is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,6})\s*-\s*(\d{1,6})\s*", value)
    if match is None or int(match[1]) > int(match[2]):
        raise click.BadParameter(f"wanted FIRST-LAST like 10-80, got {value!r}")
    return int(match[1]), int(match[2])


def _list_phantoms(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from qctrun.runtime.calibrating.phantoms import shipped
    from qctrun.runtime.calibrating.words import phantoms_text

    click.echo(phantoms_text(shipped().values()), nl=False)
    ctx.exit()


@verb("calibrate")
@click.argument("source", metavar="INPUT", type=PathType())
@click.option(
    "--phantom", metavar="NAME|FILE", help="Which phantom lies under the patient: a name, or a TOML file."
)
@click.option(
    "--list-phantoms",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_phantoms,
    help="Show the phantoms that are known by name, and end.",
)
@click.option(
    "--rods",
    callback=_rods,
    metavar="COLUMN,ROW;...",
    help="Centres of the rods in voxels from 0, in the order of the phantom's densities, where they are not found.",
)
@click.option(
    "--slices",
    callback=_slices,
    metavar="FIRST-LAST",
    help="Slices that the phantom lies in, counted from 0. [default: all]",
)
@click.option(
    "--reference",
    type=PathType(),
    metavar="FILE",
    help="Calibrated density of the same bone on the scan's grid, in place of a phantom.",
)
@mask_option("With --reference: about which voxels the two are compared. [default: mask.nii.gz beside INPUT]")
@click.option("--material", type=click.Choice(["HA", "K2HPO4"]), help="What the reference is a density of.")
@click.option(
    "--unit",
    type=click.Choice(["hu"], case_sensitive=False),
    help="Unit of a NIfTI, MHA or NRRD scan whose sidecar does not say it.",
)
@click.option("--series-uid", metavar="UID", help="Which DICOM series to take, where there are several.")
@click.option(
    "--allow-resample",
    is_flag=True,
    help="Mend a tilted gantry or uneven gaps of a DICOM scan by one interpolation, and say so.",
)
@click.option("--json", "as_json", is_flag=True, help="Print calibration.json instead of a table.")
@output_options
def command(call: Call, source: Path, out: Path, overwrite: bool, as_json: bool, **words: Any) -> None:
    """Find a phantom's rods in a scan and fit its line from HU to density.

    INPUT is a DICOM folder, a zip of one, or a NIfTI, MHA or NRRD file, in HU. Rods are found by themselves or
    refused; look at the picture. The line goes into `qctrun filter` and `params` by --calibration FILE, or by
    itself when calibration.json is put beside the scan.

    \b
    qctrun calibrate scan/ --phantom qrm-bdc-6
    qctrun filter scan/ --calibration qctrun-out/calibration.json

    \b
    Written into the folder of --out:
      calibration.json    the line, its error, the rods
      calibration.png     what was found, the fit, the drift; needs the extra "report"
      calibrate.run.json  the record of the run
    """
    _check(words)
    options = {"input": source, "out": out, "overwrite": overwrite, **words, "json": as_json}
    _run(call, options)


def _check(words: dict[str, Any]) -> None:
    """One way of calibrating, and only the words that belong to it."""
    if bool(words["phantom"]) == bool(words["reference"]):
        raise click.UsageError("wanted --phantom NAME or --reference FILE, one of them")
    of_other = ("rods", "slices") if words["reference"] else ("mask", "material", "resample_labels")
    for name in of_other:
        if words[name]:
            way = "--phantom" if words["reference"] else "--reference"
            raise click.UsageError(f"--{name.replace('_', '-')} is for {way}")


def _run(call: Call, options: dict[str, Any]) -> None:
    from qctrun.runtime.calibrating.phantoms import load_phantom
    from qctrun.runtime.json_files import json_text
    from qctrun.runtime.writing import RunRecord, Staging, record_name

    record = RunRecord("calibrate", ("qctrun", *call.argv), options)
    phantom = load_phantom(options["phantom"]) if options["phantom"] else None
    of_phantom = Path(options["phantom"]) if options["phantom"] else None
    sources = [path for path in (options["input"], options["reference"], options["mask"], of_phantom) if path]
    names = [PICTURE_NAME, FILE_NAME, record_name("calibrate")]
    with Staging(options["out"], names, overwrite=options["overwrite"], inputs=sources) as staging:
        scan = _read(call, record)
        found = _by_rods(call, record, scan, phantom) if phantom else _by_reference(call, record, scan)
        text = json_text({"schema": SCHEMA, **found.as_dict()})
        _stage(call, record, staging, scan, found, text)
        call.replaced(staging.commit())
    click.echo(text if options["json"] else _words(found), nl=False)
    written = options["out"] / FILE_NAME
    call.say(
        f"wrote {written} in {sum(record.seconds.values()):.1f} s; use it by --calibration {quote(str(written))}"
    )


def _read(call: Call, record: "RunRecord") -> "Volume":
    from qctrun.runtime.reading import read_hu

    with record.stage("read"):
        words = ("unit", "series_uid", "allow_resample")
        scan = read_hu(record.options["input"], **{word: record.options[word] for word in words})
        record.add_volume(scan)
    for warning in scan.warnings:
        call.warn(warning)
    record.warnings += scan.warnings
    return scan


def _by_rods(call: Call, record: "RunRecord", scan: "Volume", phantom: "Phantom") -> "RodsLine":
    from qctrun.runtime.calibrating.finding import find_rods, place_rods
    from qctrun.runtime.calibrating.rods_line import rods_line

    options = record.options
    path = Path(options["phantom"])
    if path.suffix == ".toml":
        record.add_input("phantom", path)
    with record.stage("find"), call.progress("looking for rods") as progress:
        if options["rods"]:
            rods = place_rods(scan.grid, phantom, options["rods"], options["slices"])
        else:
            rods = find_rods(scan, phantom, options["slices"], progress)
    with record.stage("fit"):
        return rods_line(scan, phantom, rods)


def _by_reference(call: Call, record: "RunRecord", scan: "Volume") -> "ReferenceLine":
    from qctrun.cli.scans import read_mask
    from qctrun.runtime import read
    from qctrun.runtime.calibrating.reference import reference_line
    from qctrun.runtime.reading import find_mask

    options = record.options
    mask = options["mask"] or find_mask(options["input"], series_uid=options["series_uid"])
    if mask is None:
        raise click.UsageError("--reference needs --mask FILE, or mask.nii.gz beside INPUT: bone, not air")
    with record.stage("read"):
        reference = read(options["reference"], unit="mg/cm3", material=options["material"], strict=True)
        record.add_input("reference", options["reference"])
        inside = read_mask(call, record, mask, scan)
    with record.stage("fit"), call.progress("low-pass maps") as progress:
        return reference_line(scan, reference, inside, progress)


def _stage(
    call: Call,
    record: "RunRecord",
    staging: "Staging",
    scan: "Volume",
    found: "RodsLine | ReferenceLine",
    text: str,
) -> None:
    from qctrun.runtime.errors import RuntimeMissingError
    from qctrun.runtime.writing import record_name

    record.calibration = {**found.calibration.as_dict(), "file": None}
    for warning in found.calibration.warnings:
        call.warn(warning)
    record.warnings += found.calibration.warnings
    with record.stage("write"):
        try:
            picture = staging.add_bytes(PICTURE_NAME, _picture(scan, found))
            record.add_output("picture", PICTURE_NAME, picture)
        except RuntimeMissingError as error:
            call.warn(f"no {PICTURE_NAME} was made: {error}")
            record.warnings.append(f"no {PICTURE_NAME} was made: {error}")
        record.add_output("calibration", FILE_NAME, staging.add_text(FILE_NAME, text))
        record.add_to(staging, record_name("calibrate"))


def _picture(scan: "Volume", found: "RodsLine | ReferenceLine") -> bytes:
    from qctrun.runtime.calibrating.picture import draw_reference, draw_rods
    from qctrun.runtime.calibrating.rods_line import RodsLine

    return draw_rods(scan, found) if isinstance(found, RodsLine) else draw_reference(found)


def _words(found: "RodsLine | ReferenceLine") -> str:
    from qctrun.runtime.calibrating.rods_line import RodsLine
    from qctrun.runtime.calibrating.words import line_text, rods_text

    if isinstance(found, RodsLine):
        return rods_text(found.rows(), found.calibration)
    return line_text(found.calibration) + "\n"
