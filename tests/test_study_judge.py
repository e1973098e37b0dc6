"""From readings to statistics, against plain numpy on readings that were made up."""

import numpy as np
import pytest

from qctrun.train.raster import corners
from qctrun.train.study.judge import LINE, Fold, Sample, judged, values
from qctrun.train.study.measure import THRESHOLDS_MG_CM3, inside, lattice
from qctrun.train.study.store import Store
from qctrun.train.study.subjects import RAW, Applied

SHAPE = (29, 57, 57)
SPHERES = len(corners(SHAPE))
VOXELS = len(lattice(SHAPE)[0])
NNSP = Applied("NNSP", "1", lambda scan: scan)
STORE = Store(None)


class Readings:
    """A subject whose readings are drawn: TMD and BV/TV follow BMD in part, and differ at each threshold."""

    def __init__(self, donor, seed):
        self.name = self.donor = donor
        rng = np.random.default_rng(seed)
        bmd = rng.normal(120, 35, SPHERES)
        steps = np.arange(9)[:, None]
        tmd = 260 + 20 * steps + 0.3 * bmd + rng.normal(0, 20, (9, SPHERES))
        bvtv = 30 - 2 * steps + 0.1 * bmd + rng.normal(0, 2, (9, SPHERES))
        self.found = {"voxel": rng.normal(120, 120, VOXELS), "BMD": bmd, "TMD": tmd, "BV/TV": bvtv}
        self.rng_seed = seed

    def truth(self, store):
        return {**self.found, "shape": np.array(SHAPE, np.float32)}

    def scans(self, store, mas, applied=RAW):
        rng = np.random.default_rng((self.rng_seed, int(mas), len(applied.version)))
        noise = 3000 / mas if applied is RAW else 600 / mas
        return {name: one + 2 + rng.normal(0, noise, (3, *one.shape)) for name, one in self.found.items()}


@pytest.fixture(scope="module")
def fold():
    a, b, c = (Readings(name, seed) for seed, name in enumerate("abc"))
    train = [Sample(a, np.array([0, 2, 3, 6])), Sample(b)]
    return Fold("positions", 2, train, [Sample(a, np.array([1, 4, 7])), Sample(c)])


@pytest.fixture(scope="module")
def results(fold):
    return judged(fold, STORE, 100.0, [NNSP], resamples=20)


def plain(samples, applied, quantity, row=None):
    """Values (repetition, point) and truth without the module under test."""
    parts = []
    for one in samples:
        got, truth = one.subject.scans(STORE, 100.0, applied)[quantity], one.subject.found[quantity]
        if row is not None:
            got, truth = got[:, row], truth[row]
        numbers = np.arange(SPHERES) if one.numbers is None else one.numbers
        parts.append((got[:, numbers], truth[numbers]))
    return np.concatenate([x for x, _ in parts], axis=1), np.concatenate([y for _, y in parts])


def one_of(results, name, quantity, threshold):
    (found,) = (
        one.metrics
        for one in results
        if (one.filter, one.quantity, one.threshold_mg_cm3) == (name, quantity, threshold)
    )
    return found


def rmse(x, y):
    return np.sqrt(np.mean((x - y) ** 2))


def test_every_quantity_threshold_and_filter_once(results):
    wanted = {("voxel", None), ("BMD", None)} | {(q, t) for q in ("TMD", "BV/TV") for t in THRESHOLDS_MG_CM3}
    for name in ("raw", "NNSP", LINE):
        found = [(one.quantity, one.threshold_mg_cm3) for one in results if one.filter == name]
        assert len(found) == len(set(found))
        assert set(found) == wanted - ({("voxel", None)} if name == LINE else set())
    assert {(one.split, one.fold, one.mas) for one in results} == {("positions", 2, 100.0)}


@pytest.mark.parametrize("applied", [RAW, NNSP], ids=lambda one: one.name)
@pytest.mark.parametrize(("quantity", "row"), [("BMD", None), ("TMD", 0), ("TMD", 4), ("BV/TV", 8)])
def test_the_test_spheres_are_judged_at_their_threshold(fold, results, applied, quantity, row):
    threshold = None if row is None else THRESHOLDS_MG_CM3[row]
    x, y = plain(fold.test, applied, quantity, row)
    found = one_of(results, applied.name, quantity, threshold)
    assert (found.points, found.repetitions, found.clusters) == (11, 3, 2)
    assert found.rmse == pytest.approx(rmse(x, y))
    assert found.d_avg == pytest.approx((x - y).mean())
    correlation = np.corrcoef(x.ravel(), np.tile(y, 3))[0, 1]
    assert found.adj_r2_percent == pytest.approx(100 * correlation**2)


@pytest.mark.parametrize(("quantity", "row"), [("BMD", None), ("TMD", 4), ("BV/TV", 0)])
def test_the_bmd_line_is_fitted_to_the_training_alone(fold, results, quantity, row):
    bmd, _ = plain(fold.train, RAW, "BMD")
    _, truth = plain(fold.train, RAW, quantity, row)
    design = np.stack([bmd.ravel(), np.ones(bmd.size)], axis=1)
    slope, at_zero = np.linalg.lstsq(design, np.tile(truth, 3), rcond=None)[0]
    seen, _ = plain(fold.test, RAW, "BMD")
    _, y = plain(fold.test, RAW, quantity, row)
    found = one_of(results, LINE, quantity, None if row is None else THRESHOLDS_MG_CM3[row])
    assert found.rmse == pytest.approx(rmse(slope * seen + at_zero, y))
    assert found.partial_r2_percent is None, "it knows nothing beyond BMD"


@pytest.mark.parametrize("applied", [RAW, NNSP], ids=lambda one: one.name)
def test_partial_r2_is_the_correlation_of_what_raw_bmd_leaves(fold, results, applied):
    bmd, _ = plain(fold.test, RAW, "BMD")
    x, y = plain(fold.test, applied, "TMD", 4)
    design = np.stack([bmd.ravel(), np.ones(bmd.size)], axis=1)
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x.ravel(), np.tile(y, 3))]
    wanted = 100 * np.corrcoef(*left)[0, 1] ** 2
    assert one_of(results, applied.name, "TMD", 225.0).partial_r2_percent == pytest.approx(wanted)


def test_voxels_are_those_of_the_test_patches(fold):
    x, y, owners = values(fold.test, STORE, 100.0, RAW, "voxel", None)
    mine = inside(SHAPE, [corners(SHAPE)[number] for number in (1, 4, 7)])
    assert 0 < mine.sum() < VOXELS
    assert x.shape == (3, mine.sum() + VOXELS)
    assert owners == ["a"] * mine.sum() + ["c"] * VOXELS
    a, c = (sample.subject for sample in fold.test)
    np.testing.assert_array_equal(y, np.concatenate([a.found["voxel"][mine], c.found["voxel"]]))
    np.testing.assert_array_equal(x[:, : mine.sum()], a.scans(STORE, 100.0)["voxel"][:, mine])
