"""The study's five vertebrae: fixed, all different, and spread as a population is."""

import dataclasses

import numpy as np
import pytest
from scipy import special

from qctrun.train.insilico import PAPER_SPACING_MM, Scanner, study
from qctrun.train.insilico.bone import Character
from qctrun.train.insilico.study import STUDY_SIZE, VERTEBRAE, study_character, study_phantom
from qctrun.train.raster import corners

INDICES = range(VERTEBRAE)


@pytest.fixture
def small(monkeypatch):
    """The same vertebrae, of which only a corner is simulated."""
    monkeypatch.setattr(study, "STUDY_SIZE", (13, 25, 25))


def deviations(character):
    """Standard deviations from the mean that the draw of a character would have had."""
    wavelength = (character.wavelength_mm - 1.42) / 0.28
    return (
        wavelength,
        (character.balance - 0.8 * wavelength) / 0.6,
        np.log(character.thickness) / 0.03,
        (character.tissue_mg_cm3 - 1060) / 20,
    )


def test_as_many_positions_as_the_paper():
    """2274 in the paper, of five vertebrae."""
    assert VERTEBRAE == 5
    assert len(corners(STUDY_SIZE)) == 448
    assert 2000 <= VERTEBRAE * len(corners(STUDY_SIZE)) == 2240
    # The last patch ends where the volume ends: nothing is simulated for nothing.
    assert tuple(np.add(corners(STUDY_SIZE)[-1], (21, 41, 41))) == STUDY_SIZE


def test_each_has_another_fifth_of_every_property():
    """So five stand for the population that `Character.draw` draws from: each property has its middle fifths."""
    found = np.array([deviations(study_character(index)) for index in INDICES])
    fifths = np.floor(5 * special.ndtr(found)).astype(int)
    for column in fifths.T:
        assert sorted(column) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(
        np.sort(found, axis=0)[:, 0], special.ndtri([0.1, 0.3, 0.5, 0.7, 0.9]), atol=1e-6
    )


def test_no_property_goes_with_another():
    """No two are ordered alike or the other way round, so none stands for another."""
    found = np.array([deviations(study_character(index)) for index in INDICES])
    correlations = np.corrcoef(found.T)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 0.9
    assert len({dataclasses.astuple(study_character(index)) for index in INDICES}) == VERTEBRAE


def test_characters_are_of_the_population():
    """Mean and SD of the five, a little narrower than the population's."""
    table = np.array([dataclasses.astuple(study_character(index)) for index in INDICES])
    assert table[:, 0].mean() == pytest.approx(1.42, abs=0.01)
    assert table[:, 0].std() == pytest.approx(0.28, rel=0.15)
    assert table[:, 3].mean() == pytest.approx(1060, abs=0.1)
    assert table[:, 3].std() == pytest.approx(20, rel=0.15)
    assert table[:, 0].min() > 1.0  # none is at the limit of wavelengths
    assert all(isinstance(value, float) for value in table[0].tolist())


def test_same_bits_twice(small):
    first, again = (study_phantom(3) for _ in range(2))
    for name in ("truth", "signal", "level", "bias"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    np.testing.assert_array_equal(first.scan(100.0, 2), again.scan(100.0, 2))


def test_five_different_vertebrae(small):
    made = [study_phantom(index) for index in INDICES]
    assert [phantom.name for phantom in made] == [f"vertebra-{number}" for number in (1, 2, 3, 4, 5)]
    assert len({phantom.donor for phantom in made}) == len({phantom.seed for phantom in made}) == 5
    for phantom in made:
        assert phantom.truth.shape == phantom.signal.shape == (13, 25, 25)
        assert phantom.truth.dtype == phantom.scan(360.0, 0).dtype == np.float32
        assert phantom.spacing_mm == PAPER_SPACING_MM
        assert phantom.scanner == Scanner()
    for index, one in enumerate(made):
        for other in made[index + 1 :]:
            noises = [(p.scan(100.0, 0) - p.signal).ravel() for p in (one, other)]
            assert abs(np.corrcoef(noises)[0, 1]) < 0.15
            assert not np.array_equal(one.truth, other.truth)


def test_the_character_is_that_of_the_vertebra(small, monkeypatch):
    """And no other is drawn; the scanner is the one that is asked for."""
    seen = []

    def bone(size, character, rng):
        seen.append(character)
        return np.zeros(size, np.float32)

    monkeypatch.setattr("qctrun.train.insilico.phantom.random_field_bone", bone)
    monkeypatch.setattr(Character, "draw", None)
    scanner = Scanner(noise_variance_360=1.0)
    made = [study_phantom(index, scanner) for index in INDICES]
    assert seen == [study_character(index) for index in INDICES]
    assert all(phantom.scanner is scanner for phantom in made)
