"""`qctrun study lab`: a whole study of two scanners, simulated, on disk."""

from pathlib import Path

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, numbers, verb

RECORD = "lab.run.json"


def _three(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    """Callback: three positive numbers with commas between them."""
    found = tuple(numbers(ctx, param, part)[0] for part in value.split(","))
    if len(found) != 3:
        raise click.BadParameter(f"wanted three numbers Z,Y,X like 0.4,0.195,0.195, got {value!r}")
    return found


@verb("lab")
@click.option(
    "-o",
    "--out",
    type=PathType(),
    default="lab",
    show_default=True,
    metavar="DIR",
    help="Where to; the same command goes on from there.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides all that is random."
)
@click.option(
    "--specimens", type=click.IntRange(1, 5), default=5, show_default=True, help="Each of another donor."
)
@click.option(
    "--size",
    callback=_three,
    default="30,40,40",
    show_default=True,
    metavar="Z,Y,X",
    help="Box of each reference scan, mm.",
)
@click.option(
    "--currents",
    callback=numbers,
    default="100,250,360",
    show_default=True,
    metavar="MAS,...",
    help="Tube currents of the QCT scans, mAs.",
)
@click.option(
    "--repetitions", type=click.IntRange(1, 100), default=3, show_default=True, help="Scans at each current."
)
@click.option(
    "--spacing",
    callback=_three,
    default="0.4,0.195,0.195",
    show_default=True,
    metavar="Z,Y,X",
    help="Voxels of the QCT scans, mm.",
)
def lab_command(
    call: Call,
    out: Path,
    seed: int,
    specimens: int,
    size: tuple[float, ...],
    currents: tuple[float, ...],
    repetitions: int,
    spacing: tuple[float, ...],
) -> None:
    """Write a study as a laboratory would have it: nothing aligned, nothing calibrated, for `qctrun pairs`.

    Each QCT scan is shifted by up to 10 mm and tilted by up to 10 degrees against its reference. What is whole
    already is not made again.

    \b
    Written into the folder of --out:
      study.toml                      for qctrun pairs
      A1/hrpqct.nii.gz ...            HR-pQCT at 82 um, mg HA/cm3, and masks of the bone and of its inside
      A1/100mAs-1/ ...                DICOM series, HU
      truth.json                      poses and calibration lines, to judge by
      lab.run.json                    the record of the run
    """
    from qctrun.runtime.json_files import json_text
    from qctrun.runtime.writing import RunRecord
    from qctrun.runtime.writing.files import replace_file
    from qctrun.train.insilico.lab_plan import TRUTH, LabStudy
    from qctrun.train.insilico.laboratory import STUDY, write_study

    options = {
        "out": out,
        "seed": seed,
        "specimens": specimens,
        "size": size,
        "currents": currents,
        "repetitions": repetitions,
        "spacing": spacing,
    }
    record = RunRecord("lab", ("qctrun", *call.argv), options)
    study = LabStudy(seed, specimens, size, currents, repetitions, spacing)
    with record.stage("simulate"), call.progress("simulating specimens and scans") as progress:
        made = write_study(out, study, progress)
    if not made and (out / RECORD).is_file():
        call.say(f"all of {out} is there already")
        return
    for name in (STUDY, TRUTH):
        record.add_output(name.partition(".")[0], name, out / name)
    replace_file(out / RECORD, json_text(record.as_dict()).encode())
    call.say(f"wrote {out / STUDY}; next: qctrun pairs {out / STUDY}")
