"""`qctrun demo`: a simulated scan, the two lines of the main job on it, and what they bought."""

import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, verb
from qctrun.runtime.errors import OutputExistsError

if TYPE_CHECKING:
    from qctrun.runtime.writing import Staging

LINES = ("qctrun filter scan/ --out", "qctrun params --thresholds 200,225,250")
THRESHOLDS_MG_CM3 = (200.0, 225.0, 250.0)
PICTURE = "demo.png"
OUTPUTS = ("scan", "truth.nii.gz", "truth.json", "qctrun-out", PICTURE)


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
@click.option("--overwrite", is_flag=True, help="Replace an earlier demonstration.")
def command(call: Call, out: Path, seed: int, overwrite: bool) -> None:
    """Simulate a noisy scan of a vertebra, filter and measure it, and compare with the truth. Needs the extra "report".

    \b
    Written into the folder of --out:
      scan/                 DICOM series at 100 mAs, mask.nii.gz, calibration.json
      truth.nii.gz          what a noise-free scanner of high resolution sees
      qctrun-out/           what filter and params wrote
      demo.png              slices, maps and errors of raw, filtered and truth
    """
    from qctrun.runtime.extras import library
    from qctrun.runtime.writing import Staging

    library("matplotlib.figure", "picture")
    _refuse_existing(out, overwrite)
    with Staging(out, (PICTURE,), overwrite=overwrite) as staging:
        call.say(f"simulating a vertebra at 100 mAs into {out / 'scan'}")
        _simulate(out, seed)
        for line in LINES:
            _typed(call, line, out, overwrite)
        call.say("measuring raw and truth the same way")
        _compare(out, staging)
        staging.commit()
    call.say(f"picture: {out / PICTURE}; table: {out / 'qctrun-out' / 'params.csv'}")


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Nothing of an earlier demonstration is replaced unasked, and a scan of anyone else never."""
    from qctrun.runtime.writing.files import writing
    from qctrun.train.insilico.demonstration import is_simulated

    with writing(out):
        there = [out / name for name in OUTPUTS if (out / name).exists()]
    if there and not overwrite:
        raise OutputExistsError(
            str(there[0]),
            wanted="a fresh folder",
            got="an earlier demonstration, or a part of it",
            mend="say --overwrite or another --out",
        )
    if out / "scan" in there and not is_simulated(out / "scan"):
        raise OutputExistsError(
            str(out / "scan"),
            wanted="a scan that qctrun demo has made",
            got="another one, which --overwrite must not replace",
            mend="say another --out",
        )


def _simulate(out: Path, seed: int) -> None:
    """Make the scan under a hidden name and move it into place when it is whole."""
    from qctrun.runtime.writing.files import writing
    from qctrun.train.insilico.demonstration import make_scan

    with writing(out), tempfile.TemporaryDirectory(prefix=".qctrun-", dir=out) as name:
        hidden = Path(name)
        new, old = hidden / "new", hidden / "old"
        new.mkdir()
        make_scan(new, seed=seed)
        (out / PICTURE).unlink(missing_ok=True)  # an earlier one is of the earlier scan
        for beside in ("truth.json", "truth.nii.gz"):
            (new / beside).rename(out / beside)
        if (out / "scan").exists():
            (out / "scan").rename(old)
        (new / "scan").rename(out / "scan")


def _typed(call: Call, line: str, folder: Path, overwrite: bool) -> None:
    """Run one line as a person would type it inside the demonstration's folder."""
    call.say(f"$ {line}")
    words = [*shlex.split(line)[1:], *(["--overwrite"] if overwrite else []), *(["-q"] if call.quiet else [])]
    command = [sys.executable, "-m", "qctrun.cli.main", *words]
    # Its table goes to stderr (2), for stdout belongs to the comparison. In a process group of its own: Ctrl-C
    # comes here only and is passed on once, so that the line can tidy up.
    with subprocess.Popen(command, cwd=folder, stdout=2, process_group=0) as running:
        try:
            code = running.wait()
        except KeyboardInterrupt:
            running.send_signal(signal.SIGINT)
            running.wait()
            raise
    if code:
        raise click.exceptions.Exit(code)


def _compare(out: Path, staging: "Staging") -> None:
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
    with writing(staging.path(PICTURE)):
        draw(found, PICTURED_THRESHOLD_MG_CM3, staging.hidden(PICTURE))
