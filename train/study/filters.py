"""Filters that the network is compared with, and the few settings of each that validation data may choose from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.extras import library
from qctrun.train.insilico.fields import FloatArray, Size, by_radius, filtered
from qctrun.train.insilico.scanner import PAPER_SPACING_MM, Scanner

NAMES = ("Gaussian", "NLM", "TV", "Wiener")

Filter = Callable[[FloatArray], FloatArray]
"""Takes and gives a whole volume, float32 (z, y, x), mg/cm3."""

# From hardly any smoothing to more than is good at 100 mAs: TMD and BV/TV stand far less of it than voxels do.
_SIGMAS_MM = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.35)
_NLM_STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_TV_STRENGTHS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
_WIENER_STRENGTHS = (1 / 1024, 1 / 256, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1.0)

_NLM_PATCH, _NLM_REACH = 5, 3
"""Voxels; a reach of 5 takes four times as long and takes 3 % more off the voxel error."""
_NLM_CUT_OFF = 0.8
"""h, in units of the noise that the filter is told of."""
_TV_STEPS = 50
"""Always so many: the function's own stop depends on the weight and left its settings out of order."""
_MIRRORED_MM = 4.0
"""How far a scan goes on as its own mirror image before the Fourier transform closes it to a ring."""
_BIN_PER_MM = 0.1


@dataclass(frozen=True)
class Candidate:
    """A filter at one setting.

    Attributes
    ----------
    name : str
        Of the filter, as in the tables.
    setting : mapping of str to float
        What distinguishes it from the filter's other candidates; a name that ends in a unit is in that unit.
    apply : callable
        Filters a whole volume, float32 (z, y, x) in mg/cm3; returns the same shape.
    """

    name: str
    setting: Mapping[str, float]
    apply: Filter


@dataclass(frozen=True)
class Spectrum:
    """Mean power of bone by spatial frequency, as |FFT|^2 over the number of voxels of the paper's grid.

    Attributes
    ----------
    frequency_per_mm : float array
        Increasing, without zero.
    power : float array
        At those frequencies, (mg/cm3)^2.
    """

    frequency_per_mm: npt.NDArray[np.float64]
    power: npt.NDArray[np.float64]

    def at(self, frequency_per_mm: FloatArray) -> FloatArray:
        """Power between the known frequencies by its logarithm; beyond them that of the nearest."""
        logs = np.interp(frequency_per_mm, self.frequency_per_mm, np.log(self.power))
        return np.asarray(np.exp(logs), dtype=np.float32)


def candidates(name: str, scanner: Scanner, mas: float, truths: Sequence[FloatArray]) -> list[Candidate]:
    """The settings of a filter to choose from at one tube current.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    scanner : Scanner
        Whose noise is known to the filter, as a measurement of a water phantom tells it.
    mas : float
        Tube current-time product, mAs.
    truths : sequence of float arrays (z, y, x)
        True densities of the validation data, mg/cm3: `Wiener` takes the spectrum of bone from them.

    Raises
    ------
    UsageError
        When there is no such filter.
    InputError
        When `Wiener` has no truths.
    RuntimeMissingError
        When it needs scikit-image, which is not installed.
    """
    if name == "Gaussian":
        return [_gaussian(sigma_mm) for sigma_mm in _SIGMAS_MM]
    if name == "NLM":
        return [_nlm(strength, noise_sd(scanner, mas)) for strength in _NLM_STRENGTHS]
    if name == "TV":
        return [_tv(strength, noise_sd(scanner, mas)) for strength in _TV_STRENGTHS]
    if name == "Wiener":
        bone = spectrum(truths)
        return [_wiener(strength, scanner, mas, bone) for strength in _WIENER_STRENGTHS]
    raise UsageError("filter", wanted=" or ".join(NAMES), got=repr(name))


def noise_sd(scanner: Scanner, mas: float) -> float:
    """Standard deviation of the noise of a voxel at a tube current, mg/cm3."""
    return float(np.sqrt(scanner.noise_variance_360 * 360.0 / mas))


def noise_power(scanner: Scanner, mas: float, size: Size) -> FloatArray:
    """Expected |FFT|^2 of the noise over the number of voxels, (mg/cm3)^2; its mean is the noise variance.

    Returns
    -------
    float32 array (z, y, x)
        At all frequencies of `numpy.fft.fftn` of a volume of `size` on the paper's grid, zero frequency first.
    """
    z, y, x = (np.fft.fftfreq(n, d).astype(np.float32) for n, d in zip(size, PAPER_SPACING_MM, strict=True))
    shape = scanner.noise_response(np.hypot(y[:, None], x)[None], z[:, None, None]) ** 2
    return np.asarray(shape * (noise_sd(scanner, mas) ** 2 / shape.mean(dtype=np.float64)), dtype=np.float32)


def spectrum(truths: Sequence[FloatArray]) -> Spectrum:
    """Mean power of volumes on the paper's grid by the length of the frequency vector: bone as if isotropic.

    Parameters
    ----------
    truths : sequence of float arrays (z, y, x)
        Each is freed of its mean and tapered to its faces, so that what differs between them does not leak.

    Raises
    ------
    InputError
        When there is none, or nothing in them varies.
    """
    if not any(np.ptp(truth) > 0 for truth in truths):
        raise InputError(
            "Wiener", wanted="true densities that vary", got=f"{len(truths)} volumes that do not"
        )
    radii, powers = (np.concatenate(parts) for parts in zip(*map(_periodogram, truths), strict=True))
    bins = (radii / _BIN_PER_MM).astype(np.intp)
    counts = np.bincount(bins).astype(np.float64)
    filled = np.flatnonzero(counts)
    frequency = (filled + 0.5) * _BIN_PER_MM
    mean = np.bincount(bins, powers)[filled] / counts[filled]
    return Spectrum(np.asarray(frequency, dtype=np.float64), np.asarray(mean, dtype=np.float64))


def wiener_response(
    size: Size, scanner: Scanner, mas: float, bone: Spectrum, strength: float = 1.0
) -> FloatArray:
    """S / (S + strength N), S the power of the noise-free scan and N that of the noise.

    S is the spectrum of bone through the scanner's squared transfer. The blur stays: this filter takes noise away
    and does not sharpen.

    Returns
    -------
    float32 array (z, y, x // 2 + 1)
        At the frequencies of the real transform of a volume of `size` on the paper's grid.
    """

    def seen(radial: FloatArray, axial: FloatArray) -> FloatArray:
        return bone.at(np.hypot(radial, axial)) * scanner.signal_response(radial, axial) ** 2

    signal = by_radius(size, PAPER_SPACING_MM, seen)
    noise = noise_power(scanner, mas, size)[..., : size[2] // 2 + 1]
    return np.asarray(signal / (signal + np.float32(strength) * noise), dtype=np.float32)


def _gaussian(sigma_mm: float) -> Candidate:
    sigmas = [sigma_mm / d for d in PAPER_SPACING_MM]

    def apply(scan: FloatArray) -> FloatArray:
        return np.asarray(ndimage.gaussian_filter(scan, sigmas, mode="reflect"), dtype=np.float32)

    return Candidate("Gaussian", {"sigma_mm": sigma_mm}, apply)


def _nlm(strength: float, sigma: float) -> Candidate:
    """Non-local means that is told of `strength` times the noise: taking noise for white, it smooths too much."""
    denoise = library("skimage.restoration", "filter").denoise_nl_means
    told = strength * sigma

    def apply(scan: FloatArray) -> FloatArray:
        found = denoise(scan, _NLM_PATCH, _NLM_REACH, h=_NLM_CUT_OFF * told, sigma=told, fast_mode=True)
        return np.asarray(found, dtype=np.float32)

    return Candidate("NLM", {"sigma_over_noise": strength}, apply)


def _tv(strength: float, sigma: float) -> Candidate:
    """Total variation, its weight at `strength` times the noise."""
    denoise = library("skimage.restoration", "filter").denoise_tv_chambolle

    def apply(scan: FloatArray) -> FloatArray:
        return np.asarray(denoise(scan, strength * sigma, eps=0, max_num_iter=_TV_STEPS), dtype=np.float32)

    return Candidate("TV", {"weight_over_noise": strength}, apply)


def _wiener(strength: float, scanner: Scanner, mas: float, bone: Spectrum) -> Candidate:
    def apply(scan: FloatArray) -> FloatArray:
        wide, inside = _mirrored(scan)
        response = wiener_response(wide.shape, scanner, mas, bone, strength)
        return np.ascontiguousarray(filtered(wide, response)[inside])

    return Candidate("Wiener", {"noise_factor": strength}, apply)


def _mirrored(scan: FloatArray) -> tuple[FloatArray, tuple[slice, ...]]:
    """A scan with its mirror image around it, of a size that transforms fast, and where in it the scan lies."""
    before = [int(np.ceil(_MIRRORED_MM / d)) for d in PAPER_SPACING_MM]
    lengths = [fft.next_fast_len(n + 2 * b, real=True) for n, b in zip(scan.shape, before, strict=True)]
    widths = [(b, m - n - b) for n, b, m in zip(scan.shape, before, lengths, strict=True)]
    inside = tuple(slice(b, b + n) for n, b in zip(scan.shape, before, strict=True))
    return np.pad(scan, widths, mode="reflect"), inside


def _periodogram(volume: FloatArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lengths of a volume's frequency vectors (1/mm), and its power there.

    Without those that its shortest side does not resolve: the mean was taken away there.
    """
    z, y, x = (np.hanning(n + 2)[1:-1] for n in volume.shape)
    taper = z[:, None, None] * y[:, None] * x
    mean = float((volume * taper).sum() / taper.sum())
    power = np.abs(fft.fftn((volume - mean) * taper)) ** 2 / np.square(taper).sum()
    a, b, c = (np.fft.fftfreq(n, d) for n, d in zip(volume.shape, PAPER_SPACING_MM, strict=True))
    radius = np.sqrt(a[:, None, None] ** 2 + b[:, None] ** 2 + c**2)
    resolved = radius > max(a[1], b[1], c[1])
    return radius[resolved], power[resolved]
