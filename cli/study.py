"""`qctrun study`: the paper's experiment on simulated scans, and whether the simulator deserves it."""

from pathlib import Path
from typing import Any

import click

from qctrun.cli.call import Call
from qctrun.cli.epochs import epoch_words
from qctrun.cli.failures import EXIT_CODES
from qctrun.cli.options import PathType, computing_options, verb
from qctrun.cli.study_lab import lab_command

_WORK = "runs/study"


@click.group("study", epilog=EXIT_CODES, context_settings={"max_content_width": 110})
@click.help_option("-h", "--help")
def command() -> None:
    """Reproduce the paper's tables on simulated scans.

    \b
    qctrun study check-raw                   raw scans and truth against the paper's Tables 1-3
    qctrun study run --out docs/results      everything: training, tables and figures
    qctrun study lab --out lab               a study of two scanners on disk, for qctrun pairs
    """


@verb("check-raw")
@click.option("--json", "as_json", is_flag=True, help="Print the cells as JSON.")
def check_raw_command(call: Call, as_json: bool) -> None:
    """Hold the simulator's truth and raw scans against the paper's Tables 1-3, cell by cell.

    Five vertebrae with 2240 patch positions, 360 and 100 mAs, three repetitions. A cell that is out of its limit
    ends the program with exit code 3.
    """
    from qctrun.runtime.errors import InputError
    from qctrun.runtime.json_files import json_text
    from qctrun.train.study.check_raw import check_raw
    from qctrun.train.study.raw_checks import check_rows, checks_text

    with call.progress("simulating vertebrae") as progress:
        checks = check_raw(progress=progress)
    click.echo(json_text({"cells": check_rows(checks)}) if as_json else checks_text(checks), nl=False)
    missed = [check.name for check in checks if not check.met]
    if missed:
        raise InputError("simulator", wanted="every cell within its limit", got=f"not {', '.join(missed)}")


@verb("run")
@click.option(
    "-o",
    "--out",
    type=PathType(),
    default="study-results",
    show_default=True,
    metavar="DIR",
    help="For tables and figures.",
)
@click.option(
    "--work",
    type=PathType(),
    default=_WORK,
    show_default=True,
    metavar="DIR",
    help="For trainings and readings; the same command goes on from there.",
)
@click.option(
    "--microct",
    type=PathType(),
    metavar="DIR",
    help="Public L1 micro-CT cubes, for the split by real donors.",
)
@click.option(
    "--schedule",
    type=click.Choice(["full", "paper", "short"]),
    default="full",
    show_default=True,
    help="full: five folds, for a GPU; paper: the same with the paper's own recipes; short: a small part of it, "
    "for two CPU cores and two and a half hours.",
)
@click.option(
    "--filters",
    default="Gaussian,NLM,TV,Wiener,BM4D,BM4D-PSD",
    show_default=True,
    metavar="NAME,...",
    help="Filters to compare with; one that is not installed is left out.",
)
@click.option("--overwrite", is_flag=True, help="Replace earlier results.")
@computing_options
def run_command(
    call: Call,
    out: Path,
    work: Path,
    microct: Path | None,
    schedule: str,
    filters: str,
    overwrite: bool,
    device: str,
    threads: int | None,
) -> None:
    """Train, filter, measure and judge, and write the paper's tables with ours beside them.

    Stopped at any moment, the same command goes on where it was. Needs the extras "train", "report" and "study".

    \b
    Written into the folder of --out:
      README.md          leads to everything
      table-1.md ...     the paper's tables in three splits, goals, thresholds
      results.csv        every number as one table
      *.png              figures
    """
    from qctrun.runtime.extras import library
    from qctrun.runtime.writing import Staging
    from qctrun.train.needs import require_torch

    require_torch()
    library("matplotlib.figure", "picture")
    from qctrun.train.study.check_raw import check_raw
    from qctrun.train.study.pictures import drawn
    from qctrun.train.study.publish import INDEX, file_names, index_page, published
    from qctrun.train.study.run import READINGS

    with call.progress("steps of this epoch") as steps:
        study = _study(call, steps, work, microct, schedule, filters, device, threads)
        with Staging(out, file_names(study.splits), overwrite=overwrite) as staging:
            study.train()
            results = study.measure()
            texts = published(results, check_raw(work / READINGS), study.made())
            texts[INDEX] = index_page(study.splits, study.made())
            for name, text in texts.items():
                staging.add_text(name, text)
            call.say("drawing")
            for name, picture in drawn(study, results).items():
                staging.add_bytes(name, picture)
            staging.commit()
    click.echo(texts["goals.md"], nl=False)
    call.say(f"wrote {out / INDEX}")


def _study(
    call: Call,
    steps: Any,
    work: Path,
    microct: Path | None,
    schedule: str,
    filters: str,
    device: str,
    threads: int | None,
) -> Any:
    from qctrun.runtime.errors import UsageError
    from qctrun.train.study.compared import NAMES
    from qctrun.train.study.data import Data
    from qctrun.train.study.run import Study, Words
    from qctrun.train.study.schedule import schedule_of

    names = [name.strip() for name in filters.split(",") if name.strip()]
    if unknown := [name for name in names if name not in NAMES]:
        raise UsageError("--filters", wanted=" or ".join(NAMES), got=unknown[0])
    words = Words(call.say, lambda line: call.say(epoch_words(line)), steps)
    return Study(schedule_of(schedule), work, Data(microct), names, device, words, threads)


command.add_command(check_raw_command)
command.add_command(run_command)
command.add_command(lab_command)
