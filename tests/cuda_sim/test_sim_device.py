"""What lies on the device already: calibration, maps from device array to device array, and what is wrong."""

import numpy as np
import pytest

from qctrun.runtime.errors import InputError
from qctrun.runtime.measuring.sphere import Sphere
from qctrun.runtime.reading.calibration import Calibration
from qctrun.runtime.volume import Grid, Volume

SIZE = (3, 6, 7)
HALF = Sphere((0.34, 0.172, 0.172), 0.516).half_widths


def test_calibration_gives_the_bits_of_the_processors():
    from qctrun.runtime.measuring.kernels.cuda import maps as cuda_maps
    from qctrun.runtime.measuring.kernels.cuda.compiler import cuda

    hu = np.random.default_rng(0).integers(-1024, 3071, (4, 8, 9)).astype(np.int16)
    density = cuda.device_array(hu.shape, np.float32)
    cuda_maps.calibrate(cuda.to_device(hu), 0.7893, -13.217, density)
    line = Calibration(0.7893, -13.217, "HA", "a test")
    want = line.apply(Volume(hu, Grid(hu.shape, (1, 1, 1)), "HU"))
    np.testing.assert_array_equal(density.copy_to_host(), want.array)


@pytest.mark.parametrize("masked", [False, True])
def test_maps_lie_in_the_arrays_that_were_given(masked):
    from qctrun.runtime.measuring.kernels import cpu

    values = np.random.default_rng(1).normal(200, 150, SIZE).astype(np.float32)
    fits = np.zeros(SIZE, bool)
    fits[:, 1:-1, 1:-1] = True
    mask = np.random.default_rng(2).random(SIZE) < 0.6 if masked else np.ones(SIZE, bool)
    found, status = measured(values, mask if masked else None)
    bmd, sd, bvtv, tmd = cpu.measure(values, fits & mask, HALF, (225.0,), True, 1, None)
    for got, want in zip(found, [bmd, sd, *bvtv, *tmd], strict=True):
        np.testing.assert_array_equal(got, want)
    assert status[2] == 0
    assert status[0] <= values.min() <= status[0] + 1
    assert status[1] - 1 <= values.max() <= status[1]


def test_the_next_volume_is_measured_as_the_first():
    """What is left of a volume of 60000 mg/cm3, whose sums need 64 bits, shows nowhere."""
    first, second = np.full(SIZE, 60000, np.float32), np.random.default_rng(3).normal(200, 150, SIZE)
    mask = np.random.default_rng(4).random(SIZE) < 0.6
    maps = device_maps()
    measured(first, None, maps)
    want, want_status = measured(second.astype(np.float32), mask)
    got, status = measured(second.astype(np.float32), mask, maps)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(status, want_status)


@pytest.mark.parametrize("shape", [(3, 7, 6), (2, 6, 7), (4, 6, 7)])
def test_arrays_of_another_shape_are_refused(shape):
    from qctrun.runtime.measuring.kernels.cuda.compiler import cuda

    values, flags = np.ones(shape, np.float32), np.ones(shape, bool)
    with pytest.raises(InputError, match=r"wanted shape \(3, 6, 7\), got shape"):
        measured(values, None)
    with pytest.raises(InputError, match=r"wanted shape \(3, 6, 7\), got shape"):
        measured(np.ones(SIZE, np.float32), flags)
    with pytest.raises(InputError, match=r"wanted shape \(3, 6, 7\), got shape"):
        device_maps().inside(cuda.to_device(flags), None, cuda.to_device(np.zeros(SIZE, np.uint8)))


def test_the_range_is_known_where_no_sphere_fits():
    from qctrun.runtime.measuring.kernels.cuda.compiler import cuda
    from qctrun.runtime.measuring.kernels.cuda.maps import DeviceMaps

    values = np.full((3, 2, 7), 100.0, np.float32)
    values[1, 1, 1] = np.nan
    maps, found = DeviceMaps(values.shape, HALF), [np.zeros(values.shape, np.float32) for _ in range(2)]
    maps.measure(cuda.to_device(values), None, *map(cuda.to_device, found), [], [])
    np.testing.assert_array_equal(maps.range.copy_to_host(), [100, 100, 1])


@pytest.mark.parametrize(
    ("value", "wrong"), [(np.nan, 1), (-np.inf, 1), (65537.0, 2), (65536.0, 0), (None, 0)]
)
def test_the_range_says_what_is_wrong_with_the_values(value, wrong):
    from qctrun.runtime.measuring.kernels.cuda import kernels as cuda_kernels
    from qctrun.runtime.measuring.kernels.cuda.compiler import cuda

    values = np.linspace(-3.5, 7.5, 30).astype(np.float32)
    if value is not None:
        values[13] = value
    found = cuda.to_device(np.array([2**30, -(2**30), 0], np.int32))
    cuda_kernels.find_range[2, 3](cuda.to_device(values), found)
    low, high, said = found.copy_to_host()
    assert said == wrong
    assert low == -4
    assert high == (8 if value is None or wrong == 1 else 65536)


def device_maps():
    from qctrun.runtime.measuring.kernels.cuda.maps import DeviceMaps

    return DeviceMaps(SIZE, HALF, (225.0,))


def measured(values, mask, maps=None):
    from qctrun.runtime.measuring.kernels.cuda.compiler import cuda

    maps = maps or device_maps()
    found = [cuda.device_array(SIZE, np.float32) for _ in range(4)]
    wanted = None if mask is None else cuda.to_device(mask)
    maps.measure(cuda.to_device(values), wanted, found[0], found[1], [found[2]], [found[3]])
    return [each.copy_to_host() for each in found], maps.range.copy_to_host()
