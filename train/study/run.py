"""The whole study: simulate, train, filter, measure, judge; every stage is kept and none is done twice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch

from qctrun.runtime.volume import Progress
from qctrun.runtime.writing.files import writing
from qctrun.train.raster import TUBE_CURRENTS_MAS
from qctrun.train.recipe import load_recipe
from qctrun.train.run import read_notes
from qctrun.train.study.compared import chosen_filters
from qctrun.train.study.data import Data
from qctrun.train.study.judge import judged
from qctrun.train.study.networks import Run, as_filter, finished, trained
from qctrun.train.study.over_folds import UNTRAINED_MAS
from qctrun.train.study.results import SPLITS, Result
from qctrun.train.study.schedule import Schedule
from qctrun.train.study.store import Store
from qctrun.train.study.subjects import Applied
from qctrun.train.study.tables import Made
from qctrun.train.team import chosen_device

READINGS = "readings"
"""Folder of what was measured, in the working folder."""

OF_DONORS = ("donors", "simulated")
"""The splits of the one network that is trained for real donors."""


@dataclass(frozen=True)
class Words:
    """How a study tells of its progress: `say` a line, `epoch` a line of the log, `steps` (done, total)."""

    say: Callable[[str], None]
    epoch: Callable[[dict[str, float]], None]
    steps: Progress


@dataclass
class Study:
    """A study in its working folder.

    Attributes
    ----------
    schedule : Schedule
        What is trained.
    work : Path
        Trainings and readings are kept here.
    data : Data
        What is simulated.
    filters : sequence of str
        Names of the filters that the network is compared with.
    device : str
        For training and for the networks.
    words : Words
        Told what is done.
    threads : int, optional
        CPU threads of torch; all when absent.
    notes : list of str
        What a reader of the results must know.
    """

    schedule: Schedule
    work: Path
    data: Data
    filters: Sequence[str]
    device: str
    words: Words
    threads: int | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.schedule.note:
            self.notes.append(self.schedule.note)
        if not self.data.has_donors:
            self.notes.append("real donors are left out: no folder of micro-CT cubes was given.")
        chosen_device(self.device)
        with writing(self.work):
            self.work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def store(self) -> Store:
        """Where readings are kept."""
        return Store(self.work / READINGS)

    @property
    def splits(self) -> list[str]:
        """The splits of the schedule; donors where there are some."""
        there = [split for split in SPLITS if split not in OF_DONORS or self.data.has_donors]
        return [split for split in there if self.schedule.folds.get(split)]

    @property
    def folds(self) -> list[tuple[str, int]]:
        """All (split, fold) of the schedule."""
        return [(split, fold + 1) for split in self.splits for fold in range(self.schedule.folds[split])]

    def runs(self, split: str, fold: int) -> dict[str, Run]:
        """The trainings of a fold by the filter's name; NNBMD in the paper's split only."""
        recipes = {"NNSP": self.schedule.donors if split in OF_DONORS else self.schedule.nnsp}
        if split == "positions":
            recipes["NNBMD"] = self.schedule.nnbmd
        trained_on = "donors" if split in OF_DONORS else split
        return {name: Run(load_recipe(recipe), trained_on, fold) for name, recipe in recipes.items()}

    def train(self) -> None:
        """Train every network that is not finished yet; a folder with another run is refused before any training."""
        runs = {
            self.work / run.folder: run
            for split, fold in self.folds
            for run in self.runs(split, fold).values()
        }
        left = [
            (out, run)
            for out, run in runs.items()
            if not finished(run.recipe, out, self.data.names(run.split, run.fold))
        ]
        for out, run in left:
            self.words.say(f"training {out.name}")
            trained(
                run.recipe,
                out,
                self.data.names(run.split, run.fold),
                partial(self.data.patches, run.split, run.fold),
                device=self.device,
                report=self.words.epoch,
                progress=self.words.steps,
            )
        self.data.forget()

    def networks(self, split: str, fold: int) -> list[Applied]:
        """The trained networks of a fold."""
        runs, device = self.runs(split, fold).items(), chosen_device(self.device)
        return [as_filter(name, self.work / run.folder, device) for name, run in runs]

    def measure(self) -> list[Result]:
        """Filter, measure and judge everything; the trainings have to be finished."""
        results, store = [], self.store
        for split, number in self.folds:
            fold, networks = self.data.fold(split, number), self.networks(split, number)
            compared = self._compared(split)
            for mas in (*TUBE_CURRENTS_MAS, *UNTRAINED_MAS):
                self.words.say(f"measuring {split}, fold {number}, {mas:g} mAs")
                results += judged(fold, store, mas, [*compared.get(mas, ()), *networks])
        self.data.forget()
        return results

    def made(self) -> Made:
        """How the results were made, from the notes of the trainings."""
        folders = {run.folder for split, fold in self.folds for run in self.runs(split, fold).values()}
        notes = [read_notes(self.work / folder) for folder in sorted(folders)]
        recipes = dict.fromkeys(note["recipe"]["name"] for note in notes)
        return Made(
            machine="; ".join(dict.fromkeys(note["machine"] for note in notes)),
            recipe=f"{', '.join(recipes)} (schedule {self.schedule.name})",
            folds=self.schedule.folds["positions"],
            seconds=sum(note["seconds"] for note in notes),
            notes=tuple(self.notes),
        )

    def _compared(self, split: str) -> dict[float, list[Applied]]:
        """The compared filters by tube current, their settings chosen on validation data of the same kind of bone."""
        kind = "donors" if split == "donors" else "vertebrae"
        choice = chosen_filters(
            self.data.tuning(split),
            TUBE_CURRENTS_MAS,
            self.filters,
            self.work / f"filters-{kind}.json",
            self.words.say,
        )
        self.notes = list(dict.fromkeys((*self.notes, *choice.notes)))
        return choice.filters
