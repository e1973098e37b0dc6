"""The five vertebrae of the in-silico study: a fixed population that stands for the paper's five phantoms."""

from scipy.special import ndtri

from qctrun.train.insilico.bone import Character
from qctrun.train.insilico.phantom import Phantom, random_field_phantom
from qctrun.train.insilico.scanner import Scanner

VERTEBRAE = 5

STUDY_SIZE = (69, 153, 153)
"""Voxels (z, y, x) of each: 23 x 26 x 26 mm, 448 patches on the paper's raster, 2240 in all (the paper: 2274)."""

_LEVELS = tuple(float(z) for z in ndtri([0.1, 0.3, 0.5, 0.7, 0.9]))
"""Middles of the fifths of a normal distribution."""

_ORDERS = {
    "wavelength": (2, 0, 4, 1, 3),
    "balance": (0, 3, 1, 4, 2),
    "thickness": (3, 1, 2, 0, 4),
    "tissue": (1, 2, 0, 4, 3),
}
"""Which fifth of its distribution each vertebra has of each property."""


def study_character(index: int) -> Character:
    """What differs in vertebra `index`, 0 to 4: each property in another fifth of its distribution."""
    wavelength, balance, thickness, tissue = (_LEVELS[order[index]] for order in _ORDERS.values())
    return Character.at(wavelength, balance, thickness, tissue)


def study_phantom(index: int, scanner: Scanner | None = None) -> Phantom:
    """Vertebra `index` of the study, 0 to 4; the same every time."""
    seed = 50_000 + index
    return random_field_phantom(
        STUDY_SIZE, seed, scanner, character=study_character(index), name=f"vertebra-{index + 1}"
    )
