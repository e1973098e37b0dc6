"""A whole in-silico vertebra in its field of view: trabecular core, cortex, soft tissue around."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qctrun.train.insilico.bone import FINE_SPACING_MM, SLOW_MM, Character
from qctrun.train.insilico.fields import FloatArray, Size, smooth_field
from qctrun.train.insilico.phantom import RANDOM_FIELD_BLUR_MM, Phantom, phantom_of, spongiosa
from qctrun.train.insilico.scanner import BINNING, PAPER_SPACING_MM, Scanner

CORE_RADIUS_MM = 15.0
CORE_HALF_HEIGHT_MM = 11.0
CORTEX_MM = 0.9
CORTEX_MG_CM3 = 900.0
SOFT_TISSUE_MG_CM3 = 32.0
"""About 40 HU on the nominal line."""
SIMULATED_MM = 35.0
"""Box in which bone is simulated on the fine grid; around it, soft tissue goes on as at its border."""
PEEL_MM = 3.0
"""The mask keeps this far from the cortex, so that its spheres of 4.3 mm see none of it."""


@dataclass(frozen=True)
class Vertebra:
    """A phantom of a vertebra and the trabecular region in which it may be measured: `mask`, bool (z, y, x)."""

    phantom: Phantom
    mask: npt.NDArray[np.bool_]


def vertebra(seed: int = 0, size: Size = (80, 256, 256), scanner: Scanner | None = None) -> Vertebra:
    """Build a vertebra of 30 mm trabecular width at its waist, with cortical walls and endplates.

    Parameters
    ----------
    seed : int
        Decides the bone and all scans of it.
    size : (int, int, int)
        Field of view (z, y, x), voxels of the paper's grid.
    """
    rng = np.random.default_rng((seed, 7))
    spare = (max(0, round((n - SIMULATED_MM / d) / 2)) for n, d in zip(size, PAPER_SPACING_MM, strict=True))
    body = tuple(n - 2 * margin for n, margin in zip(size, spare, strict=True))
    fine = tuple(n * b for n, b in zip(body, BINNING, strict=True))
    depth = _depth(fine, FINE_SPACING_MM)
    tissue = SOFT_TISSUE_MG_CM3 + 10 * smooth_field(fine, FINE_SPACING_MM, SLOW_MM, rng)
    tissue += (CORTEX_MG_CM3 - tissue) * _ramp(depth + CORTEX_MM)
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(depth > -CORTEX_MM))
    inside = _ramp(depth[box])
    del depth
    tissue[box] += inside * (_spongiosa(inside.shape, rng) - tissue[box])
    phantom = phantom_of(tissue, "vertebra", "in-silico", RANDOM_FIELD_BLUR_MM, seed, scanner or Scanner())
    return Vertebra(_with_surroundings(phantom, size), _depth(size, PAPER_SPACING_MM) >= PEEL_MM)


def _with_surroundings(phantom: Phantom, size: Size) -> Phantom:
    """Widen the field of view by the soft tissue at the border."""
    widths = [((n - m) // 2, (n - m) // 2) for n, m in zip(size, phantom.truth.shape, strict=True)]
    truth, signal, level, bias = (
        np.pad(array, widths, mode="edge")
        for array in (phantom.truth, phantom.signal, phantom.level, phantom.bias)
    )
    return replace(phantom, truth=truth, signal=signal, level=level, bias=bias)


def _spongiosa(size: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Density of bone and marrow on the fine grid, mg HA/cm3; of average character, so that the demo is typical."""
    z, y, x = size
    return spongiosa(tuple(n + n % 2 for n in size), Character(), rng)[:z, :y, :x]


def _depth(size: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> FloatArray:
    """Distance in mm from the surface of the trabecular core, positive inside; the core is centred in the volume."""
    z, y, x = (
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(d)
        for n, d in zip(size, spacing_mm, strict=True)
    )
    radial = np.hypot(y[:, None], x[None, :])
    height = np.abs(z) / CORE_HALF_HEIGHT_MM
    wall = CORE_RADIUS_MM + 1.2 * np.clip(height**2, 0, 1)
    endplate = CORE_HALF_HEIGHT_MM - 1.0 * np.clip(1 - (radial / CORE_RADIUS_MM) ** 2, 0, 1)
    depth = np.minimum(wall[:, None, None] - radial, endplate - np.abs(z)[:, None, None])
    return np.asarray(depth, dtype=np.float32)


def _ramp(depth_mm: FloatArray) -> FloatArray:
    """Share of a fine voxel that lies inside a surface at this depth."""
    return np.asarray(np.clip(depth_mm / FINE_SPACING_MM[1] + 0.5, 0, 1), dtype=np.float32)
