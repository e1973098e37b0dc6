"""The filters that the network is compared with: by hand, by theory, and BM4D through a stand-in for its package."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from qctrun.runtime.errors import InputError, RuntimeMissingError, UsageError
from qctrun.train.insilico import Scanner, random_field_phantom
from qctrun.train.insilico.fields import filtered
from qctrun.train.study import bm4d, filters

SIZE = (24, 48, 48)
SCANNER = Scanner()
VARIANCE_100 = SCANNER.noise_variance_360 * 3.6


@pytest.fixture(scope="module")
def phantom():
    return random_field_phantom(SIZE, seed=3)


def noise(seed, size=SIZE, mas=360.0):
    return SCANNER.noise(size, mas, np.ones(size, np.float32), np.random.default_rng(seed))


def spread(volumes):
    return float(np.mean(np.square(volumes, dtype=np.float64)))


# All of them


@pytest.mark.parametrize("name", filters.NAMES)
def test_constant_stays_constant_and_shapes_stay(name, phantom):
    if name in ("NLM", "TV"):
        pytest.importorskip("skimage")
    flat = np.full((13, 26, 31), 123.0, np.float32)
    found = filters.candidates(name, SCANNER, 100.0, [phantom.truth])
    assert 4 <= len(found) <= 8
    assert len({tuple(one.setting.items()) for one in found}) == len(found)
    for one in (found[0], found[-1]):
        got = one.apply(flat)
        assert one.name == name
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, flat, rtol=1e-5)


@pytest.mark.parametrize("name", filters.NAMES)
def test_settings_go_from_weak_to_strong(name, phantom):
    """The first takes less than a third off the noise, the last more than half; none touches its input."""
    if name in ("NLM", "TV"):
        pytest.importorskip("skimage")
    scan = noise(1, mas=100.0)
    kept = scan.copy()
    found = filters.candidates(name, SCANNER, 100.0, [phantom.truth])
    left = [float(one.apply(scan).std() / scan.std()) for one in found]
    assert left == sorted(left, reverse=True)
    assert left[0] > 0.67
    assert left[-1] < 0.5
    np.testing.assert_array_equal(scan, kept)


def test_unknown_filter_is_refused(phantom):
    with pytest.raises(UsageError, match="wanted Gaussian or NLM or TV or Wiener, got 'median'"):
        filters.candidates("median", SCANNER, 100.0, [phantom.truth])


@pytest.mark.parametrize("name", ["NLM", "TV"])
def test_missing_scikit_image_says_what_to_type(name, phantom, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    with pytest.raises(
        RuntimeMissingError, match=r'scikit-image.*type: pip install "qctrun\[study\]"'
    ) as said:
        filters.candidates(name, SCANNER, 100.0, [phantom.truth])
    assert said.value.exit_code == 5


# Gaussian


def test_gaussian_is_scipy_in_mm():
    scan = noise(2)
    for one in filters.candidates("Gaussian", SCANNER, 100.0, []):
        sigma = one.setting["sigma_mm"]
        wanted = ndimage.gaussian_filter(scan, [sigma / 0.34, sigma / 0.172, sigma / 0.172])
        np.testing.assert_allclose(one.apply(scan), wanted, rtol=1e-6)


# Non-local means and total variation


@pytest.mark.parametrize("name", ["NLM", "TV"])
def test_noise_falls_and_a_step_stays(name):
    pytest.importorskip("skimage")
    step = np.zeros(SIZE, np.float32)
    step[..., 24:] = 3000
    scan = step + noise(3)
    got = filters.candidates(name, SCANNER, 360.0, [])[-1].apply(scan)
    assert spread(got - step) < 0.25 * spread(scan - step)
    assert got[..., 25:28].mean() - got[..., 20:23].mean() > 2700


# What is known of noise and bone


def test_noise_power_is_that_of_the_scanner():
    """Its mean is the variance at the tube current, and the mean periodogram of noise agrees with it."""
    power = filters.noise_power(SCANNER, 100.0, SIZE)
    assert power.mean(dtype=np.float64) == pytest.approx(VARIANCE_100, rel=1e-5)
    # The scanner makes noise in a room of at least 16 mm; of this size nothing is cut off.
    size = (48, 96, 96)
    wanted = filters.noise_power(SCANNER, 100.0, size)
    found = np.mean(
        [np.abs(np.fft.fftn(noise(seed, size, 100.0))) ** 2 / np.prod(size) for seed in range(3)], axis=0
    )
    high = wanted > wanted.max() / 3
    for part in (high, (wanted < wanted.max() / 3) & (wanted > wanted.max() / 100)):
        assert found[part].mean() == pytest.approx(wanted[part].mean(), rel=0.03)


def test_spectrum_of_white_noise_is_flat():
    """At every frequency the variance, whatever the mean."""
    rng = np.random.default_rng(4)
    found = filters.spectrum([rng.normal(500, 50, SIZE).astype(np.float32) for _ in range(4)])
    inside = (found.frequency_per_mm > 0.5) & (found.frequency_per_mm < 3)
    np.testing.assert_allclose(found.power[inside], 2500, rtol=0.1)
    assert found.at(np.float32([1e-3, 99])) == pytest.approx(found.power[[0, -1]], rel=1e-4)


def test_spectrum_through_the_scanner_is_that_of_the_noise_free_scan(phantom):
    """Up to 0.8 per mm; the reference scanner's own blur takes up to a third of the truth's power there."""
    truth, seen = (filters.spectrum([one]) for one in (phantom.truth, phantom.signal))
    low = seen.frequency_per_mm < 0.8
    frequency = seen.frequency_per_mm[low]
    cosines = np.linspace(0, 1, 201)[:, None]  # the mean over all directions of the frequency vector
    across = frequency * np.sqrt(1 - cosines**2)
    transfer = np.mean(SCANNER.signal_response(across, frequency * cosines) ** 2, axis=0)
    ratio = truth.at(frequency) * transfer / seen.power[low]
    assert ratio.size > 4
    assert (ratio > 0.67).all()
    assert (ratio < 1.15).all()


def test_spectrum_does_not_vanish_towards_zero_frequency():
    """Else a Wiener filter would take the slow changes of density away with the noise."""
    rng = np.random.default_rng(4)
    hills = ndimage.gaussian_filter(rng.normal(0, 1, SIZE), [3, 6, 6]).astype(np.float32)
    found = filters.spectrum([hills])
    assert found.power[0] == found.power.max()


@pytest.mark.parametrize("truths", [[], [np.full(SIZE, 7, np.float32)]])
def test_spectrum_of_nothing_is_refused(truths):
    with pytest.raises(InputError, match="true densities that vary"):
        filters.candidates("Wiener", SCANNER, 100.0, truths)


# Wiener


def test_wiener_leaves_of_noise_what_theory_says(phantom):
    """Variance sum(H^2 N) / sum(N) of noise of the known spectrum; nearly so where the mirror image is far."""
    bone = filters.spectrum([phantom.truth])
    size = (48, 96, 96)
    power = filters.noise_power(SCANNER, 100.0, size)
    given = np.stack([noise(seed, size, 100.0) for seed in range(6)])
    inner = (slice(None), slice(12, -12), slice(24, -24), slice(24, -24))
    for one in filters.candidates("Wiener", SCANNER, 100.0, [phantom.truth])[1::3]:
        half = filters.wiener_response(size, SCANNER, 100.0, bone, one.setting["noise_factor"])
        # The real transform leaves out the mirrored half; the mirror image of column x is column -x.
        response = half[..., np.minimum(np.arange(96), 96 - np.arange(96))].astype(np.float64)
        wanted = (response**2 * power).sum() / power.sum(dtype=np.float64)
        closed = np.stack([filtered(scan, half) for scan in given])
        assert spread(closed) / spread(given) == pytest.approx(wanted, rel=0.02)
        left = np.stack([one.apply(scan) for scan in given])
        assert spread(left[inner]) / spread(given[inner]) == pytest.approx(wanted, rel=0.1)


def test_wiener_of_bone_that_outshines_noise_is_the_identity():
    bright = filters.Spectrum(np.array([0.1, 4.0]), np.array([1e30, 1e30]))
    np.testing.assert_allclose(filters.wiener_response(SIZE, SCANNER, 100.0, bright), 1, rtol=1e-6)


def test_wiener_is_the_best_linear_filter_of_its_scan(phantom):
    """At strength 1 the voxels come nearer to the noise-free scan than at a quarter and at four times."""
    scan = phantom.signal + noise(6, mas=100.0)
    bone = filters.spectrum([phantom.truth])
    left = [
        spread(filters._wiener(strength, SCANNER, 100.0, bone).apply(scan) - phantom.signal)
        for strength in (0.25, 1.0, 4.0)
    ]
    assert left[1] == min(left)


# BM4D, which is not here


class Package(ModuleType):
    """A stand-in that keeps what it is given and returns half of the scan."""

    BM4DStages = SimpleNamespace(HARD_THRESHOLDING="hard", ALL_STAGES="all")

    def __init__(self):
        super().__init__("bm4d")
        self.calls = []

    def bm4d(self, z, sigma_psd, profile="np", stage_arg="all"):
        self.calls.append((z, sigma_psd, stage_arg))
        return z.astype(np.float64) / 2


@pytest.fixture
def package(monkeypatch):
    fake = Package()
    monkeypatch.setitem(sys.modules, "bm4d", fake)
    return fake


def test_bm4d_psd_is_given_the_power_of_the_noise(package):
    """The mean of the power over the number of voxels is the variance; along the ramp's zero there is none."""
    found = bm4d.candidates("BM4D-PSD", SCANNER, 100.0)
    one = next(one for one in found if one.setting["noise_factor"] == 1)
    scan = noise(7)
    got = one.apply(scan)
    given, power, stage = package.calls[-1]
    assert stage == "all"
    assert given is scan
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, scan / 2)
    assert power.shape == SIZE
    assert power.mean() / power.size == pytest.approx(VARIANCE_100, rel=1e-5)
    np.testing.assert_array_equal(power[:, 0, 0], 0)
    np.testing.assert_allclose(power[0, 1:, 0], power[0, 0, 1:], rtol=1e-6)
    np.testing.assert_allclose(power[1:], power[:0:-1], rtol=1e-5)


def test_bm4d_white_is_given_the_noise_or_finds_it(package):
    scan = noise(8, mas=100.0)
    for one in bm4d.candidates("BM4D", SCANNER, 100.0):
        one.apply(scan)
    sigmas = [float(sigma) for _, sigma, _ in package.calls]
    assert sigmas[0] == pytest.approx(bm4d.automatic_sigma(scan))
    assert sigmas[2] == pytest.approx(np.sqrt(VARIANCE_100))
    assert [stage for *_, stage in package.calls] == ["hard", *["all"] * 5]


def test_automatic_noise_is_right_for_white_noise_and_blind_to_a_scanners():
    """The paper's BM4D left its scans nearly as they were: this is why."""
    white = np.random.default_rng(9).normal(100, 50, SIZE).astype(np.float32)
    assert bm4d.automatic_sigma(white) == pytest.approx(50, rel=0.1)
    assert bm4d.automatic_sigma(noise(9)) < 0.15 * noise(9).std()


def test_missing_bm4d_is_said_with_its_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm4d", None)
    assert not bm4d.available()
    with pytest.raises(RuntimeMissingError, match=r"non-commercial.*type: pip install bm4d") as said:
        bm4d.candidates("BM4D", SCANNER, 100.0)
    assert said.value.exit_code == 5


def test_bm4d_that_does_not_go_with_numpy_is_said_before_any_work(package, monkeypatch):
    def broken(z, sigma_psd, **_):
        raise AttributeError("module 'numpy' has no attribute 'trapz'")

    assert bm4d.available()
    monkeypatch.setattr(package, "bm4d", broken)
    with pytest.raises(RuntimeMissingError, match=r"trapz.*type: pip install \"numpy<2.4\""):
        bm4d.candidates("BM4D-PSD", SCANNER, 100.0)


def test_unknown_bm4d_is_refused(package):
    with pytest.raises(UsageError, match="wanted BM4D or BM4D-PSD"):
        bm4d.candidates("BM3D", SCANNER, 100.0)
