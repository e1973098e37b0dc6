"""A vertebral body in a jar, without any symmetry: there is only one way to lay a scan of it over another."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

from qctrun.runtime.volume import BoolArray
from qctrun.train.insilico.bone import FINE_SPACING_MM, Character
from qctrun.train.insilico.fields import FloatArray, Triple
from qctrun.train.insilico.phantom import spongiosa
from qctrun.train.insilico.vertebra import CORTEX_MG_CM3, CORTEX_MM, SOFT_TISSUE_MG_CM3

SIDE_ROOM_MM = 1.6
END_ROOM_MM = 1.2
"""From the widest place of the core to the faces of the box, across and along the axis; the cortex lies in it."""
TRABECULAR_PEEL_MM = 1.0
"""The trabecular mask keeps this far from the cortex, which the blur of both scanners does not reach across."""
PADDING_MM = 1.5
"""What is simulated around the box at least; the medium, so that the volume may repeat beyond its faces."""

Coordinates = npt.NDArray[np.float32]
Disc = tuple[float, float, float]


@dataclass(frozen=True)
class Body:
    """The shape of a trabecular core. The origin is the middle of its box; y runs to the back, z to the head; mm.

    Attributes
    ----------
    discs : tuple of (x, y, radius)
        The cross-section is what they have in common ...
    notch : (x, y, radius)
        ... less this one: the foramen behind the body.
    waist_mm : float
        By how much it is narrower half-way between the endplates.
    half_height_mm : float
    dish_mm : (float, float)
        How deep the upper and the lower endplate are hollowed.
    wedge : float
        By how much the upper endplate falls towards the back, mm per mm.
    """

    discs: tuple[Disc, ...]
    notch: Disc
    waist_mm: float
    half_height_mm: float
    dish_mm: tuple[float, float]
    wedge: float

    @classmethod
    def draw(cls, size_mm: Triple, rng: np.random.Generator) -> "Body":
        """A body that fills a box (z, y, x), with something of its own in every measure."""
        radius, half = min(size_mm[1:]) / 2 - SIDE_ROOM_MM, size_mm[0] / 2 - END_ROOM_MM
        angles = np.radians(np.array([95.0, 205.0, 320.0]) + rng.uniform(-15, 15, 3))
        aside = radius * rng.uniform(0.05, 0.11, 3)
        discs = tuple(
            (float(mm * np.cos(a)), float(mm * np.sin(a)), 1.02 * radius)
            for mm, a in zip(aside, angles, strict=True)
        )
        foramen, depth = 0.45 * radius, radius * rng.uniform(0.12, 0.20)
        notch = (radius * float(rng.uniform(-0.08, 0.08)), 0.95 * radius + foramen - float(depth), foramen)
        dish = half * rng.uniform(0.07, 0.11), half * rng.uniform(0.03, 0.06)
        return cls(discs, notch, 0.05 * radius, half, dish, 0.03 * float(rng.uniform(0.5, 1.5)))

    @property
    def reach_mm(self) -> tuple[tuple[float, float], ...]:
        """From where to where the core may lie along (z, y, x)."""
        middles, radii = np.array(self.discs)[:, 1::-1], np.array(self.discs)[:, 2:]
        low, high = (middles - radii).max(0).tolist(), (middles + radii).min(0).tolist()
        return (-self.half_height_mm, self.half_height_mm), *zip(low, high, strict=True)

    def depth(self, z: Coordinates, y: Coordinates, x: Coordinates) -> FloatArray:
        """Distance from the surface of the core, mm, positive inside, at all (z, y, x) of three rows of places."""
        here, there = np.meshgrid(y, x, indexing="ij")
        section = np.min([r - np.hypot(there - cx, here - cy) for cx, cy, r in self.discs], axis=0)
        cx, cy, r = self.notch
        section = np.minimum(section, np.hypot(there - cx, here - cy) - r)
        # Each endplate is hollowed about a middle of its own.
        reach = self.discs[0][2]
        upper, lower = (
            self.half_height_mm - deep * np.clip(1 - (there**2 + (here - off) ** 2) / reach**2, 0, 1)
            for deep, off in zip(self.dish_mm, (-0.1 * reach, 0.2 * reach), strict=True)
        )
        upper -= self.wedge * (here + reach)
        flare = self.waist_mm * (np.square(z / self.half_height_mm).clip(0, 1) - 1)
        up = z[:, None, None]
        ends = np.minimum(upper - up, lower + up)
        return np.asarray(np.minimum(section + flare[:, None, None], ends), np.float32)

    def mask(self, size: Triple, spacing_mm: Triple, depth_mm: float) -> BoolArray:
        """The voxels (z, y, x) of a grid about the same middle whose centres lie at least so deep."""
        z, y, x = rows(size, spacing_mm)
        return np.concatenate([self.depth(z[i : i + 1], y, x) >= depth_mm for i in range(len(z))])


def rows(size: Triple, spacing_mm: Triple) -> list[Coordinates]:
    """Where the voxels of a grid about the origin lie along (z, y, x), mm."""
    return [
        ((np.arange(n) - (n - 1) / 2) * d).astype(np.float32) for n, d in zip(size, spacing_mm, strict=True)
    ]


def fine_size(size_mm: Triple) -> tuple[int, ...]:
    """Voxels of the fine grid (z, y, x) that hold a box and its padding."""
    return tuple(
        fft.next_fast_len(int(np.ceil((mm + 2 * PADDING_MM) / d)), real=True)
        for mm, d in zip(size_mm, FINE_SPACING_MM, strict=True)
    )


def fine_tissue(body: Body, character: Character, size_mm: Triple, rng: np.random.Generator) -> FloatArray:
    """Density of a body in its medium on the fine grid (z, y, x), mg HA/cm3; its box lies in the middle."""
    size = fine_size(size_mm)
    z, y, x = rows(size, FINE_SPACING_MM)
    half_voxel = max(FINE_SPACING_MM) / 2
    box = tuple(
        slice(*np.searchsorted(row, (low - half_voxel, high + half_voxel)))
        for row, (low, high) in zip((z, y, x), body.reach_mm, strict=True)
    )
    counts = tuple(len(row[part]) for row, part in zip((z, y, x), box, strict=True))
    bone = spongiosa(tuple(fft.next_fast_len(n, real=True) for n in counts), character, rng)
    tissue = np.empty(size, np.float32)
    for index, plane in enumerate(tissue):  # one at a time: the volume is large
        depth = body.depth(z[index : index + 1], y, x)[0]
        plane[:] = SOFT_TISSUE_MG_CM3 + (CORTEX_MG_CM3 - SOFT_TISSUE_MG_CM3) * _share(depth + CORTEX_MM)
        inner = index - box[0].start
        if 0 <= inner < counts[0]:
            core = plane[box[1:]]
            core += _share(depth[box[1:]]) * (bone[inner, : counts[1], : counts[2]] - core)
    return tissue


def _share(depth_mm: FloatArray) -> FloatArray:
    """Share of a fine voxel that lies inside a surface at this depth."""
    return np.asarray(np.clip(depth_mm / FINE_SPACING_MM[1] + 0.5, 0, 1), np.float32)
