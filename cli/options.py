"""Options that several verbs share, and the kinds of values they take."""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from qctrun.cli.call import Call
from qctrun.cli.failures import EXIT_CODES
from qctrun.runtime.devices import BACKENDS, DEVICE_WORDS, MOST_THREADS, PRECISIONS, parse_device
from qctrun.runtime.errors import UsageError
from qctrun.runtime.formats import FORMATS

DEFAULT_OUT = "qctrun-out"

Command = Callable[..., Any]


class PathType(click.Path):
    """A path as typed; whether it is there and readable is left to the room that reads it and knows what to say."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)


def numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    """Callback: positive numbers with commas between them, doubles dropped."""
    try:
        found = [float(part) for part in value.split(",")]
    except ValueError:
        found = []
    if not found or not all(math.isfinite(number) and number > 0 for number in found):
        raise _bad("positive numbers with commas between them like 200,225,250", value)
    return tuple(dict.fromkeys(found))


def label_ids(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int | str, ...] | None:
    """Callback: whole numbers above 0, or names, with commas between them, doubles dropped."""
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(re.fullmatch(r"0*[1-9][0-9]*|.*[^\W\d].*", part) for part in parts):
        raise _bad("whole numbers above 0 or names with commas between them like 20,21 or L1,L2", value)
    return tuple(dict.fromkeys(int(part) if part.isdecimal() else part for part in parts))


def formats(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Callback: kinds of image files with commas between them, doubles dropped."""
    found = tuple(dict.fromkeys(part.strip().lower() for part in value.split(",")))
    if not set(found) <= set(FORMATS):
        raise _bad(f"one or more of {', '.join(FORMATS)} with commas between them", value)
    return found


@dataclass(frozen=True, slots=True)
class Reading:
    """How to take up the input; its fields are the keywords of `qctrun.runtime.read`."""

    calibration: str | None
    material: str | None
    unit: str | None
    series_uid: str | None
    strict: bool
    allow_resample: bool

    def keywords(self) -> dict[str, Any]:
        """For `read(path, **keywords)`."""
        return asdict(self)


def verb(name: str) -> Callable[[Command], click.Command]:
    """A command that knows -h, -q and -v, gets the `Call` first, and lists the exit codes in its help."""

    def decorate(command: Command) -> click.Command:
        stacked = _stacked(
            click.make_pass_decorator(Call, ensure=True)(command),
            click.option(
                "-q",
                "--quiet",
                is_flag=True,
                expose_value=False,
                callback=_be_quiet,
                is_eager=True,
                help="Say nothing but errors.",
            ),
            click.option(
                "-v",
                "--verbose",
                count=True,
                expose_value=False,
                callback=_be_verbose,
                is_eager=True,
                help="Say more; -vv shows the traceback of an error.",
            ),
            click.help_option("-h", "--help"),
        )
        settings = {"max_content_width": 110}
        built = click.command(name, epilog=EXIT_CODES, context_settings=settings)(stacked)
        built.params.sort(key=lambda param: param.name in ("quiet", "verbose", "help"))  # these stand last
        return built

    return decorate


def output_options(command: Command) -> Command:
    """--out and --overwrite, as `out: Path` and `overwrite: bool`."""
    return _stacked(
        command,
        click.option(
            "-o",
            "--out",
            type=PathType(),
            is_flag=False,
            flag_value=DEFAULT_OUT,
            default=DEFAULT_OUT,
            metavar="[FOLDER]",
            show_default=True,
            help="Folder to write into; bare, the default. The next word is taken as FOLDER, so write INPUT "
            "before a bare --out.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace the earlier run's outputs in FOLDER, all that its record lists.",
        ),
    )


def reading_options(command: Command) -> Command:
    """How to take up the input, bundled as `reading: Reading`."""

    @functools.wraps(command)
    def bundled(*args: Any, **options: Any) -> Any:
        reading = Reading(**{name: options.pop(name) for name in Reading.__dataclass_fields__})
        return command(*args, reading=reading, **options)

    return _stacked(
        bundled,
        click.option(
            "--calibration",
            metavar="SLOPE,INTERCEPT|FILE",
            help="From HU to density: mg/cm3 = SLOPE HU + INTERCEPT, or a calibration.json. "
            "Default: calibration.json beside the scan, else the nominal line with a warning.",
        ),
        click.option(
            "--material", type=click.Choice(["HA", "K2HPO4"]), help="What the density is a density of."
        ),
        click.option(
            "--unit",
            type=click.Choice(["hu", "mg/cm3"], case_sensitive=False),
            help="Unit of a NIfTI, MHA or NRRD file whose sidecar does not say it.",
        ),
        click.option(
            "--series-uid", metavar="UID", help="Which DICOM series to take, where there are several."
        ),
        click.option("--strict", is_flag=True, help="Refuse a scan without a calibration of its own."),
        click.option(
            "--allow-resample",
            is_flag=True,
            help="Mend a tilted gantry or uneven gaps of a DICOM scan by one interpolation, and say so.",
        ),
    )


def computing_options(command: Command) -> Command:
    """--device and --threads, as `device: str` and `threads: int | None`."""
    return _stacked(
        command,
        click.option(
            "--device",
            callback=_device,
            default="auto",
            show_default=True,
            metavar="auto|cpu|cuda|cuda:N",
            help="What computes. A GPU that is asked for and cannot be used is an error.",
        ),
        click.option(
            "--threads", type=click.IntRange(1, MOST_THREADS), metavar="N", help="CPU threads; default: all."
        ),
    )


def filtering_options(command: Command) -> Command:
    """`computing_options` with --backend and --precision, as `backend: str` and `precision: str`."""
    stacked = _stacked(
        command,
        click.option(
            "--backend",
            type=click.Choice(BACKENDS),
            default=BACKENDS[0],
            show_default=True,
            help="What filters on the CPU; auto takes OpenVINO where it is installed. A GPU is onnxruntime's.",
        ),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            default=PRECISIONS[0],
            show_default=True,
            help="Arithmetic of the filter; tf32 and fp16 on a GPU only, faster, with an error that is said.",
        ),
    )
    return computing_options(stacked)


def format_option(command: Command) -> Command:
    """--format, as `fmt: tuple[str, ...]`."""
    return click.option(
        "--format",
        "fmt",
        callback=formats,
        default=FORMATS[0],
        show_default=True,
        metavar="KIND,KIND,...",
        help=f"Kinds of image files to write, of {', '.join(FORMATS)}; dicom needs a DICOM scan behind INPUT.",
    )(command)


def mask_option(effect: str) -> Callable[[Command], Command]:
    """--mask and --resample-labels, as `mask: Path | None` and `resample_labels: bool`; `effect` says what a
    mask does to the verb.
    """

    def decorate(command: Command) -> Command:
        return _stacked(
            command,
            click.option("--mask", type=PathType(), metavar="FILE", help=effect),
            click.option(
                "--resample-labels",
                is_flag=True,
                help="Lay a mask or label map of another grid on the scan's by the nearest neighbour, and say so.",
            ),
        )

    return decorate


def _stacked(command: Command, *decorators: Callable[[Command], Command]) -> Command:
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        parse_device(value)
    except UsageError:
        raise _bad(DEVICE_WORDS, value) from None
    return value


def _bad(wanted: str, got: str) -> click.BadParameter:
    return click.BadParameter(f"wanted {wanted}, got {got!r}")


def _be_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Call).quiet = value


def _be_verbose(ctx: click.Context, param: click.Parameter, value: int) -> None:
    ctx.ensure_object(Call).verbosity = value
