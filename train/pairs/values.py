"""A specimen in both scanners, and a study's dataset of them, as values that cannot contradict themselves."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import BoolArray, FloatArray, Material
from qctrun.train.raster import PATCH

Spacing = tuple[float, float, float]

_SMALL = {"mask": (3, "?"), "positions": (2, "i4"), "currents_mas": (1, "f8"), "repetitions": (1, "i4")}
ARRAYS = {"truth": (3, "f4"), **_SMALL, "scans": (4, "f4")}
"""Dimensions and type of each array of a specimen."""


@dataclass(frozen=True, eq=False)
class PairedSpecimen:
    """A specimen in both scanners, on one grid.

    Attributes
    ----------
    name, donor : str
        What it is called, and whose bone it is: patches of one donor are never split.
    truth : float32 array (z, y, x)
        Density from the reference scanner, mg/cm3.
    mask : bool array (z, y, x)
        Where that is trabecular bone.
    scans : float32 array (scan, z, y, x), or a sequence of arrays (z, y, x)
        Calibrated QCT scans, mg/cm3; NaN where a scan does not reach. A sequence is asked for one scan at a time.
    currents_mas, repetitions : array (scan)
        Tube current of each scan, mAs, and which of the repetitions at this current it is.
    positions : int array (position, 3)
        Corners (z, y, x) of the patches; each is known in all scans.
    provenance : mapping of JSON values
        Where it came from: files, scanner, registration, calibration. It may name no patient.

    Raises
    ------
    InputError
        When lengths and shapes do not agree, a scan is there twice, or a patch leaves the volume.
    """

    name: str
    donor: str
    truth: FloatArray
    mask: BoolArray
    scans: FloatArray | Sequence[FloatArray]
    currents_mas: npt.NDArray[np.float64]
    repetitions: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("currents_mas", "repetitions", "positions"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), ARRAYS[name][1]))
        if not self.positions.size:
            object.__setattr__(self, "positions", self.positions.reshape(0, 3))
        _check(self)


@dataclass(frozen=True)
class Pairs:
    """The dataset of a study.

    Attributes
    ----------
    specimens : tuple of PairedSpecimen
        In the order of their names.
    spacing_mm : (float, float, float)
        Their grid (z, y, x).
    material : "HA" or "K2HPO4"
        What all densities are densities of.
    header : mapping of JSON values
        What the study says of itself.
    """

    specimens: tuple[PairedSpecimen, ...]
    spacing_mm: Spacing
    material: Material
    header: dict[str, Any]

    @property
    def donors(self) -> list[str]:
        """Whose bone it is, in order."""
        return sorted({specimen.donor for specimen in self.specimens})

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that is trained on: grid, material, names, arrays; not of the provenance."""
        total = hashlib.sha256(repr((self.spacing_mm, self.material)).encode())
        for specimen in self.specimens:
            total.update(repr((specimen.name, specimen.donor)).encode())
            for name in ARRAYS:
                array = np.ascontiguousarray(getattr(specimen, name))
                total.update(repr((name, array.shape)).encode())
                total.update(array.data)
        return total.hexdigest()


def _check(specimen: PairedSpecimen) -> None:
    where, shape = f"specimen {specimen.name}", specimen.truth.shape
    if not re.fullmatch(r"[\w-][\w.-]*", specimen.name) or not specimen.donor:
        raise InputError(
            where, wanted="a name of letters, digits, - and ., and a donor", got=repr(specimen.name)
        )
    if len(shape) != 3 or specimen.mask.shape != shape:
        got = f"shapes {shape} and {specimen.mask.shape}"
        raise InputError(where, wanted="a mask on the grid (z, y, x) of the truth", got=got)
    named = list(zip(specimen.currents_mas.tolist(), specimen.repetitions.tolist(), strict=False))
    lengths = {len(specimen.scans), len(specimen.currents_mas), len(specimen.repetitions)}
    if lengths != {len(set(named))} or not all(0 < mas < np.inf for mas, _ in named):
        wanted = "a tube current and repetition for each scan, none twice"
        raise InputError(where, wanted=wanted, got=f"{len(specimen.scans)} scans, {named}")
    places = specimen.positions
    if places.ndim != 2 or places.shape[1] != 3 or (places < 0).any() or (places + PATCH > shape).any():
        raise InputError(where, wanted="positions whose patches lie inside", got="others")
    if len(np.unique(places, axis=0)) != len(places):
        raise InputError(where, wanted="positions that differ", got="one that is there twice")
