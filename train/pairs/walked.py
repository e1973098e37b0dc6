"""What a specimen's walk has left, and how it is found again without walking."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qctrun.runtime.volume import Material
from qctrun.train.pairs.cache import Cache, Entry
from qctrun.train.pairs.table import Row

_SLOT = "{}/specimen"


@dataclass(frozen=True, slots=True)
class Walked:
    """A specimen that has been seen to.

    Attributes
    ----------
    name : str
        Of the specimen.
    material : "HA" or "K2HPO4", optional
        What its densities are densities of; None where nothing is left of it.
    rows : tuple of mappings
        One a scan, with the keys of `table.COLUMNS`.
    pictures : mapping
        The names of its pictures as outputs, and where they lie in the cache.
    sums : mapping
        SHA-256 of the files that it has in the cache: its part of the dataset and its pictures.
    lines : mapping
        The line of each scan that is used, by the scan's name, as JSON values.
    inputs : tuple of mappings
        What was read: `role`, `path`, `sha256`.
    warnings : tuple of str
        What a user of the dataset should be told.
    failures : tuple of str
        Why nothing can be made of it, or of one of its scans; one line each.
    """

    name: str
    material: Material | None = None
    rows: tuple[Row, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    sums: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    inputs: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """Where its part of the dataset lies in the cache."""
        return part_of(self.name)


def part_of(name: str) -> str:
    """Where the part of the dataset of the specimen of this name lies in the cache."""
    return f"{name}/specimen.h5"


def save_walked(cache: Cache, key: str, walked: Walked) -> None:
    """Note what is there, as the last step of a walk."""
    cache.save(_SLOT.format(walked.name), key, Entry(asdict(walked), {}))


def load_walked(cache: Cache, key: str, name: str, *, look_at_files: bool = True) -> Walked | None:
    """What an earlier walk of the same key has left; None when it is not there, or damaged.

    Parameters
    ----------
    look_at_files : bool
        Also require that the files in the cache are whole.
    """
    entry = cache.load(_SLOT.format(name), key)
    if entry is None:
        return None
    several = ("rows", "inputs", "warnings", "failures")  # JSON knows lists only
    facts: dict[str, Any] = {
        word: tuple(told) if word in several else told for word, told in entry.facts.items()
    }
    walked = Walked(**facts)
    return walked if not look_at_files or cache.holds(walked.sums) else None
