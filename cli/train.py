"""`qctrun train`: simulated scans or real pairs in, a trained network and its scores out."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from qctrun.cli.call import Call
from qctrun.cli.epochs import epoch_words
from qctrun.cli.options import PathType, computing_options, verb
from qctrun.cli.training_data import folds_of, measured_words, require_one_split, split_of, unseen_words

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
    help="nnsp or nnbmd (the paper's two), nnsp-residual or nnbmd-residual (ours), nnsp-shipped (the shipped "
    "model), nnsp-wide, nnsp-short or nnbmd-short (for two CPU cores), or a TOML file of your own.",
)
@click.option("--show-recipe", is_flag=True, help="Print the recipe's file, a start for one's own, and end.")
@click.option(
    "-o",
    "--out",
    type=PathType(),
    metavar="DIR",
    help="Folder of the run; default: runs/RECIPE, and runs/RECIPE-SPLIT for folds; with -pairs after RECIPE.",
)
@click.option(
    "--pairs",
    type=PathType(),
    metavar="DIR|FILE",
    help='Real pairs from `qctrun pairs` to train on in place of simulated scans. Needs the extra "pairs".',
)
@click.option(
    "--split",
    type=click.Choice(["positions", "vertebrae", "donors"]),
    help="What the test never saw: other positions in the same bones (the paper's way), one of the study's five "
    "simulated vertebrae, or other donors. Default: donors; with --folds, positions.",
)
@click.option(
    "--folds",
    type=click.IntRange(1),
    metavar="N",
    help="Trains folds 1 to N of positions or vertebrae, each in DIR/fold-K; default: all five. With --pairs "
    "--split donors: leaves the first N donors out, one after the other.",
)
@click.option(
    "--microct",
    type=PathType(),
    metavar="DIR",
    help="Public L1 micro-CT cubes to train on beside random-field bone (--split donors).",
)
@click.option(
    "--fields",
    default="6,1,2",
    callback=_counts,
    show_default=True,
    metavar="N,N,N",
    help="Random-field vertebrae for training, validation and test (--split donors).",
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
    pairs: Path | None,
    split: str | None,
    folds: int | None,
    microct: Path | None,
    fields: tuple[int, int, int],
    device: str,
    threads: int | None,
    **changes: Any,
) -> None:
    """Train a filter on simulated scans, or on --pairs of real ones.

    Typed again with the same words, it goes on after the last finished epoch. Needs the extra "train".
    On several GPUs: torchrun --nproc-per-node N -m qctrun.cli.main train ...

    \b
    Written into the folder of --out:
      checkpoint.pt   the network, to go on with or for `qctrun export`
      log.csv         one line an epoch
      training.json   recipe, donors, seconds, machine, and scores on what was never seen
    """
    split = split or ("donors" if folds is None else "positions")
    require_one_split(split, folds, microct, pairs)
    from qctrun.train.recipe import load_recipe, recipe_text

    found = load_recipe(recipe)
    if show_recipe:
        click.echo(recipe_text(recipe), nl=False)
        return
    found = replace(found, **{name: value for name, value in changes.items() if value is not None})
    machine = {"device": device, "threads": threads}
    name = found.name + "-pairs" * (pairs is not None)
    if split == "donors" and folds is None:
        run = out = out or Path("runs") / name
        _train(call, found, out, {"pairs": pairs, "microct": microct, "fields": fields}, machine)
    else:
        out = out or Path("runs") / f"{name}-{split}"
        run = out / "fold-1"
        _train_folds(call, found, out, pairs, split, folds, machine)
    call.say(f"wrote {out}; next: qctrun export {shlex.quote(str(run))}")


def _prepare(call: Call, device: str) -> None:
    """What has to hold before minutes of simulation; of a team only the first speaks."""
    from qctrun.train.needs import require_torch

    require_torch()
    from qctrun.train.team import chosen_device, leads

    call.quiet = call.quiet or not leads()
    chosen_device(device)


def _train(call: Call, recipe: Any, out: Path, data: dict[str, Any], machine: dict[str, Any]) -> None:
    _prepare(call, machine["device"])
    from qctrun.train.evaluate import as_text
    from qctrun.train.run import run

    split = split_of(call, recipe, out, **data)
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
        click.echo(f"{kind} never seen in training, {measured_words(split.test.spacing_mm)}\n{as_text(rows)}")


def _train_folds(
    call: Call,
    recipe: Any,
    out: Path,
    pairs: Path | None,
    split: str,
    folds: int | None,
    machine: dict[str, Any],
) -> None:
    _prepare(call, machine["device"])
    from qctrun.train.evaluate import as_text
    from qctrun.train.study.fold_runs import shares_text, train_folds

    data, count, before = folds_of(pairs, split, folds)
    with call.progress("steps of this epoch") as progress:
        found = train_folds(
            recipe,
            out,
            data,
            split,
            count,
            **machine,
            say=call.say,
            before=before,
            report=lambda line: call.say(epoch_words(line)),
            progress=progress,
        )
    for number, rows in enumerate(found, 1):
        words = f"{unseen_words(split, pairs)}, {measured_words(data.spacing_mm)}"
        click.echo(f"fold {number}: {words}\n{as_text(rows)}")
    if found:
        click.echo(f"RMSE in percent of raw, mean +- half range, folds: {count}\n{shares_text(found)}")
