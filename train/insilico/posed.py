"""A piece of bone as a clinical scanner sees it in any pose, on any grid, with one interpolation only.

The spectrum of the fine densities is kept as far as the scanner's response reaches. For each pose it is multiplied by
that response, turned into the bone's axes, and transformed back to cubic B-spline coefficients, which are
sampled at the points of the scanner's grid.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from qctrun.runtime.devices import parse_threads
from qctrun.runtime.volume import Grid, Volume
from qctrun.train.insilico.fields import FloatArray, frequencies
from qctrun.train.insilico.scanner import Scanner
from qctrun.train.pairs.rigid import Rigid

BAND_PER_MM = 4.0
"""The response of the default scanner is below 1e-6 there; what lies beyond is left out of the spectrum."""

_DEGREE = 3
_SLABS = 8
"""Pieces in which the grid is sampled, so that all cores have work."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The densities of a piece of bone, band-limited, ready to be blurred, turned and sampled.

    Attributes
    ----------
    values : complex64 array (z, y, x // 2 + 1)
        Spectrum of the coefficients of a cubic B-spline on `grid`.
    grid : Grid
        Voxels just small enough to hold the band, in the world of the bone. The bone repeats beyond it.
    """

    values: npt.NDArray[np.complex64]
    grid: Grid


def spectrum_of(tissue: Volume) -> Spectrum:
    """Take a fine density volume (mg/cm3; at its faces the same constant all round) to `BAND_PER_MM`."""
    own = tissue.grid
    length = [n * d for n, d in zip(own.size, own.spacing, strict=True)]
    size = [
        min(n, fft.next_fast_len(int(np.ceil(2 * BAND_PER_MM * mm)), real=True))
        for n, mm in zip(own.size, length, strict=True)
    ]
    spacing = [mm / n for mm, n in zip(length, size, strict=True)]
    kept = _cropped(fft.rfftn(tissue.array, workers=-1), size)
    kept *= np.float32(np.prod(size) / np.prod(own.size))
    # The coefficients of a wave are the wave over the transform of the B-spline: so what is sampled is the band
    # itself, not the spline through samples of it.
    for along, step in zip(frequencies(tuple(size), tuple(spacing)), spacing, strict=True):
        kept /= np.sinc(along * np.float32(step)) ** (_DEGREE + 1)
    return Spectrum(kept, Grid((size[0], size[1], size[2]), tuple(spacing), own.origin, own.direction))


def scan_in_pose(
    spectrum: Spectrum, pose: Rigid, grid: Grid, scanner: Scanner | None = None, around: float = 0.0
) -> FloatArray:
    """The noise-free scan of bone that has been put into the scanner at a pose.

    Parameters
    ----------
    spectrum : Spectrum
        The bone, in its own world.
    pose : Rigid
        From the bone's world to the scanner's.
    grid : Grid
        Of the scan, in the scanner's world; its axes are those of the scanner, slices along the last.
    scanner : Scanner, optional
        Whose response counts; nothing else of it does.
    around : float
        What lies outside of the bone's volume, mg/cm3.

    Returns
    -------
    float32 array (z, y, x)
        mg/cm3, of the grid's size.
    """
    coefficients = _coefficients(spectrum, _axes(grid).T @ pose.rotation @ _axes(spectrum.grid), scanner)
    matrix, offset = _index_map(grid, spectrum.grid, pose)
    scan = np.full(grid.size, around, np.float32)
    box = _reached(spectrum.grid.size, matrix, offset, grid.size)
    part = scan[box]
    start = offset + matrix @ [edge.start for edge in box]
    edges = np.linspace(0, len(part), _SLABS + 1).astype(int)

    def sample(first: int, last: int) -> None:
        ndimage.affine_transform(
            coefficients,
            matrix,
            start + matrix[:, 0] * first,
            order=_DEGREE,
            prefilter=False,
            output=part[first:last],
            output_shape=part[first:last].shape,
            mode="constant",
            cval=around,
        )

    with ThreadPoolExecutor(min(_SLABS, parse_threads(None))) as pool:
        list(pool.map(sample, edges[:-1], edges[1:]))
    return scan


def _coefficients(spectrum: Spectrum, turn: Matrix, scanner: Scanner | None) -> FloatArray:
    """Spline coefficients of the blurred bone; `turn` takes directions of the bone's grid to the scanner's axes."""
    size, spacing = spectrum.grid.size, spectrum.grid.spacing
    z, y, x = frequencies(size, spacing)
    to_axis = turn[2].astype(np.float32)
    axial = to_axis[0] * x + to_axis[1] * y + to_axis[2] * z
    radial = np.sqrt(np.maximum(x**2 + y**2 + z**2 - axial**2, 0))
    blurred = spectrum.values * (scanner or Scanner()).signal_response(radial, axial)
    return np.asarray(fft.irfftn(blurred, s=size, workers=-1, overwrite_x=True), np.float32)


def _cropped(values: npt.NDArray[np.complex64], size: list[int]) -> npt.NDArray[np.complex64]:
    """The low frequencies of a real transform: those of a volume of this size (z, y, x)."""
    for axis, n in enumerate(size[:2]):
        if n < values.shape[axis]:
            low, high = np.split(values, [(n + 1) // 2], axis)
            values = np.concatenate([low, np.take(high, range(-(n // 2), 0), axis)], axis)
    return np.ascontiguousarray(values[..., : size[2] // 2 + 1])


def _axes(grid: Grid) -> Matrix:
    return np.reshape(grid.direction, (3, 3))


def _index_map(scan: Grid, bone: Grid, pose: Rigid) -> tuple[Matrix, Matrix]:
    """Matrix and offset that take an index (z, y, x) of the scan to one of the bone, with fractions."""
    back = pose.inverse()

    def index(point: Matrix) -> Matrix:
        return np.asarray((_axes(bone).T @ (point - bone.origin))[::-1] / bone.spacing)

    corners = np.array([scan.world((0, 0, 0)), *(scan.world(tuple(unit)) for unit in np.eye(3))])
    first, *others = (index(point) for point in back.points(corners))
    return np.column_stack([other - first for other in others]), first


def _reached(
    bone: tuple[int, ...], matrix: Matrix, offset: Matrix, size: tuple[int, ...]
) -> tuple[slice, ...]:
    """The box of the scan that holds the whole of the bone's volume, as far as the scan reaches."""
    corners = np.stack(np.meshgrid(*((0.0, n - 1.0) for n in bone), indexing="ij"), -1).reshape(-1, 3)
    there = np.linalg.solve(matrix, (corners - offset).T).T
    low = np.clip(np.floor(there.min(0)), 0, size).astype(int)
    high = np.clip(np.ceil(there.max(0)) + 1, 0, size).astype(int)
    return tuple(slice(first, max(first, last)) for first, last in zip(low, high, strict=True))
