"""BM4D, where the user has installed the package `bm4d` from PyPI: its licence allows non-commercial use only.

Nothing here depends on it, and it comes along with nothing: whoever may use it types `pip install bm4d`.
"""

from importlib import import_module
from typing import Any

import numpy as np
from scipy import ndimage

from qctrun.runtime.errors import RuntimeMissingError, UsageError
from qctrun.train.insilico.fields import FloatArray
from qctrun.train.insilico.scanner import Scanner
from qctrun.train.study.filters import Candidate, noise_power, noise_sd

NAMES = ("BM4D", "BM4D-PSD")
"""With noise taken for white, and with the scanner's noise power spectrum."""

_SIGMA_STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)
_PSD_STRENGTHS = (0.0625, 0.125, 0.25, 0.5, 1.0)

_FINEST = (0.035226291882, 0.085441273882, -0.135011020010, -0.459877502119, 0.806891509313, -0.332670552951)
"""Daubechies' high-pass filter of six taps, norm 1."""
_MEDIAN_OF_NORMAL = 0.674490
"""Median absolute value of a standard normal number."""


def available() -> bool:
    """Whether the package is installed and loads."""
    try:
        _package()
    except RuntimeMissingError:
        return False
    return True


def candidates(name: str, scanner: Scanner, mas: float) -> list[Candidate]:
    """The settings of a BM4D to choose from at one tube current; each filters whole volumes.

    `BM4D` has the paper's own way among them, `automatic`: a noise estimated from each scan as if it were white, and
    hard thresholding without the Wiener stage. The others know the scanner's noise and run both stages.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    scanner : Scanner
        Whose noise is known.
    mas : float
        Tube current-time product, mAs.

    Raises
    ------
    UsageError
        When there is no such filter.
    RuntimeMissingError
        When the package is not installed, or does not go with this numpy.
    """
    if name not in NAMES:
        raise UsageError("filter", wanted=" or ".join(NAMES), got=repr(name))
    package = _package()
    if name == "BM4D":
        given = [_white(strength, package, noise_sd(scanner, mas)) for strength in _SIGMA_STRENGTHS]
        return [_automatic(package), *given]
    _require_psd(package)
    return [_coloured(strength, package, scanner, mas) for strength in _PSD_STRENGTHS]


def automatic_sigma(scan: FloatArray) -> float:
    """Standard deviation of white noise, from the median of the finest wavelets that are diagonal in all axes.

    Noise of a computed tomograph has next to no power at those frequencies, so this finds a small part of it.

    Parameters
    ----------
    scan : float array (z, y, x)
        At least six voxels each way.
    """
    finest = scan.astype(np.float64)
    for axis in range(3):
        finest = ndimage.convolve1d(finest, _FINEST, axis=axis, mode="reflect")
    return float(np.median(np.abs(finest[::2, ::2, ::2])) / _MEDIAN_OF_NORMAL)


def _automatic(package: Any) -> Candidate:
    def apply(scan: FloatArray) -> FloatArray:
        stage = package.BM4DStages.HARD_THRESHOLDING
        return np.asarray(package.bm4d(scan, automatic_sigma(scan), stage_arg=stage), dtype=np.float32)

    return Candidate("BM4D", {"automatic": 1.0}, apply)


def _white(strength: float, package: Any, sigma: float) -> Candidate:
    def apply(scan: FloatArray) -> FloatArray:
        return np.asarray(package.bm4d(scan, strength * sigma), dtype=np.float32)

    return Candidate("BM4D", {"sigma_over_noise": strength}, apply)


def _coloured(strength: float, package: Any, scanner: Scanner, mas: float) -> Candidate:
    """The package's power is the expected |FFT|^2 of the noise: its mean over the number of voxels is the variance."""

    def apply(scan: FloatArray) -> FloatArray:
        power = noise_power(scanner, mas, scan.shape).astype(np.float64) * scan.size
        return np.asarray(package.bm4d(scan, strength * power), dtype=np.float32)

    return Candidate("BM4D-PSD", {"noise_factor": strength}, apply)


def _package() -> Any:
    """The package.

    Raises
    ------
    RuntimeMissingError
        When it is not installed or does not load.
    """
    try:
        return import_module("bm4d")
    except (ImportError, OSError) as error:  # OSError: its compiled library lacks something of the system
        mend = "if your use is non-commercial, as its licence demands, type: pip install bm4d"
        raise RuntimeMissingError("BM4D", wanted="the package bm4d", got=str(error), mend=mend) from error


def _require_psd(package: Any) -> None:
    """Try a power spectrum out: release 4.2.5 calls a function that numpy 2.4 took away, and only then.

    Raises
    ------
    RuntimeMissingError
        When it fails for that.
    """
    try:
        package.bm4d(np.zeros((8, 8, 8)), np.ones((8, 8, 8)))
    except AttributeError as error:
        mend = 'type: pip install "numpy<2.4"'
        raise RuntimeMissingError(
            "BM4D-PSD", wanted="a bm4d that goes with this numpy", got=str(error), mend=mend
        ) from error
