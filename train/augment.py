"""The 16 axial rotations and reflections that keep a patch's shape (method section 6)."""

from collections.abc import Sequence

import torch
from torch import Tensor

SYMMETRIES = tuple(
    (turns, flip_x, flip_z) for turns in range(4) for flip_x in (False, True) for flip_z in (False, True)
)
"""Quarter turns about z, mirror in x, mirror in z: the symmetry group of a square prism, 16 elements."""


def turned(patches: Tensor, symmetry: tuple[int, bool, bool]) -> Tensor:
    """Apply one of `SYMMETRIES` to patches (..., z, y, x) with as many voxels in y as in x."""
    turns, flip_x, flip_z = symmetry
    axes = [axis for axis, flip in ((-1, flip_x), (-3, flip_z)) if flip]
    return torch.flip(torch.rot90(patches, turns, (-2, -1)), axes)


def augmented(groups: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Turn scans and truth of a batch alike, item by item, each by a symmetry drawn at random."""
    return turned_alike(groups, drawn(len(groups[0]), generator))


def drawn(number: int, generator: torch.Generator) -> list[int]:
    """A symmetry for each of so many items, as its place in `SYMMETRIES`."""
    return torch.randint(len(SYMMETRIES), (number,), generator=generator).tolist()


def turned_alike(groups: Sequence[Tensor], which: Sequence[int]) -> tuple[Tensor, ...]:
    """Turn each item of every group by its symmetry, where the group lies; all of one symmetry at once."""
    places = {symmetry: [i for i, s in enumerate(which) if s == symmetry] for symmetry in set(which)}
    found = tuple(torch.empty_like(group) for group in groups)
    for symmetry, at in places.items():
        for group, into in zip(groups, found, strict=True):
            into[at] = turned(group[at], SYMMETRIES[symmetry])
    return found
