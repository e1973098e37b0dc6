"""Choosing settings on validation data: the planted best wins, and nothing else is looked at."""

import json

import numpy as np
import pytest

from qctrun.runtime.errors import InputError
from qctrun.train.insilico import random_field_phantom
from qctrun.train.study.filters import Candidate, candidates
from qctrun.train.study.tuning import Validation, structure, structure_error, tuned

POSITIONS = [(0, 0, 0), (4, 7, 2), (0, 7, 7)]


@pytest.fixture(scope="module")
def phantom():
    return random_field_phantom((25, 48, 48), seed=3)


def towards(truth, share):
    """A filter that goes a share of the way to the truth."""
    return Candidate("planted", {"share": share}, lambda scan: scan + np.float32(share) * (truth - scan))


def data_of(phantom, repetitions=2):
    return [Validation(phantom.truth, [phantom.scan(100, r) for r in range(repetitions)], POSITIONS)]


def test_planted_best_wins(phantom):
    planted = [towards(phantom.truth, share) for share in (0.2, 0.9, 0.5)]
    told = []
    found = tuned(planted, data_of(phantom), progress=lambda *at: told.append(at))
    scores = [score for _, score in found.tried]
    assert found.candidate is planted[1]
    assert scores[1] < scores[2] < scores[0] < 1
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert json.loads(json.dumps(found.as_json())) == {
        "filter": "planted",
        "setting": {"share": 0.9},
        "tried": [
            {"setting": {"share": share}, "score": score}
            for share, score in zip((0.2, 0.9, 0.5), scores, strict=True)
        ],
    }


def test_raw_scores_one(phantom):
    (_, score), (_, perfect) = tuned(
        [towards(phantom.truth, 0.0), towards(phantom.truth, 1.0)], data_of(phantom)
    ).tried
    assert score == 1
    assert perfect == pytest.approx(0, abs=1e-6)


def test_first_of_equals_is_taken(phantom):
    same = [towards(phantom.truth, 0.3), towards(phantom.truth, 0.3)]
    assert tuned(same, data_of(phantom)).candidate is same[0]


def test_nothing_beyond_the_validation_spheres_is_looked_at(phantom):
    """Filters see the validation scans only; truth outside the spheres may be anything."""
    seen = []

    def kept(scan):
        seen.append(scan)
        return scan + 1

    honest = data_of(phantom)
    spoilt = phantom.truth.copy()
    away = np.ones(spoilt.shape, bool)
    for z, y, x in POSITIONS:
        away[z + 4 : z + 17, y + 8 : y + 33, x + 8 : x + 33] = False
    spoilt[away] = 5000
    given = Candidate("kept", {}, kept)
    found = tuned([given], honest)
    same = tuned([given], [Validation(spoilt, honest[0].scans, POSITIONS)])
    assert found.tried[0][1] == same.tried[0][1]
    assert all(any(scan is own for own in honest[0].scans) for scan in seen)
    assert len(seen) == 4


def test_scores_are_pooled_over_phantoms_and_scans(phantom):
    """The score gets all spheres of all scans in one, each beside its own truth."""
    other = random_field_phantom((21, 41, 41), seed=5)
    data = [*data_of(phantom), Validation(other.truth, [other.scan(100, 0)], [(0, 0, 0)])]
    got = []
    tuned([Candidate("none", {}, lambda scan: scan)], data, score=lambda *values: got.extend(values) or 0.0)
    filtered, raw, truth = got
    np.testing.assert_array_equal(filtered, raw)
    assert raw.shape == (7, 2)
    np.testing.assert_array_equal(raw[3:6], structure(phantom.scan(100, 1), POSITIONS))
    np.testing.assert_array_equal(truth[3:6], structure(phantom.truth, POSITIONS))
    np.testing.assert_array_equal(truth[6:], structure(other.truth, [(0, 0, 0)]))


def test_structure_is_that_of_the_middle_sphere():
    """By hand: a patch of 200 mg/cm3 with one voxel of 900 in its middle, and noise around the sphere's box."""
    rng = np.random.default_rng(0)
    volume = rng.normal(0, 500, (23, 44, 45)).astype(np.float32)
    volume[6:19, 11:36, 12:37] = 200
    volume[12, 23, 24] = 900
    (tmd, bvtv), *_ = structure(volume, [(2, 3, 4)])
    low = 1 / (1 + np.exp(2.5))
    assert bvtv == pytest.approx((4124 * low + 1) / 4125, rel=1e-5)
    assert tmd == pytest.approx((4124 * low * 200 + 900) / (4124 * low + 1), rel=1e-4)


def test_structure_error_by_hand():
    truth = np.array([[300.0, 0.1], [320.0, 0.2]])
    raw = truth + np.array([[10.0, 0.04], [-10.0, 0.02]])
    filtered = truth + np.array([[3.0, 0.0], [-3.0, 0.01]])
    wanted = (0.3 + np.sqrt(0.01**2) / np.sqrt(0.04**2 + 0.02**2)) / 2
    assert structure_error(filtered, raw, truth) == pytest.approx(wanted)


def test_tuning_a_real_filter_takes_the_least_score(phantom):
    found = tuned(candidates("Gaussian", phantom.scanner, 100.0, []), data_of(phantom))
    scores = [score for _, score in found.tried]
    assert min(scores) < 0.7
    assert found.candidate is found.tried[int(np.argmin(scores))][0]


@pytest.mark.parametrize("position", [(-1, 0, 0), (5, 0, 0), (0, 8, 0), (0, 0, 99)])
def test_patches_beyond_the_volume_are_refused(phantom, position):
    with pytest.raises(InputError, match=r"from 0 to \(4, 7, 7\)"):
        structure(phantom.truth, [position])


def test_nothing_to_choose_is_refused(phantom):
    one = towards(phantom.truth, 0.5)
    with pytest.raises(InputError, match="at least one setting"):
        tuned([], data_of(phantom))
    for empty in (
        [],
        [Validation(phantom.truth, [], POSITIONS)],
        [Validation(phantom.truth, data_of(phantom)[0].scans, [])],
    ):
        with pytest.raises(InputError, match="at least one validation scan"):
            tuned([one], empty)
