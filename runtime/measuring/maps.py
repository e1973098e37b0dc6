"""Local maps: BMD, SD, BV/TV and TMD of the sphere around each voxel (Eq. 4-9)."""

import importlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qctrun.runtime.devices import parse_device, parse_threads
from qctrun.runtime.errors import DeviceError, UsageError
from qctrun.runtime.measuring.checks import checked_thresholds, require_density
from qctrun.runtime.measuring.kernels.formulas import FUZZY_WIDTH_MG_CM3
from qctrun.runtime.measuring.sphere import Sphere
from qctrun.runtime.volume import BoolArray, MapKey, Progress, Unit, Volume, as_mask

Step = Literal["fuzzy", "hard"]

BACKENDS = {"cpu": "qctrun.runtime.measuring.kernels.cpu"}
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
        "auto" or "cpu".
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
        When the device cannot be used.
    """
    wanted_thresholds = checked_thresholds(thresholds)
    threads = parse_threads(threads)
    _require_sense(step, inside and mask is None)
    used = "cpu" if device == "auto" else parse_device(device)
    backend = _backend(used)
    require_density(volume)
    region = None if mask is None else as_mask(mask, volume.grid)
    sphere = Sphere(volume.grid.spacing, diameter_mm)
    wanted = _where_it_fits(sphere, volume)
    if region is not None:
        wanted &= region
    if region is not None and inside:
        wanted = backend.inside(np.ascontiguousarray(region), wanted, sphere.half_widths, threads)
    bmd, sd, bvtv, tmd = backend.measure(
        volume.array, wanted, sphere.half_widths, wanted_thresholds, step == "fuzzy", threads, progress
    )
    how = {**_how(sphere, step, mask is not None, inside), "device": used}
    told = volume.warn(*sphere.warnings, *_beyond_filtered(sphere, volume))
    if not wanted.any():
        told = told.warn(_nowhere(sphere, mask is not None, inside))
    maps: dict[MapKey, Volume] = {"BMD": _map(told, bmd, "mg/cm3", how), "SD": _map(told, sd, "mg/cm3", how)}
    for threshold, fractions, densities in zip(wanted_thresholds, bvtv, tmd, strict=True):
        here = {**how, "threshold_mg_cm3": threshold}
        maps["BVTV", threshold] = _map(told, fractions, "1", here)
        maps["TMD", threshold] = _map(told, densities, "mg/cm3", here)
    return maps


def _require_sense(step: str, no_mask: bool) -> None:
    if step not in ("fuzzy", "hard"):
        raise UsageError("step", wanted="fuzzy or hard", got=repr(step))
    if no_mask:
        raise UsageError("inside", wanted="a mask for the spheres to lie in", got="none")


def _backend(device: str) -> Any:
    """The kernels of a device: modules with the functions `measure` and `inside`."""
    kind = device.partition(":")[0]
    if kind not in BACKENDS:
        usable = " or ".join(("auto", *BACKENDS))
        raise DeviceError(
            "device", wanted=usable, got=f"{device}, which has no local maps yet", mend=f"say {usable}"
        )
    return importlib.import_module(BACKENDS[kind])


def _where_it_fits(sphere: Sphere, volume: Volume) -> BoolArray:
    """Voxels about which the whole sphere lies inside the volume."""
    shape = volume.array.shape
    fits = np.zeros(shape, bool)
    fits[
        tuple(slice(half, max(half, size - half)) for half, size in zip(sphere.half_size, shape, strict=True))
    ] = True
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
