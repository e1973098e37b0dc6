"""Whose bone the study looks at, simulated when it is needed and measured scan by scan."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from qctrun.runtime.volume import FloatArray
from qctrun.train.insilico.fields import Size
from qctrun.train.insilico.phantom import Phantom, cube_seed, microct_phantom, random_field_phantom
from qctrun.train.insilico.scanner import SIMULATOR_VERSION, Scanner
from qctrun.train.insilico.study import VERTEBRAE, study_phantom
from qctrun.train.raster import REPETITIONS
from qctrun.train.study.measure import MEASURED, Readings, readings
from qctrun.train.study.store import Store

Filter = Callable[[FloatArray], FloatArray]
"""Takes and gives a whole volume, float32 (z, y, x), mg/cm3."""


@dataclass(frozen=True)
class Applied:
    """A filter as the study applies it.

    Attributes
    ----------
    name : str
        As in the tables.
    version : str
        Its setting, or what tells one network from another: readings are kept under it.
    apply : callable
        The filter itself.
    """

    name: str
    version: str
    apply: Filter


RAW = Applied("raw", "", lambda scan: scan)


class Subject:
    """A phantom by its name; simulated when first scanned, forgotten by `forget`.

    Parameters
    ----------
    name, donor : str
        What it is called, and whose bone it is: the cluster of its data points.
    make : callable
        Simulates it.
    """

    def __init__(self, name: str, donor: str, make: Callable[[], Phantom]) -> None:
        self.name = name
        self.donor = donor
        self._make = make
        self._made: Phantom | None = None

    @property
    def phantom(self) -> Phantom:
        """The phantom, simulated now if it is not there yet."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def forget(self) -> None:
        """Free its memory; it can be simulated again."""
        self._made = None

    def truth(self, store: Store) -> Readings:
        """Readings of the truth, and its `shape`."""
        return store.kept(f"{self.name}/truth", self._key(), self._truth)

    def scans(self, store: Store, mas: float, applied: Applied = RAW) -> Readings:
        """Readings of all repetitions at a tube current (mAs) behind a filter; their first axis is the repetition."""
        made_from = {**self._key(), "mas": mas, "filter": applied.name, "version": applied.version}
        what = f"{self.name}/{applied.name.replace(' ', '-')}-{mas:g}"
        return store.kept(what, made_from, lambda: self._scans(mas, applied))

    def _truth(self) -> Readings:
        return {**readings(self.phantom.truth), "shape": np.array(self.phantom.truth.shape, np.float32)}

    def _scans(self, mas: float, applied: Applied) -> Readings:
        found = [readings(applied.apply(self.phantom.scan(mas, number))) for number in range(REPETITIONS)]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}

    def _key(self) -> dict[str, object]:
        return {
            "subject": self.name,
            "simulator": SIMULATOR_VERSION,
            "scanner": asdict(Scanner()),
            "repetitions": REPETITIONS,
            **MEASURED,
        }


def study_subjects() -> list[Subject]:
    """The five vertebrae of the study."""
    names = [f"vertebra-{index + 1}" for index in range(VERTEBRAE)]
    return [Subject(name, name, partial(study_phantom, index)) for index, name in enumerate(names)]


def field_subjects(seeds: Sequence[int], size: Size) -> list[Subject]:
    """Random-field vertebrae of `size` voxels (z, y, x), as the training's are."""
    names = [f"random-field-{seed}" for seed in seeds]
    return [
        Subject(name, name, partial(random_field_phantom, size, seed))
        for name, seed in zip(names, seeds, strict=True)
    ]


def microct_subjects(paths: Sequence[Path]) -> list[Subject]:
    """Micro-CT cubes of L1 donors, scanned as the training's are."""
    return [
        Subject(path.stem, path.stem.split("_")[1], partial(microct_phantom, path, seed=cube_seed(path)))
        for path in paths
    ]
