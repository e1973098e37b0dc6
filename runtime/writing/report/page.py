"""The page: what was found, put into the template; every text of a record is escaped."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

from qctrun.runtime.extras import library
from qctrun.runtime.writing.report.facts import Fact, Made
from qctrun.runtime.writing.report.numbers import Block, Headline

TEMPLATE, STYLE = "report.html", "report.css"


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture on the page: its file's name, what it shows in words, and its twin for a dark page, if any."""

    name: str
    words: str
    dark: str | None = None


@dataclass(frozen=True, slots=True)
class MapRow:
    """One local map on the page: what it is, in which unit, and its planes."""

    name: str
    unit: str
    remark: str
    pictures: Sequence[Shown]


@dataclass
class Page:
    """All that stands on the page; the names are those of the template."""

    title: str
    date: str
    own_title: bool
    version: str
    scan: Sequence[Fact] = ()
    nominal: Sequence[str] = ()
    warnings: Sequence[str] = ()
    resampling: Sequence[str] = ()
    calibration: Sequence[Fact] = ()
    calibration_picture: Shown | None = None
    calibration_found: Shown | None = None
    headlines: Sequence[Headline] = ()
    slice_names: Sequence[str] = ()
    slices: Sequence[Sequence[Shown]] = ()
    outlined: bool = False
    maps: Sequence[MapRow] = ()
    blocks: Sequence[Block] = ()
    local_blocks: Sequence[Block] = ()
    local_remark: str = ""
    compared: Sequence[Block] = ()
    histogram: Shown | None = None
    made: Sequence[Made] = ()
    missing: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By section: what is not there, and what to type to get it."""


def rendered(page: Page, pictures: Mapping[str, bytes]) -> str:
    """The page as HTML that needs nothing beside it: pictures are in it, and no script.

    Raises
    ------
    RuntimeMissingError
        When jinja2 is not installed.
    """
    jinja2 = library("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_packaged),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    embedded = {
        name: "data:image/png;base64," + base64.b64encode(data).decode() for name, data in pictures.items()
    }
    text: str = environment.get_template(TEMPLATE).render(page=page, pictures=embedded)
    # Bytes of a file name that are no text stand as visible escapes.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def require_report() -> None:
    """Refuse to go on without what a page is made with.

    Raises
    ------
    RuntimeMissingError
        When jinja2 or matplotlib is not installed.
    """
    for module in ("jinja2", "matplotlib.figure"):
        library(module, "report")


def _packaged(name: str) -> str:
    return (resources.files("qctrun.runtime.writing.report") / name).read_text("utf-8")
