"""Small training data with a rule that a small network learns in seconds: the scan is the truth, shifted."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from qctrun.train.patches import Patches, Scanned
from qctrun.train.recipe import Recipe

SIZE = (29, 57, 57)
SHIFT_MG_CM3 = 60.0
RECIPE = Recipe(
    channels=(2, 2, 2, 2, 2),
    residual=True,
    learning_rate=3e-3,
    rate="halved",
    truths_per_step=2,
    scans_per_truth=2,
    steps_per_epoch=3,
    epochs=4,
    seed=5,
)


def recipe(**changes: object) -> Recipe:
    """The small recipe with other values."""
    return replace(RECIPE, **changes)  # type: ignore[arg-type]


def scanned(
    seed: int, *, shift: float = SHIFT_MG_CM3, donor: str = "", size: tuple[int, int, int] = SIZE
) -> Scanned:
    """Blobs of density about 225 +- 100 mg/cm3, and nine scans of them that are too dense by `shift`."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.standard_normal(size), 1.5)
    truth = (225 + 100 * blobs / blobs.std()).astype(np.float32)
    scans = truth + shift + rng.normal(0, 5, (9, *size)).astype(np.float32)
    return Scanned(f"blobs-{seed}", donor or f"donor-{seed}", truth, scans.astype(np.float32))


def patches(*seeds: int, shift: float = SHIFT_MG_CM3, size: tuple[int, int, int] = SIZE) -> Patches:
    """Eight patches of each of these phantoms, or one when they have the size of a patch."""
    return Patches.over([scanned(seed, shift=shift, size=size) for seed in seeds])
