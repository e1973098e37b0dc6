"""`qctrun report`: a folder of results in, one HTML page for people out, with its pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
from qctrun.cli.options import DEFAULT_OUT, PathType, verb

if TYPE_CHECKING:
    from qctrun.runtime.writing import RunRecord, Staging
    from qctrun.runtime.writing.report import Report, RunFolder

_MOST_SLICES = 24


@verb("report")
@click.argument("folder", metavar="[FOLDER]", default=DEFAULT_OUT, type=PathType())
@click.option(
    "-o", "--out", type=PathType(), metavar="FOLDER", help="Folder to write into. [default: FOLDER]"
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier report.")
@click.option(
    "--slices",
    type=click.IntRange(1, _MOST_SLICES),
    default=1,
    show_default=True,
    metavar="N",
    help="Axial slices of the density, evenly through the mask; 1 is the middle.",
)
@click.option(
    "--title",
    metavar="TEXT",
    help="What the page calls the scan, '' for nothing. [default: its file or folder name without suffix]",
)
def command(
    call: Call, folder: Path, out: Path | None, overwrite: bool, slices: int, title: str | None
) -> None:
    """Make one HTML page about a run, with its pictures. Needs the extra "report".

    FOLDER is where `qctrun filter`, `params` or `calibrate` has written; without it ./qctrun-out. The page
    holds its pictures and needs no network. It names no patient and no path; but the name of the scan's own
    file or folder stands as its title unless --title says another.

    \b
    Written into the folder of --out:
      report.html         the page
      report_*.png        its pictures
      report.run.json     the record of the run
    """
    from qctrun.runtime.writing import RunRecord, Staging, record_name
    from qctrun.runtime.writing.report import PAGE_NAME, open_run, picture_names, require_report

    require_report()
    run, target = open_run(folder), out or folder
    options = {"input": folder, "out": target, "overwrite": overwrite, "slices": slices, "title": title}
    record = RunRecord("report", ("qctrun", *call.argv), options)
    names = [*picture_names(run, slices), PAGE_NAME, record_name("report")]
    with Staging(target, names, overwrite=overwrite, inputs=_sources(run)) as staging:
        report = _made(call, record, run)
        _stage(record, staging, report, run)
        call.replaced(staging.commit())
    call.say(
        f"wrote {target / PAGE_NAME} and {len(report.pictures)} pictures in {sum(record.seconds.values()):.1f} s"
    )


def _made(call: Call, record: "RunRecord", run: "RunFolder") -> "Report":
    from qctrun.runtime.writing.report import make_report

    options: Any = record.options
    with record.stage("make"), call.progress("report") as progress:
        report = make_report(run, title=options["title"], slices=options["slices"], progress=progress)
    for note in report.notes:
        call.warn(note)
    record.warnings += report.notes
    return report


def _stage(record: "RunRecord", staging: "Staging", report: "Report", run: "RunFolder") -> None:
    from qctrun.runtime.writing import record_name
    from qctrun.runtime.writing.report import PAGE_NAME

    for source in _sources(run):
        record.add_input("record", source)
    with record.stage("write"):
        for name, data in report.pictures.items():
            record.add_output("picture", name, staging.add_bytes(name, data))
        record.add_output("page", PAGE_NAME, staging.add_text(PAGE_NAME, report.html))
    record.add_to(staging, record_name("report"))


def _sources(run: "RunFolder") -> list[Path]:
    """The records that the report is about."""
    from qctrun.runtime.writing import record_name

    return [run.folder / record_name(verb) for verb in run.records]
