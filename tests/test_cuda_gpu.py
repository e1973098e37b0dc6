"""Local maps on a real GPU, held against the processor's: the same bits."""

import numpy as np
import pytest
from map_cases import PAPER, assert_same_bits, bone_like, size_around, volume_of

from qctrun.runtime.measuring import local_maps
from qctrun.runtime.measuring.sphere import Sphere
from qctrun.runtime.reading.calibration import Calibration
from qctrun.runtime.volume import Grid, Volume

pytestmark = pytest.mark.gpu
NINE_THRESHOLDS = tuple(float(t) for t in range(125, 326, 25))


def both(array, spacing_mm=PAPER, thresholds=(200.0, 225.0), diameter_mm=4.3, **options):
    """The GPU's maps, after they were held against the processor's; a TMD with hardly any bone may differ by a bit."""
    volume = volume_of(array, spacing_mm)
    there = local_maps(volume, thresholds, diameter_mm, device="cuda", **options)
    here = local_maps(volume, thresholds, diameter_mm, device="cpu", **options)
    for key in [key for key in here if key[0] == "TMD"]:
        rare = here["BVTV", key[1]].array < 0.0041
        np.testing.assert_allclose(there[key].array[rare], here[key].array[rare], rtol=2e-7)
        there[key], here[key] = (
            each.with_array(np.where(rare, 0, each.array)) for each in (there[key], here[key])
        )
    assert_same_bits(there, here)
    return there


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
@pytest.mark.parametrize(
    ("spacing_mm", "diameter_mm"),
    [
        (PAPER, 0.516),
        (PAPER, 2.0),
        (PAPER, 4.3),
        (PAPER, 10.0),
        ((0.25, 0.25, 0.25), 4.3),
        ((0.25, 0.25, 0.25), 10.0),
        ((0.5, 0.5, 0.5), 10.0),
        ((1.0, 1.0, 1.0), 10.0),
        ((0.5, 0.31, 0.44), 3.7),
    ],
)
def test_any_sphere(spacing_mm, diameter_mm, step):
    array = bone_like(size_around(spacing_mm, diameter_mm, room=(9, 21, 70)))
    both(array, spacing_mm, diameter_mm=diameter_mm, step=step)


def test_nine_thresholds():
    both(bone_like((40, 90, 150), seed=3), thresholds=NINE_THRESHOLDS)


@pytest.mark.parametrize("inside", [False, True])
def test_masks(inside):
    array = bone_like((40, 80, 160), seed=4)
    z, y, x = np.indices(array.shape)
    mask = ((z - 20) / 19) ** 2 + ((y - 40) / 38) ** 2 + ((x - 70) / 45) ** 2 < 1
    assert np.isfinite(both(array, mask=mask, inside=inside)["BMD"].array).any()


@pytest.mark.parametrize("low_high", [(-60000.0, 65536.0), (-1000.0, 3071.0), (30000.0, 30000.0)])
def test_extremes(low_high):
    both(np.random.default_rng(5).choice(low_high, (30, 60, 90)).astype(np.float32))


def test_rare_bone():
    array = np.random.default_rng(6).normal(40, 30, (30, 60, 90)).astype(np.float32)
    both(array)


def test_a_large_volume_twice_gives_the_same_bits():
    volume = volume_of(bone_like((96, 256, 256), seed=7))
    one, other = (local_maps(volume, (225.0,), device="cuda") for _ in range(2))
    assert_same_bits(one, other)


def test_slabs_give_the_same_bits(monkeypatch):
    from qctrun.runtime.measuring.kernels.cuda import host

    volume = volume_of(bone_like((60, 80, 100), seed=8))
    whole = local_maps(volume, (225.0,), device="cuda")
    parts, run = [], host._measure

    def spied(*arguments):
        parts.append(len(arguments[6]))
        run(*arguments)

    monkeypatch.setattr(host, "_measure", spied)
    monkeypatch.setattr(
        host, "SHARE", 25 * 80 * 100 * 70 / host.cuda.current_context().get_memory_info().free
    )
    assert_same_bits(local_maps(volume, (225.0,), device="cuda"), whole)
    assert parts[0] > 1


def test_calibration_gives_the_bits_of_the_processors():
    from qctrun.runtime.measuring.kernels.cuda import maps as cuda_maps
    from qctrun.runtime.measuring.kernels.cuda.compiler import cuda

    hu = np.random.default_rng(9).integers(-1024, 3071, (20, 50, 60)).astype(np.int16)
    density = cuda.device_array(hu.shape, np.float32)
    cuda_maps.calibrate(cuda.to_device(hu), 0.7893, -13.217, density)
    want = Calibration(0.7893, -13.217, "HA", "a test").apply(Volume(hu, Grid(hu.shape, (1, 1, 1)), "HU"))
    np.testing.assert_array_equal(density.copy_to_host(), want.array)


def test_everything_on_one_stream_of_ones_own():
    from qctrun.runtime.measuring.kernels import cpu
    from qctrun.runtime.measuring.kernels.cuda.compiler import cuda
    from qctrun.runtime.measuring.kernels.cuda.maps import DeviceMaps

    values, half = bone_like((30, 60, 90), seed=10), Sphere(PAPER, 4.3).half_widths
    own = cuda.stream()
    stream = cuda.external_stream(int(own))
    maps = DeviceMaps(values.shape, half, (225.0,))
    found = [cuda.device_array(values.shape, np.float32, stream=stream) for _ in range(4)]
    maps.measure(
        cuda.to_device(values, stream=stream), None, found[0], found[1], [found[2]], [found[3]], stream
    )
    host = [each.copy_to_host(stream=stream) for each in found]
    stream.synchronize()
    fits = np.zeros(values.shape, bool)
    fits[6:-6, 12:-12, 12:-12] = True
    bmd, sd, bvtv, tmd = cpu.measure(values, fits, half, (225.0,), True, 2, None)
    for got, want in zip(host, [bmd, sd, *bvtv, *tmd], strict=True):
        np.testing.assert_array_equal(got, want)


def test_arrays_by_dlpack():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA")
    from qctrun.runtime.measuring.kernels.cuda.arrays import on_device

    class Bare:
        """DLPack only, as an OrtValue."""

        def __init__(self, tensor):
            self._tensor = tensor

        def __dlpack__(self, **words):
            return self._tensor.__dlpack__(**words)

        def __dlpack_device__(self):
            return self._tensor.__dlpack_device__()

    tensor = torch.arange(24, dtype=torch.float32, device="cuda").reshape(2, 3, 4)
    np.testing.assert_array_equal(on_device(Bare(tensor)).copy_to_host(), tensor.cpu().numpy())
