"""The data of a training run: simulated scans of random-field bone and of real micro-CT cubes, split by donor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qctrun.runtime.errors import InputError, UsageError
from qctrun.train.insilico.phantom import Phantom, microct_phantom, random_field_phantom
from qctrun.train.patches import RASTER, Patches, Scanned, scanned

FIELD_SIZE = (56, 120, 120)
"""Voxels (z, y, x) of one random-field phantom: about 19 x 21 x 21 mm."""

DENSE_RASTER = (4, 8, 8)
"""Training patches overlap more than the paper's, since a micro-CT cube is only 10 mm across."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Split:
    """Three sets of patches that share no donor.

    The micro-CT donors are taken in the order of their numbers: the third and the seventh are kept for the
    test, the fifth for validation, and the others train. The rule was set before any training.
    """

    train: Patches
    validation: Patches
    test: Patches

    def describe(self) -> dict[str, list[str]]:
        """Donors of each part, for logs and cards."""
        return {
            part: sorted({phantom.donor for phantom in patches.phantoms})
            for part, patches in (("train", self.train), ("validation", self.validation), ("test", self.test))
        }


def insilico_split(
    microct: Path | None, fields: tuple[int, int, int] = (6, 1, 2), progress: Progress | None = None
) -> Split:
    """Simulate all scans of all phantoms and split them by donor.

    Parameters
    ----------
    microct : path, optional
        Folder of micro-CT cubes named `isodata_<donor>_roi_<n>.nrrd`; without it only random-field bone is used.
    fields : three ints
        Random-field vertebrae to train on, to validate with and to test on.
    progress : callable (done, total), optional
        Called after each phantom.

    Raises
    ------
    InputError
        When the folder holds fewer than eight donors.
    UsageError
        When there is nothing to train on or to stop by.
    """
    cubes = _cubes_by_part(microct) if microct else [[], [], []]
    _require_phantoms(cubes, fields)
    total = sum(map(len, cubes)) + sum(fields)
    done = 0
    parts: list[list[Scanned]] = []
    for part, (paths, count) in enumerate(zip(cubes, fields, strict=True)):
        makers: list[Callable[[], Phantom]] = [_cube_maker(path) for path in paths]
        makers += [_field_maker(_field_seed(part, index)) for index in range(count)]
        phantoms = []
        for make in makers:
            phantoms.append(scanned(make()))
            done += 1
            if progress:
                progress(done, total)
        parts.append(phantoms)
    rasters = (DENSE_RASTER, RASTER, RASTER)
    return Split(*(Patches.over(phantoms, raster) for phantoms, raster in zip(parts, rasters, strict=True)))


def _cube_maker(path: Path) -> Callable[[], Phantom]:
    # The number of the cube is part of its name, so its seed does not depend on which cubes lie beside it.
    return lambda: microct_phantom(path, seed=1000 + int(path.stem.split("_")[-1]))


def _field_maker(seed: int) -> Callable[[], Phantom]:
    return lambda: random_field_phantom(FIELD_SIZE, seed)


def _require_phantoms(cubes: list[list[Path]], fields: tuple[int, int, int]) -> None:
    for name, paths, count in zip(("train on", "validate with"), cubes, fields, strict=False):
        if not paths and count == 0:
            raise UsageError("fields", wanted=f"a vertebra or a cube to {name}", got=f"none of {fields}")


def _field_seed(part: int, index: int) -> int:
    """Seeds 0, 100 and 200 onwards for the three parts; beyond a hundred each, others that no part shares."""
    return 100 * part + index if index < 100 else 10_000 * (part + 1) + index


def _cubes_by_part(folder: Path) -> list[list[Path]]:
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
    return [[p for p in paths if p.stem.split("_")[1] in part] for part in (train, validation, test)]


def scans_at(currents_mas: Sequence[float], wanted_mas: float, repetitions: int) -> list[int]:
    """Indices of the scans of one tube current in `Scanned.scans`."""
    first = list(currents_mas).index(wanted_mas) * repetitions
    return list(range(first, first + repetitions))
