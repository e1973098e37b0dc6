"""Where patches lie in a volume, and which scans a study makes of it (method sections 1 and 6)."""

from itertools import product

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


def centre(corner: Corner) -> Corner:
    """The middle voxel of a patch, where its sphere is centred."""
    z, y, x = (c + p // 2 for c, p in zip(corner, PATCH, strict=True))
    return z, y, x


def output_box(corner: Corner) -> tuple[slice, ...]:
    """What the network gives of a patch, as slices of the volume."""
    return tuple(
        slice(c + (p - o) // 2, c + (p + o) // 2) for c, p, o in zip(corner, PATCH, OUTPUT, strict=True)
    )
