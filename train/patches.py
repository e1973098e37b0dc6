"""Patches: where they lie in a phantom, which of its scans they come from, and who may see them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qctrun.train.insilico.fields import FloatArray
from qctrun.train.insilico.phantom import Phantom
from qctrun.train.raster import PATCH, RASTER, REPETITIONS, TUBE_CURRENTS_MAS, corners, output_box


@dataclass(frozen=True)
class Scanned:
    """A phantom with its scans: `truth` (z, y, x), `scans` (tube current x repetition, z, y, x), mg HA/cm3."""

    name: str
    donor: str
    truth: FloatArray
    scans: FloatArray
    _tensors: dict[str, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def on(self, device: str) -> tuple[Tensor, Tensor]:
        """Scans and truth as tensors on a device, copied there once; on the CPU they share the arrays' memory."""
        if device not in self._tensors:
            scans, truth = (torch.from_numpy(array).to(device) for array in (self.scans, self.truth))
            self._tensors[device] = scans, truth
        return self._tensors[device]

    def positions(self, raster: tuple[int, int, int] = RASTER) -> list[tuple[int, int, int]]:
        """Corners (z, y, x) of all patches that lie wholly inside."""
        return corners(self.truth.shape, raster)


def scanned(
    phantom: Phantom, currents_mas: Sequence[float] = TUBE_CURRENTS_MAS, repetitions: int = REPETITIONS
) -> Scanned:
    """Scan a phantom at every tube current, `repetitions` times each; currents vary slowest."""
    scans = [phantom.scan(mas, repetition) for mas in currents_mas for repetition in range(repetitions)]
    return Scanned(phantom.name, phantom.donor, phantom.truth, np.stack(scans))


@dataclass(frozen=True)
class Patches:
    """An indexed set of patches over scanned phantoms: only batches are copies.

    Attributes
    ----------
    phantoms : sequence of Scanned
        Where they are cut from.
    positions : sequence of (phantom, (z, y, x))
        Index of the phantom and corner of the patch.
    device : str
        Where batches are cut; `to` gives the same patches on another.
    """

    phantoms: Sequence[Scanned]
    positions: Sequence[tuple[int, tuple[int, int, int]]]
    device: str = field(default="cpu", kw_only=True)

    @classmethod
    def over(cls, phantoms: Sequence[Scanned], raster: tuple[int, int, int] = RASTER) -> "Patches":
        """All patches of these phantoms on a raster."""
        return cls(
            phantoms, [(i, at) for i, phantom in enumerate(phantoms) for at in phantom.positions(raster)]
        )

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def donors(self) -> set[str]:
        """Whose bone the patches show."""
        return {self.phantoms[which].donor for which in self._used}

    def to(self, device: str) -> Self:
        """The same patches, cut on a device: their phantoms are copied there now, and once only."""
        for which in self._used:
            self.phantoms[which].on(device)
        return replace(self, device=device)

    def cut(self, index: int, scan: int) -> tuple[Tensor, Tensor]:
        """One scan patch (21, 41, 41) and its truth (13, 25, 25), views into the whole."""
        which, corner = self.positions[index]
        whole = tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))
        scans, truth = self.phantoms[which].on(self.device)
        return scans[scan][whole], truth[output_box(corner)]

    def batch(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Scans (batch, 1, 21, 41, 41) and truths (batch, 1, 13, 25, 25) of (patch, scan) pairs, mg/cm3."""
        scans, truths = zip(*(self.cut(index, scan) for index, scan in pairs), strict=True)
        return torch.stack(scans)[:, None], torch.stack(truths)[:, None]

    def more_noise(self, pairs: Sequence[tuple[int, int]], shares: Sequence[float]) -> Tensor:
        """Noise to add to a batch of scans: the difference of the two other repetitions at their tube current.

        Its variance is `shares` of that of the scan's own noise (twice that of one scan, before the scaling).
        """
        others = [[scan - scan % REPETITIONS + (scan + i) % REPETITIONS for i in (1, 2)] for _, scan in pairs]
        first, second = (
            self.batch([(index, other[i]) for (index, _), other in zip(pairs, others, strict=True)])[0]
            for i in range(2)
        )
        scale = torch.tensor(shares, device=first.device).div(2).sqrt()
        return (first - second) * scale[:, None, None, None, None]

    def random_pairs(self, truths: int, scans: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """`truths` patches, drawn evenly over donors, each with `scans` of its scans, none twice."""
        by_donor = self._by_donor
        donors = rng.choice(len(by_donor), truths)
        drawn = [int(rng.choice(by_donor[donor])) for donor in donors]
        of = len(self.phantoms[0].scans)
        return [(index, int(scan)) for index in drawn for scan in rng.permutation(of)[:scans]]

    def pairs(self, scans: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Every patch with each of these scans."""
        return ((index, scan) for index in range(len(self)) for scan in scans)

    @property
    def _used(self) -> set[int]:
        """Phantoms that a patch lies in: a fold leaves some of the study's out."""
        return {which for which, _ in self.positions}

    @cached_property
    def _by_donor(self) -> list[npt.NDArray[np.intp]]:
        groups: dict[str, list[int]] = {}
        for index, (which, _) in enumerate(self.positions):
            groups.setdefault(self.phantoms[which].donor, []).append(index)
        return [np.array(group) for group in groups.values()]
