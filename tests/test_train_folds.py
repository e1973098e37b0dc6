"""Folds by number: the paper's shares, nothing in two parts, and every position tested once."""

import numpy as np
import pytest

from qctrun.runtime.errors import InputError, UsageError
from qctrun.train.folds import FEWEST, FOLDS, by_owner, by_position

PAPER_FOLDS = range(1, FOLDS + 1)


def assert_apart(parts, count):
    """Every number below `count` is in exactly one part, and each part is in order."""
    for numbers in parts:
        assert (np.diff(numbers) > 0).all()
    assert sorted(np.concatenate(parts)) == list(range(count))


@pytest.mark.parametrize("fold", PAPER_FOLDS)
def test_shares_are_the_paper_s(fold):
    """70/10/20 % of five vertebrae's 2240 positions."""
    parts = by_position(2240, fold)
    assert [numbers.size for numbers in parts] == [1568, 224, 448]
    assert_apart(parts, 2240)


@pytest.mark.parametrize(("count", "folds"), [(2240, 5), (2274, 5), (23, 5), (101, 3), (20, 2)])
def test_each_position_is_tested_once(count, folds):
    """Also where the folds do not come out even."""
    found = [by_position(count, fold, folds) for fold in range(1, folds + 1)]
    for parts in found:
        assert_apart(parts, count)
    assert sorted(np.concatenate([parts.test for parts in found])) == list(range(count))
    sizes = [parts.test.size for parts in found]
    assert max(sizes) - min(sizes) <= 1


def test_positions_are_dealt_out_at_random():
    """A test part has of every vertebra (448 positions in a row) about its share, and is no run of neighbours."""
    for fold in PAPER_FOLDS:
        test = by_position(2240, fold).test
        counts = np.bincount(test // 448, minlength=5)
        assert np.abs(counts - 448 / 5).max() < 40
        assert np.mean(np.diff(test) == 1) < 0.4


def test_validation_differs_between_folds():
    found = [frozenset(by_position(2240, fold).validation.tolist()) for fold in PAPER_FOLDS]
    assert len(set(found)) == FOLDS


def test_same_seed_same_parts():
    first, again, other = (by_position(200, 2, seed=seed) for seed in (3, 3, 4))
    for one, same, another in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, another)


@pytest.mark.parametrize(("fold", "folds"), [(0, 5), (6, 5), (-1, 5), (3, 2)])
def test_there_is_no_such_fold(fold, folds):
    with pytest.raises(UsageError, match=f"folds: wanted a fold from 1 to {folds}, got {fold}"):
        by_position(200, fold, folds)


@pytest.mark.parametrize("folds", [1, 0, -2])
def test_one_fold_is_none(folds):
    with pytest.raises(UsageError, match=f"folds: wanted 2 or more folds, got {folds}"):
        by_position(200, 1, folds)


@pytest.mark.parametrize("count", [0, 1, 8, 14])
def test_too_few_positions(count):
    """A tenth of fourteen is one: too few to stop a training by."""
    with pytest.raises(InputError, match=f"positions: wanted {FEWEST} or more for .* got [01]; take larger"):
        by_position(count, 1)


def test_just_enough_positions():
    """A tenth of fifteen is one and a half, which is two."""
    assert [numbers.size for numbers in by_position(15, 1)] == [10, 2, 3]


# One left out


OWNERS = [0] * 40 + [1] * 30 + [2] * 50


@pytest.mark.parametrize("out", [0, 1, 2])
def test_all_of_the_one_left_out_is_tested(out):
    """All of its patches and nobody else's; a tenth of the rest validates."""
    parts = by_owner(OWNERS, out)
    assert_apart(parts, 120)
    assert {OWNERS[number] for number in parts.test} == {out}
    assert parts.test.size == OWNERS.count(out)
    assert out not in {OWNERS[number] for number in (*parts.train, *parts.validation)}
    assert parts.validation.size == round((120 - parts.test.size) / 10)


def test_validation_is_of_all_others():
    parts = by_owner(np.repeat(np.arange(5), 448), 3)
    assert [numbers.size for numbers in parts] == [1613, 179, 448]
    counts = np.bincount(parts.validation // 448, minlength=5)
    assert counts[3] == 0
    assert np.delete(counts, 3).min() > 20


def test_owners_may_be_names_in_any_order():
    owners = ["c", "a", "b"] * 20
    parts = by_owner(owners, "a")
    np.testing.assert_array_equal(parts.test, np.arange(1, 60, 3))
    assert_apart(parts, 60)


def test_same_seed_same_draw_of_the_validation():
    first, again, other = (by_owner(OWNERS, 1, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.validation, again.validation)
    assert not np.array_equal(first.validation, other.validation)
    np.testing.assert_array_equal(first.test, other.test)


@pytest.mark.parametrize(("owners", "out"), [([0] * 40, 0), ([0] * 40, 1), ([], 0), ([0] * 40 + [1], 1)])
def test_nothing_left(owners, out):
    """Nobody but the one left out, nobody of that name, nobody at all, and a single patch to test."""
    with pytest.raises(InputError, match=f"positions: wanted {FEWEST} or more for (train|validation|test)"):
        by_owner(owners, out)
