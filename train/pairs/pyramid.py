"""A reference and a scan from coarse to fine, as SimpleITK images, and the region in which their likeness counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.volume import Grid, Volume
from qctrun.train.pairs.fixed import Fixed
from qctrun.train.pairs.rigid import Points, Rigid

RIM_MM = 5.0
"""The metric looks this far around the mask: the cortex, left out of the mask, says most about the pose."""
ROOM_MM = 4.0
"""So much of the scan is kept around the bone: for steps of the optimiser, and for the filters at its faces."""

WINDOW_HU = (-100.0, 1500.0)
"""Coarse levels see no more than this: else the wall of a jar and the air beyond draw more than bone does."""
WINDOWED_MM = 0.7
"""Levels of such voxels and larger ones are coarse: their noise lies within the window."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid.

    Attributes
    ----------
    voxel_mm : float
        Voxels are averaged in blocks up to this size, along each axis.
    reference_sigma_mm, scan_sigma_mm : float
        Of Gaussians after that. The scan's tames its noise, without which a spot between its voxels looks
        better than one on them.
    step_mm, least_mm : float
        First and last step of the optimiser.
    bins : int
        Of the joint histogram along each axis; few where voxels are few, or empty bins pass for likeness.
    points : int
        At most so many are looked at.
    iterations : int
        At most.
    """

    voxel_mm: float
    reference_sigma_mm: float
    scan_sigma_mm: float
    step_mm: float
    least_mm: float
    bins: int
    points: int
    iterations: int


LEVELS = (
    Level(2.0, 1.0, 1.0, 0.5, 0.01, 16, 10**9, 80),
    Level(1.4, 0.6, 0.6, 0.3, 0.01, 16, 10**9, 60),
    Level(0.7, 0.35, 0.35, 0.2, 0.005, 32, 100_000, 60),
    Level(0.35, 0.25, 0.3, 0.1, 0.002, 32, 100_000, 40),
    Level(0.0, 0.1, 0.25, 0.03, 0.0005, 32, 200_000, 30),
)


@dataclass(frozen=True, eq=False)
class Scene:
    """What a registration looks at.

    Attributes
    ----------
    reference, rim, scan : SimpleITK float images
        mg/cm3; distance to the mask in mm, on voxels of about 0.7 mm; HU.
    corners_mm : float array (8, 3)
        Of the box of the region that counts, in the reference's world.
    middle_mm : float array (3,)
        Of the mask; turns are about it.
    arm_mm2 : float
        Mean squared distance of the mask from an axis through it.
    """

    reference: Any
    rim: Any
    scan: Any
    corners_mm: Points
    middle_mm: Points
    arm_mm2: float
    _made: dict[Level, tuple[Any, Any, Any]] = field(default_factory=dict)

    def level(self, level: Level) -> tuple[Any, Any, Any]:
        """Reference, 1 where it counts, and scan, as a level sees them; made once."""
        import SimpleITK as sitk

        if level not in self._made:
            reference = level_of(self.reference, level.voxel_mm, level.reference_sigma_mm)
            rim = sitk.Resample(self.rim, reference, sitk.Transform(), sitk.sitkLinear, 0.0)
            inside = sitk.Cast(rim <= RIM_MM, sitk.sitkFloat32)
            scan = level_of(self.scan, level.voxel_mm, level.scan_sigma_mm)
            if level.voxel_mm >= WINDOWED_MM:
                scan = sitk.Clamp(scan, sitk.sitkFloat32, *WINDOW_HU)
            self._made[level] = reference, inside, scan
        return self._made[level]

    def around(self, *places: Rigid) -> "Scene":
        """The same with no more of the scan than what lies around the bone at some places."""
        there = [place.points(self.corners_mm) for place in places]
        return replace(self, scan=cropped(self.scan, there, mm=ROOM_MM), _made={})


def scene_of(fixed: Fixed, scan: Volume) -> Scene:
    """Get a reference and a scan ready."""
    import SimpleITK as sitk

    grid = fixed.density.grid
    index = np.argwhere(fixed.mask)
    room = np.ceil(RIM_MM / np.asarray(grid.spacing)).astype(int)
    low = np.maximum(index.min(0) - room, 0)
    high = np.minimum(index.max(0) + room + 1, grid.size)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    part = Grid(
        tuple((high - low).tolist()), grid.spacing, tuple(grid.world(tuple(low.tolist()))), grid.direction
    )
    mask = image_of(fixed.mask[box].astype(np.float32), part)
    rim = sitk.SignedMaurerDistanceMap(level_of(mask, 0.7, 0) > 0, False, False, True)
    middle = grid.world(tuple(index.mean(0).tolist()))
    spread = (index.var(0) * np.square(grid.spacing)).sum() * 2 / 3
    corners = np.array(
        [
            grid.world((z, y, x))
            for z, y, x in np.stack(np.meshgrid(*zip(low, high - 1, strict=True)), -1).reshape(-1, 3).tolist()
        ]
    )
    return Scene(
        image_of(fixed.density.array[box], part),
        sitk.Cast(rim, sitk.sitkFloat32),
        image_of(scan.array, scan.grid),
        corners,
        middle,
        float(spread),
    )


def image_of(array: npt.NDArray[Any], grid: Grid) -> Any:
    """An array on a grid as a SimpleITK image."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def level_of(image: Any, voxel_mm: float, sigma_mm: float) -> Any:
    """Means over blocks of voxels up to a size, then a Gaussian (none where sigma is 0)."""
    import SimpleITK as sitk

    blocks = [
        max(1, min(n, int(voxel_mm / step + 1e-6)))
        for n, step in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    coarse = sitk.BinShrink(image, blocks) if max(blocks) > 1 else image
    # The recursive filter wants four voxels along each axis.
    return (
        sitk.SmoothingRecursiveGaussian(coarse, sigma_mm)
        if sigma_mm and min(coarse.GetSize()) > 3
        else coarse
    )


def cropped(image: Any, points_mm: Sequence[Points], mm: float = 0.0, voxels: int = 0) -> Any:
    """The box of an image around points of its world, and so much more; never nothing."""
    index = np.array(
        [image.TransformPhysicalPointToContinuousIndex(p) for p in np.vstack(points_mm).tolist()]
    )
    room = np.ceil(mm / np.asarray(image.GetSpacing())) + voxels
    last = np.asarray(image.GetSize()) - 1
    low = np.clip(np.floor(index.min(0) - room), 0, last).astype(int)
    high = np.clip(np.ceil(index.max(0) + room), 0, last).astype(int)
    x, y, z = (slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
    return image[x, y, z]
