"""Global parameters (Eq. 1-3) over a mask and its labels, and the means of local maps over a mask."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.measuring.checks import checked_thresholds, require_density
from qctrun.runtime.volume import BoolArray, MapKey, Volume, as_mask

Labels = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]
Slices = Callable[[], Iterator[Doubles]]

HARDLY_BONE_BVTV = 0.01
"""Below this a local TMD rests on next to nothing; tables count such spheres."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What one region measures at one threshold.

    Attributes
    ----------
    label : int or None
        None is the whole mask, or the whole volume where there is no mask.
    threshold_mg_cm3 : float
        What counts as bone, from this density on.
    voxels, volume_mm3 : int, float
        Size of the region.
    bmd_mg_cm3, bmd_sd_mg_cm3 : float
        Mean density (Eq. 1) and its SD over the voxels (with n - 1; NaN for a single voxel). NaN without voxels.
    bvtv : float
        Fraction of bone voxels (Eq. 2), 0..1; NaN without voxels.
    tmd_mg_cm3 : float or None
        Mean density of the bone voxels (Eq. 3), None where there is no bone.
    bone_voxels : int
        How many voxels the TMD rests on.
    """

    label: int | None
    threshold_mg_cm3: float
    voxels: int
    volume_mm3: float
    bmd_mg_cm3: float
    bmd_sd_mg_cm3: float
    bvtv: float
    tmd_mg_cm3: float | None
    bone_voxels: int


@dataclass(frozen=True, slots=True)
class MapMeans:
    """Local maps in a few numbers.

    Attributes
    ----------
    means : mapping
        The mean of each map over the voxels that have a value; None where none has.
    spheres : int
        How many voxels have a value, each standing for its sphere.
    hardly_bone : mapping
        For each threshold how many of these spheres hold less than 1 % of bone.
    """

    means: Mapping[MapKey, float | None]
    spheres: int
    hardly_bone: Mapping[float, int]


def parameters(
    volume: Volume,
    thresholds: Sequence[float],
    mask: npt.NDArray[Any] | None = None,
    labels: Labels | None = None,
) -> list[Parameters]:
    """Measure a mask as a whole and each label in it, with the hard step (V >= t is bone).

    Parameters
    ----------
    volume : Volume
        Calibrated density, mg/cm3, finite.
    thresholds : sequence of floats
        mg/cm3.
    mask : bool or integer array (z, y, x), optional
        The region, where it is not 0; the whole volume when None.
    labels : integer array (z, y, x), optional
        Regions of their own, 0 is none. Only their voxels in the mask count; the row of a label without any
        says 0 voxels and has no values.

    Returns
    -------
    list of Parameters
        One per region and threshold: first the whole mask, then the labels in rising order.

    Raises
    ------
    UsageError
        When the thresholds make no sense.
    InputError
        When the volume is not finite density or mask or labels do not fit.
    """
    wanted = checked_thresholds(thresholds)
    require_density(volume)
    region = None if mask is None else as_mask(mask, volume.grid)
    if labels is not None:
        _require_labels(labels, volume)
    found = [None] if labels is None else [None, *(int(label) for label in np.unique(labels) if label)]
    rows: list[Parameters] = []
    for label in found:
        slices = partial(_slices, volume.array, region, labels, label)
        rows += _measure(label, slices, wanted, volume.grid.voxel_mm3)
    return rows


def map_means(maps: Mapping[MapKey, Volume], mask: npt.NDArray[Any] | None = None) -> MapMeans:
    """Average local maps over those voxels of a mask (or of the volume) that have a value.

    Raises
    ------
    InputError
        When the mask does not fit the maps.
    """
    region = None if mask is None else as_mask(mask, next(iter(maps.values())).grid)
    means, spheres = {}, 0
    hardly: dict[float, int] = {}
    for key, volume in maps.items():
        values = volume.array[np.isfinite(volume.array) & (True if region is None else region)]
        spheres = values.size
        means[key] = float(values.mean(dtype=np.float64)) if spheres else None
        if isinstance(key, tuple) and key[0] == "BVTV":
            hardly[key[1]] = int(np.count_nonzero(values < HARDLY_BONE_BVTV))
    return MapMeans(means, spheres, hardly)


def _require_labels(labels: Labels, volume: Volume) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError("labels", wanted="an array of whole numbers", got=str(labels.dtype))
    if labels.shape != volume.array.shape:
        raise InputError("labels", wanted=f"the volume's shape {volume.array.shape}", got=str(labels.shape))


def _measure(
    label: int | None, slices: Slices, thresholds: tuple[float, ...], voxel_mm3: float
) -> Iterator[Parameters]:
    """A region at each threshold; NaN where there are no voxels to average."""
    voxels, total = 0, 0.0
    bone_voxels, bone_total = dict.fromkeys(thresholds, 0), dict.fromkeys(thresholds, 0.0)
    for values in slices():
        voxels += values.size
        total += float(values.sum())
        for threshold in thresholds:
            bone = values[values >= threshold]
            bone_voxels[threshold] += bone.size
            bone_total[threshold] += float(bone.sum())
    bmd = total / voxels if voxels else math.nan
    squares = sum(float(np.sum((values - bmd) ** 2)) for values in slices())
    for threshold in thresholds:
        bone_count = bone_voxels[threshold]
        yield Parameters(
            label=label,
            threshold_mg_cm3=threshold,
            voxels=voxels,
            volume_mm3=voxels * voxel_mm3,
            bmd_mg_cm3=bmd,
            bmd_sd_mg_cm3=math.sqrt(squares / (voxels - 1)) if voxels > 1 else math.nan,
            bvtv=bone_count / voxels if voxels else math.nan,
            tmd_mg_cm3=bone_total[threshold] / bone_count if bone_count else None,
            bone_voxels=bone_count,
        )


def _slices(
    array: npt.NDArray[np.float32], mask: BoolArray | None, labels: Labels | None, label: int | None
) -> Iterator[Doubles]:
    """The values of a region, slice by slice, so that no copy of the volume is made."""
    for z, values in enumerate(array):
        here = np.ones(values.shape, bool) if mask is None else mask[z]
        if labels is not None and label is not None:
            here = here & (labels[z] == label)
        yield values[here].astype(np.float64)
