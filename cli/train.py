"""`qctrun train`: simulated scans in, a trained network and its scores out."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from qctrun.cli.call import Call
from qctrun.cli.epochs import epoch_words
from qctrun.cli.options import PathType, computing_options, verb

_FOLDS = 5
_UNSEEN = {
    "positions": "positions never seen in training, in vertebrae that were",
    "vertebrae": "a vertebra never seen in training",
}
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
    "model), nnsp-short, nnbmd-short or nnsp-muon (for two CPU cores), or a TOML file of your own.",
)
@click.option("--show-recipe", is_flag=True, help="Print the recipe's file, a start for one's own, and end.")
@click.option(
    "-o",
    "--out",
    type=PathType(),
    metavar="DIR",
    help="Folder of the run; default: runs/RECIPE, and runs/RECIPE-SPLIT for folds.",
)
@click.option(
    "--split",
    type=click.Choice(["positions", "vertebrae", "donors"]),
    help="What the test never saw: other positions in the study's five vertebrae (the paper's way), one of these "
    "vertebrae, or other donors. Default: donors; with --folds, positions.",
)
@click.option(
    "--folds",
    type=click.IntRange(1, _FOLDS),
    metavar="N",
    help="Trains folds 1 to N of positions or vertebrae, each in DIR/fold-K; default: all five.",
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
    split: str | None,
    folds: int | None,
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
      training.json   recipe, donors, seconds, machine, and scores on what was never seen
    """
    split = split or ("donors" if folds is None else "positions")
    _require_one_split(split, folds, microct)
    from qctrun.train.recipe import load_recipe, recipe_text

    found = load_recipe(recipe)
    if show_recipe:
        click.echo(recipe_text(recipe), nl=False)
        return
    found = replace(found, **{name: value for name, value in changes.items() if value is not None})
    machine = {"device": device, "threads": threads}
    if split == "donors":
        out = out or Path("runs") / found.name
        _train(call, found, out, {"microct": microct, "fields": fields}, machine)
    else:
        out = out or Path("runs") / f"{found.name}-{split}"
        _train_folds(call, found, out, split, folds or _FOLDS, machine)
    run = out if split == "donors" else out / "fold-1"
    call.say(f"wrote {out}; next: qctrun export {shlex.quote(str(run))}")


def _require_one_split(split: str, folds: int | None, microct: Path | None) -> None:
    """Refuse options that mean nothing for this way to split."""
    from qctrun.runtime.errors import UsageError

    typed = click.get_current_context().get_parameter_source("fields") is not ParameterSource.DEFAULT
    if split == "donors" and folds is not None:
        mend = "name one of them, or leave --folds away"
        raise UsageError("--folds", wanted="--split positions or vertebrae", got="--split donors", mend=mend)
    for option, is_there in (("--microct", microct is not None), ("--fields", typed)):
        if split != "donors" and is_there:
            got = f"--split {split}, which is of the study's five vertebrae"
            raise UsageError(option, wanted="--split donors", got=got, mend=f"leave {option} away")


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
    from qctrun.train.run import run, simulated

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


def _train_folds(call: Call, recipe: Any, out: Path, split: str, folds: int, machine: dict[str, Any]) -> None:
    _prepare(call, machine["device"])
    from qctrun.train.evaluate import as_text
    from qctrun.train.study.fold_runs import shares_text, train_folds

    with call.progress("steps of this epoch") as progress:
        found = train_folds(
            recipe,
            out,
            split,
            folds,
            **machine,
            say=call.say,
            report=lambda line: call.say(epoch_words(line)),
            progress=progress,
        )
    for number, rows in enumerate(found, 1):
        click.echo(
            f"fold {number}: {_UNSEEN[split]}, threshold 225 mg/cm3, spheres of 4.3 mm\n{as_text(rows)}"
        )
    if found:
        click.echo(f"RMSE in percent of raw, mean +- half range, folds: {folds}\n{shares_text(found)}")
