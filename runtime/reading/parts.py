"""Several volumes in one series: slices that repeat positions, told apart by a tag."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from qctrun.runtime.reading.headers import MARKS, Header

FloatVector = npt.NDArray[np.float64]
NEVER_MIXED = (
    *("ConvolutionKernel", "KVP", "StackID", "TemporalPositionIdentifier", "TemporalPositionIndex"),
    *("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime", "TriggerTime"),
)
"""What splits slices that make an even stack together, if each part is one too: two scans, half a slice apart."""

Parts = list[tuple[str, list[Header]]]


def parts_of(
    group: Sequence[Header], clean: Callable[[Sequence[Header]], bool], marks: Sequence[str] = MARKS
) -> Parts:
    """Split slices at the same places into volumes by the first tag that leaves only whole ones.

    Where the slices under one value of a tag still hold several volumes, they are split on by the next tags.

    Parameters
    ----------
    group : sequence of Header
        Slices of one series, size, pixel spacing and orientation.
    clean : callable
        Whether slices make one even stack.
    marks : sequence of str
        Tags to try, in this order.

    Returns
    -------
    list of (what tells it apart, slices)
        Sorted by that; empty where no tag splits the slices into whole volumes.
    """
    for position, tag in enumerate(marks):
        values = _by_value(group, tag)
        if len(values) < 2 or min(map(len, values.values())) < 2:
            continue
        found: Parts = []
        for order, value in enumerate(sorted(values, key=_sorting), start=1):
            label = _label(tag, value, order, len(values))
            split = [("", values[value])] if clean(values[value]) else []
            split = split or parts_of(values[value], clean, marks[position + 1 :])
            if not split:
                break
            found += [(f"{label}, {more}" if more else label, part) for more, part in split]
        else:
            return found
    return []


def by_study(group: Sequence[Header]) -> list[list[Header]]:
    """Split slices by their study: anonymisers give two patients one and the same UID of the series.

    Where each slice has a study of its own, a program has made them up, and they say nothing.
    """
    studies: dict[str, list[Header]] = {}
    for header in group:
        studies.setdefault(header.study_uid, []).append(header)
    return list(studies.values()) if max(map(len, studies.values())) > 1 else [list(group)]


def overlap(parts: Sequence[Sequence[Header]], normal: FloatVector) -> bool:
    """Whether parts share their places; parts one above the other are a gap in one volume."""
    heights = [np.array([header.position for header in part]) @ normal for part in parts]
    spans = sorted((float(part.min()), float(part.max())) for part in heights)
    return all(above[0] < below[1] for below, above in pairwise(spans))


def absent_parts(headers: Sequence[Header]) -> dict[str, str]:
    """For each series that was cut into several objects and is not complete: what is missing."""
    parts: dict[str, set[tuple[int, int]]] = {}
    for header in headers:
        if header.part:
            parts.setdefault(header.series_uid, set()).add(header.part)
    said = {}
    for uid, found in parts.items():
        total = max(count for _, count in found)
        if len(found) < total:
            said[uid] = f"{total - len(found)} of the {total} objects of a concatenation missing"
    return said


def _by_value(group: Sequence[Header], tag: str) -> dict[str, list[Header]]:
    values: dict[str, list[Header]] = {}
    for header in group:
        texts = dict(zip(MARKS, header.marks, strict=False))
        values.setdefault(texts.get(tag, ""), []).append(header)
    return values


def _sorting(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _label(tag: str, value: str, order: int, count: int) -> str:
    """Which value; a time is only counted, for dates of a patient stay in the DICOM files."""
    if tag.endswith("Time") and not tag.startswith(("Nominal", "Trigger")):
        return f"{tag} {order} of {count}"
    return f"{tag} {value}" if value else f"no {tag}"
