"""`qctrun train`: simulated scans in, a trained network and its scores out."""

import shlex
from pathlib import Path
from typing import Any

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, verb

POSITIVE = click.FloatRange(min=0, min_open=True)


def _counts(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Callback: whole numbers with commas between them, as many as the default has; channels not 0."""
    assert isinstance(param.default, str)
    wanted, least = param.default.count(",") + 1, 1 if param.name == "channels" else 0
    parts = value.split(",")
    if len(parts) != wanted or not all(part.strip().isdigit() and int(part) >= least for part in parts):
        raise click.BadParameter(f"wanted {wanted} whole numbers like {param.default}, got {value!r}")
    return tuple(int(part) for part in parts)


@verb("train")
@click.option(
    "-o",
    "--out",
    type=PathType(),
    default="runs/nnsp",
    show_default=True,
    metavar="DIR",
    help="Folder of the run.",
)
@click.option(
    "--microct",
    type=PathType(),
    metavar="DIR",
    help="Public L1 micro-CT cubes to train on beside random-field bone.",
)
@click.option(
    "--fields",
    default="6,1,2",
    callback=_counts,
    show_default=True,
    metavar="N,N,N",
    help="Random-field vertebrae for training, validation and test.",
)
@click.option(
    "--channels",
    default="32,16,8,8,16",
    callback=_counts,
    show_default=True,
    metavar="N,...",
    help="Output channels of the first five layers.",
)
@click.option(
    "--plain", is_flag=True, help="Without the residual form: the network's result is not added to its input."
)
@click.option(
    "--learning-rate", type=POSITIVE, default=10**-3.5, show_default="10^-3.5", help="Adam's first rate."
)
@click.option(
    "--truths-per-step", type=click.IntRange(1), default=16, show_default=True, help="True patches a step."
)
@click.option(
    "--scans-per-truth",
    type=click.IntRange(1, 9),
    default=4,
    show_default=True,
    help="Scans of each of them.",
)
@click.option(
    "--steps-per-epoch", type=click.IntRange(1), default=224, show_default=True, help="Batches drawn."
)
@click.option(
    "--epochs", type=click.IntRange(1), default=1000, show_default=True, help="Ends after this many."
)
@click.option(
    "--patience", type=click.IntRange(1), default=20, show_default=True, help="Ends so many after the best."
)
@click.option(
    "--minutes", type=POSITIVE, help="Ends after the epoch in which this much training time has passed."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides all that is random."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all.")
def command(
    call: Call,
    out: Path,
    microct: Path | None,
    fields: tuple[int, int, int],
    plain: bool,
    threads: int | None,
    **schedule: Any,
) -> None:
    """Train the filter on simulated scans, with the paper's losses.

    Typed again with the same words, it goes on after the last finished epoch. Needs the extra "train".

    \b
    Written into the folder of --out:
      checkpoint.pt   the network, to go on with or for `qctrun export`
      log.csv         one line an epoch
      training.json   recipe, donors, seconds, machine, and scores on donors never seen
    """
    from qctrun.train.needs import require_torch

    require_torch()
    from qctrun.train.evaluate import as_text
    from qctrun.train.recipe import Recipe
    from qctrun.train.run import run

    with call.progress("simulating scans") as simulated:
        trained = run(
            Recipe(residual=not plain, **schedule),
            out,
            microct=microct,
            fields=fields,
            threads=threads,
            simulated=simulated,
            report=lambda line: call.say(_epoch_words(line)),
        )
    for kind, rows in trained.scores.items():
        click.echo(f"{kind} never seen in training, threshold 225 mg/cm3, spheres of 4.3 mm\n{as_text(rows)}")
    call.say(f"wrote {out}; next: qctrun export {shlex.quote(str(out))}")


def _epoch_words(line: dict[str, float]) -> str:
    return (
        f"epoch {line['epoch']:.0f}: loss {line['train_loss']:.4f}, validation {line['validation_loss']:.4f} "
        f"(best {line['best_validation_loss']:.4f}), rate {line['learning_rate']:.1e}, {line['seconds']:.0f} s"
    )
