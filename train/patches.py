"""Patches: where they lie in a phantom, which of its scans they come from, and who may see them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qctrun.train.insilico.fields import FloatArray
from qctrun.train.insilico.phantom import Phantom
from qctrun.train.insilico.scanner import PAPER_SPACING_MM
from qctrun.train.raster import PATCH, RASTER, REPETITIONS, TUBE_CURRENTS_MAS, Corner, corners, output_box

Pair = tuple[int, int]
"""Number of a patch, and of the scan of its phantom that it is seen in."""


@dataclass(frozen=True)
class Scanned:
    """A phantom, or a real specimen, with its scans.

    Attributes
    ----------
    name, donor : str
        What it is called, and whose bone it is.
    truth : float32 array (z, y, x)
        True density, mg/cm3.
    scans : float32 array (scan, z, y, x)
        The same seen by the scanner.
    currents_mas : tuple of float
        Tube current of each scan; without it three repetitions at each of the paper's.
    spacing_mm : (float, float, float)
        Grid (z, y, x).
    places : tuple of corners (z, y, x), optional
        Where alone patches may lie; without it anywhere on a raster.
    """

    name: str
    donor: str
    truth: FloatArray
    scans: FloatArray
    currents_mas: tuple[float, ...] = tuple(mas for mas in TUBE_CURRENTS_MAS for _ in range(REPETITIONS))
    spacing_mm: tuple[float, float, float] = PAPER_SPACING_MM
    places: tuple[Corner, ...] | None = None
    _tensors: dict[str, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def on(self, device: str) -> tuple[Tensor, Tensor]:
        """Scans and truth as tensors on a device, copied there once; on the CPU they share the arrays' memory."""
        if device not in self._tensors:
            scans, truth = (torch.from_numpy(array).to(device) for array in (self.scans, self.truth))
            self._tensors[device] = scans, truth
        return self._tensors[device]

    def positions(self, raster: Corner = RASTER) -> list[Corner]:
        """Corners (z, y, x) of all patches: its own places, or all of a raster that lie wholly inside."""
        return corners(self.truth.shape, raster) if self.places is None else list(self.places)

    def scans_at(self, mas: float) -> list[int]:
        """Numbers of the scans at a tube current, in their order; none where it was not scanned at it."""
        return [number for number, current in enumerate(self.currents_mas) if current == mas]

    def firsts(self) -> list[int]:
        """The first scan at each tube current."""
        return [self.scans_at(mas)[0] for mas in dict.fromkeys(self.currents_mas)]

    def others(self, scan: int) -> tuple[int, int]:
        """The next two scans at the same tube current, in turn; the scan itself twice where there are no two."""
        alike = self.scans_at(self.currents_mas[scan])
        if len(alike) < REPETITIONS:
            return scan, scan
        first, second = (alike[(alike.index(scan) + i) % len(alike)] for i in (1, 2))
        return first, second


def scanned(
    phantom: Phantom, currents_mas: Sequence[float] = TUBE_CURRENTS_MAS, repetitions: int = REPETITIONS
) -> Scanned:
    """Scan a phantom at every tube current, `repetitions` times each; currents vary slowest."""
    scans = [phantom.scan(mas, repetition) for mas in currents_mas for repetition in range(repetitions)]
    repeated = tuple(mas for mas in currents_mas for _ in range(repetitions))
    return Scanned(phantom.name, phantom.donor, phantom.truth, np.stack(scans), repeated, phantom.spacing_mm)


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
    positions: Sequence[tuple[int, Corner]]
    device: str = field(default="cpu", kw_only=True)

    @classmethod
    def over(cls, phantoms: Sequence[Scanned], raster: Corner = RASTER) -> "Patches":
        """All patches of these phantoms, on a raster where they have no places of their own."""
        return cls(
            phantoms, [(i, at) for i, phantom in enumerate(phantoms) for at in phantom.positions(raster)]
        )

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def donors(self) -> set[str]:
        """Whose bone the patches show."""
        return {self.phantoms[which].donor for which in self._used}

    @property
    def currents_mas(self) -> list[float]:
        """At which tube currents they were scanned, the lowest first."""
        return sorted({mas for which in self._used for mas in self.phantoms[which].currents_mas})

    @property
    def can_add_noise(self) -> bool:
        """Whether a scan has two others at its tube current, whose difference is noise."""
        used = (self.phantoms[which] for which in self._used)
        return any(len(phantom.scans_at(mas)) > 2 for phantom in used for mas in phantom.currents_mas)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """The one grid (z, y, x) that all of them lie on; the paper's where there are none."""
        return next((phantom.spacing_mm for phantom in self.phantoms), PAPER_SPACING_MM)

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

    def batch(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Scans (batch, 1, 21, 41, 41) and truths (batch, 1, 13, 25, 25) of (patch, scan) pairs, mg/cm3."""
        scans, truths = zip(*(self.cut(index, scan) for index, scan in pairs), strict=True)
        return torch.stack(scans)[:, None], torch.stack(truths)[:, None]

    def more_noise(self, pairs: Sequence[Pair], shares: Sequence[float]) -> Tensor:
        """Noise to add to a batch of scans: the difference of two other repetitions at their tube current.

        Its variance is `shares` of that of the scan's own noise (twice that of one scan, before the scaling). A
        scan that has not two others gets none.
        """
        others = [self.phantoms[self.positions[index][0]].others(scan) for index, scan in pairs]
        first, second = (
            self.batch([(index, other[i]) for (index, _), other in zip(pairs, others, strict=True)])[0]
            for i in range(2)
        )
        scale = torch.tensor(shares, device=first.device).div(2).sqrt()
        return (first - second) * scale[:, None, None, None, None]

    def random_pairs(self, truths: int, scans: int, rng: np.random.Generator) -> list[Pair]:
        """`truths` patches, drawn evenly over donors, each with `scans` of its scans.

        None comes twice before all have come: where there are fewer, they come again in the same order.
        """
        by_donor = self._by_donor
        donors = rng.choice(len(by_donor), truths)
        drawn = [int(rng.choice(by_donor[donor])) for donor in donors]
        counts = [len(self.phantoms[self.positions[index][0]].scans) for index in drawn]
        return [
            (index, int(scan))
            for index, count in zip(drawn, counts, strict=True)
            for scan in np.resize(rng.permutation(count), scans)
        ]

    def pairs(self) -> list[Pair]:
        """Every patch with its first scan at each tube current."""
        return [
            (index, scan) for index, (which, _) in enumerate(self.positions) for scan in self._firsts[which]
        ]

    def pairs_at(self, mas: float) -> list[list[Pair]]:
        """Every patch with its first scan at a tube current, every patch with its second, and so on."""
        alike = [phantom.scans_at(mas) for phantom in self.phantoms]
        turns = [
            [
                (index, alike[which][turn])
                for index, (which, _) in enumerate(self.positions)
                if turn < len(alike[which])
            ]
            for turn in range(max(map(len, alike), default=0))
        ]
        return [pairs for pairs in turns if pairs]

    @property
    def _used(self) -> set[int]:
        """Phantoms that a patch lies in: a fold leaves some of the study's out."""
        return {which for which, _ in self.positions}

    @cached_property
    def _firsts(self) -> list[list[int]]:
        return [phantom.firsts() for phantom in self.phantoms]

    @cached_property
    def _by_donor(self) -> list[npt.NDArray[np.intp]]:
        groups: dict[str, list[int]] = {}
        for index, (which, _) in enumerate(self.positions):
            groups.setdefault(self.phantoms[which].donor, []).append(index)
        return [np.array(group) for group in groups.values()]
