"""A whole study: what is known of it, all its specimens, and one dataset of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import Calibration
from qctrun.runtime.volume import Progress
from qctrun.train.pairs.cache import Cache, key_of
from qctrun.train.pairs.choices import StudyFile
from qctrun.train.pairs.dataset import PAIRS, join
from qctrun.train.pairs.keys import keys_of
from qctrun.train.pairs.table import Row
from qctrun.train.pairs.walked import Walked, load_walked
from qctrun.train.pairs.workers import walk_all

JOINED = 1
"""Raise it when the dataset of the same specimens changes."""

CHECKERBOARD, CALIBRATION = "checkerboard", "calibration"

_STEPS = 100
"""Of the progress of one scan."""


@dataclass(frozen=True, slots=True)
class Known:
    """What decides a study's dataset, as its inputs are now.

    Attributes
    ----------
    specimens : mapping of str
        The key of each specimen, by its name.
    whole : str
        The key of all together.
    """

    specimens: Mapping[str, str]
    whole: str


def known(study: StudyFile) -> Known:
    """Look at all inputs of a study.

    Raises
    ------
    InputError
        When one of them is not there or cannot be looked at.
    """
    specimens = {each.name: keys_of(study, each).specimen for each in study.specimens}
    return Known(specimens, key_of("study", JOINED, specimens, header_of(study)))


def header_of(study: StudyFile) -> dict[str, Any]:
    """What a dataset says of the study that it comes from: its choices, no paths."""
    calibration = asdict(study.calibration)
    calibration["file"] = study.calibration.file.name if study.calibration.file else None
    return {
        "spacing_mm": study.spacing_mm,
        "registration": asdict(study.registration),
        "calibration": calibration,
        "specimens": [each.name for each in study.specimens],
    }


def seen_to(study: StudyFile, cache: Cache, keys: Known) -> list[Walked] | None:
    """What an earlier run has told of all specimens; None when one of them is not known. No large file is read."""
    found = [
        load_walked(cache, keys.specimens[each.name], each.name, look_at_files=False)
        for each in study.specimens
    ]
    known_ones = [walked for walked in found if walked is not None]
    return known_ones if len(known_ones) == len(found) else None


def run_study(
    study: StudyFile,
    cache: Cache,
    keys: Known,
    *,
    jobs: int = 1,
    say: Callable[[str], None],
    progress: Progress,
) -> list[Walked]:
    """Walk all specimens that are not in the cache already.

    Parameters
    ----------
    jobs : int
        How many specimens at a time; each takes the memory of one native scan and of its reference.
    say : function
        Told a line for each scan that is done.
    progress : function
        Told how far all scans are.

    Returns
    -------
    list of Walked
        In the order of the study, all with their parts of the dataset in the cache.

    Raises
    ------
    InputError
        When something is wrong with a specimen or a scan, when nothing is left of a specimen, or when references are
        densities of different materials. All others are in the cache by then.
    """
    cached = {each.name: load_walked(cache, keys.specimens[each.name], each.name) for each in study.specimens}
    left = [each for each in study.specimens if cached[each.name] is None]
    scans = sum(len(each.scans) for each in left)
    move = _counted(progress, scans)
    fresh = {walked.name: walked for walked in walk_all(study, left, cache, jobs, say, move)} if left else {}
    found = [fresh.get(each.name) or cached[each.name] for each in study.specimens]
    walked = [each for each in found if each is not None]
    _require_whole(walked)
    _require_one_material(walked)
    return walked


def joined(study: StudyFile, cache: Cache, walked: Sequence[Walked]) -> Path:
    """Make the dataset in the cache's folder, from where it can be moved into place.

    Raises
    ------
    OutputError
        When the disk refuses.
    """
    path = cache.path(PAIRS)
    join([cache.folder / each.part for each in walked], path, header_of(study))
    return path


def picture_names(study: StudyFile) -> list[str]:
    """The pictures that a run may write: not each scan is calibrated, and not each line has a picture."""
    kinds = (CHECKERBOARD, CALIBRATION)
    return [
        f"{specimen.name}_{scan.name}_{kind}.png"
        for specimen in study.specimens
        for scan in specimen.scans
        for kind in kinds
    ]


def rows_of(walked: Sequence[Walked]) -> list[Row]:
    """The rows of all scans."""
    return [row for each in walked for row in each.rows]


def warnings_of(walked: Sequence[Walked]) -> list[str]:
    """What a user of the dataset should be told: of each specimen, and of lines that are unlike all others."""
    from qctrun.train.pairs.calibrating import odd_lines

    lines = {
        f"specimen {each.name}, scan {name}": Calibration(**line)
        for each in walked
        for name, line in each.lines.items()
    }
    return list(dict.fromkeys([*(words for each in walked for words in each.warnings), *odd_lines(lines)]))


def _counted(progress: Progress, scans: int) -> Callable[[float], None]:
    return lambda done: progress(int(done * _STEPS), scans * _STEPS)


def _require_whole(walked: Sequence[Walked]) -> None:
    failures = [failure for each in walked for failure in each.failures]
    if failures:
        more = f" (and {len(failures) - 1} more, said above)" * (len(failures) > 1)
        raise InputError(failures[0] + more)


def _require_one_material(walked: Sequence[Walked]) -> None:
    found = {each.material: each.name for each in walked}
    if len(found) > 1:
        got = ", ".join(f"{material} in {name}" for material, name in found.items())
        mend = "make two studies, or say material for a reference whose file is wrong"
        raise InputError("references", wanted="densities of one material", got=got, mend=mend)
