"""The filters that the network is compared with, their settings chosen on validation data only (decision 9)."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qctrun.runtime.errors import InputError, RuntimeMissingError
from qctrun.runtime.json_files import json_text, read_json
from qctrun.runtime.writing.files import replace_file, writing
from qctrun.train.insilico.scanner import SIMULATOR_VERSION, Scanner
from qctrun.train.raster import corners
from qctrun.train.study import bm4d, filters
from qctrun.train.study.filters import Candidate
from qctrun.train.study.judge import Sample
from qctrun.train.study.subjects import Applied
from qctrun.train.study.tuning import Validation, tuned

NAMES = (*filters.NAMES, *bm4d.NAMES)


@dataclass(frozen=True)
class Choice:
    """The settings that were chosen on one validation set: `settings[filter][mas]`, and those that could not be."""

    filters: dict[float, list[Applied]]
    notes: tuple[str, ...]


def chosen_filters(
    samples: Sequence[Sample],
    currents_mas: Iterable[float],
    names: Sequence[str],
    record: Path,
    say: Callable[[str], None],
) -> Choice:
    """Choose a setting for every filter and tube current, or take the choice that `record` holds.

    Parameters
    ----------
    samples : sequence of Sample
        Validation data; one scan of each is looked at.
    currents_mas : sequence of float
        Tube currents.
    names : sequence of str
        Of `NAMES`; one whose package is not installed is left out, with a note.
    record : Path
        JSON file of what was tried and chosen.
    say : callable
        Told of every choice.
    """
    tried = _Record(record, [sample.subject.name for sample in samples])
    found: dict[float, list[Applied]] = {}
    notes: list[str] = []
    for mas in currents_mas:
        found[mas] = []
        for name in names:
            try:
                choice = _chosen(name, mas, samples, tried, say)
            except RuntimeMissingError as error:
                notes.append(f"{name} is left out: {error}")
                continue
            found[mas].append(choice)
    return Choice(found, tuple(dict.fromkeys(notes)))


def _chosen(
    name: str, mas: float, samples: Sequence[Sample], tried: "_Record", say: Callable[[str], None]
) -> Applied:
    known = tried.setting(name, mas)
    candidates = _candidates(name, mas, samples)
    if known is None:
        data = [_validation(sample, mas) for sample in samples]
        best = tuned(candidates, data)
        tried.keep(name, mas, best.as_json())
        known = dict(best.candidate.setting)
        say(f"{name} at {mas:g} mAs: chose {known}")
    candidate = next((one for one in candidates if dict(one.setting) == known), None)
    if candidate is None:
        raise InputError(
            str(tried.path), wanted=f"a setting of {name} that is tried", got=str(known), mend="remove it"
        )
    version = {"setting": known, "tuned_on": [sample.subject.name for sample in samples]}
    return Applied(name, json.dumps(version, sort_keys=True), candidate.apply)


def _candidates(name: str, mas: float, samples: Sequence[Sample]) -> list[Candidate]:
    if name in bm4d.NAMES:
        return bm4d.candidates(name, Scanner(), mas)
    truths = [sample.subject.phantom.truth for sample in samples] if name == "Wiener" else []
    return filters.candidates(name, Scanner(), mas, truths)


def _validation(sample: Sample, mas: float) -> Validation:
    phantom = sample.subject.phantom
    where = corners(phantom.truth.shape)
    numbers = np.arange(len(where)) if sample.numbers is None else sample.numbers
    return Validation(phantom.truth, [phantom.scan(mas, 0)], [where[number] for number in numbers])


class _Record:
    """What was tried, in a JSON file that grows with each choice; one of other scans is begun anew."""

    def __init__(self, path: Path, subjects: list[str]) -> None:
        self.path = path
        fresh = {"simulator": SIMULATOR_VERSION, "subjects": subjects, "filters": {}}
        self._held: dict[str, Any] = read_json(path) if path.is_file() else fresh
        if any(self._held.get(name) != fresh[name] for name in ("simulator", "subjects")):
            self._held = fresh

    def setting(self, name: str, mas: float) -> dict[str, float] | None:
        kept = self._held["filters"].get(name, {}).get(f"{mas:g}")
        return None if kept is None else kept["setting"]

    def keep(self, name: str, mas: float, choice: dict[str, Any]) -> None:
        self._held["filters"].setdefault(name, {})[f"{mas:g}"] = choice
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, json_text(self._held).encode())
