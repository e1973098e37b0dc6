"""`qctrun train`: simulated scans in, a trained network and its scores out."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from qctrun.cli.call import Call
from qctrun.cli.epochs import epoch_words
from qctrun.cli.options import PathType, computing_options, verb

POSITIVE = click.FloatRange(min=0, min_open=True)


def _counts(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Callback: whole numbers with commas between them, as many as the default has."""
    assert isinstance(param.default, str)
    wanted = param.default.count(",") + 1
    parts = value.split(",")
    if len(parts) != wanted or not all(part.strip().isdigit() for part in parts):
        raise click.BadParameter(f"wanted {wanted} whole numbers like {param.default}, got {value!r}")
    return tuple(int(part) for part in parts)


@verb("train")
@click.option(
    "--recipe",
    default="nnsp",
    show_default=True,
    metavar="NAME|FILE",
    help="nnsp or nnbmd (the paper's two), nnsp-residual (ours), nnsp-shipped (the shipped model), "
    "nnsp-short or nnbmd-short (for two CPU cores), or a TOML file of your own.",
)
@click.option("--show-recipe", is_flag=True, help="Print the recipe's file, a start for one's own, and end.")
@click.option("-o", "--out", type=PathType(), metavar="DIR", help="Folder of the run; default: runs/RECIPE.")
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
    "--epochs", type=click.IntRange(1), metavar="N", help="Ends after this many; default: the recipe's."
)
@click.option(
    "--minutes", type=POSITIVE, help="Ends after the epoch in which this much training time has passed."
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", help="Decides all that is random; default: the recipe's."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Of the network's arithmetic in training; default: the recipe's.",
)
@computing_options
def command(
    call: Call,
    recipe: str,
    show_recipe: bool,
    out: Path | None,
    microct: Path | None,
    fields: tuple[int, int, int],
    device: str,
    threads: int | None,
    **changes: Any,
) -> None:
    """Train a filter on simulated scans.

    Typed again with the same words, it goes on after the last finished epoch. Needs the extra "train".
    On several GPUs: torchrun --nproc-per-node N -m qctrun.cli.main train ...

    \b
    Written into the folder of --out:
      checkpoint.pt   the network, to go on with or for `qctrun export`
      log.csv         one line an epoch
      training.json   recipe, donors, seconds, machine, and scores on donors never seen
    """
    from qctrun.train.recipe import load_recipe, recipe_text

    found = load_recipe(recipe)
    if show_recipe:
        click.echo(recipe_text(recipe), nl=False)
        return
    found = replace(found, **{name: value for name, value in changes.items() if value is not None})
    out = out or Path("runs") / found.name
    _train(call, found, out, {"microct": microct, "fields": fields}, {"device": device, "threads": threads})
    call.say(f"wrote {out}; next: qctrun export {shlex.quote(str(out))}")


def _train(call: Call, recipe: Any, out: Path, data: dict[str, Any], machine: dict[str, Any]) -> None:
    from qctrun.train.needs import require_torch

    require_torch()
    from qctrun.train.evaluate import as_text
    from qctrun.train.run import run, simulated
    from qctrun.train.team import chosen_device, leads

    call.quiet = call.quiet or not leads()
    chosen_device(machine["device"])  # refuses before minutes of simulation
    with call.progress("simulating scans") as progress:
        split = simulated(recipe, out, **data, progress=progress)
    with call.progress("steps of this epoch") as progress:
        trained = run(
            recipe,
            out,
            split,
            **machine,
            report=lambda line: call.say(epoch_words(line)),
            progress=progress,
        )
    for kind, rows in trained.scores.items():
        click.echo(f"{kind} never seen in training, threshold 225 mg/cm3, spheres of 4.3 mm\n{as_text(rows)}")
