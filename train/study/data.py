"""The study's data in both shapes: patches to train on, and samples of subjects to judge by."""

from functools import cached_property
from pathlib import Path

import numpy as np

from qctrun.runtime.errors import InputError, UsageError
from qctrun.train.dataset import FIELD_SIZE, PARTS, SIMULATED_BY, Plan, Split, planned, simulate
from qctrun.train.folds import FOLDS, Numbers, Parts, by_owner, by_position
from qctrun.train.insilico.scanner import PAPER_SPACING_MM
from qctrun.train.insilico.study import STUDY_SIZE, VERTEBRAE, study_phantom
from qctrun.train.patches import Patches, Scanned, scanned
from qctrun.train.raster import corners
from qctrun.train.study.judge import Fold, Sample
from qctrun.train.study.subjects import Subject, field_subjects, microct_subjects, study_subjects

Names = dict[str, list[str]]

DONOR_FIELDS = (12, 1, 2)
"""Random-field vertebrae beside the micro-CT cubes, for training, stopping and the test in training; the study's
five are not among them."""

TUNING_VERTEBRAE = 2
"""Whose validation positions choose the settings of the compared filters: non-local means is slow."""


def parts(split: str, fold: int) -> Parts:
    """Numbers of the positions of all vertebrae together, vertebra after vertebra, for each part of a fold.

    Raises
    ------
    UsageError
        When there is no such fold.
    """
    each = len(corners(STUDY_SIZE))
    if split == "positions":
        return by_position(VERTEBRAE * each, fold)
    if not 1 <= fold <= VERTEBRAE:
        raise UsageError("fold", wanted=f"a vertebra from 1 to {VERTEBRAE}", got=str(fold))
    return by_owner(np.repeat(np.arange(VERTEBRAE), each), fold - 1)


class Data:
    """Everything that is trained on or judged, simulated when it is first needed.

    Parameters
    ----------
    microct : Path, optional
        Folder of the public L1 micro-CT cubes; without it there is no split `donors`.
    """

    def __init__(self, microct: Path | None) -> None:
        self.vertebrae = study_subjects()
        self._plan = planned(microct, DONOR_FIELDS) if microct else None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """The grid (z, y, x) of all scans."""
        return PAPER_SPACING_MM

    @property
    def has_donors(self) -> bool:
        """Whether real donors are at hand."""
        return self._plan is not None

    def names(self, split: str, fold: int) -> Names:
        """What a checkpoint is told of the data of a fold."""
        if split == "donors":
            return self._donors.names()
        which = f"positions, fold {fold} of {FOLDS}" if split == "positions" else f"without vertebra-{fold}"
        names = [*(subject.name for subject in self.vertebrae), f"{which}, seed 0"]
        return {**dict.fromkeys(PARTS, names), **SIMULATED_BY}

    def patches(self, split: str, fold: int) -> Split:
        """The patches of a fold."""
        if split == "donors":
            return simulate(self._donors)
        everything = Patches.over(self._scanned)
        train, validation, test = (
            Patches(everything.phantoms, [everything.positions[i] for i in numbers])
            for numbers in parts(split, fold)
        )
        return Split(train, validation, test, self.names(split, fold))

    def fold(self, split: str, fold: int) -> Fold:
        """What is judged in a fold, and what the BMD line is fitted to."""
        if split == "donors":
            train, _, test = ([Sample(subject) for subject in part] for part in self._cubes)
        elif split == "simulated":
            train, test = ([Sample(subject) for subject in group] for group in (self._fields, self.vertebrae))
        else:
            numbers = parts(split, fold)
            train, test = self._samples(numbers.train), self._samples(numbers.test)
        return Fold(split, fold, train, test)

    def tuning(self, split: str) -> list[Sample]:
        """What chooses the settings of the compared filters.

        For simulated bone these are validation positions of the first fold. Other folds test some of them, which
        can only flatter the compared filters. For donors they are the cubes of the validation donor.
        """
        if split == "donors":
            return [Sample(subject) for subject in self._cubes[1]]
        return self._samples(parts("positions", 1).validation)[:TUNING_VERTEBRAE]

    def forget(self) -> None:
        """Free the memory of what is simulated."""
        self.__dict__.pop("_scanned", None)
        cubes = (subject for part in self.__dict__.get("_cubes", ()) for subject in part)
        for subject in (*self.vertebrae, *cubes, *self.__dict__.get("_fields", ())):
            subject.forget()

    @property
    def _donors(self) -> Plan:
        if self._plan is None:
            raise InputError(
                "split donors", wanted="a folder of micro-CT cubes", got="none", mend="give --microct"
            )
        return self._plan

    @cached_property
    def _scanned(self) -> list[Scanned]:
        return [scanned(study_phantom(index)) for index in range(VERTEBRAE)]

    @cached_property
    def _cubes(self) -> list[list[Subject]]:
        return [microct_subjects(paths) for paths in self._donors.cubes]

    @cached_property
    def _fields(self) -> list[Subject]:
        """The random-field vertebrae that the donors' network was trained on."""
        return field_subjects(self._donors.seeds[0], FIELD_SIZE)

    def _samples(self, numbers: Numbers) -> list[Sample]:
        each = len(corners(STUDY_SIZE))
        owned = ((subject, numbers[numbers // each == i] % each) for i, subject in enumerate(self.vertebrae))
        return [Sample(subject, own) for subject, own in owned if own.size]
