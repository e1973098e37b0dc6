"""The data of a training run: simulated scans of random-field bone and of real micro-CT cubes, split by donor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.volume import Progress
from qctrun.train.insilico.phantom import Phantom, cube_seed, microct_phantom, random_field_phantom
from qctrun.train.insilico.scanner import SIMULATOR_VERSION
from qctrun.train.patches import Patches, Scanned, scanned
from qctrun.train.raster import RASTER

FIELD_SIZE = (56, 120, 120)
"""Voxels (z, y, x) of one random-field phantom: about 19 x 21 x 21 mm."""

DENSE_RASTER = (4, 8, 8)
"""Training patches overlap more than the paper's, since a micro-CT cube is only 10 mm across."""

PARTS = ("train", "validation", "test")

SIMULATED_BY = {"simulator": [SIMULATOR_VERSION]}


@dataclass(frozen=True)
class Plan:
    """Which phantoms train, validate and test, known before any is simulated; three entries in each tuple.

    The micro-CT donors are taken in the order of their numbers: the third and the seventh are kept for the
    test, the fifth for validation, and the others train. The rule was set before any training.

    Attributes
    ----------
    cubes : three lists of Path
        Micro-CT cubes; no donor is in two parts.
    seeds : three lists of int
        Seeds of random-field vertebrae; none is in two parts.
    """

    cubes: tuple[list[Path], ...]
    seeds: tuple[list[int], ...]

    def names(self) -> dict[str, list[str]]:
        """What the phantoms of each part are called, to tell one run's data from another's."""
        names = {
            part: [*(path.stem for path in cubes), *(f"random-field-{seed}" for seed in seeds)]
            for part, cubes, seeds in zip(PARTS, self.cubes, self.seeds, strict=True)
        }
        return {**names, **SIMULATED_BY}


@dataclass(frozen=True)
class Split:
    """Three sets of patches that are held apart.

    Attributes
    ----------
    train, validation, test : Patches
        What is learnt from, what stops the training, and what is scored.
    names : mapping of part to list of str
        What a checkpoint is told of them: one of other data is refused.
    about : mapping of JSON values
        What the notes of the run and the model's card say of real pairs; empty where all is simulated.
    """

    train: Patches
    validation: Patches
    test: Patches
    names: dict[str, list[str]]
    about: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, list[str]]:
        """Donors of each part, for logs and cards."""
        parts = zip(PARTS, (self.train, self.validation, self.test), strict=True)
        return {part: sorted(patches.donors) for part, patches in parts}


def planned(microct: Path | None, fields: tuple[int, int, int] = (6, 1, 2)) -> Plan:
    """Plan the phantoms of a training run.

    Parameters
    ----------
    microct : path, optional
        Folder of micro-CT cubes named `isodata_<donor>_roi_<n>.nrrd`; without it only random-field bone is used.
    fields : three ints
        Random-field vertebrae to train on, to validate with and to test on.

    Raises
    ------
    InputError
        When the folder holds fewer than eight donors.
    UsageError
        When there is nothing to train on or to stop by.
    """
    cubes = _cubes_by_part(microct) if microct else ([], [], [])
    for name, paths, count in zip(("train on", "validate with"), cubes, fields, strict=False):
        if not paths and count == 0:
            raise UsageError("fields", wanted=f"a vertebra or a cube to {name}", got=f"none of {fields}")
    return Plan(
        cubes, tuple([_field_seed(part, i) for i in range(count)] for part, count in enumerate(fields))
    )


def simulate(plan: Plan, progress: Progress | None = None) -> Split:
    """Simulate all scans of all phantoms of a plan; `progress(done, total)` is called after each."""
    total = sum(len(cubes) + len(seeds) for cubes, seeds in zip(plan.cubes, plan.seeds, strict=True))
    done = 0
    parts: list[list[Scanned]] = []
    for cubes, seeds in zip(plan.cubes, plan.seeds, strict=True):
        parts.append([])
        for phantom in (*map(_cube, cubes), *map(_field, seeds)):
            parts[-1].append(scanned(phantom()))
            done += 1
            if progress:
                progress(done, total)
    rasters = (DENSE_RASTER, RASTER, RASTER)
    train, validation, test = (
        Patches.over(phantoms, raster) for phantoms, raster in zip(parts, rasters, strict=True)
    )
    return Split(train, validation, test, plan.names())


def _cube(path: Path) -> Callable[[], Phantom]:
    return lambda: microct_phantom(path, cube_seed(path))


def _field(seed: int) -> Callable[[], Phantom]:
    return lambda: random_field_phantom(FIELD_SIZE, seed)


def _field_seed(part: int, index: int) -> int:
    """Seeds 0, 100 and 200 onwards for the three parts; beyond a hundred each, others that no part shares."""
    return 100 * part + index if index < 100 else 10_000 * (part + 1) + index


def _cubes_by_part(folder: Path) -> tuple[list[Path], ...]:
    paths = sorted(folder.glob("isodata_*_roi_*.nrrd"))
    donors = sorted({path.stem.split("_")[1] for path in paths})
    if len(donors) < 8:
        raise InputError(
            f"micro-CT folder {folder}",
            wanted="cubes isodata_<donor>_roi_<n>.nrrd of at least 8 donors",
            got=f"{len(paths)} cubes of {len(donors)} donors",
        )
    test, validation = donors[2::4], donors[4:5]
    train = [donor for donor in donors if donor not in (*test, *validation)]
    return tuple([p for p in paths if p.stem.split("_")[1] in part] for part in (train, validation, test))
