"""Repeated measurements, from the rows of a table or the voxels of volumes, as arrays of data points."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.reading.tables import Table
from qctrun.runtime.volume import Volume

_NEVER_MIXED = ("label_id", "threshold_mg_cm3", "filter", "diameter_mm", "step", "calibration_material")
"""Columns of `params.csv` that tell measurements apart which are no repetitions of each other."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns say what.

    Attributes
    ----------
    subject : names
        Together they name a data point: what was measured repeatedly.
    values : names
        Measured quantities.
    repetition : name, optional
        Tells the measurements of a data point apart; else their order in the file does.
    truth : names
        True values, one column for each in `values`, or none.
    given : name, optional
        Known beside the values, such as raw BMD.
    cluster : name, optional
        What data points belong to together, such as the vertebra.
    by : names
        Each combination of their values is judged on its own.
    """

    subject: tuple[str, ...]
    values: tuple[str, ...]
    repetition: str | None = None
    truth: tuple[str, ...] = ()
    given: str | None = None
    cluster: str | None = None
    by: tuple[str, ...] = ()

    def named(self) -> tuple[str, ...]:
        """All columns with a role."""
        single = (self.repetition, self.given, self.cluster)
        return (*self.subject, *self.values, *self.truth, *self.by, *(name for name in single if name))


@dataclass(frozen=True, slots=True)
class Repeated:
    """Repeated measurements of one quantity in one group; arrays are NaN where a value is missing.

    Attributes
    ----------
    group : mapping
        Columns of `by` to their values here.
    variable : str
        Column of the values.
    x : float64 array (repetition, point)
        The values.
    y : float64 array (point), optional
        The truth.
    given : float64 array (repetition, point), optional
        What is known beside.
    clusters : sequence of labels, optional
        What each point belongs to.
    warnings : tuple of str
        What was left out to make the array.
    """

    group: dict[str, str]
    variable: str
    x: Doubles
    y: Doubles | None = None
    given: Doubles | None = None
    clusters: Sequence[str] | npt.NDArray[np.int32] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Group:
    """The rows of a group: for each data point, which row is which repetition."""

    by: dict[str, str]
    rows: dict[tuple[str, ...], dict[str, int]] = field(default_factory=dict)


def repeated(table: Table, roles: Roles) -> list[Repeated]:
    """Arrange the rows of a table as repetitions of data points, one result a group and value column.

    Without a repetition column the rows of a data point are its repetitions in their order; as many are taken
    as most data points have, and what a point has beyond is left out. With one, repetitions are matched by its
    labels, and a label that fewer than half of the data points have is left out. Both are said in `warnings`.
    A data point that lacks a repetition stays, with NaN.

    Raises
    ------
    UsageError
        When roles do not fit each other, or rows would be mixed that a table of parameters keeps apart.
    InputError
        When a column is missing, a cell is no number, a repetition stands twice, or truth or cluster of a
        data point are not the same in all its rows.
    """
    _check_roles(table, roles)
    found = []
    for group in _groups(table, roles):
        _refuse_mixing(table, roles, group)
        order, warnings = _repetitions(group, labelled=roles.repetition is not None)
        cells = [[rows.get(label) for rows in group.rows.values()] for label in order]
        clusters = None
        if roles.cluster is not None:
            clusters = [_same(table, rows, roles.cluster) for rows in group.rows.values()]
        given = None if roles.given is None else _matrix(table, cells, roles.given)
        for variable, truth in zip(roles.values, roles.truth or [None] * len(roles.values), strict=True):
            x = _matrix(table, cells, variable)
            y = None if truth is None else _truth(table, group, truth)
            found.append(Repeated(group.by, variable, x, y, given, clusters, warnings))
    return found


def repeated_volumes(
    volumes: Sequence[Volume],
    truth: Volume | None,
    labels: npt.NDArray[np.int32] | None,
    variable: str = "voxel",
) -> Repeated:
    """Take the voxels of repeated volumes as data points.

    Parameters
    ----------
    volumes : sequence of Volume
        On one grid, of one unit and material. NaN is a missing value.
    truth : Volume, optional
        On the same grid.
    labels : int32 array (z, y, x), optional
        Which voxels count, those that are not 0, and what they belong to: each label is a cluster. Without it
        all voxels with a value in some volume count, as one cluster.
    variable : str
        What the voxels measure.

    Raises
    ------
    InputError
        When grids, units or materials differ, or no voxel counts.
    """
    first, *others = volumes
    for number, other in enumerate([*others, *([truth] if truth else [])], start=2):
        _require_alike(first, other, "truth" if other is truth else f"volume {number}")
    inside = np.any([np.isfinite(v.array) for v in volumes], axis=0) if labels is None else labels != 0
    if not inside.any():
        raise InputError("volumes", wanted="a voxel with a value", got="none")
    return Repeated(
        {},
        variable,
        np.stack([volume.array[inside] for volume in volumes]).astype(np.float64),
        None if truth is None else truth.array[inside].astype(np.float64),
        clusters=np.zeros(int(inside.sum()), np.int32) if labels is None else labels[inside],
    )


def _require_alike(first: Volume, other: Volume, name: str) -> None:
    if difference := first.grid.difference(other.grid):
        mend = "register and resample them to one grid"
        raise InputError(name, wanted="the grid of the first volume", got=difference, mend=mend)
    for what, mine, yours in (("unit", first.unit, other.unit), ("material", first.material, other.material)):
        if mine != yours:
            raise InputError(f"{name}: {what}", wanted=f"{mine} as in the first volume", got=f"{yours}")


def _check_roles(table: Table, roles: Roles) -> None:
    for name in roles.named():
        if name not in table.columns:
            raise InputError(
                f"column {name!r}", wanted=f"one of {', '.join(table.columns)}", got="no such column"
            )
    if roles.truth and len(roles.truth) != len(roles.values):
        wanted = f"{len(roles.values)} columns, one for each of the values"
        raise UsageError("truth", wanted=wanted, got=str(len(roles.truth)))
    if roles.given is not None and not roles.truth:
        raise UsageError("given", wanted="a truth, which it is taken from", got="none")


def _groups(table: Table, roles: Roles) -> list[_Group]:
    groups: dict[tuple[str, ...], _Group] = {}
    for number, row in enumerate(table.rows):
        key = tuple(row[name] for name in roles.by)
        group = groups.setdefault(key, _Group(dict(zip(roles.by, key, strict=True))))
        subject = tuple(table.name(number, name) for name in roles.subject)
        rows = group.rows.setdefault(subject, {})
        label = str(len(rows) + 1) if roles.repetition is None else table.name(number, roles.repetition)
        if label in rows:
            raise InputError(
                table.places[number],
                wanted=f"repetition {label!r} of {_said(subject)} once",
                got=f"it again, after {table.places[rows[label]]}",
                mend="name the column that tells the two apart in --by or --subject",
            )
        rows[label] = number
    return list(groups.values())


def _said(subject: tuple[str, ...]) -> str:
    return repr(" / ".join(subject))


def _refuse_mixing(table: Table, roles: Roles, group: _Group) -> None:
    """The rows of one data point must be repetitions, not thresholds or labels beside each other."""
    told = {*roles.named()}
    for name in _NEVER_MIXED:
        if name in told or name not in table.columns:
            continue
        for subject, rows in group.rows.items():
            kinds = dict.fromkeys(table.rows[number][name] for number in rows.values())
            if len(kinds) > 1:
                raise UsageError(
                    f"rows of {_said(subject)}",
                    wanted=f"one {name}, for they count as repetitions",
                    got=", ".join(kinds),
                    mend=f"say --by {name}, or add it to --subject",
                )


def _repetitions(group: _Group, *, labelled: bool) -> tuple[list[str], tuple[str, ...]]:
    """The labels of the repetitions to take, and words on those that are left out."""
    subjects = group.rows.values()
    had = Counter(label for rows in subjects for label in rows)
    if labelled:
        kept = [label for label in had if 2 * had[label] >= len(subjects)] or list(had)
        left = [label for label in had if label not in kept]
        words = f"repetition {', '.join(left)} left out: fewer than half of the data points have it"
        return kept, (words,) if left else ()
    sizes = Counter(len(rows) for rows in subjects)
    usual = max(sizes, key=lambda size: (sizes[size], size))
    more = sum(count for size, count in sizes.items() if size > usual)
    words = f"{more} data points have more than {usual} repetitions: only the first {usual} count"
    return [str(number + 1) for number in range(usual)], (words,) if more else ()


def _matrix(table: Table, cells: list[list[int | None]], column: str) -> Doubles:
    return np.array(
        [[np.nan if row is None else table.number(row, column) for row in line] for line in cells]
    )


def _truth(table: Table, group: _Group, column: str) -> Doubles:
    found = []
    for subject, rows in group.rows.items():
        values = {table.number(number, column) for number in rows.values()}
        known = {value for value in values if not np.isnan(value)}
        if len(known) > 1:
            raise InputError(
                f"truth {column!r} of {_said(subject)}",
                wanted="the same in all its rows",
                got=", ".join(f"{value:g}" for value in sorted(known)),
            )
        found.append(known.pop() if known else np.nan)
    return np.array(found)


def _same(table: Table, rows: dict[str, int], column: str) -> str:
    found = {table.name(number, column) for number in rows.values()}
    if len(found) > 1:
        place = table.places[min(rows.values())]
        raise InputError(place, wanted=f"one {column!r} of a data point", got=", ".join(sorted(found)))
    return found.pop()
