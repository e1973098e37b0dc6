"""`qctrun export`: a trained network to an ONNX model with its card, checked against torch."""

import shlex
from pathlib import Path

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, verb


@verb("export")
@click.argument("run", metavar="RUN", type=PathType())
@click.option(
    "-o",
    "--out",
    type=PathType(),
    metavar="FILE",
    help="The model to write; default: nnsp.onnx or nnbmd.onnx, by the loss of the run.",
)
@click.option("--name", help="The model's name on its card; default: nnsp or nnbmd.")
@click.option("--version", "release", default="1", show_default=True, help="The model's version on its card.")
@click.option("--overwrite", is_flag=True, help="Replace a model that is already there.")
def command(call: Call, run: Path, out: Path | None, name: str | None, release: str, overwrite: bool) -> None:
    """Write the network of a training RUN as ONNX, for `qctrun filter --model`.

    The file holds its card (training, donors, scores) and any volume size fits in. It is compared with torch
    and not written when they differ by more than 1e-4. A card for people, FILE with .md, is written beside it.
    """
    from qctrun.train.needs import require_torch

    require_torch()
    from qctrun.export import export_run, loss_of_run

    loss = loss_of_run(run)
    out = out or Path(f"{loss}.onnx")
    difference = export_run(run, out, name=name or loss, version=release, overwrite=overwrite)
    call.say(f"torch and onnxruntime agree to {difference:.1e}")
    call.say(f"wrote {out}; next: qctrun filter scan/ --model {shlex.quote(str(out))} --out")
