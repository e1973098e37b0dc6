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
    drawn = torch.randint(len(SYMMETRIES), (len(groups[0]),), generator=generator).tolist()
    return tuple(
        torch.stack([turned(patch, SYMMETRIES[which]) for patch, which in zip(group, drawn, strict=True)])
        for group in groups
    )
