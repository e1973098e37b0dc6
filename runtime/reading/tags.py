"""Single DICOM tags as plain values; what breaks the rules of its type counts as absent, and can be named."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset


def value_of(dataset: Dataset, name: str) -> Any:
    """The tag's value, or None where it is absent or its text breaks the rules of its type."""
    try:
        return dataset.get(name)
    except Exception:  # what a malformed value makes the library raise is open-ended
        return None


def words_of(dataset: Dataset, name: str) -> tuple[str, ...]:
    """All values of a tag as texts of printable letters, without the blanks around them."""
    return tuple(_printable(str(item)) for item in _values(dataset, name) if item not in (None, ""))


def _values(dataset: Dataset, name: str) -> Iterable[Any]:
    value = value_of(dataset, name)
    if isinstance(value, pydicom.sequence.Sequence):  # of a malformed file: items are no texts
        return ()
    return value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else (value,)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def text_of(dataset: Dataset, name: str) -> str:
    """The values as one text; empty where there is none."""
    return " ".join(words_of(dataset, name))


def numbers_of(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    words = [str(item).strip(" \0") for item in _values(dataset, name)]
    # An empty place among them makes it open which number stands for what; Python's 1_0 is no number of DICOM's.
    if len(words) != count or any("_" in word or not word.isascii() for word in words):
        return None
    try:
        values = tuple(float(word) for word in words)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def number_of(dataset: Dataset, name: str) -> float | None:
    """One finite number, or None."""
    values = numbers_of(dataset, name, 1)
    return values[0] if values else None


def whole_of(dataset: Dataset, name: str) -> int | None:
    """One number without its decimals, or None."""
    value = number_of(dataset, name)
    return None if value is None else int(value)


def items_of(dataset: Dataset, name: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent or unreadable."""
    value = value_of(dataset, name)
    return list(value) if isinstance(value, pydicom.sequence.Sequence) else []


def unreadable(dataset: Dataset, name: str) -> str:
    """The raw text of a tag that should hold one number and does not; empty where all is well or it is blank."""
    if name not in dataset or number_of(dataset, name) is not None:
        return ""
    try:
        raw = getattr(dataset.get_item(name), "value", b"")
        text = raw.decode("latin-1") if isinstance(raw, bytes) else str("" if raw is None else raw)
    except Exception:
        text = "?"
    return " ".join(text.split()).strip("\x00")[:40]
