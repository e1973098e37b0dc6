"""Seeded random fields, made in Fourier space; periodic, so that nothing happens at their borders."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import fft

FloatArray = npt.NDArray[np.float32]
Size = tuple[int, ...]
Triple = tuple[float, ...]


def frequencies(size: Size, spacing_mm: Triple) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Frequencies in 1/mm along (z, y, x) of a real transform, shaped to broadcast over (z, y, x // 2 + 1)."""
    z, y = (np.fft.fftfreq(n, d).astype(np.float32) for n, d in zip(size[:2], spacing_mm[:2], strict=True))
    x = np.fft.rfftfreq(size[2], spacing_mm[2]).astype(np.float32)
    return z[:, None, None], y[None, :, None], x[None, None, :]


def shaped_noise(size: Size, amplitude: FloatArray, rng: np.random.Generator) -> FloatArray:
    """White Gaussian noise given a spectrum, normalised to mean 0 and an expected standard deviation of 1.

    Parameters
    ----------
    amplitude : float array (z, y, x // 2 + 1)
        Square root of the wanted power at `frequencies(size, ...)`, in any scale.
    """
    spectrum = fft.rfftn(rng.standard_normal(size, dtype=np.float32), workers=-1)
    spectrum *= amplitude / np.sqrt(_mean_power(amplitude, size[2]))
    spectrum[0, 0, 0] = 0
    return np.asarray(fft.irfftn(spectrum, s=size, workers=-1, overwrite_x=True), dtype=np.float32)


def filtered(array: FloatArray, response: FloatArray | npt.NDArray[np.complex64]) -> FloatArray:
    """Multiply an array's spectrum by a response given at the frequencies of its real transform."""
    spectrum = fft.rfftn(np.asarray(array, np.float32), workers=-1)
    spectrum *= response
    return np.asarray(fft.irfftn(spectrum, s=array.shape, workers=-1, overwrite_x=True), dtype=np.float32)


def shift_response(size: Size, spacing_mm: Triple, shift_mm: Triple) -> npt.NDArray[np.complex64]:
    """The response that moves what is in a volume by `shift_mm` (z, y, x) towards higher indices."""
    z, y, x = frequencies(size, spacing_mm)
    turns = z * shift_mm[0] + y * shift_mm[1] + x * shift_mm[2]
    return np.asarray(np.exp(-2j * np.pi * turns), dtype=np.complex64)


def smooth_field(size: Size, spacing_mm: Triple, length_mm: float, rng: np.random.Generator) -> FloatArray:
    """A field of standard deviation 1 whose values change over `length_mm` (a Gaussian of a third of it).

    White noise at nodes a sixth of the length apart, each spread by a Gaussian; separable, so it costs little.
    """
    bumps = [_bumps(n, d, length_mm) for n, d in zip(size, spacing_mm, strict=True)]
    field = rng.standard_normal([b.shape[1] for b in bumps], dtype=np.float32)
    for axis_bumps in bumps:  # each turn spreads the first axis and puts it last
        field = np.tensordot(field, axis_bumps, axes=(0, 1))
    return np.ascontiguousarray(field)


def by_radius(
    size: Size, spacing_mm: Triple, response: Callable[[FloatArray, FloatArray], FloatArray]
) -> FloatArray:
    """Evaluate `response(f_r, f_z)` (in-plane radial and axial frequency, 1/mm) on the frequencies of a volume."""
    z, y, x = frequencies(size, spacing_mm)
    return np.asarray(response(np.hypot(y, x), z), dtype=np.float32)


def _mean_power(amplitude: FloatArray, last: int) -> float:
    """Mean squared amplitude over the full spectrum, of which the real transform stores about half."""
    power = np.square(amplitude, dtype=np.float64).sum(axis=(0, 1))
    twice = np.full(power.size, 2.0)
    twice[0] = 1.0
    if last % 2 == 0:
        twice[-1] = 1.0
    power[0] -= float(amplitude[0, 0, 0]) ** 2  # the mean is set to zero
    return float((power * twice).sum() / (amplitude.shape[0] * amplitude.shape[1] * last))


def _bumps(count: int, spacing_mm: float, length_mm: float) -> FloatArray:
    """Weights (voxel, node) of Gaussians around nodes; every voxel's squared weights sum to one."""
    sigma, step = length_mm / 3, length_mm / 6
    nodes = np.arange(-4 * sigma, count * spacing_mm + 4 * sigma, step)
    weights = np.exp(-0.5 * ((np.arange(count)[:, None] * spacing_mm - nodes) / sigma) ** 2)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), dtype=np.float32)
