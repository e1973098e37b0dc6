"""Local maps: BMD, SD, BV/TV and TMD of the sphere around each voxel (Eq. 4-9)."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qctrun.runtime.devices import parse_device, parse_threads
from qctrun.runtime.errors import DeviceError, OutOfMemoryError, QctrunError, UsageError
from qctrun.runtime.measuring.checks import checked_thresholds, require_density
from qctrun.runtime.measuring.kernels.cuda.device import has_driver, prove
from qctrun.runtime.measuring.kernels.formulas import FUZZY_WIDTH_MG_CM3
from qctrun.runtime.measuring.sphere import Sphere
from qctrun.runtime.volume import BoolArray, FloatArray, Grid, MapKey, Progress, Unit, Volume, as_mask

Step = Literal["fuzzy", "hard"]
Measured = tuple[FloatArray, FloatArray, list[FloatArray], list[FloatArray]]

BACKENDS = {
    "cpu": "qctrun.runtime.measuring.kernels.cpu",
    "cuda": "qctrun.runtime.measuring.kernels.cuda.host",
}
"""Where each kind of device has its kernels; imported when used, since compilers are slow to load."""


def local_maps(
    volume: Volume,
    thresholds: Sequence[float],
    diameter_mm: float = 4.3,
    step: Step = "fuzzy",
    mask: npt.NDArray[Any] | None = None,
    inside: bool = False,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[MapKey, Volume]:
    """Measure the sphere around every voxel about which a whole one lies in the volume.

    Parameters
    ----------
    volume : Volume
        Calibrated density, mg/cm3, finite.
    thresholds : sequence of floats
        What counts as bone, mg/cm3; each gives a BV/TV and a TMD map.
    diameter_mm : float
        Diameter of the sphere, mm.
    step : "fuzzy" or "hard"
        The paper's step of 10 mg/cm3 width, or bone from the threshold on.
    mask : bool or integer array (z, y, x), optional
        Values where it is not 0 only. Their spheres are whole: they reach beyond the mask.
    inside : bool
        Values only where the sphere lies wholly inside the mask.
    device : str
        "auto" (a GPU that works, else the CPU), "cpu", "cuda" or "cuda:N". The numbers do not depend on it, but
        for the last bit of a TMD where BV/TV is below 0.41 %.
    threads : int, optional
        How many cores to use; all when None. The numbers do not depend on it.
    progress : callable, optional
        Told (done, total) as the work proceeds.

    Returns
    -------
    dict of Volumes on the same grid
        "BMD" (Eq. 6) and "SD" (Eq. 9) in mg/cm3; for each threshold t ("BVTV", t) (Eq. 7) as a fraction and ("TMD", t)
        (Eq. 8) in mg/cm3. NaN where there is no value. A TMD tends to 0 where there is hardly any bone.

    Raises
    ------
    UsageError
        When thresholds, step, threads or `inside` without a mask make no sense.
    InputError
        When the volume is not finite density, the mask does not fit, or the sphere is one voxel.
    DeviceError
        When the device that was asked for cannot be used.
    OutOfMemoryError
        When its memory does not suffice.
    """
    work = planned(volume.grid, thresholds, diameter_mm, step, mask, inside)
    threads = parse_threads(threads)
    used, told = where_to(device, volume)
    require_density(volume)
    try:
        found = _measured(work, told.array, used, threads, progress)
    except (DeviceError, OutOfMemoryError) as error:
        if device != "auto" or used == "cpu":
            raise
        used, told = "cpu", told.warn(_on_the_cpu(error))
        found = _measured(work, told.array, used, threads, progress)
    return as_volumes(work, told, found, used)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is to be measured on a grid, in words that have been checked.

    Attributes
    ----------
    thresholds : tuple of float
        mg/cm3.
    sphere : Sphere
    step : "fuzzy" or "hard"
    region : bool array (z, y, x) or None
        The mask.
    inside : bool
        Whether spheres must lie wholly in it.
    wanted : bool array (z, y, x)
        Voxels of the region about which the whole sphere lies inside the volume.
    """

    thresholds: tuple[float, ...]
    sphere: Sphere
    step: Step
    region: BoolArray | None
    inside: bool
    wanted: BoolArray


def planned(
    grid: Grid,
    thresholds: Sequence[float],
    diameter_mm: float,
    step: Step,
    mask: npt.NDArray[Any] | None,
    inside: bool,
) -> Measurement:
    """Check the words of `local_maps`, before anything is computed. Raises what it raises."""
    wanted_thresholds = checked_thresholds(thresholds)
    _require_sense(step, inside and mask is None)
    region = None if mask is None else as_mask(mask, grid)
    sphere = Sphere(grid.spacing, diameter_mm)
    wanted = _where_it_fits(sphere, grid)
    if region is not None:
        wanted &= region
    return Measurement(wanted_thresholds, sphere, step, region, inside, wanted)


def where_to(device: str, volume: Volume) -> tuple[str, Volume]:
    """The device that is used, and the volume, which tells of a GPU that was there and could not be used."""
    used = parse_device(device)
    if used == "cpu" or (device == "auto" and not has_driver()):
        return "cpu", volume
    try:
        prove(used)
    except DeviceError as error:
        if device != "auto":
            raise
        return "cpu", volume.warn(_on_the_cpu(error))
    return used, volume


def as_volumes(work: Measurement, measured: Volume, found: Measured, device: str) -> dict[MapKey, Volume]:
    """Arrays that a backend has made of a volume, with their names, units, warnings and provenance."""
    bmd, sd, bvtv, tmd = found
    sphere, masked = work.sphere, work.region is not None
    how = {**_how(sphere, work.step, masked, work.inside), "device": device}
    told = measured.warn(*sphere.warnings, *_beyond_filtered(sphere, measured))
    if not np.isfinite(bmd).any():
        told = told.warn(_nowhere(sphere, masked, work.inside))
    maps: dict[MapKey, Volume] = {
        "BMD": _map(told, bmd, "mg/cm3", {**how, "quantity": "BMD"}),
        "SD": _map(told, sd, "mg/cm3", {**how, "quantity": "SD"}),
    }
    for threshold, fractions, densities in zip(work.thresholds, bvtv, tmd, strict=True):
        here = {**how, "threshold_mg_cm3": threshold}
        maps["BVTV", threshold] = _map(told, fractions, "1", {**here, "quantity": "BVTV"})
        maps["TMD", threshold] = _map(told, densities, "mg/cm3", {**here, "quantity": "TMD"})
    return maps


def _measured(
    work: Measurement, array: FloatArray, device: str, threads: int, progress: Progress | None
) -> Measured:
    backend = importlib.import_module(BACKENDS[device.partition(":")[0]])
    where = threads if device == "cpu" else device
    wanted, half_widths = work.wanted, work.sphere.half_widths
    if work.region is not None and work.inside:
        wanted = backend.inside(np.ascontiguousarray(work.region), wanted, half_widths, where)
    found: Measured = backend.measure(
        array, wanted, half_widths, work.thresholds, work.step == "fuzzy", where, progress
    )
    return found


def _require_sense(step: str, no_mask: bool) -> None:
    if step not in ("fuzzy", "hard"):
        raise UsageError("step", wanted="fuzzy or hard", got=repr(step))
    if no_mask:
        raise UsageError("inside", wanted="a mask for the spheres to lie in", got="none")


def _on_the_cpu(error: QctrunError) -> str:
    return f"local maps were computed on the CPU: {error}"


def _where_it_fits(sphere: Sphere, grid: Grid) -> BoolArray:
    """Voxels about which the whole sphere lies inside the volume."""
    fits = np.zeros(grid.size, bool)
    sides = zip(sphere.half_size, grid.size, strict=True)
    fits[tuple(slice(half, max(half, size - half)) for half, size in sides)] = True
    return fits


def _how(sphere: Sphere, step: Step, masked: bool, inside: bool) -> dict[str, Any]:
    return {
        "diameter_mm": sphere.diameter_mm,
        "sphere_voxels": sphere.voxels,
        "step": step,
        "step_width_mg_cm3": FUZZY_WIDTH_MG_CM3 if step == "fuzzy" else 0.0,
        "where": ("sphere inside mask" if inside else "mask") if masked else "sphere inside volume",
    }


def _map(volume: Volume, array: npt.NDArray[np.float32], unit: Unit, how: dict[str, Any]) -> Volume:
    return volume.with_array(array, unit=unit, provenance={**volume.provenance, "map": how})


def _beyond_filtered(sphere: Sphere, volume: Volume) -> tuple[str, ...]:
    """Say when spheres around the mask of a filter reach further than the filter has."""
    made = volume.provenance.get("filter") or {}
    margin_mm = made.get("margin_mm")
    if made.get("outside") != "raw" or margin_mm is None or sphere.diameter_mm / 2 <= margin_mm:
        return ()
    return (
        f"spheres of {sphere.diameter_mm:g} mm mix filtered with raw voxels: the volume was filtered only up "
        f"to {margin_mm:g} mm around the mask; filter it without a mask, or measure smaller spheres",
    )


def _nowhere(sphere: Sphere, masked: bool, inside: bool) -> str:
    where = "the mask" if inside else "the volume"
    centred = " with its centre in the mask" if masked and not inside else ""
    return f"the local maps are empty: no sphere of {sphere.diameter_mm:g} mm{centred} lies wholly in {where}"
