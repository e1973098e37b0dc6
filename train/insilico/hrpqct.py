"""The HR-pQCT scan of a specimen: blur, voxels of 82 um, noise (method section 9)."""

import numpy as np
from scipy import ndimage

from qctrun.runtime.resampling import Line, resampled, weights
from qctrun.train.insilico.bone import FINE_SPACING_MM
from qctrun.train.insilico.fields import FloatArray, Triple
from qctrun.train.insilico.phantom import RANDOM_FIELD_BLUR_MM

HRPQCT_SPACING_MM = (0.082, 0.082, 0.082)
NOISE_MG_CM3 = 18.0
"""SD of a voxel."""
NOISE_BLUR_MM = 0.06
"""White noise under a Gaussian of this: neighbouring voxels correlate by exp(-(0.082 / 0.12)^2) = 0.63."""


def hrpqct_size(size_mm: Triple) -> tuple[int, int, int]:
    """Voxels (z, y, x) of the scan of a box."""
    z, y, x = (round(mm / d) for mm, d in zip(size_mm, HRPQCT_SPACING_MM, strict=True))
    return z, y, x


def hrpqct_signal(tissue: FloatArray, size_mm: Triple) -> FloatArray:
    """The noise-free scan (z, y, x), mg HA/cm3, of the box in the middle of a fine density volume."""
    blur = [RANDOM_FIELD_BLUR_MM / d for d in FINE_SPACING_MM]
    blurred = ndimage.gaussian_filter(tissue, blur, mode="nearest")
    z, y, x = (
        weights(Line(-(n - 1) / 2 * fine, fine, n), Line(-(m - 1) / 2 * step, step, m))
        for n, fine, m, step in zip(
            tissue.shape, FINE_SPACING_MM, hrpqct_size(size_mm), HRPQCT_SPACING_MM, strict=True
        )
    )
    return resampled(blurred, (z, y, x))


def hrpqct_noise(size: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Noise of the scan (z, y, x), mg HA/cm3."""
    noise = rng.standard_normal(size, dtype=np.float32)
    ndimage.gaussian_filter(noise, [NOISE_BLUR_MM / d for d in HRPQCT_SPACING_MM], output=noise, mode="wrap")
    noise *= np.float32(NOISE_MG_CM3 / noise.std(dtype=np.float64))
    return noise
