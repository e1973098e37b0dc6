"""Where patches lie in a volume, and which scans a study makes of it (method sections 1 and 6)."""

from itertools import product

from qctrun.runtime.filtering.windows import bounding_box
from qctrun.runtime.volume import BoolArray

PATCH = (21, 41, 41)
"""Voxels (z, y, x) of a patch, about 7 mm."""

OUTPUT = (13, 25, 25)
"""What the network leaves of it: one sphere of 4.3 mm."""

RASTER = (8, 16, 16)
"""Distance of neighbouring patches in the paper, voxels (z, y, x): 2.75 mm."""

TUBE_CURRENTS_MAS = (100.0, 250.0, 360.0)
REPETITIONS = 3

Corner = tuple[int, int, int]


def corners(shape: tuple[int, ...], raster: Corner = RASTER) -> list[Corner]:
    """Corners (z, y, x) of all patches of a raster that lie wholly inside a volume."""
    stops = (n - p + 1 for n, p in zip(shape, PATCH, strict=True))
    z, y, x = (range(0, stop, step) for stop, step in zip(stops, raster, strict=True))
    return list(product(z, y, x))


def box_positions(mask: BoolArray, raster: Corner = RASTER) -> list[Corner]:
    """Corners (z, y, x) of the patches of a raster whose whole box lies in a mask.

    The raster starts at the corner of the mask's bounding box: so the same bone gives the same patches, however
    much of its surroundings is in the file.

    Parameters
    ----------
    mask : bool array (z, y, x)
    raster : (int, int, int)
        Voxels from one patch to the next.

    Returns
    -------
    list of (int, int, int)
        z varies slowest; empty where no box fits.
    """
    box = bounding_box(mask)
    if box is None:
        return []
    z, y, x = (part.start for part in box)
    candidates = ((z + c, y + b, x + a) for c, b, a in corners(mask[box].shape, raster))
    return [corner for corner in candidates if mask[patch_box(corner)].all()]


def centre(corner: Corner) -> Corner:
    """The middle voxel of a patch, where its sphere is centred."""
    z, y, x = (c + p // 2 for c, p in zip(corner, PATCH, strict=True))
    return z, y, x


def patch_box(corner: Corner) -> tuple[slice, ...]:
    """The patch itself, as slices of the volume."""
    return tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))


def output_box(corner: Corner) -> tuple[slice, ...]:
    """What the network gives of a patch, as slices of the volume."""
    return tuple(
        slice(c + (p - o) // 2, c + (p + o) // 2) for c, p, o in zip(corner, PATCH, OUTPUT, strict=True)
    )
