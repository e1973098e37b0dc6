"""The simulator's reference and clinical scanner, by analytic cases."""

import numpy as np
import pytest
from scipy import special

import oracles
from qctrun.train.insilico import PAPER_SPACING_MM, Scanner, random_field_phantom
from qctrun.train.insilico.bone import FINE_SPACING_MM
from qctrun.train.insilico.scanner import mtf, reference

SIZE = (24, 48, 48)


def height_in_plane(f):
    """What the clinical scanner leaves of a wave of f cycles a millimetre in the slice."""
    return (1 + f**2) * np.exp(-2 * np.pi**2 * 0.25**2 * f**2)


# The reference scanner


def test_reference_keeps_density():
    """Blur and box average move density about and lose none: a ball that stays away from the border."""
    z, y, x = np.indices((64, 48, 48))
    ball = (z - 32) ** 2 + (y - 24) ** 2 + (x - 24) ** 2 < 12**2
    tissue = np.where(ball, 1060, 0).astype(np.float32)
    found = reference(tissue, 0.09)
    assert found.shape == (16, 24, 24)
    assert found.mean(dtype=np.float64) == pytest.approx(tissue.mean(dtype=np.float64), rel=1e-5)


def test_reference_of_a_constant_is_the_constant():
    np.testing.assert_allclose(reference(np.full((16, 16, 16), 345.0, np.float32), 0.115), 345, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sigma_mm", [0.09, 0.115])
def test_reference_of_an_edge(axis, sigma_mm):
    """Bone from about 2 mm on: the box average of the error function, to 2 % of the step (the grid is coarse)."""
    tissue = np.zeros((64, 64, 64), np.float32)
    first = 24
    tissue[(slice(None),) * axis + (slice(first, None),)] = 1000
    profile = np.moveaxis(reference(tissue, sigma_mm), axis, 0)[:, 5, 5]
    step_mm, edge_mm = PAPER_SPACING_MM[axis], first * FINE_SPACING_MM[axis]
    fine = (np.arange(200 * len(profile)) + 0.5) * step_mm / 200 - edge_mm
    blurred = 500 * (1 + special.erf(fine / (sigma_mm * np.sqrt(2))))
    inner = slice(3, 13)
    np.testing.assert_allclose(
        profile[inner], blurred.reshape(len(profile), 200).mean(axis=1)[inner], atol=20
    )


# The clinical scanner


def test_mtf_formula():
    f = np.array([0.0, 0.5, 1.0, 2.0], np.float32)
    want = [
        1.0,
        1.25 * np.exp(-2 * np.pi**2 * 0.0625 * 0.25),
        2 * np.exp(-2 * np.pi**2 * 0.0625),
        5 * np.exp(-2 * np.pi**2 * 0.0625 * 4),
    ]
    np.testing.assert_allclose(mtf(f, 0.25), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("axis", "cycles"), [(2, 3), (2, 7), (1, 5), (0, 3), (0, 5)], ids=["x3", "x7", "y5", "z3", "z5"]
)
def test_signal_of_a_wave(axis, cycles):
    """A wave comes out with the response's height, at its own place moved by the shift."""
    fine = (96, 96, 96)
    length_mm = fine[axis] * FINE_SPACING_MM[axis]
    f, shift = cycles / length_mm, (0.11, -0.07, 0.05)
    place = (np.arange(fine[axis]) + 0.5) * FINE_SPACING_MM[axis]
    tissue = np.moveaxis(
        np.broadcast_to(100 + 50 * np.cos(2 * np.pi * f * place), (96, 96, 96)), 2, axis
    ).astype(np.float32)
    found = np.moveaxis(Scanner().signal(tissue, shift), axis, 2)
    height = {
        0: np.exp(-2 * np.pi**2 * 0.29**2 * f**2),
        1: height_in_plane(f),
        2: height_in_plane(f),
    }[axis]
    step = PAPER_SPACING_MM[axis]
    centres = (np.arange(found.shape[2]) + 0.5) * step
    want = 100 + 50 * height * np.cos(2 * np.pi * f * (centres - shift[axis]))
    np.testing.assert_allclose(found, np.broadcast_to(want, found.shape), atol=0.02)


def test_in_plane_response_is_round():
    """Along a diagonal of the slice the frequency is the radial one."""
    n = 96
    y, x = np.indices((n, n))
    wave = 50 * np.cos(2 * np.pi * (4 * y + 4 * x) / n)
    found = Scanner().signal(np.broadcast_to(wave, (8, n, n)).astype(np.float32), (0.0, 0.0, 0.0))
    f = np.hypot(4, 4) / (n * 0.086)
    height = np.sqrt(2) * found.std()
    assert height == pytest.approx(50 * height_in_plane(f), rel=1e-3)


def test_truth_and_signal_lie_on_each_other():
    """Without misregistration the best match of the two is at no shift."""
    phantom = random_field_phantom(SIZE, 6, Scanner(offset_mm=0.0))
    alike = {
        (dz, dy, dx): np.corrcoef(
            np.roll(phantom.truth, (dz, dy, dx), (0, 1, 2))[4:-4, 4:-4, 4:-4].ravel(),
            phantom.signal[4:-4, 4:-4, 4:-4].ravel(),
        )[0, 1]
        for dz in (-1, 0, 1)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert max(alike, key=alike.__getitem__) == (0, 0, 0)
    for axis in range(3):
        ahead, behind = (alike[tuple(s if a == axis else 0 for a in range(3))] for s in (1, -1))
        assert abs(ahead - behind) < 0.03


def test_misregistration_has_the_stated_spread():
    scanner, rng = Scanner(), np.random.default_rng(7)
    for spread in (scanner.offset_mm, scanner.jitter_mm):
        shifts = np.array([scanner.misplaced(rng, spread) for _ in range(4000)])
        np.testing.assert_allclose(shifts.std(axis=0), spread, rtol=0.06)
    assert scanner.jitter_mm < scanner.offset_mm < PAPER_SPACING_MM[0]


@pytest.mark.parametrize("mas", [100.0, 250.0, 360.0])
@pytest.mark.parametrize("variance", [Scanner().noise_variance_360, 10000.0])
def test_noise_variance_goes_with_dose(mas, variance):
    """Variance (360 / mAs) (mg/cm3)^2."""
    one = np.ones(SIZE, np.float32)
    rng = np.random.default_rng(8)
    scanner = Scanner(noise_variance_360=variance)
    noise = np.stack([scanner.noise(SIZE, mas, one, rng) for _ in range(6)])
    assert noise.std() == pytest.approx(np.sqrt(variance * 360 / mas), rel=0.03)


def test_noise_power_spectrum():
    """A ramp in the plane under the kernel's square, a Gaussian along the axis."""
    size = (48, 96, 96)
    rng, scanner = np.random.default_rng(9), Scanner()
    power = np.mean(
        [
            np.abs(np.fft.fftn(scanner.noise(size, 360.0, np.ones(size, np.float32), rng))) ** 2
            for _ in range(6)
        ],
        0,
    )
    z, y, x = np.meshgrid(
        *(np.fft.fftfreq(n, d) for n, d in zip(size, PAPER_SPACING_MM, strict=True)), indexing="ij"
    )
    radial = np.hypot(y, x)
    model = radial * ((1 + radial**2) * np.exp(-2 * np.pi**2 * scanner.noise_psf_mm**2 * radial**2)) ** 2
    model *= np.exp(-4 * np.pi**2 * scanner.noise_slice_mm**2 * z**2)
    model *= power.sum() / model.sum()
    rings = np.digitize(radial, [0.15, 0.4, 0.7, 1.0, 1.4, 1.8])
    for ring in range(6):
        for slow in (np.abs(z) < 0.3, (np.abs(z) > 0.5) & (np.abs(z) < 0.9)):
            here = (rings == ring) & slow
            # A volume cut from a larger one leaks a little power into the lowest ring.
            assert power[here].mean() == pytest.approx(model[here].mean(), rel=0.5 if ring == 0 else 0.12)


def test_noise_level_follows_the_map():
    level = np.ones(SIZE, np.float32)
    level[:12] = 2
    noise = Scanner().noise(SIZE, 100.0, level, np.random.default_rng(10))
    same = Scanner().noise(SIZE, 100.0, np.ones(SIZE, np.float32), np.random.default_rng(10))
    np.testing.assert_allclose(noise[:12], 2 * same[:12], rtol=1e-5)
    np.testing.assert_allclose(noise[12:], same[12:], rtol=1e-5)


def test_noise_colour():
    """The sphere averages less away than it would of white noise (1 / sqrt(4125) = .0156): .0285 of a voxel's SD."""
    size = (48, 96, 96)
    rng = np.random.default_rng(13)
    response = np.zeros(size)
    ball = oracles.sphere(PAPER_SPACING_MM, 4.3)
    response[: ball.shape[0], : ball.shape[1], : ball.shape[2]] = ball / ball.sum()
    response = np.fft.rfftn(response)
    noises = [Scanner().noise(size, 100.0, np.ones(size, np.float32), rng) for _ in range(12)]
    means = [
        np.fft.irfftn(np.fft.rfftn(noise) * response, s=size, axes=(0, 1, 2))[12:, 24:, 24:]
        for noise in noises
    ]
    ratio = np.sqrt(np.mean(np.square(means))) / np.std(noises)
    assert ratio == pytest.approx(0.0285, rel=0.12)
    assert ratio > 1.6 / np.sqrt(4125)


def test_repeatable_parts():
    """Noise level and bias vary from place to place and phantom to phantom, as much as the scanner says."""
    scanner, rng = Scanner(), np.random.default_rng(11)
    level = np.stack([scanner.level((6, 12, 12), rng) for _ in range(300)])
    bias = np.stack([scanner.bias((6, 12, 12), rng) for _ in range(300)])
    assert level.mean() == pytest.approx(1, abs=0.02)
    assert level.std() == pytest.approx(scanner.noise_level_spread, rel=0.1)
    assert bias.mean() == pytest.approx(scanner.bias_mg_cm3, abs=3 * scanner.smooth_bias_mg_cm3 / 300**0.5)
    assert bias.std() == pytest.approx(scanner.smooth_bias_mg_cm3, rel=0.1)


@pytest.mark.parametrize("spread", [Scanner().scan_level_spread, 0.06])
def test_each_scan_has_a_noise_level_of_its_own(spread):
    """Relative to the phantom's level, and by as much where that is high as where it is low."""
    scanner, rng = Scanner(scan_level_spread=spread), np.random.default_rng(14)
    level = np.full((6, 12, 12), 0.8, np.float32)
    level[:, :, 6:] = 1.2
    scans = np.stack([scanner.scan_level(level, rng) for _ in range(300)]) / level
    assert scans.dtype == np.float32
    assert scans.mean() == pytest.approx(1, abs=3 * spread / 300**0.5)
    for half in (scans[..., :6], scans[..., 6:]):
        assert half.std() == pytest.approx(spread, rel=0.1)
    # Smooth: within a millimetre it changes much less than from scan to scan.
    assert np.diff(scans, axis=3).std() < 0.1 * spread


def test_noise_level_of_a_scan_is_seeded():
    level = np.ones((6, 12, 12), np.float32)
    first, again, other = (Scanner().scan_level(level, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.001


def test_scans_of_a_phantom_differ_in_their_noise_level():
    """Only the level of the scan is random here: where one scan is noisier than another is the same twice."""
    scanner = Scanner(noise_level_spread=0.0, scan_level_spread=0.3, jitter_mm=0.0)
    phantom = random_field_phantom(SIZE, 2, scanner)
    quiet = random_field_phantom(
        SIZE, 2, Scanner(noise_level_spread=0.0, scan_level_spread=0.0, jitter_mm=0.0)
    )
    np.testing.assert_array_equal(phantom.scan(100.0, 0), phantom.scan(100.0, 0))
    # The same noise at another level: SD by scan differs with the level and not without it.
    by_scan, without = (
        np.std([np.std(p.scan(100.0, repetition) - p.signal) for repetition in range(12)])
        for p in (phantom, quiet)
    )
    assert by_scan > 3 * without


def test_gain_jitters_about_the_mean_density():
    scanner, rng = Scanner(), np.random.default_rng(12)
    probe = np.array([scanner.pivot_mg_cm3, scanner.pivot_mg_cm3 + 1000], np.float32)
    found = np.stack([scanner.calibrated(probe, np.zeros(2, np.float32), rng) for _ in range(3000)])
    gain = (found[:, 1] - found[:, 0]) / 1000
    assert gain.mean() == pytest.approx(scanner.gain, abs=0.003)
    assert gain.std() / gain.mean() == pytest.approx(scanner.gain_spread, rel=0.06)
    assert found[:, 0].mean() == pytest.approx(115.9, abs=0.1)  # mean BMD of Table 3
