"""Local maps: BMD, SD, BV/TV and TMD of the sphere around each voxel (Eq. 4-9)."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import DeviceError, UsageError
from qctrun.runtime.measuring.checks import checked_thresholds, require_density, require_mask
from qctrun.runtime.measuring.kernels.formulas import FUZZY_WIDTH_MG_CM3
from qctrun.runtime.measuring.sphere import Sphere
from qctrun.runtime.volume import Unit, Volume

Step = Literal["fuzzy", "hard"]
MapKey = str | tuple[str, float]
Flags = npt.NDArray[np.bool_]
Progress = Callable[[int, int], None]

BACKENDS = {"cpu": "qctrun.runtime.measuring.kernels.cpu"}
"""Where each kind of device has its kernels; imported when used, since compilers are slow to load."""


def local_maps(
    volume: Volume,
    thresholds: Sequence[float],
    diameter_mm: float = 4.3,
    step: Step = "fuzzy",
    mask: Flags | None = None,
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
    mask : bool array (z, y, x), optional
        Values at these voxels only. Their spheres are whole: they reach beyond the mask.
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
    _require_sense(step, threads, inside and mask is None)
    backend = _backend(device)
    require_density(volume)
    if mask is not None:
        require_mask(mask, volume)
    sphere = Sphere(volume.grid.spacing, diameter_mm)
    wanted = _where_it_fits(sphere, volume)
    if mask is not None:
        wanted &= mask
    if mask is not None and inside:
        wanted = backend.inside(np.ascontiguousarray(mask), wanted, sphere.half_widths, threads)
    bmd, sd, bvtv, tmd = backend.measure(
        volume.array, wanted, sphere.half_widths, wanted_thresholds, step == "fuzzy", threads, progress
    )
    how = _how(sphere, step, mask is not None, inside)
    told = volume.warn(*sphere.warnings, *(() if wanted.any() else (_nowhere(sphere, inside),)))
    maps: dict[MapKey, Volume] = {"BMD": _map(told, bmd, "mg/cm3", how), "SD": _map(told, sd, "mg/cm3", how)}
    for threshold, fractions, densities in zip(wanted_thresholds, bvtv, tmd, strict=True):
        here = {**how, "threshold_mg_cm3": threshold}
        maps["BVTV", threshold] = _map(told, fractions, "1", here)
        maps["TMD", threshold] = _map(told, densities, "mg/cm3", here)
    return maps


def _require_sense(step: str, threads: int | None, no_mask: bool) -> None:
    if step not in ("fuzzy", "hard"):
        raise UsageError("step", wanted="fuzzy or hard", got=repr(step))
    if threads is not None and threads < 1:
        raise UsageError("threads", wanted="1 or more", got=str(threads))
    if no_mask:
        raise UsageError("inside", wanted="a mask for the spheres to lie in", got="none")


def _backend(device: str) -> Any:
    """The kernels of a device: modules with the functions `measure` and `inside`."""
    kind = "cpu" if device == "auto" else device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UsageError("device", wanted="auto, cpu, cuda or cuda:N", got=repr(device))
    if kind not in BACKENDS:
        usable = " or ".join(("auto", *BACKENDS))
        raise DeviceError(
            "device", wanted=usable, got=f"{device}, which has no local maps yet", mend=f"say {usable}"
        )
    return importlib.import_module(BACKENDS[kind])


def _where_it_fits(sphere: Sphere, volume: Volume) -> Flags:
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


def _nowhere(sphere: Sphere, inside: bool) -> str:
    where = "the mask" if inside else "the volume"
    return f"the local maps are empty: no sphere of {sphere.diameter_mm:g} mm lies wholly in {where}"
