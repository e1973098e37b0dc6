"""A small vertebral body and scans of it in known poses, for tests of registration."""

from functools import cache

import numpy as np
from scipy.spatial.transform import Rotation

from qctrun.runtime.volume import Grid, Volume
from qctrun.train.insilico.bone import FINE_SPACING_MM, Character
from qctrun.train.insilico.posed import Spectrum, scan_in_pose, spectrum_of
from qctrun.train.insilico.scanner import BINNING, PAPER_SPACING_MM, Scanner, reference
from qctrun.train.insilico.specimen import TRABECULAR_PEEL_MM, Body, fine_tissue
from qctrun.train.pairs.fixed import Fixed
from qctrun.train.pairs.rigid import Points, Rigid

SIZE_MM = (14.0, 18.0, 18.0)
FIELD_MM = (22.0, 28.0, 28.0)
SLOPE, INTERCEPT = 0.8, 0.0
SOFT_TISSUE_MG_CM3 = 32.0


@cache
def bone(seed: int = 0) -> tuple[Fixed, Spectrum]:
    """The reference on the paper's grid, and what scans are made from."""
    rng = np.random.default_rng((seed, 61))
    body = Body.draw(SIZE_MM, rng)
    tissue = fine_tissue(body, Character(), SIZE_MM, rng)
    z, y, x = (n // b * b for n, b in zip(tissue.shape, BINNING, strict=True))
    tissue = tissue[:z, :y, :x]
    density = reference(tissue, 0.09)
    fine = Volume(tissue, _about(tissue.shape, FINE_SPACING_MM), "mg/cm3", "HA")
    grid = _about(density.shape, PAPER_SPACING_MM)
    mask = body.mask(density.shape, PAPER_SPACING_MM, TRABECULAR_PEEL_MM)
    return Fixed(Volume(density, grid, "mg/cm3", "HA"), mask, {}), spectrum_of(fine)


@cache
def scan(pose: Rigid, seed: int = 0, mas: float = 360.0, field_mm: tuple[float, ...] = FIELD_MM) -> Volume:
    """A scan of it in HU, in a pose, with noise; on the paper's spacing."""
    size = tuple(round(mm / d) for mm, d in zip(field_mm, PAPER_SPACING_MM, strict=True))
    grid = _about(size, PAPER_SPACING_MM)
    scanner = Scanner()
    density = scan_in_pose(bone(seed)[1], pose, grid, scanner, SOFT_TISSUE_MG_CM3)
    rng = np.random.default_rng((seed, round(mas), 62))
    density += scanner.noise(size, mas, np.ones(size, np.float32), rng, PAPER_SPACING_MM)
    return Volume((density - INTERCEPT) / SLOPE, grid, "HU")


def pose(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> Rigid:
    """Turned about x, y and z, and shifted (x, y, z)."""
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return Rigid(tuple(turn.ravel()), shift_mm)


def mask_points(fixed: Fixed) -> Points:
    """Some points of the mask, in the reference's world."""
    index = np.argwhere(fixed.mask)[::53]
    return np.array([fixed.density.grid.world((z, y, x)) for z, y, x in index.tolist()])


def _about(size: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> Grid:
    """A grid (z, y, x) about the origin."""
    z, y, x = (-(n - 1) / 2 * d for n, d in zip(size, spacing_mm, strict=True))
    return Grid((size[0], size[1], size[2]), spacing_mm, (x, y, z))
