"""`qctrun metrics`: repeated measurements in, their precision and accuracy out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, Reading, mask_option, output_options, reading_options, verb
from qctrun.cli.scans import lay_labels, read_scan

if TYPE_CHECKING:
    from qctrun.runtime import Volume
    from qctrun.runtime.reading.repeats import Repeated
    from qctrun.runtime.writing import RunRecord, Staging
    from qctrun.runtime.writing.metric_tables import Judged

TABLE_SUFFIX = ".csv"
_COLUMN_OPTIONS = ("subject", "values", "repetition", "given", "cluster", "by")
_NO_READING = Reading(None, None, None, None, False, False)


def _columns(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Callback: names of columns with commas between them, doubles refused."""
    if value is None:
        return ()
    found = tuple(name.strip() for name in value.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise click.BadParameter(
            f"wanted names of columns, each once, with commas between them, got {value!r}"
        )
    return found


@verb("metrics")
@click.argument("sources", metavar="INPUT...", nargs=-1, required=True, type=PathType())
@click.option(
    "--subject", callback=_columns, metavar="COL,...", help="Table: what was measured repeatedly. Required."
)
@click.option("--values", callback=_columns, metavar="COL,...", help="Table: measured quantities. Required.")
@click.option(
    "--repetition",
    metavar="COL",
    help="Table: which measurement of the subject. [default: the order of its rows]",
)
@click.option(
    "--truth",
    metavar="COL,...|FILE",
    help="True values: in a table one column for each of --values, for volumes a volume. "
    "Without it only precision is judged.",
)
@click.option(
    "--given", metavar="COL", help="Table: what is known beside, such as raw BMD; gives the partial R2."
)
@click.option(
    "--cluster", metavar="COL", help="Table: what subjects belong to, such as the vertebra of a patch."
)
@click.option("--by", callback=_columns, metavar="COL,...", help="Table: judge each combination on its own.")
@mask_option("Volumes: which voxels count. Several labels are clusters. Local maps do without.")
@click.option(
    "--resamples",
    type=click.IntRange(0, 1_000_000),
    default=2000,
    show_default=True,
    metavar="N",
    help="Draws of the bootstrap; 0 for no intervals.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Of the bootstrap."
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON instead of a table.")
@output_options
@reading_options
def command(
    call: Call, sources: tuple[Path, ...], out: Path, overwrite: bool, reading: Reading, **settings: Any
) -> None:
    """Precision and accuracy of repeated measurements of anything.

    INPUT is one or several CSV tables, one row a measurement; or two or more volumes, repeated scans of one
    thing on one grid (scans, filtered volumes or local maps), whose voxels in --mask are the data points.

    \b
    qctrun metrics scans.csv --subject patient --values bmd_mg_cm3
    qctrun metrics first.nii.gz second.nii.gz third.nii.gz --truth truth.nii.gz --mask mask.nii.gz

    \b
    Written into the folder of --out:
      metrics.csv, metrics.json  one row a group, variable and statistic; what they mean
      metrics.run.json           the record of the run
    """
    as_table = _is_table(sources, settings, reading)
    settings["json"] = settings.pop("as_json")
    options = {"inputs": sources, "out": out, "overwrite": overwrite, **settings, **reading.keywords()}
    _run(call, options, reading, as_table)


def _is_table(sources: tuple[Path, ...], settings: dict[str, Any], reading: Reading) -> bool:
    """Whether tables are given; what belongs to the other kind of input is refused."""
    twice = [path for number, path in enumerate(sources) if path in sources[:number]]
    if twice:
        raise click.UsageError(f"INPUT: wanted each file once, got {twice[0]} twice")
    tables = [path.suffix.lower() == TABLE_SUFFIX for path in sources]
    if any(tables) and not all(tables):
        raise click.UsageError("INPUT: wanted tables or volumes, got both")
    if all(tables):
        if not (settings["subject"] and settings["values"]):
            raise click.UsageError("a table needs --subject COL and --values COL")
        if settings["mask"] or settings["resample_labels"] or reading != _NO_READING:
            raise click.UsageError("--mask and the options of reading scans are for volumes, got a table")
        return True
    named = [name for name in _COLUMN_OPTIONS if settings[name]]
    if named:
        raise click.UsageError(f"--{named[0]} is for tables ({TABLE_SUFFIX}), got volumes")
    return False


def _run(call: Call, options: dict[str, Any], reading: Reading, as_table: bool) -> None:
    from qctrun.runtime.json_files import json_text
    from qctrun.runtime.writing import RunRecord, Staging, record_name
    from qctrun.runtime.writing.metric_tables import (
        METRICS_DICTIONARY_NAME,
        METRICS_NAME,
        check_group_columns,
        metric_rows,
        metrics_text,
    )

    check_group_columns(options["by"])
    record = RunRecord("metrics", ("qctrun", *call.argv), options)
    names = [METRICS_DICTIONARY_NAME, METRICS_NAME, record_name("metrics")]
    with Staging(options["out"], names, overwrite=options["overwrite"], inputs=_files(options)) as staging:
        with record.stage("read"):
            found = _of_tables(record) if as_table else [_of_volumes(call, record, reading)]
        judged = _judge(call, record, found)
        rows = metric_rows(judged)
        _stage(record, staging, rows)
        call.replaced(staging.commit())
    click.echo(json_text(rows) if options["json"] else metrics_text(judged), nl=False)
    call.say(f"wrote {options['out'] / METRICS_NAME}")


def _files(options: dict[str, Any]) -> list[Path]:
    """What the run reads; --truth names columns of a table, or a file."""
    more = [Path(options["truth"])] if options["truth"] and not options["subject"] else []
    return [*options["inputs"], *more, *([options["mask"]] if options["mask"] else [])]


def _of_tables(record: "RunRecord") -> "list[Repeated]":
    from qctrun.runtime.reading.repeats import Roles, repeated
    from qctrun.runtime.reading.tables import read_table

    options = record.options
    table = read_table(options["inputs"])
    for path in options["inputs"]:
        record.add_input("table", path)
    truth = tuple(name.strip() for name in options["truth"].split(",")) if options["truth"] else ()
    return repeated(table, Roles(truth=truth, **{name: options[name] for name in _COLUMN_OPTIONS}))


def _of_volumes(call: Call, record: "RunRecord", reading: Reading) -> "Repeated":
    from qctrun.runtime.reading.maps import is_map
    from qctrun.runtime.reading.repeats import repeated_volumes

    options = record.options
    paths = [*options["inputs"], *([Path(options["truth"])] if options["truth"] else [])]
    maps = [is_map(path) for path in paths]
    if any(maps) and not all(maps):
        raise click.UsageError(f"wanted local maps only, got {paths[maps.index(False)]} beside them")
    if options["mask"] is None and not all(maps):
        raise click.UsageError("scans need --mask FILE: without it air would count")
    if all(maps):
        volumes = _maps(call, record, paths)
        variable = volumes[0].provenance["how"]["quantity"]
    else:
        volumes = [read_scan(call, record, path, reading) for path in paths]
        variable = "voxel"
    record.warnings += dict.fromkeys(warning for volume in volumes for warning in volume.warnings)
    labels = None
    if options["mask"] is not None:
        labels = lay_labels(call, record, "mask", options["mask"], volumes[0]).array
    truth = volumes.pop() if options["truth"] else None
    return repeated_volumes(volumes, truth, labels, variable)


def _maps(call: Call, record: "RunRecord", paths: list[Path]) -> "list[Volume]":
    from qctrun.runtime.reading.maps import read_map, require_same_map

    volumes = [read_map(path) for path in paths]
    for path, volume in zip(paths, volumes, strict=True):
        record.add_input("map", path)
        require_same_map(volumes[0], volume, str(path))
        for warning in volume.warnings:
            call.warn(warning)
    return volumes


def _judge(call: Call, record: "RunRecord", found: "list[Repeated]") -> "list[Judged]":
    from qctrun.runtime.errors import InputError
    from qctrun.runtime.measuring.metrics import metrics
    from qctrun.runtime.writing.metric_tables import Judged

    settings = {name: record.options[name] for name in ("resamples", "seed")}
    with record.stage("statistics"):
        numbers = [metrics(one.x, one.y, clusters=one.clusters, given=one.given, **settings) for one in found]
    if not any(number.points for number in numbers):
        mend = (
            "name columns that tell subjects and repetitions, or leave --repetition out: rows in their order"
        )
        raise InputError("data points", wanted="one that has all its repetitions", got="none", mend=mend)
    told = [(*one.warnings, *number.warnings) for one, number in zip(found, numbers, strict=True)]
    for words in dict.fromkeys(warning for warnings in told for warning in warnings):
        concerned = [_title(one) for one, warnings in zip(found, told, strict=True) if words in warnings]
        warning = words if len(concerned) == len(found) else f"{'; '.join(concerned)}: {words}"
        record.warnings.append(warning)
        call.warn(warning)
    return [Judged(one.group, one.variable, number) for one, number in zip(found, numbers, strict=True)]


def _title(one: "Repeated") -> str:
    return ", ".join([*(f"{name} {value}" for name, value in one.group.items()), one.variable])


def _stage(record: "RunRecord", staging: "Staging", rows: list[dict[str, Any]]) -> None:
    from qctrun.runtime.writing import record_name
    from qctrun.runtime.writing.metric_tables import (
        METRICS_DICTIONARY_NAME,
        METRICS_NAME,
        metrics_csv,
        metrics_dictionary,
    )

    with record.stage("write"):
        table = staging.add_text(METRICS_NAME, metrics_csv(rows))
        record.add_output("table", METRICS_NAME, table)
        dictionary = staging.add_text(METRICS_DICTIONARY_NAME, metrics_dictionary())
        record.add_output("dictionary", METRICS_DICTIONARY_NAME, dictionary)
    record.add_to(staging, record_name("metrics"))
