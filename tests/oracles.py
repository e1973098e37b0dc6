"""Slow and obvious second implementations in float64 NumPy, to which every device and algorithm is held.

Arrays are (z, y, x), lengths mm, densities mg/cm3. Equation numbers are those of arXiv:2011.02382.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PAPER_SPACING_MM = (0.34, 0.172, 0.172)
STEP_WIDTH_MG_CM3 = 10.0
SOFTNESS = 1e-4
TIE_TOLERANCE = 1e-6

Key = str | tuple[str, float]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def sphere(spacing_mm: Sequence[float], diameter_mm: float) -> Bools:
    """The smallest odd box around the voxels whose centres lie in the sphere, True on those voxels."""
    radius_mm = diameter_mm / 2 * (1 + TIE_TOLERANCE)
    reach = [int(np.floor(radius_mm / step)) for step in spacing_mm]
    axes = [np.arange(-r, r + 1) * step for r, step in zip(reach, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.asarray(np.sqrt(z**2 + y**2 + x**2) <= radius_mm)


def interior(size: Sequence[int], box: Sequence[int]) -> tuple[slice, ...]:
    """The voxels around which the whole box lies inside the volume (an empty slice when there are none)."""
    return tuple(slice(b // 2, max(n - b // 2, b // 2)) for n, b in zip(size, box, strict=True))


def soft_step(excess_mg_cm3: npt.ArrayLike) -> Floats:
    """The fuzzy step 1 / (1 + exp(-excess / s)), written so that no exponential overflows."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(excess_mg_cm3, np.float64) / STEP_WIDTH_MG_CM3))


def hard_step(excess_mg_cm3: npt.ArrayLike) -> Floats:
    """The Heaviside step: a voxel at the threshold is bone."""
    return (np.asarray(excess_mg_cm3, np.float64) >= 0).astype(np.float64)


STEPS = {"fuzzy": soft_step, "hard": hard_step}


def plus_e(fraction: npt.ArrayLike) -> Floats:
    """The soft positive part e ln(1 + exp(x / e - 1)) + e."""
    x = np.asarray(fraction, np.float64)
    with np.errstate(invalid="ignore"):  # NaN, where there is no fraction, stays NaN
        return SOFTNESS * np.logaddexp(0.0, x / SOFTNESS - 1) + SOFTNESS


def sphere_means(quantities: Floats, ball: Bools) -> Floats:
    """Mean over the ball around each voxel, for each quantity (first axis); NaN where the ball is cut off."""
    reach = [side // 2 for side in ball.shape]
    inside = interior(quantities.shape[1:], ball.shape)
    total = np.zeros_like(quantities[(slice(None), *inside)])
    for offset in np.argwhere(ball) - reach:
        moved = (slice(s.start + o, s.stop + o) for s, o in zip(inside, offset, strict=True))
        total += quantities[(slice(None), *moved)]
    means = np.full(quantities.shape, np.nan)
    means[(slice(None), *inside)] = total / ball.sum()
    return means


def local_maps(
    array: npt.NDArray[Any],
    spacing_mm: Sequence[float],
    thresholds: Sequence[float],
    diameter_mm: float = 4.3,
    step: str = "fuzzy",
    mask: Bools | None = None,
    inside: bool = False,
) -> dict[Key, Floats]:
    """Eq. 4-9 by summing over the offsets of the sphere, one after the other."""
    ball = sphere(spacing_mm, diameter_mm)
    v = array.astype(np.float64)
    # A constant taken off first changes no variance and leaves float64 all its digits.
    middle = float(np.mean(v))
    steps = [STEPS[step](v - t) for t in thresholds]
    wanted = v * 0 + 1 if mask is None else mask.astype(np.float64)
    stack = np.stack([v, v - middle, (v - middle) ** 2, wanted, *steps, *(v * h for h in steps)])
    mean, shifted, square, covered, *rest = sphere_means(stack, ball)
    variance = np.maximum(square - shifted**2, 0) / (1 - 1 / ball.sum())
    maps: dict[Key, Floats] = {"BMD": mean, "SD": np.sqrt(variance)}
    for t, fraction, bone in zip(thresholds, rest[: len(steps)], rest[len(steps) :], strict=True):
        maps["BVTV", t] = fraction
        maps["TMD", t] = bone / plus_e(fraction)
    # A sum of ones over n voxels divided by n is exactly 1.
    shown = covered == 1 if inside else wanted == 1
    return {key: np.where(shown, values, np.nan) for key, values in maps.items()}


@dataclass(frozen=True)
class Global:
    """Eq. 1-3 over one set of voxels."""

    voxels: int
    bone_voxels: int
    bmd_mg_cm3: float
    bvtv: float
    tmd_mg_cm3: float | None


def parameters(array: npt.NDArray[Any], threshold_mg_cm3: float, mask: Bools) -> Global:
    """Eq. 1-3, voxel by voxel as a reader would."""
    values = [float(v) for v in array[mask]]
    bone = [v for v in values if v >= threshold_mg_cm3]
    return Global(
        voxels=len(values),
        bone_voxels=len(bone),
        bmd_mg_cm3=sum(values) / len(values),
        bvtv=len(bone) / len(values),
        tmd_mg_cm3=sum(bone) / len(bone) if bone else None,
    )


def assert_maps_agree(got: Mapping[Key, npt.NDArray[Any]], want: Mapping[Key, npt.NDArray[Any]]) -> None:
    """Hold maps to the promised accuracy: BMD, SD, TMD 0.05 mg/cm3, BV/TV 1e-5, and NaN in the same places.

    TMD is held to it where BV/TV is at least 1 %: below, Eq. 8 divides by nearly nothing.
    """
    assert set(got) == set(want)
    for key, expected in want.items():
        name, threshold = key if isinstance(key, tuple) else (key, 0.0)
        np.testing.assert_array_equal(np.isnan(got[key]), np.isnan(expected), err_msg=f"NaN of {key}")
        enough = want["BVTV", threshold] >= 0.01 if name == "TMD" else ~np.isnan(expected)
        difference = np.abs(np.asarray(got[key], np.float64) - expected)[enough]
        worst = float(difference.max(initial=0))
        assert worst <= TOLERANCES[name], f"{key} is off by {worst}, allowed {TOLERANCES[name]}"


TOLERANCES = {"BMD": 0.05, "SD": 0.05, "TMD": 0.05, "BVTV": 1e-5}
