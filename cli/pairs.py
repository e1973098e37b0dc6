"""`qctrun pairs`: a study file in, one dataset of registered and calibrated pairs out."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, output_options, verb

if TYPE_CHECKING:
    from qctrun.runtime.writing import RunRecord, Staging
    from qctrun.train.pairs.cache import Cache
    from qctrun.train.pairs.choices import StudyFile
    from qctrun.train.pairs.table import Row
    from qctrun.train.pairs.walked import Walked

CACHE = ".cache"
TABLE, POSITIONS = "pairs.csv", "positions.csv"
SCANCO = (".aim", ".isq")
_MOST_JOBS = 256


def _spacing(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[float, float, float] | None:
    """Callback: three numbers of mm with commas between them."""
    if value is None:
        return None
    from qctrun.runtime.errors import InputError
    from qctrun.train.pairs.study_file import spacing_of

    try:
        return spacing_of([float(part) for part in value.split(",")], "--spacing")
    except (ValueError, InputError):
        raise click.BadParameter(
            f"wanted Z,Y,X in mm, each up to 5, like 0.34,0.172,0.172, got {value!r}"
        ) from None


@verb("pairs")
@click.argument("study", metavar="STUDY", type=PathType())
@click.option(
    "--spacing",
    callback=_spacing,
    metavar="Z,Y,X",
    help="Grid of the dataset in mm, over the file's spacing_mm. [default: the paper's, 0.34,0.172,0.172]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, _MOST_JOBS),
    default=1,
    show_default=True,
    metavar="N",
    help="Specimens at a time; each takes the memory of its own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the tables as JSON.")
@output_options
def command(
    call: Call,
    study: Path,
    spacing: tuple[float, float, float] | None,
    jobs: int,
    as_json: bool,
    out: Path,
    overwrite: bool,
) -> None:
    """Register and calibrate QCT scans on their reference scans, and make one dataset to train on.

    STUDY is a TOML file that names specimens, the reference scan and mask of each, and its QCT scans. Every
    registration is judged; a doubted one is left out, unless the file says accept = true. Stopped at any moment, the
    same command goes on where it was. Needs the extra "pairs".

    \b
    qctrun pairs study.toml --out pairs/
    qctrun train --pairs pairs/

    \b
    Written into the folder of --out:
      pairs.h5                              the dataset
      pairs.csv, positions.csv              one row a scan, one row a specimen
      <specimen>_<scan>_checkerboard.png    scan and reference in turn, in three cuts
      <specimen>_<scan>_calibration.png     the fit of the line from HU to density
      pairs.run.json                        the record of the run
      .cache/                               what need not be done again; may be deleted
    """
    from qctrun.train.pairs.study_file import load_study

    found = load_study(study)
    found = found if spacing is None else replace(found, spacing_mm=spacing)
    options = {
        "study": study,
        "spacing_mm": found.spacing_mm,
        "jobs": jobs,
        "out": out,
        "overwrite": overwrite,
    }
    _require_extras(found)
    _require_outside(out, _sources(found))
    _run(call, found, options, as_json)


def _require_extras(study: "StudyFile") -> None:
    """What has to be installed, before hours go into what needs it."""
    from qctrun.runtime.extras import library
    from qctrun.runtime.formats import suffix_of
    from qctrun.runtime.reading.scanco import require_itk

    library("h5py", "pairs")
    library("matplotlib.figure", "picture")
    if any(suffix_of(each.reference) in SCANCO for each in study.specimens):
        require_itk()


def _require_outside(out: Path, sources: list[Path]) -> None:
    """Outputs in a folder of slices would be taken for a part of the scan, and for a change of it."""
    from qctrun.runtime.errors import UsageError

    for source in sources:
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise UsageError("--out", wanted="a folder outside of the scans", got=f"{out}, in {source}")


def _run(call: Call, study: "StudyFile", options: dict[str, Any], as_json: bool) -> None:
    from qctrun.runtime.writing import RunRecord, Staging
    from qctrun.train.pairs.cache import Cache
    from qctrun.train.pairs.run import known, rows_of, run_study, seen_to

    out: Path = options["out"]
    cache, keys = Cache(out / CACHE), known(study)
    if _is_done(out, keys.whole) and (walked := seen_to(study, cache, keys)):
        _print(rows_of(walked), as_json)
        _warn(call, walked)
        call.say(f"nothing has changed since {out} was made, {_next(out)}")
        return
    record = RunRecord("pairs", ("qctrun", *call.argv), {**options, "key": keys.whole})
    names = _names(study)
    with (
        Staging(out, names, overwrite=options["overwrite"], inputs=_sources(study)) as staging,
        cache.alone(),
    ):
        with record.stage("walk"), call.progress("registering scans") as progress:
            walked = run_study(study, cache, keys, jobs=options["jobs"], say=call.say, progress=progress)
        _stage(record, staging, study, cache, walked)
        call.replaced(staging.commit())
    _print(rows_of(walked), as_json)
    _warn(call, walked)
    call.say(f"wrote {out} in {sum(record.seconds.values()):.1f} s, {_next(out)}")


def _names(study: "StudyFile") -> list[str]:
    from qctrun.runtime.writing import record_name
    from qctrun.train.pairs.dataset import PAIRS
    from qctrun.train.pairs.run import picture_names

    return [PAIRS, TABLE, POSITIONS, *picture_names(study), record_name("pairs")]


def _sources(study: "StudyFile") -> list[Path]:
    scans = [scan for specimen in study.specimens for scan in specimen.scans]
    found = [study.calibration.file, *(path for scan in scans for path in (scan.path, scan.landmarks))]
    found += [path for each in study.specimens for path in (each.reference, each.mask)]
    return [study.path, *(path for path in found if path is not None)]


def _is_done(out: Path, key: str) -> bool:
    """Whether the last run has made just this, and its outputs are as it left them."""
    from qctrun.runtime.errors import InputError
    from qctrun.runtime.writing import read_record, record_name, sum_of

    try:
        record = read_record(out / record_name("pairs"))
        wanted = {output["path"]: output["sha256"] for output in record["outputs"]}
        return record["options"]["key"] == key and all(
            sum_of(out / name) == digest for name, digest in wanted.items()
        )
    except (InputError, KeyError, TypeError):
        return False


def _stage(
    record: "RunRecord", staging: "Staging", study: "StudyFile", cache: "Cache", walked: "list[Walked]"
) -> None:
    from qctrun.runtime.writing import record_name
    from qctrun.train.pairs.dataset import PAIRS
    from qctrun.train.pairs.run import joined, rows_of, warnings_of
    from qctrun.train.pairs.table import POSITION_COLUMNS, csv_text, position_rows

    record.add_input("study", study.path)
    record.warnings += warnings_of(walked)
    rows = rows_of(walked)
    with record.stage("write"):
        for each in walked:
            record.inputs += each.inputs
            for name, place in each.pictures.items():
                picture = staging.add_bytes(name, (cache.folder / place).read_bytes())
                record.add_output(name.rsplit("_", 1)[-1].removesuffix(".png"), name, picture)
        positions = csv_text(position_rows(rows), POSITION_COLUMNS)
        record.add_output("positions", POSITIONS, staging.add_text(POSITIONS, positions))
        record.add_output("table", TABLE, staging.add_text(TABLE, csv_text(rows)))
        # Moved, not written there: what a killed run leaves lies in the cache, where the next one takes it away.
        pairs = joined(study, cache, walked).replace(staging.hidden(PAIRS))
        record.add_output("pairs", PAIRS, pairs)
    record.add_to(staging, record_name("pairs"))


def _print(rows: "list[Row]", as_json: bool) -> None:
    from qctrun.runtime.json_files import json_text
    from qctrun.train.pairs.table import position_rows, table_text

    told = {"scans": rows, "specimens": position_rows(rows)}
    click.echo(json_text(told) if as_json else table_text(rows), nl=False)


def _warn(call: Call, walked: "list[Walked]") -> None:
    from qctrun.train.pairs.run import warnings_of

    for words in warnings_of(walked):
        call.warn(words)


def _next(out: Path) -> str:
    return f"next: qctrun train --pairs {shlex.quote(str(out))}"
