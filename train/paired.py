"""Real pairs as the data of a training: what trains, what stops it, what is tested, and what the notes say of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.writing.files import writing
from qctrun.train.checkpoint import CHECKPOINT, checkpoint_of
from qctrun.train.dataset import PARTS, Split
from qctrun.train.folds import FEWEST, FOLDS, Parts, by_owner, by_position
from qctrun.train.losses import sphere_mm
from qctrun.train.pairs.dataset import PairedSpecimen, Pairs, read_pairs
from qctrun.train.pairs.facts import facts_of
from qctrun.train.patches import Patches, Scanned
from qctrun.train.raster import PATCH, Corner
from qctrun.train.recipe import Recipe

FEWEST_DONORS = 3
"""One to learn from, one to stop by, one to test on."""
_MORE = "bring more specimens, peel less, or draw the masks larger"


def donors_apart(recipe: Recipe, out: Path, path: Path) -> Split:
    """Read a dataset and split it by donor, once it is known that the run can begin.

    Donors are taken in the order of their names: the third and every fourth after it are kept for the test, the
    fifth for validation (of fewer than five the second), and the others train. It is the rule of the micro-CT donors.

    Parameters
    ----------
    recipe, out
        As for `run.run`.
    path : Path
        Dataset, or folder of `qctrun pairs`.

    Raises
    ------
    InputError
        When it is no such dataset, has fewer than three donors or too few positions in one of the parts, or `out`
        holds a checkpoint of another recipe or of other data.
    OutputError
        When `out` is not writable.
    """
    whole = PairedFolds(read_pairs(path))
    parts = whole.held_apart()
    split = whole.split(parts, dict(zip(PARTS, map(whole.specimens_in, parts), strict=True)), "donors")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    checkpoint_of(out / CHECKPOINT, recipe, split.names)
    return split


@dataclass(frozen=True)
class PairedFolds:
    """A dataset in folds: of positions as in the paper, or with one donor after the other left out.

    Raises
    ------
    InputError
        When no patch lies in it, a patch on its grid holds no sphere to measure in, or one bone has two donors.
    """

    pairs: Pairs

    def __post_init__(self) -> None:
        sphere_mm(self.pairs.spacing_mm)  # refuses a grid without room for one
        _require_one_donor_each(self.pairs.specimens)
        if not len(self.patches_of_all):
            raise InputError("pairs", wanted="a position in a scan", got="none", mend=_MORE)

    @cached_property
    def patches_of_all(self) -> Patches:
        """Every patch of every specimen."""
        return Patches.over([_scanned(one, self.pairs) for one in self.pairs.specimens if len(one.scans)])

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Their grid (z, y, x)."""
        return self.pairs.spacing_mm

    @cached_property
    def donors(self) -> list[str]:
        """Whose patches there are, in the order of their names."""
        return sorted(self.patches_of_all.donors)

    def require(self, split: str, folds: int | None) -> int:
        """How many folds are trained: as many as asked for, or all.

        Raises
        ------
        UsageError
            When there are not so many.
        InputError
            When there is only one donor and it is to be left out, or there are too few positions for one of the
            parts.
        """
        if split == "donors" and len(self.donors) < 2:
            got, mend = f"one, {self.donors[0]}", "say --split positions"
            raise InputError("pairs", wanted="two donors or more, to leave one out", got=got, mend=mend)
        most = FOLDS if split == "positions" else len(self.donors)
        if folds is not None and folds > most:
            raise UsageError("--folds", wanted=f"at most {most} with --split {split}", got=str(folds))
        for fold in range(1, (folds or most) + 1):
            self._parts(split, fold)
        return folds or most

    def names(self, split: str, fold: int) -> dict[str, list[str]]:
        """What a checkpoint is told of the data of a fold."""
        what = (
            f"positions, fold {fold} of {FOLDS}"
            if split == "positions"
            else f"without {self.donors[fold - 1]}"
        )
        specimens = [specimen.name for specimen in self.pairs.specimens]
        return self._named({part: [*specimens, f"{what}, seed 0"] for part in PARTS})

    def patches(self, split: str, fold: int) -> Split:
        """The patches of a fold.

        Raises
        ------
        InputError
            When there are too few positions for one of the parts.
        """
        return self.split(self._parts(split, fold), self.names(split, fold), split)

    def held_apart(self) -> Parts:
        """The split by donor; see `donors_apart`."""
        donors = self.donors
        if len(donors) < FEWEST_DONORS:
            wanted = f"{FEWEST_DONORS} donors or more, to hold them apart"
            mend = "say --split positions (other places in the same bones)"
            mend += ", or --split donors --folds 2" * (len(donors) > 1)
            raise InputError("pairs", wanted=wanted, got=f"{len(donors)}, {', '.join(donors)}", mend=mend)
        test, validation = donors[2::4], donors[4:5] or donors[1:2]
        train = [donor for donor in donors if donor not in (*test, *validation)]
        parts = Parts(*(np.flatnonzero(np.isin(self._owners, part)) for part in (train, validation, test)))
        for name, numbers in parts._asdict().items():
            if numbers.size < FEWEST:
                wanted = f"{FEWEST} positions or more for {name}"
                raise InputError("pairs", wanted=wanted, got=str(numbers.size), mend=_MORE)
        return parts

    def specimens_in(self, numbers: Iterable[int]) -> list[str]:
        """Names of the specimens that these patches lie in."""
        every = self.patches_of_all
        return sorted({every.phantoms[every.positions[number][0]].name for number in numbers})

    def split(self, parts: Parts, names: dict[str, list[str]], by: str) -> Split:
        """These parts as patches, with what is told of them."""
        every = self.patches_of_all
        train, validation, test = (
            Patches(every.phantoms, [every.positions[number] for number in numbers]) for numbers in parts
        )
        shared = {"by": by, "test_patches_that_overlap_training": overlapping(test, train)}
        about = {**self._about, "tube_currents_mas": train.currents_mas, "split": shared}
        return Split(train, validation, test, self._named(names), about)

    def _parts(self, split: str, fold: int) -> Parts:
        if split == "positions":
            return by_position(len(self.patches_of_all), fold)
        return by_owner(self._owners, self.donors[fold - 1])

    @cached_property
    def _owners(self) -> list[str]:
        every = self.patches_of_all
        return [every.phantoms[which].donor for which, _ in every.positions]

    @cached_property
    def _about(self) -> dict[str, Any]:
        every = self.patches_of_all
        repeated = [len(phantom.scans_at(mas)) for phantom in every.phantoms for mas in phantom.currents_mas]
        return {
            "data": "real pairs",
            "material": self.pairs.material,
            "repetitions": max(repeated),
            "pairs": facts_of(self.pairs),
        }

    def _named(self, names: dict[str, list[str]]) -> dict[str, list[str]]:
        return {**names, "pairs": [self.pairs.digest]}


def overlapping(patches: Patches, others: Patches) -> int:
    """How many of the patches share voxels with one of the others, of the same phantoms."""
    corners: dict[int, list[Corner]] = {}
    bones = _bones(patches.phantoms)
    for which, corner in others.positions:
        corners.setdefault(bones[which], []).append(corner)
    return sum(_is_near(corner, corners.get(bones[which], [])) for which, corner in patches.positions)


def _is_near(corner: Corner, others: Sequence[Corner]) -> bool:
    apart = np.abs(np.reshape(others, (-1, 3)) - corner)
    return bool((apart < PATCH).all(axis=1).any())


def _require_one_donor_each(specimens: Sequence[PairedSpecimen]) -> None:
    """Refuse a bone that has two donors: it would be seen in training and be called unseen."""
    for one, other in combinations(specimens, 2):
        if one.donor != other.donor and _is_same(one, other) and (one.mask & other.mask).any():
            raise InputError(
                f"specimens {one.name} and {other.name}",
                wanted="one donor, as they share bone of one reference",
                got=f"{one.donor} and {other.donor}",
                mend="give them the same donor in the study file",
            )


def _bones(phantoms: Sequence[Scanned]) -> list[int]:
    """For each the first that shows the same: one reference may be there with a mask for each of its parts."""
    return [next(i for i, one in enumerate(phantoms) if _is_same(one, own)) for own in phantoms]


def _is_same(one: Scanned | PairedSpecimen, other: Scanned | PairedSpecimen) -> bool:
    return one is other or np.array_equal(one.truth, other.truth, equal_nan=True)


def _scanned(specimen: PairedSpecimen, pairs: Pairs) -> Scanned:
    return Scanned(
        specimen.name,
        specimen.donor,
        specimen.truth,
        np.asarray(specimen.scans),
        tuple(specimen.currents_mas.tolist()),
        pairs.spacing_mm,
        tuple((z, y, x) for z, y, x in specimen.positions.tolist()),
    )
