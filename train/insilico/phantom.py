"""A phantom: one piece of bone with its truth, and any number of seeded scans of it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qctrun.train.insilico.bone import FINE_SPACING_MM, SLOW_MM, Character, microct_bone, random_field_bone
from qctrun.train.insilico.fields import FloatArray, Size, Triple, filtered, shift_response, smooth_field
from qctrun.train.insilico.scanner import BINNING, PAPER_SPACING_MM, Scanner, reference

RANDOM_FIELD_BLUR_MM = 0.09
"""Blur of the reference scanner over random-field bone (method section 9)."""
MICROCT_BLUR_MM = 0.115
MICROCT_TISSUE_MG_CM3 = 950.0
"""Binary micro-CT makes struts a little thick; this blur and this tissue give the paper's truth (data notes)."""

MARROW_SPREAD_MG_CM3 = 15.0
"""SD of the smooth density between the trabeculae."""
_SHIFT_MARGIN = 6
"""Voxels around a volume that a shift of a fraction of one rings through."""


@dataclass(frozen=True)
class Phantom:
    """Bone on the paper's grid.

    Attributes
    ----------
    name, donor : str
        What it is called, and whose bone it is: patches of one donor are never split.
    truth : float32 array (z, y, x)
        The reference scan, mg HA/cm3.
    signal : float32 array (z, y, x)
        The noise-free clinical scan, mg HA/cm3.
    level, bias : float32 arrays (z, y, x)
        Local noise level (about 1) and smooth calibration error (mg/cm3); the same in all scans of it.
    """

    name: str
    donor: str
    truth: FloatArray
    signal: FloatArray
    level: FloatArray
    bias: FloatArray
    seed: int
    scanner: Scanner = field(default_factory=Scanner)
    spacing_mm: tuple[float, float, float] = PAPER_SPACING_MM

    def scan(self, mas: float, repetition: int) -> FloatArray:
        """The scan at a tube current (mAs), mg HA/cm3; the same arguments give the same scan."""
        rng = np.random.default_rng((self.seed, int(mas), repetition))
        moved = _moved(self.signal, self.scanner.misplaced(rng, self.scanner.jitter_mm))
        level = self.scanner.scan_level(self.level, rng)
        noise = self.scanner.noise(self.signal.shape, mas, level, rng)
        return self.scanner.calibrated(moved + noise, self.bias, rng)


def random_field_phantom(
    size: Size,
    seed: int,
    scanner: Scanner | None = None,
    *,
    character: Character | None = None,
    name: str | None = None,
) -> Phantom:
    """A piece of random-field bone of `size` voxels (z, y, x) of the paper's grid, with a character of its own."""
    rng = np.random.default_rng(seed)
    character = character or Character.draw(rng)
    fine = tuple(n * b for n, b in zip(size, BINNING, strict=True))
    tissue = spongiosa(fine, character, rng)
    name = name or f"random-field-{seed}"
    return phantom_of(tissue, name, name, RANDOM_FIELD_BLUR_MM, seed, scanner or Scanner())


def spongiosa(size: Size, character: Character, rng: np.random.Generator) -> FloatArray:
    """Density of random-field bone and its marrow on the fine grid (z, y, x), mg HA/cm3."""
    bone = random_field_bone(size, character, rng)
    marrow = MARROW_SPREAD_MG_CM3 * smooth_field(size, FINE_SPACING_MM, SLOW_MM, rng)
    return bone * np.float32(character.tissue_mg_cm3) + (1 - bone) * marrow


def microct_phantom(path: Path, seed: int, scanner: Scanner | None = None) -> Phantom:
    """A public micro-CT cube of a human L1; the donor is the number in its file's name."""
    tissue = microct_bone(path) * np.float32(MICROCT_TISSUE_MG_CM3)
    return phantom_of(tissue, path.stem, path.stem.split("_")[1], MICROCT_BLUR_MM, seed, scanner or Scanner())


def cube_seed(path: Path) -> int:
    """The number of the cube is part of its name, so its seed does not depend on which cubes lie beside it."""
    return 1000 + int(path.stem.split("_")[-1])


def phantom_of(
    tissue: FloatArray, name: str, donor: str, blur_mm: float, seed: int, scanner: Scanner
) -> Phantom:
    """Scan a fine density volume (z, y, x; mg/cm3) with both scanners.

    Outside the volume the clinical scanner sees its mirror image, so that no edge rings into it.
    """
    rng = np.random.default_rng((seed, 1))
    shift = scanner.misplaced(rng, scanner.offset_mm)
    size = tuple(n // b for n, b in zip(tissue.shape, BINNING, strict=True))
    z, y, x = size
    margin = tuple(6 * b for b in BINNING)
    wide = np.pad(tissue, [(m, m) for m in margin], mode="reflect")
    signal = scanner.signal(wide, shift)[6 : 6 + z, 6 : 6 + y, 6 : 6 + x]
    return Phantom(
        name=name,
        donor=donor,
        truth=reference(tissue, blur_mm),
        signal=np.ascontiguousarray(signal),
        level=scanner.level(size, rng),
        bias=scanner.bias(size, rng),
        seed=seed,
        scanner=scanner,
    )


def _moved(signal: FloatArray, shift_mm: Triple) -> FloatArray:
    """Move what is in a volume; beyond its faces is its mirror image, for a Fourier shift wraps around."""
    wide = np.pad(signal, _SHIFT_MARGIN, mode="reflect")
    moved = filtered(wide, shift_response(wide.shape, PAPER_SPACING_MM, shift_mm))
    inside = slice(_SHIFT_MARGIN, -_SHIFT_MARGIN)
    return moved[inside, inside, inside]
