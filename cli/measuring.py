"""What `qctrun params` and `qctrun filter --params` share: options, regions, the table and its maps."""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from qctrun.cli.call import Call
from qctrun.cli.options import Command, PathType, label_ids, numbers
from qctrun.cli.targets import near

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from qctrun.runtime import Volume
    from qctrun.runtime.measuring import Parameters
    from qctrun.runtime.volume import MapKey
    from qctrun.runtime.writing import RunRecord, Staging
    from qctrun.runtime.writing.dicom import Source
    from qctrun.runtime.writing.tables import Row

_NO_VOXELS = (
    "labels without a voxel that counts: {}; their rows say 0 voxels; do mask and labels belong together?"
)
_NO_MASK = "no mask: air and soft tissue count too; give --mask FILE to measure bone"


@dataclass(frozen=True, slots=True)
class Measuring:
    """What to measure; the fields are the options' names in a record."""

    thresholds: tuple[float, ...]
    diameter_mm: float
    step: str
    labels: Path | None
    label_ids: tuple[int | str, ...] | None
    label_names: Path | None
    inside: bool
    json: bool

    def keywords(self) -> dict[str, Any]:
        """For the options of a record."""
        return asdict(self)

    def check_labels(self) -> None:
        """Refuse --label-ids and --label-names without --labels."""
        if not self.labels and (self.label_ids or self.label_names):
            option = "--label-ids" if self.label_ids else "--label-names"
            raise click.UsageError(f"{option} needs --labels FILE")

    def check_inside(self, mask: Path | None) -> None:
        """Refuse --inside where nothing is known to be inside of; `mask` is the one that is used, if any."""
        if self.inside and not (mask or self.labels):
            raise click.UsageError("--inside needs --mask FILE or --labels FILE")


@dataclass(frozen=True, slots=True)
class Regions:
    """On the grid of a volume (z, y, x): the voxels that count, all where there is no mask, and the labels with
    their names as far as they are known.
    """

    mask: "npt.NDArray[np.bool_] | None"
    labels: "npt.NDArray[np.int32] | None"
    names: "Mapping[int, str]"


def measuring_options(command: Command) -> Command:
    """--thresholds, --diameter, --step, --labels, --label-ids, --label-names, --inside and --json as
    `measuring: Measuring`.
    """

    @functools.wraps(command)
    def bundled(*args: Any, **options: Any) -> Any:
        measuring = Measuring(**{name: options.pop(name) for name in Measuring.__dataclass_fields__})
        return command(*args, measuring=measuring, **options)

    decorated: Command = bundled
    for option in reversed(_options()):
        decorated = option(decorated)
    return decorated


def _options() -> list[Any]:
    return [
        click.option(
            "--thresholds",
            callback=numbers,
            default="225",
            show_default=True,
            metavar="T,T,...",
            help="Densities in mg/cm3 from which a voxel counts as bone.",
        ),
        click.option(
            "--diameter",
            "diameter_mm",
            type=click.FloatRange(min=0, min_open=True),
            default=4.3,
            show_default=True,
            metavar="MM",
            help="Diameter of the spheres of the local maps.",
        ),
        click.option(
            "--step",
            type=click.Choice(["fuzzy", "hard"]),
            default="fuzzy",
            show_default=True,
            help="Threshold step of the local maps.",
        ),
        click.option(
            "--labels", type=PathType(), metavar="FILE", help="Label map: one row more for each label."
        ),
        *label_options("Which labels to take, by number or name. [default: all]"),
        click.option(
            "--inside",
            is_flag=True,
            help="Local maps only where the sphere lies wholly in the mask; without a mask, "
            "in the union of all labels taken.",
        ),
        click.option("--json", is_flag=True, help="Print the rows as JSON instead of a table."),
    ]


def label_options(effect: str) -> list[Any]:
    """--label-ids and --label-names; `effect` says what the first does to the verb."""
    return [
        click.option("--label-ids", callback=label_ids, metavar="ID,NAME,...", help=effect),
        click.option(
            "--label-names",
            type=PathType(),
            metavar="FILE",
            help="How the labels are called: JSON, CSV, TSV, a label table of ITK-SNAP or 3D Slicer, or the word "
            "totalsegmentator. [default: what the label map says itself]",
        ),
    ]


def refuse_measuring() -> None:
    """Refuse options of measuring that were typed where nothing is measured."""
    context = click.get_current_context()
    for param in context.command.params:
        typed = context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if typed and param.name in Measuring.__dataclass_fields__:
            raise click.UsageError(f"{param.opts[0]} is about measuring and needs --params")


def map_names(
    stem: str, thresholds: tuple[float, ...], formats: tuple[str, ...]
) -> "dict[MapKey, tuple[str, ...]]":
    """What the images of the local maps are called, in each format."""
    from qctrun.runtime.writing import map_name

    keys: list[MapKey] = ["BMD", "SD", *((name, t) for t in thresholds for name in ("BVTV", "TMD"))]
    return {key: tuple(map_name(stem, key, each) for each in formats) for key in keys}


def by_name(maps: "dict[MapKey, Volume]", names: "dict[MapKey, tuple[str, ...]]") -> "dict[str, Volume]":
    """The maps by the names of all their images."""
    return {name: found for key, found in maps.items() for name in names[key]}


def output_names(maps: "dict[MapKey, tuple[str, ...]]") -> list[str]:
    """All that a measurement writes, in the order of placing, but for its record."""
    from qctrun.runtime.writing import DICTIONARY_NAME, TABLE_NAME, with_sidecars

    images = with_sidecars(name for names in maps.values() for name in names)
    return [*images, DICTIONARY_NAME, TABLE_NAME]


def read_regions(call: Call, record: "RunRecord", volume: "Volume") -> Regions:
    """Read the mask and the labels that the options of the record name; say when nothing restricts."""
    from qctrun.cli.scans import lay_labels, read_mask

    options = record.options
    mask = read_mask(call, record, options["mask"], volume)
    if options["labels"] is not None:
        asked, names = options["label_ids"], options["label_names"]
        found = lay_labels(call, record, "labels", options["labels"], volume, asked, names)
        if names is not None and names.is_file():
            record.add_input("label_names", names)
        return Regions(found.array != 0 if mask is None else mask, found.array, found.names)
    if mask is None:
        call.warn(_NO_MASK)
        record.warnings.append(_NO_MASK)
    return Regions(mask, None, {})


def note_maps(call: Call, record: "RunRecord", volume: "Volume", maps: "dict[MapKey, Volume]") -> None:
    """Note where the maps of a volume were computed and what they warn of; say what the volume did not tell."""
    record.device = {**record.device, "used": maps["BMD"].provenance["map"]["device"]}
    warnings = maps["BMD"].warnings
    for warning in warnings[len(volume.warnings) :]:
        call.warn(warning)
    record.warnings += warnings


def table_rows(
    call: Call, record: "RunRecord", volume: "Volume", regions: Regions, maps: "dict[MapKey, Volume]"
) -> "list[Row]":
    """The rows of the table, one a region and threshold."""
    from qctrun.runtime.measuring import map_means, parameters
    from qctrun.runtime.writing import case_of, parameter_rows

    options, labels = record.options, regions.labels
    with record.stage("parameters"):
        found = parameters(volume, options["thresholds"], regions.mask, labels)
        _tell_of_empty(call, record, found)
        places = {p.label: None if labels is None or p.label is None else labels == p.label for p in found}
        return parameter_rows(
            volume,
            found,
            {label: map_means(maps, place) for label, place in places.items()},
            image=str(options["input"]),
            case_id=case_of(volume.provenance["stem"]),
            mask=str(options["mask"] or options["labels"] or "none"),
            labels=str(options["labels"] or "none"),
            names=regions.names,
            diameter_mm=options["diameter_mm"],
            step=options["step"],
        )


def stage_measurement(
    record: "RunRecord",
    staging: "Staging",
    rows: "list[Row]",
    maps: "dict[str, Volume]",
    headers: "Source | None" = None,
) -> None:
    """Stage maps (by their file names), table, dictionary and record; the headers of the scan are for DICOM."""
    from qctrun.runtime import writing

    with record.stage("write"):
        written = writing.stage_images(staging, maps, record.options["threads"], headers)
        for name, path in written.items():
            grid = maps[name].grid if name in maps else None
            record.add_output("map" if grid else "sidecar", name, path, grid)
        table = staging.add_text(writing.TABLE_NAME, writing.csv_text(rows))
        record.add_output("table", writing.TABLE_NAME, table)
        dictionary = staging.add_text(writing.DICTIONARY_NAME, writing.dictionary_text())
        record.add_output("dictionary", writing.DICTIONARY_NAME, dictionary)
    record.add_to(staging, writing.record_name("params"))


def print_rows(rows: "list[Row]", *, as_json: bool) -> None:
    """The table to stdout, for people or as JSON."""
    from qctrun.runtime.writing import rows_text, table_text

    shown = [{**row, "mask": str(near(Path(row["mask"])))} for row in rows]
    click.echo(rows_text(rows) if as_json else table_text(shown), nl=False)


def _tell_of_empty(call: Call, record: "RunRecord", found: "list[Parameters]") -> None:
    empty = dict.fromkeys(str(region.label) for region in found if not region.voxels)
    if empty:
        warning = _NO_VOXELS.format(", ".join(empty))
        call.warn(warning)
        record.warnings.append(warning)
