"""The table of precision and accuracy: one row a group, variable and statistic."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qctrun.runtime.errors import UsageError
from qctrun.runtime.json_files import json_text

if TYPE_CHECKING:
    from qctrun.runtime.measuring.metrics import Metrics

METRICS_NAME = "metrics.csv"
METRICS_DICTIONARY_NAME = "metrics.json"

METRIC_COLUMNS = {
    "variable": "The measured quantity: the column of the input, or voxel.",
    "statistic": "Which statistic; `statistics` below says what each one means.",
    "value": "Its value, in the unit of the variable where the statistic names none.",
    "bound": "<= where the value is an upper bound, else empty.",
    "ci95_low": "Lower end of the 95 % bootstrap interval, clusters drawn as a whole.",
    "ci95_high": "Upper end.",
    "chi2_95_low": "Lower end of the 95 % interval from the degrees of freedom (RMS-SD and LSC).",
    "chi2_95_high": "Upper end.",
    "points": "Complete data points.",
    "repetitions": "Measurements of each.",
    "clusters": "Clusters in which the data points lie.",
    "dropped": "Data points left out because a value is missing.",
}
"""Columns of `metrics.csv` behind those that tell the groups apart."""

_COUNTS = ("points", "repetitions", "clusters", "dropped")
_WORDS = {"points": "data points", "dropped": "left out"}


@dataclass(frozen=True, slots=True)
class Judged:
    """The statistics of one variable in one group."""

    group: Mapping[str, str]
    variable: str
    metrics: "Metrics"


def check_group_columns(names: Sequence[str]) -> None:
    """Refuse names of groups that the table has for itself.

    Raises
    ------
    UsageError
        Naming the first one.
    """
    taken = [name for name in names if name in METRIC_COLUMNS]
    if taken:
        raise UsageError(
            f"column {taken[0]!r}",
            wanted=f"a name of a group other than {', '.join(METRIC_COLUMNS)}",
            got="one of these",
            mend="rename the column",
        )


def metric_rows(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """One row for each group, variable and statistic that has a value somewhere; None where it has none."""
    shown = _shown(judged)
    return [
        {**one.group, "variable": one.variable, **_values(one.metrics, name), **_counts(one.metrics)}
        for one in judged
        for name in shown
    ]


def metrics_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as comma-separated text with a header; `n/a` where a value is undefined."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value, ".8g") for name, value in row.items()} for row in rows)
    return text.getvalue()


def metrics_dictionary() -> str:
    """What columns and statistics mean, as JSON."""
    from qctrun.runtime.measuring.metrics import STATISTICS

    columns = {name: {"Description": text} for name, text in METRIC_COLUMNS.items()}
    return json_text({**columns, "statistics": STATISTICS})


def metrics_text(judged: Sequence[Judged]) -> str:
    """The statistics aligned for a terminal: a block for each group, a column for each variable."""
    shown, blocks = _shown(judged), []
    groups = list(dict.fromkeys(tuple(one.group.items()) for one in judged))
    for group in groups:
        inside = [one for one in judged if tuple(one.group.items()) == group]
        title = ", ".join(f"{name} = {value}" for name, value in group)
        blocks.append(_block(title, inside, shown))
    head = "95 % intervals: [bootstrap over clusters], (chi-square)"
    return head + "\n" + "\n\n".join(blocks) + "\n"


def _shown(judged: Sequence[Judged]) -> list[str]:
    from qctrun.runtime.measuring.metrics import STATISTICS

    return [name for name in STATISTICS if any(getattr(one.metrics, name) is not None for one in judged)]


def _values(metrics: "Metrics", name: str) -> dict[str, Any]:
    value = getattr(metrics, name)
    low, high = metrics.intervals.get(name, (None, None))
    chi2_low, chi2_high = _chi2(metrics, name) or (None, None)
    return {
        "statistic": name,
        "value": getattr(value, "value", value),
        "bound": "<=" if getattr(value, "is_bound", False) else "",
        "ci95_low": low,
        "ci95_high": high,
        "chi2_95_low": chi2_low,
        "chi2_95_high": chi2_high,
    }


def _chi2(metrics: "Metrics", name: str) -> tuple[float, float] | None:
    return {"rms_sd": metrics.rms_sd_chi2, "lsc": metrics.lsc_chi2}.get(name)


def _counts(metrics: "Metrics") -> dict[str, int]:
    return {name: getattr(metrics, name) for name in _COUNTS}


def _block(title: str, inside: Sequence[Judged], shown: Sequence[str]) -> str:
    lines = [[title, *(one.variable for one in inside)]]
    lines += [
        [_WORDS.get(name, name), *(str(getattr(one.metrics, name)) for one in inside)] for name in _COUNTS
    ]
    lines += [[name, *(_printed(one.metrics, name) for one in inside)] for name in shown]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _printed(metrics: "Metrics", name: str) -> str:
    found = _values(metrics, name)
    parts = [f"{found['bound']} {_cell(found['value'], '.4g')}".strip()]
    if found["ci95_low"] is not None:
        parts.append(f"[{found['ci95_low']:.4g}, {found['ci95_high']:.4g}]")
    if found["chi2_95_low"] is not None:
        parts.append(f"({found['chi2_95_low']:.4g}, {found['chi2_95_high']:.4g})")
    return " ".join(parts)


def _cell(value: Any, number: str) -> str:
    if value is None:
        return "n/a"
    return format(value, number) if isinstance(value, float) else str(value)
