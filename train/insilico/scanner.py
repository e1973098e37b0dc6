"""A clinical CT scanner and an HR-pQCT reference, as far as their images differ (method section 9).

The parameters were fitted to the raw rows and to the truth of the paper's tables only, never to a filtered row.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from qctrun.train.insilico.bone import FINE_SPACING_MM
from qctrun.train.insilico.fields import (
    FloatArray,
    Size,
    Triple,
    by_radius,
    filtered,
    shaped_noise,
    shift_response,
    smooth_field,
)

SIMULATOR_VERSION = "2"
"""Grows when simulated scans change, so that nothing goes on with other scans than it began with."""

PAPER_SPACING_MM = (0.34, 0.172, 0.172)
"""The paper's grid (z, y, x)."""

BINNING = (4, 2, 2)
"""Fine voxels (z, y, x) to a voxel of the paper's grid."""


@dataclass(frozen=True)
class Scanner:
    """What a scan adds to bone: blur, noise, misplacement and calibration error.

    Attributes
    ----------
    psf_mm, slice_mm : float
        In-plane MTF (1 + f^2) exp(-2 pi^2 psf_mm^2 f^2), axial Gaussian of `slice_mm`.
    noise_psf_mm, noise_slice_mm : float
        The same two for the noise power spectrum, whose in-plane part is a ramp.
    noise_variance_360 : float
        Noise variance at 360 mAs, (mg/cm3)^2; it grows as 1/mAs.
    noise_level_spread, scan_level_spread, smooth_length_mm : float
        Relative SD of the local noise level that all scans of a phantom share, and of what each scan adds to it;
        the length over which they and the bias change.
    offset_mm, jitter_mm : float
        SD of the misregistration per axis, of a phantom and of each scan.
    gain, gain_spread : float
        Mean and relative SD of a scan's calibration slope about `pivot_mg_cm3`.
    bias_mg_cm3, smooth_bias_mg_cm3, scan_bias_mg_cm3 : float
        Mean offset, SD of a smooth bias that all scans of a phantom share, and SD of each scan's own offset.
    """

    psf_mm: float = 0.25
    slice_mm: float = 0.29
    noise_psf_mm: float = 0.22
    noise_slice_mm: float = 0.25
    noise_variance_360: float = 30700.0
    noise_level_spread: float = 0.105
    scan_level_spread: float = 0.03
    smooth_length_mm: float = 14.0
    offset_mm: float = 0.185
    jitter_mm: float = 0.05
    gain: float = 0.97
    gain_spread: float = 0.035
    pivot_mg_cm3: float = 115.9
    bias_mg_cm3: float = -1.0
    smooth_bias_mg_cm3: float = 6.5
    scan_bias_mg_cm3: float = 0.5

    def signal(self, tissue: FloatArray, shift_mm: Triple) -> FloatArray:
        """The noise-free scan of a fine density volume (z, y, x), moved by `shift_mm`, on the paper's grid."""
        response = by_radius(tissue.shape, FINE_SPACING_MM, self.signal_response)
        # Coarse voxels are sampled at their centres, which lie between fine ones.
        centred = [s - d * (b - 1) / 2 for s, d, b in zip(shift_mm, FINE_SPACING_MM, BINNING, strict=True)]
        moved = filtered(tissue, response * shift_response(tissue.shape, FINE_SPACING_MM, tuple(centred)))
        z, y, x = BINNING
        return np.ascontiguousarray(moved[::z, ::y, ::x])

    def noise(
        self,
        size: Size,
        mas: float,
        level: FloatArray,
        rng: np.random.Generator,
        spacing_mm: Triple = PAPER_SPACING_MM,
    ) -> FloatArray:
        """Noise on a grid (the paper's) at a tube current, `level` being the local factor (z, y, x).

        A voxel's variance is the same on every grid fine enough for the noise: voxels are samples of it, no averages.
        """
        # At least 16 mm each way, so that a small cube has the low frequencies of a large scan.
        room = tuple(
            fft.next_fast_len(max(n, int(16 / d)), real=True) for n, d in zip(size, spacing_mm, strict=True)
        )
        shape = by_radius(room, spacing_mm, self.noise_response)
        z, y, x = size
        sigma = np.sqrt(self.noise_variance_360 * 360.0 / mas)
        return np.asarray(sigma * level * shaped_noise(room, shape, rng)[:z, :y, :x], dtype=np.float32)

    def level(
        self, size: Size, rng: np.random.Generator, spacing_mm: Triple = PAPER_SPACING_MM
    ) -> FloatArray:
        """The repeatable local noise level of a phantom, about one."""
        field = smooth_field(size, spacing_mm, self.smooth_length_mm, rng)
        return np.asarray(np.clip(1 + self.noise_level_spread * field, 0.6, 1.4), dtype=np.float32)

    def scan_level(
        self, level: FloatArray, rng: np.random.Generator, spacing_mm: Triple = PAPER_SPACING_MM
    ) -> FloatArray:
        """The local noise level of one scan: that of the phantom, and what differs from scan to scan."""
        field = smooth_field(level.shape, spacing_mm, self.smooth_length_mm, rng)
        return np.asarray(level * np.clip(1 + self.scan_level_spread * field, 0.8, 1.2), dtype=np.float32)

    def bias(self, size: Size, rng: np.random.Generator) -> FloatArray:
        """The repeatable smooth calibration error of a phantom, mg/cm3."""
        return self.bias_mg_cm3 + self.smooth_bias_mg_cm3 * smooth_field(
            size, PAPER_SPACING_MM, self.smooth_length_mm, rng
        )

    def misplaced(self, rng: np.random.Generator, spread_mm: float) -> Triple:
        """A random shift (z, y, x), mm."""
        z, y, x = rng.normal(0.0, spread_mm, 3)
        return z, y, x

    def calibrated(self, scan: FloatArray, bias: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Give a scan its calibration errors."""
        gain = self.gain * (1 + self.gain_spread * rng.normal())
        offset = bias + self.scan_bias_mg_cm3 * rng.normal()
        return np.asarray(self.pivot_mg_cm3 + gain * (scan - self.pivot_mg_cm3) + offset, dtype=np.float32)

    def signal_response(self, radial: FloatArray, axial: FloatArray) -> FloatArray:
        """Transfer of bone at in-plane radial and axial frequencies, 1/mm; 1 at zero."""
        return mtf(radial, self.psf_mm) * _gaussian(axial, self.slice_mm)

    def noise_response(self, radial: FloatArray, axial: FloatArray) -> FloatArray:
        """Square root of the noise power, in no unit: a ramp apodised by the scanner's kernel; 1/mm as above."""
        return np.sqrt(radial) * mtf(radial, self.noise_psf_mm) * _gaussian(axial, self.noise_slice_mm)


def mtf(frequency: FloatArray, psf_mm: float) -> FloatArray:
    """(1 + f^2) exp(-2 pi^2 psf_mm^2 f^2): a sharp kernel that lifts middle frequencies, f in 1/mm."""
    return (1 + frequency**2) * _gaussian(frequency, psf_mm)


def reference(tissue: FloatArray, sigma_mm: float) -> FloatArray:
    """The HR-pQCT truth: a Gaussian blur of the fine densities, then the box average onto the paper's grid."""
    blurred = ndimage.gaussian_filter(tissue, [sigma_mm / d for d in FINE_SPACING_MM], mode="nearest")
    z, y, x = (n // b for n, b in zip(tissue.shape, BINNING, strict=True))
    blocks = blurred.reshape(z, BINNING[0], y, BINNING[1], x, BINNING[2])
    return np.asarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)


def _gaussian(frequency: FloatArray, sigma_mm: float) -> FloatArray:
    """Transform of a Gaussian of `sigma_mm`."""
    return np.asarray(np.exp(-2 * (np.pi * sigma_mm * frequency) ** 2), dtype=np.float32)
