"""`qctrun demo`: a simulated scan, the two lines of the main job on it, and what they bought."""

import shlex
import subprocess
import sys
from pathlib import Path

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, verb
from qctrun.runtime.errors import OutputExistsError

LINES = ("qctrun filter scan/ --out", "qctrun params --thresholds 200,225,250")
THRESHOLDS_MG_CM3 = (200.0, 225.0, 250.0)


@verb("demo")
@click.option(
    "-o",
    "--out",
    type=PathType(),
    default="qctrun-demo",
    show_default=True,
    metavar="DIR",
    help="Folder to write into.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Which vertebra is simulated."
)
@click.option("--overwrite", is_flag=True, help="Write over an earlier demonstration.")
def command(call: Call, out: Path, seed: int, overwrite: bool) -> None:
    """Simulate a noisy scan of a vertebra, filter and measure it, and compare with the truth.

    \b
    Written into the folder of --out:
      scan/                 DICOM series at 100 mAs, mask.nii.gz, calibration.json
      truth.nii.gz          what a noise-free scanner of high resolution sees
      qctrun-out/           what filter and params wrote
      demo.png              slices, maps and errors of raw, filtered and truth
    """
    from qctrun.runtime.writing.files import writing
    from qctrun.train.insilico.demonstration import make_scan
    from qctrun.train.insilico.picture import require_matplotlib

    require_matplotlib()

    if (out / "scan").exists() and not overwrite:
        raise OutputExistsError(
            str(out / "scan"),
            wanted="a fresh folder",
            got="an earlier scan",
            mend="say --overwrite or another --out",
        )
    call.say(f"simulating a vertebra at 100 mAs into {out / 'scan'}")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        make_scan(out, seed=seed)
    for line in LINES:
        _typed(call, line, out, overwrite)
    call.say("measuring raw and truth the same way")
    _compare(call, out)


def _typed(call: Call, line: str, folder: Path, overwrite: bool) -> None:
    """Run one line as a person would type it inside the demonstration's folder."""
    call.say(f"$ {line}")
    words = [*shlex.split(line)[1:], *(["--overwrite"] if overwrite else []), *(["-q"] if call.quiet else [])]
    done = subprocess.run(
        [sys.executable, "-m", "qctrun.cli.main", *words], cwd=folder, stdout=sys.stderr, check=False
    )
    if done.returncode:
        raise click.exceptions.Exit(done.returncode)


def _compare(call: Call, out: Path) -> None:
    from qctrun.runtime import read
    from qctrun.runtime.reading import read_labels
    from qctrun.runtime.writing.files import writing
    from qctrun.train.insilico.demonstration import PICTURED_THRESHOLD_MG_CM3, compared, measured
    from qctrun.train.insilico.picture import draw

    paths = {"raw": "scan", "filtered": "qctrun-out/scan_desc-nnsp_ct.nii.gz", "truth": "truth.nii.gz"}
    volumes = {name: read(out / path) for name, path in paths.items()}
    mask = read_labels(out / "scan" / "mask.nii.gz", volumes["raw"].grid) > 0
    found = {name: measured(volume, THRESHOLDS_MG_CM3, mask) for name, volume in volumes.items()}
    click.echo(compared(found))
    with writing(out / "demo.png"):
        draw(found, PICTURED_THRESHOLD_MG_CM3, out / "demo.png")
    call.say(f"picture: {out / 'demo.png'}; table: {out / 'qctrun-out' / 'params.csv'}")
