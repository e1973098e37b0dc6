"""Who trains, stops and tests: the same positions in the patches of a training as in what is judged."""

from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("torch")

from qctrun.train.insilico.study import STUDY_SIZE, VERTEBRAE
from qctrun.train.patches import Scanned
from qctrun.train.raster import corners
from qctrun.train.study.data import Data, parts

FOLDS = [(split, fold) for split in ("positions", "vertebrae") for fold in range(1, 6)]
WHERE = corners(STUDY_SIZE)


def of_samples(samples):
    """(vertebra, corner) of all spheres of some samples."""
    return {(int(one.subject.name[-1]) - 1, WHERE[number]) for one in samples for number in one.numbers}


@pytest.fixture(scope="module")
def data():
    found = Data(None)
    empty = np.zeros(STUDY_SIZE, np.float32)
    phantoms = [
        Scanned(f"vertebra-{i + 1}", f"vertebra-{i + 1}", empty, empty[None]) for i in range(VERTEBRAE)
    ]
    found.__dict__["_scanned"] = phantoms
    return found


@pytest.mark.parametrize(("split", "fold"), FOLDS)
def test_what_is_judged_is_what_the_training_kept_apart(data, split, fold):
    """The numbers of the samples and those of the patches mean the same places; no place is in two parts."""
    patches, judged = data.patches(split, fold), data.fold(split, fold)
    train, validation, test = (
        set(part.positions) for part in (patches.train, patches.validation, patches.test)
    )
    assert of_samples(judged.train) == train
    assert of_samples(judged.test) == test
    assert not any(one & other for one, other in combinations((train, validation, test), 2))
    assert len(train) + len(validation) + len(test) == VERTEBRAE * len(WHERE)


@pytest.mark.parametrize("fold", range(1, 6))
def test_a_vertebra_that_is_left_out_is_seen_by_no_one(data, fold):
    patches = data.patches("vertebrae", fold)
    assert {which for which, _ in patches.test.positions} == {fold - 1}
    seen = {which for part in (patches.train, patches.validation) for which, _ in part.positions}
    assert seen == set(range(VERTEBRAE)) - {fold - 1}


def test_settings_are_chosen_by_validation_positions_of_the_first_fold(data):
    chosen, numbers = of_samples(data.tuning("vertebrae")), parts("positions", 1)
    validation = {(int(n) // len(WHERE), WHERE[int(n) % len(WHERE)]) for n in numbers.validation}
    assert chosen
    assert chosen == {place for place in validation if place[0] < 2}
    assert not chosen & of_samples(data.fold("positions", 1).test)


def test_names_tell_the_folds_apart(data):
    names = [data.names(*one) for one in FOLDS]
    assert all(one != other for one, other in combinations(names, 2))
