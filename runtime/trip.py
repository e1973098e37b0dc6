"""Filter and measure in one go; on a GPU the scan goes up once and all results come down once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from qctrun.runtime.devices import parse_threads
from qctrun.runtime.errors import OutOfMemoryError
from qctrun.runtime.filtering import Filter
from qctrun.runtime.filtering.apply import MARGIN_MM
from qctrun.runtime.measuring.maps import Step, local_maps, planned, where_to
from qctrun.runtime.volume import MapKey, Progress, Volume

if TYPE_CHECKING:  # reading loads SimpleITK, which a program with arrays does not need
    from qctrun.runtime.reading import Calibration


@dataclass(frozen=True, slots=True, eq=False)
class Trip:
    """What `filter_and_measure` gives back.

    Attributes
    ----------
    filtered : Volume
        As `Filter` returns it, mg/cm3.
    maps : dict of Volumes
        As `local_maps` returns them.
    seconds : dict of float
        How long it took: "filter" and "maps"; on a GPU, where its own clock counts, also "upload" and "download".
    """

    filtered: Volume
    maps: dict[MapKey, Volume]
    seconds: dict[str, float]


def filter_and_measure(
    volume: Volume,
    network: Filter,
    thresholds: Sequence[float],
    diameter_mm: float = 4.3,
    step: Step = "fuzzy",
    *,
    mask: npt.NDArray[Any] | None = None,
    inside: bool = False,
    filter_mask: npt.NDArray[Any] | None = None,
    margin_mm: float = MARGIN_MM,
    grid: str = "native",
    calibration: "Calibration | None" = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Trip:
    """Filter a volume and measure what comes out: the numbers of `Filter`, then `local_maps`.

    On a GPU everything in between stays there. Where its memory does not suffice for that, or only one of both
    can use it, they are done one after the other, as by hand.

    Parameters
    ----------
    volume : Volume
        Calibrated density in mg/cm3, or in HU with a `calibration`; finite.
    network : Filter
        What filters; the maps are computed on the device that it was asked to use.
    thresholds, diameter_mm, step, mask, inside
        As for `local_maps`.
    filter_mask, margin_mm, grid
        As mask, margin and grid of `Filter`. The spheres are measured on the volume's own grid in any case; with
        the grid "model" a GPU filters and measures one after the other.
    calibration : Calibration, optional
        The line from HU, applied as `read` does it.
    threads : int, optional
        Cores for the maps; all when None.
    progress : callable(done, total), optional
        Told as the work proceeds; in two rounds where there are two steps.

    Raises
    ------
    UsageError, InputError, OutOfMemoryError, DeviceError
        As `Calibration.apply`, `Filter` and `local_maps`.
    """
    work = planned(volume.grid, thresholds, diameter_mm, step, mask, inside)
    threads = parse_threads(threads)
    notes: tuple[str, ...] = ()
    in_one_go = grid == "native" and network.device != "cpu"
    if in_one_go and where_to(network.asked, volume)[0] == network.device:
        from qctrun.runtime.trip_cuda import on_gpu

        try:
            return Trip(*on_gpu(volume, network, work, filter_mask, margin_mm, calibration, progress))
        except OutOfMemoryError as error:
            notes = (f"filtered and measured one after the other, not in one go: {error}",)
    if calibration is not None:
        volume = calibration.apply(volume).warn(*calibration.warnings_for(volume))
    began = time.perf_counter()
    filtered = network(volume, mask=filter_mask, margin_mm=margin_mm, grid=grid, progress=progress)
    filtered = filtered.warn(*notes)
    between = time.perf_counter()
    maps = local_maps(
        filtered,
        thresholds,
        diameter_mm,
        step,
        mask,
        inside=inside,
        device=network.asked,
        threads=threads,
        progress=progress,
    )
    return Trip(filtered, maps, {"filter": between - began, "maps": time.perf_counter() - between})


def maps_of_copy(maps: dict[MapKey, Volume], copy: Volume) -> dict[MapKey, Volume]:
    """Maps of a volume as maps of a copy of it, for example of the file that it was written to.

    Parameters
    ----------
    maps : dict of Volumes
        As `local_maps` returns them.
    copy : Volume
        The same numbers in the same place; what is known of them may be told in other words.

    Returns
    -------
    dict of Volumes
        What `local_maps` would return for `copy`.
    """
    return {
        key: copy.with_array(
            found.array, unit=found.unit, provenance={**copy.provenance, "map": found.provenance["map"]}
        ).warn(*found.warnings)
        for key, found in maps.items()
    }
