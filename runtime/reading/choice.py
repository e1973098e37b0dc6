"""Which stack of a folder is the scan: the only volume in it, or the one that was asked for."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from qctrun.runtime.errors import InputError
from qctrun.runtime.formats import suffix_of
from qctrun.runtime.reading.headers import in_words
from qctrun.runtime.reading.parts import overlap, parts_of
from qctrun.runtime.reading.stacks import Series, axes_of, is_clean_stack

MOST_LISTED = 12
UNSAID = frozenset({"file that is not DICOM", "DICOM directory"})
"""Kinds that nobody misses in a volume."""


def choose(
    found: Sequence[Series], series_uid: str | None, set_aside: Counter[str], path: Path
) -> tuple[Series, list[str]]:
    """Pick the one series, and say what was left out beside it.

    Parameters
    ----------
    found : sequence of Series
        All stacks of CT slices.
    series_uid : str, optional
        The one that is asked for: its UID, or `UID/2` for the second volume of this UID.
    set_aside : Counter
        Other objects in the folder.
    path : Path
        Of the folder, for messages.

    Raises
    ------
    InputError
        When there is none, or several that could be meant; these are listed.
    """
    if not found:
        got = in_words(set_aside) or "nothing"
        raise InputError(
            f"{path}", wanted="a CT series of DICOM slices", got=got, mend=_readable_inside(path)
        )
    asked = [series for series in found if series.is_called(series_uid)]
    if not asked:
        raise InputError(f"--series-uid {series_uid}", wanted="one of these", got=_listed(found))
    candidates = _candidates(asked)
    if len(candidates) > 1:
        mend = f"choose by --series-uid, for example --series-uid {candidates[0].name}"
        got = f"{len(candidates)}: {_listed(candidates)}"
        raise InputError(f"{path}", wanted="one CT series", got=got, mend=mend)
    notes = [_left(series) for series in asked if series is not candidates[0]]
    others = Counter({kind: count for kind, count in set_aside.items() if kind not in UNSAID})
    notes += [f"left out beside the volume: {in_words(others)}"] * bool(others)
    return candidates[0], notes + _alternating(candidates[0])


def verdicts(found: Sequence[Series]) -> list[str]:
    """Say of each stack what reading the folder without `--series-uid` makes of it."""
    candidates = _candidates(found)
    said = []
    for series in found:
        why = "; ".join(series.problems)
        if series not in candidates:
            said.append(f"left out: {why}")
        elif series.problems:
            said.append(f"refused: {why}")
        else:
            said.append("taken" if len(candidates) == 1 else "candidate")
    return said


def _candidates(asked: Sequence[Series]) -> list[Series]:
    """The stacks that could be the scan; all of them where none could.

    Scouts and bolus tracking come as single slices or as slices at one place, screenshots without a place;
    they leave no doubt about the volume. A stack that only leans or has gaps may be what is wanted.
    """
    return [series for series in asked if series.has_extent] or list(asked)


def _left(series: Series) -> str:
    count = series.size[0]
    what = "a single slice" if count == 1 else f"{count} slices at one place"
    if series.orientation is None or any(header.position is None for header in series.headers):
        what = f"{count} slice{'s' * (count > 1)} without a place"
    return f"left out {what} beside the volume (series {series.name})"


def _alternating(series: Series) -> list[str]:
    """Say where two even stacks, told apart by a tag, lie between each other: it may be one scan, or may not."""
    parts, axes = parts_of(series.headers, is_clean_stack), axes_of(series.orientation)
    if not parts or axes is None or not overlap([part for _, part in parts], axes[:, 2]):
        return []
    mixed = " and ".join(mark for mark, _ in parts[:MOST_LISTED])
    return [f"slices of {mixed} lie between each other and are taken as one volume"]


def _listed(found: Sequence[Series]) -> str:
    listed = [f"[{number}] {series}" for number, series in enumerate(found[:MOST_LISTED], 1)]
    more = len(found) - len(listed)
    return "; ".join(listed) + f"; and {more} more (qctrun info lists them)" * bool(more)


def _readable_inside(path: Path) -> str:
    """Advice for a folder whose files are readable one by one."""
    files = sorted(file for file in path.rglob("*") if suffix_of(file)) if path.is_dir() else []
    return f"give a file itself, such as {files[0]}" if files else ""
