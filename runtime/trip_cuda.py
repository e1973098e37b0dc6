"""The one trip over a GPU: up, calibrated, filtered and measured there, and down, all on one stream."""

from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import OutOfMemoryError
from qctrun.runtime.filtering import Filter
from qctrun.runtime.filtering.session import Session
from qctrun.runtime.filtering.windows import Window, bounding_box
from qctrun.runtime.measuring.checks import require_density
from qctrun.runtime.measuring.kernels.cuda import boxes
from qctrun.runtime.measuring.kernels.cuda.compiler import cuda
from qctrun.runtime.measuring.kernels.cuda.device import opened
from qctrun.runtime.measuring.kernels.cuda.host import check
from qctrun.runtime.measuring.kernels.cuda.maps import DeviceMaps, calibrate
from qctrun.runtime.measuring.kernels.cuda.transfer import Transfer
from qctrun.runtime.measuring.maps import Measured, Measurement, as_volumes
from qctrun.runtime.volume import BoolArray, FloatArray, MapKey, Progress, Volume

STEPS = ("upload", "filter", "maps", "download")
"""What a trip consists of; the keys of its seconds."""

_sessions: WeakKeyDictionary[Filter, tuple[Any, Session]] = WeakKeyDictionary()


class DeviceTrip:
    """Room on a GPU for volumes of one size on their way, one at a time; its steps are queued and not waited for.

    Bring a scan into `scan`, call `calibrate`, `filter` and `measure`, and take `results` down, all on `stream`.

    Parameters
    ----------
    network : Filter
        On the GPU that is the current one (`cuda_device.opened`).
    work : Measurement
        Where and what to measure.
    line : (slope, intercept), optional
        From HU to mg/cm3; the scan is density when there is none.
    kind : dtype of `scan`
        int16 or float32; float32 where it is density.
    need : bool array (z, y, x), optional
        Voxels to filter; all when None.

    Attributes
    ----------
    stream : numba.cuda stream
    scan : array (z, y, x) on the device
    results : list of float32 arrays (z, y, x) on the device
        The filtered volume, BMD, SD, then BV/TV of each threshold, then TMD of each.
    windows : list of Window
        The pieces in which is filtered.

    Raises
    ------
    OutOfMemoryError
        When the filter's windows do not fit; where Numba's arrays do not, the driver's own error.
    """

    def __init__(
        self,
        network: Filter,
        work: Measurement,
        line: tuple[float, float] | None = None,
        kind: npt.DTypeLike = np.float32,
        need: BoolArray | None = None,
    ) -> None:
        shape = work.wanted.shape
        self.stream, self._session = _session(network)
        self.windows = network.windows(shape, need)
        self._work, self._line = work, line
        self.scan = cuda.device_array(shape, kind)
        self._density = self.scan if line is None else cuda.device_array(shape, np.float32)
        self.results = [cuda.device_array(shape, np.float32) for _ in range(3 + 2 * len(work.thresholds))]
        self._need = None if need is None else self._flags(need)
        self._wanted = None if work.region is None else self._flags(work.wanted)
        self._region = self._flags(work.region) if work.region is not None and work.inside else None
        self._within = None if self._region is None else cuda.device_array(shape, np.uint8)
        self._maps = DeviceMaps(
            shape, work.sphere.half_widths, work.thresholds, work.step == "fuzzy", _box_of(work)
        )
        self._boxes: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def calibrate(self) -> None:
        """Make density of the scan."""
        if self._line is not None:
            calibrate(self.scan, *self._line, self._density, self.stream)

    def filter(self, after: Any = None) -> None:
        """Filter the density, window by window; `after` is called whenever one is queued."""
        filtered, whole = self.results[0], tuple(slice(0, n) for n in self._density.shape)
        if self._need is not None:
            filtered.copy_to_device(self._density, stream=self.stream)
        for window in self.windows:
            if window.put == whole and self._need is None:
                self._run(self._density, filtered)
            else:
                self._run_window(window)
            if after is not None:
                after()

    def measure(self, after: Any = None) -> None:
        """Measure what was filtered; `after` is called whenever a pair of maps is queued."""
        filtered, bmd, sd, *bone = self.results
        bvtv, tmd = self._halves(bone)
        wanted = self._wanted
        if self._region is not None:
            wanted = self._within
            self._maps.inside(self._region, self._wanted, wanted, self.stream)
        self._maps.measure(filtered, wanted, bmd, sd, bvtv, tmd, self.stream, after)

    def named(self, arrays: list[FloatArray], filtered: Volume) -> dict[MapKey, Volume]:
        """The maps in `results`, as `arrays` on the host, with all that `local_maps` says of them.

        Raises
        ------
        InputError
            When the filtered volume is no finite density, as `local_maps`.
        """
        wrong = self._maps.range.copy_to_host(stream=self.stream)
        self.stream.synchronize()
        if wrong[2]:
            require_density(filtered)
        check(self._maps, filtered.array, self._work.sphere.half_widths, self.stream)
        _, bmd, sd, *bone = arrays
        found: Measured = (bmd, sd, *self._halves(bone))
        return as_volumes(self._work, filtered, found, filtered.provenance["filter"]["device"])

    def _halves(self, bone: list[Any]) -> tuple[list[Any], list[Any]]:
        thresholds = len(self._work.thresholds)
        return bone[:thresholds], bone[thresholds:]

    def _flags(self, flags: BoolArray) -> Any:
        return cuda.to_device(np.ascontiguousarray(flags).view(np.uint8), stream=self.stream)

    def _run_window(self, window: Window) -> None:
        size = tuple(part.stop - part.start for part in window.take)
        if size not in self._boxes:
            self._boxes[size] = tuple(cuda.device_array(size, np.float32) for _ in range(2))
        source, target = self._boxes[size]
        boxes.take(self._density, window.take, source, self.stream)
        self._run(source, target)
        boxes.put(target, window.keep, self.results[0], window.put, self._need, self.stream)

    def _run(self, source: Any, target: Any) -> None:
        self._session.run_on(address(source), address(target), source.shape, self._session.stream)


def on_gpu(
    volume: Volume,
    network: Filter,
    work: Measurement,
    filter_mask: npt.NDArray[Any] | None,
    margin_mm: float,
    calibration: Any,
    progress: Progress | None,
) -> tuple[Volume, dict[MapKey, Volume], dict[str, float]]:
    """`filter_and_measure` on the GPU of the network: filtered volume, maps and seconds.

    Raises
    ------
    InputError, OutOfMemoryError, DeviceError
        As there.
    """
    density, scan, line = volume, volume.array, None
    if calibration is not None:
        # For its name and its place only: its numbers are still in HU, and become densities on the device.
        calibration.require_hu(volume)
        density = calibration.named(volume, volume.array).warn(*calibration.warnings_for(volume))
        line = calibration.slope, calibration.intercept
    task = network.task(density, filter_mask, margin_mm)
    if line is not None:
        scan = _small(volume.array)
    try:
        with opened(network.device):
            return _travelled(density, scan, line, network, work, task, progress)
    except OutOfMemoryError:
        _sessions.pop(network, None)  # whoever tries again needs what onnxruntime holds
        raise


def _travelled(
    density: Volume,
    scan: npt.NDArray[Any],
    line: tuple[float, float] | None,
    network: Filter,
    work: Measurement,
    task: Any,
    progress: Progress | None,
) -> tuple[Volume, dict[MapKey, Volume], dict[str, float]]:
    stream, _ = _session(network)
    marks = [cuda.event() for _ in range(len(STEPS) + 1)]
    marks[0].record(stream)
    trip = DeviceTrip(network, work, line, scan.dtype, task.need)
    transfer = Transfer(scan.shape, stream)
    told = _told(progress, len(trip.windows) + 1 + len(work.thresholds), stream)
    transfer.up(scan, trip.scan)
    trip.calibrate()
    marks[1].record(stream)
    trip.filter(told)
    marks[2].record(stream)
    trip.measure(told)
    marks[3].record(stream)
    arrays = [np.empty(scan.shape, np.float32) for _ in trip.results]
    for device, host in zip(trip.results, arrays, strict=True):
        transfer.down(device, host, (0, 0, 0))
    marks[4].record(stream)
    marks[4].synchronize()
    filtered = network.result(density, task, arrays[0], trip.windows)
    times = [one.elapsed_time(other) / 1000 for one, other in pairwise(marks)]
    return filtered, trip.named(arrays, filtered), dict(zip(STEPS, times, strict=True))


def _session(network: Filter) -> tuple[Any, Session]:
    """A stream and a session on it, opened once a filter: that takes longer than a volume."""
    if network not in _sessions:
        stream = cuda.stream()
        _sessions[network] = stream, network.session_on(handle(stream))
    return _sessions[network]


def _told(progress: Progress | None, total: int, stream: Any) -> Any:
    """What to call after each step, so that progress is told of what is done and not of what is queued."""
    if progress is None:
        return None
    done = 0
    progress(done, total)

    def tell() -> None:
        nonlocal done
        stream.synchronize()
        done += 1
        progress(done, total)

    return tell


def _small(hu: FloatArray) -> npt.NDArray[Any]:
    """The same numbers as int16 where that holds them, which halves the way up."""
    least, most = np.iinfo(np.int16).min, np.iinfo(np.int16).max
    if hu.min() < least or hu.max() > most:
        return hu
    whole = hu.astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu


def _box_of(work: Measurement) -> Any:
    """Where there is something to measure; None for all places of the sphere, which `DeviceMaps` knows itself."""
    if work.region is None:
        return None
    box = bounding_box(work.wanted) or (slice(0, 0),) * 3
    return (*(part.start for part in box), *(part.stop - part.start for part in box))


def address(array: Any) -> int:
    """Where an array lies on the device."""
    return int(array.device_ctypes_pointer.value)


def handle(stream: Any) -> int:
    """A stream as other libraries know it."""
    return int(stream)
