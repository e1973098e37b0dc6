"""The table of a run as a person reads it, and what the filter has changed of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qctrun.runtime.measuring import Parameters

Row = Mapping[str, str]

NO_VALUE = "–"
_PREFERRED_MG_CM3 = 225.0


@dataclass(frozen=True)
class Line:
    """One threshold of a region: cells in the order of the table's columns."""

    threshold: str
    cells: Sequence[str]


@dataclass(frozen=True)
class Block:
    """One region: what it is called, what is the same for all thresholds, and a line for each of them."""

    name: str
    volume_cm3: str
    bmd: str
    bmd_sd: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Headline:
    """A number that stands large at the top."""

    name: str
    value: str
    unit: str
    remark: str


def thresholds_of(rows: Sequence[Row]) -> list[float]:
    """The thresholds of a table in rising order, mg/cm3."""
    found = (as_number(row.get("threshold_mg_cm3")) for row in rows)
    return sorted({value for value in found if value is not None})


def global_blocks(rows: Sequence[Row]) -> list[Block]:
    """BV/TV in % and TMD of each region and threshold, hard step."""
    return [
        _block(
            found,
            [
                Line(_threshold(row), (percent(row.get("bvtv")), whole(row.get("tmd_mg_cm3"))))
                for row in found
            ],
        )
        for found in _regions(rows)
    ]


def local_blocks(rows: Sequence[Row]) -> list[Block]:
    """Means of the local maps of each region and threshold."""
    columns = ("local_bmd_mean_mg_cm3", "local_sd_mean_mg_cm3", "local_bvtv_mean", "local_tmd_mean_mg_cm3")

    def cells(row: Row) -> list[str]:
        means = [percent(row.get(name)) if "bvtv" in name else whole(row.get(name)) for name in columns]
        return [*means, count(row.get("local_spheres")), count(row.get("local_spheres_bvtv_under_1pct"))]

    return [_block(found, [Line(_threshold(row), cells(row)) for row in found]) for found in _regions(rows)]


def compared_blocks(rows: Sequence[Row], raw: Sequence["Parameters"]) -> list[Block]:
    """BMD, BV/TV and TMD, each raw, filtered and their difference; regions that were measured twice only."""
    known = {(p.label, p.threshold_mg_cm3): p for p in raw}
    blocks = []
    for found in _regions(rows):
        lines = []
        for row in found:
            before = known.get((_label(row), as_number(row.get("threshold_mg_cm3")) or 0.0))
            if before is not None and before.voxels == as_number(row.get("voxels")):
                lines.append(Line(_threshold(row), _compared(row, before)))
        if lines:
            blocks.append(_block(found, lines))
    return blocks


def headlines(rows: Sequence[Row]) -> list[Headline]:
    """BMD, BV/TV and TMD of everything that was measured, at 225 mg/cm3 or else the middle threshold."""
    first = next(iter(_regions(rows)), [])
    if not first:
        return []
    row = next(
        (row for row in first if as_number(row.get("threshold_mg_cm3")) == _PREFERRED_MG_CM3),
        first[len(first) // 2],
    )
    where, at = region_name(row), f"threshold {_threshold(row)} mg/cm³"
    return [
        Headline("BMD", whole(row.get("bmd_mg_cm3")), "mg/cm³", f"bone mineral density, {where}"),
        Headline("BV/TV", percent(row.get("bvtv")), "%", f"share of bone, {at}"),
        Headline("TMD", whole(row.get("tmd_mg_cm3")), "mg/cm³", f"tissue mineral density, {at}"),
    ]


def region_name(row: Row) -> str:
    """What a row is about, by name where the table has one."""
    name, label = row.get("label_name", ""), row.get("label_id", "")
    if label in ("", "n/a"):
        return name or "whole mask"
    return f"label {label}" if name in ("", "n/a") else f"{name} ({label})"


def as_number(value: object) -> float | None:
    """A finite number, or None for what is none, such as `n/a`."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def whole(text: object, digits: int = 1) -> str:
    """A number in so many decimals with a true minus sign; a dash where there is none."""
    value = as_number(text)
    return NO_VALUE if value is None else f"{value:.{digits}f}".replace("-", "−")


def percent(text: object) -> str:
    """A fraction in %, without the sign."""
    value = as_number(text)
    return whole(None if value is None else 100 * value)


def count(text: object) -> str:
    """A whole number with thin spaces between thousands."""
    value = as_number(text)
    return NO_VALUE if value is None else f"{value:,.0f}".replace(",", "\u202f")


def _compared(row: Row, raw: "Parameters") -> list[str]:
    cells: list[str] = []
    for name, factor in (("bmd_mg_cm3", 1), ("bvtv", 100), ("tmd_mg_cm3", 1)):
        before, after = as_number(getattr(raw, name)), as_number(row.get(name))
        pair = [None if value is None else factor * value for value in (before, after)]
        change = None if pair[0] is None or pair[1] is None else pair[1] - pair[0]
        cells += [whole(pair[0]), whole(pair[1]), _signed(change)]
    return cells


def _signed(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:+.1f}".replace("-", "−")


def _block(rows: Sequence[Row], lines: Sequence[Line]) -> Block:
    first = rows[0]
    volume = as_number(first.get("volume_mm3"))
    return Block(
        region_name(first),
        whole(None if volume is None else volume / 1000, 2),
        whole(first.get("bmd_mg_cm3")),
        whole(first.get("bmd_sd_mg_cm3")),
        lines,
    )


def _regions(rows: Sequence[Row]) -> list[list[Row]]:
    return [
        list(found)
        for _, found in groupby(rows, key=lambda row: (row.get("label_id"), row.get("label_name")))
    ]


def _label(row: Row) -> int | None:
    label = row.get("label_id", "")
    return int(label) if label.isdigit() else None


def _threshold(row: Row) -> str:
    value = as_number(row.get("threshold_mg_cm3"))
    return NO_VALUE if value is None else f"{value:g}"
