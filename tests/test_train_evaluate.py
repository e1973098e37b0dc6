"""Scores on patches of constant density, whose parameters can be written down."""

from dataclasses import replace

import numpy as np
import pytest

import oracles

torch = pytest.importorskip("torch")

from qctrun.train.evaluate import as_rows, as_text, bmd_line, from_rows, measured, scores  # noqa: E402
from qctrun.train.losses import PatchSphere  # noqa: E402
from qctrun.train.network import NNSP  # noqa: E402
from qctrun.train.patches import Patches, Scanned  # noqa: E402

SPACING_MM = (0.34, 0.172, 0.172)
SIZE = (21, 41, 41)
MAS = (100.0, 360.0)


def constant(truth, scans):
    """One patch of a phantom of constant density, scanned at 100 (three times) and at 360 mAs (likewise)."""
    values = np.asarray(scans, np.float32)[:, None, None, None]
    return Scanned(
        "p",
        f"d{truth}",
        np.full(SIZE, truth, np.float32),
        np.broadcast_to(values, (6, *SIZE)).copy(),
        (100.0,) * 3 + (360.0,) * 3,
    )


def patches(pairs):
    """Patches of (truth, scans)."""
    return Patches.over([constant(truth, scans) for truth, scans in pairs])


def network(change=0.0):
    """The network that adds `change` to every voxel."""
    found = NNSP((2, 2, 2, 2, 2))
    torch.nn.init.zeros_(found.layers[-1].weight)
    torch.nn.init.constant_(found.layers[-1].bias, change / 300)
    return found


def tmd(density, threshold=225.0):
    bone = oracles.soft_step(density - threshold)
    return density * bone / oracles.plus_e(bone)


def bvtv(density, threshold=225.0):
    return 100 * oracles.soft_step(density - threshold)


TRAIN = patches([(100.0, [60.0] * 3 + [200.0] * 3), (300.0, [160.0] * 3 + [600.0] * 3)])
TEST = patches(
    [
        (210.0, [230.0, 220.0, 240.0, 212.0, 212.0, 212.0]),
        (230.0, [250.0, 240.0, 260.0, 233.0, 233.0, 233.0]),
        (250.0, [270.0, 260.0, 280.0, 251.0, 251.0, 251.0]),
    ]
)


@pytest.fixture(scope="module")
def rows():
    found = scores(network(-20.0), TRAIN, TEST, MAS)
    return {(row.mas, row.quantity, row.filter): row for row in found}


def test_every_quantity_filter_and_current_has_a_row(rows):
    assert set(rows) == {
        (mas, quantity, name)
        for mas in (100.0, 360.0)
        for quantity in ("BMD", "TMD", "BV/TV")
        for name in ("raw", "NNSP", "BMD line")
    }


def test_measured_patches():
    got, want = measured(
        TEST, [(index, 1) for index in range(3)], None, PatchSphere(SPACING_MM, thresholds_mg_cm3=(225.0,))
    )
    truth, raw = np.array([210.0, 230.0, 250.0]), np.array([220.0, 240.0, 260.0])
    for found, density in ((got, raw), (want, truth)):
        np.testing.assert_allclose(found["BMD"], density, rtol=1e-5)
        np.testing.assert_allclose(found["TMD"], tmd(density), rtol=1e-5)
        np.testing.assert_allclose(found["BV/TV"], bvtv(density), rtol=1e-4)


def test_bmd_by_hand(rows):
    """Raw errors at 100 mAs are 20, 10 and 30 for each of three patches; the network takes 20 off."""
    raw, nnsp = rows[100.0, "BMD", "raw"], rows[100.0, "BMD", "NNSP"]
    assert raw.d_avg == pytest.approx(20, rel=1e-5)
    assert raw.rmse == pytest.approx(np.sqrt(1400 / 3), rel=1e-5)
    assert raw.share_of_raw == pytest.approx(100)
    assert nnsp.d_avg == pytest.approx(0, abs=1e-3)
    assert nnsp.rmse == pytest.approx(np.sqrt(200 / 3), rel=1e-5)
    assert nnsp.share_of_raw == pytest.approx(100 * np.sqrt(1 / 7), rel=1e-5)
    # Truth varies by 800 / 3; the scans' offsets -10, 0, 10 (200 / 3) are uncorrelated with it.
    assert raw.r2 == pytest.approx(80, rel=1e-4)
    assert nnsp.r2 == pytest.approx(80, rel=1e-4)


@pytest.mark.parametrize(("quantity", "value"), [("TMD", tmd), ("BV/TV", bvtv)])
def test_structure_by_hand(rows, quantity, value):
    truth = np.repeat([210.0, 230.0, 250.0], 3)
    raw = truth + np.tile([20.0, 10.0, 30.0], 3)
    for name, density in (("raw", raw), ("NNSP", raw - 20)):
        error = value(density) - value(truth)
        row = rows[100.0, quantity, name]
        assert row.d_avg == pytest.approx(error.mean(), rel=1e-3, abs=1e-3)
        assert row.rmse == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)
        assert row.r2 == pytest.approx(100 * np.corrcoef(value(density), value(truth))[0, 1] ** 2, rel=1e-3)


def test_bmd_line_is_fitted_to_training_patches_of_the_same_current(rows):
    """Training says truth = 2 raw - 20 at 100 mAs and raw / 2 at 360 mAs, whatever the test patches say."""
    at_100, at_360 = (rows[mas, "BMD", "BMD line"] for mas in (100.0, 360.0))
    truth = np.repeat([210.0, 230.0, 250.0], 3)
    error = 2 * (truth + np.tile([20.0, 10.0, 30.0], 3)) - 20 - truth
    assert at_100.d_avg == pytest.approx(error.mean(), rel=1e-4)
    assert at_100.rmse == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
    thin = np.array([212.0, 233.0, 251.0]) / 2 - [210.0, 230.0, 250.0]
    assert at_360.rmse == pytest.approx(np.sqrt(np.mean(thin**2)), rel=1e-4)
    assert at_360.share_of_raw == pytest.approx(100 * np.sqrt(np.mean(thin**2) / (14 / 3)), rel=1e-4)


def test_bmd_line_does_not_see_the_test_truth():
    shifted = patches([(t + 50, s) for t, s in ((210.0, [230.0] * 6), (230.0, [250.0] * 6))])
    plain = patches([(t, s) for t, s in ((210.0, [230.0] * 6), (230.0, [250.0] * 6))])
    first, second = (
        {r.quantity: r for r in scores(network(), TRAIN, test, [100.0]) if r.filter == "BMD line"}
        for test in (plain, shifted)
    )
    assert second["BMD"].d_avg == pytest.approx(first["BMD"].d_avg - 50, abs=1e-2)


def test_bmd_line_predicts_each_parameter_from_bmd_alone():
    raw = {
        "BMD": np.array([1.0, 2.0, 4.0]),
        "TMD": np.array([9.0, 9.0, 1.0]),
        "BV/TV": np.array([5.0, 7.0, 7.0]),
    }
    truth = {"BMD": 3 * raw["BMD"], "TMD": 300 + 10 * raw["BMD"], "BV/TV": 20 - raw["BMD"]}
    found = bmd_line(raw, truth, {"BMD": np.array([0.0, 10.0]), "TMD": np.zeros(2), "BV/TV": np.zeros(2)})
    np.testing.assert_allclose(found["BMD"], [0, 30], atol=1e-9)
    np.testing.assert_allclose(found["TMD"], [300, 400])
    np.testing.assert_allclose(found["BV/TV"], [20, 10])


def test_threshold_is_that_of_the_call():
    row = next(
        r
        for r in scores(network(), TRAIN, TEST, [100.0], threshold_mg_cm3=240.0)
        if (r.quantity, r.filter) == ("BV/TV", "raw")
    )
    truth = np.array([210.0, 230.0, 250.0])
    raw = [truth + error for error in (20, 10, 30)]
    assert row.d_avg == pytest.approx(np.mean([bvtv(x, 240) - bvtv(truth, 240) for x in raw]), rel=1e-3)


def test_a_tube_current_is_not_rounded_in_the_table(rows):
    row = replace(rows[100.0, "BMD", "raw"], mas=12.5)
    assert as_text([row]).splitlines()[1].startswith(" 12.5 ")


def test_table_for_people_and_for_files(rows):
    lines = as_text(list(rows.values())).splitlines()
    assert len(lines) == 1 + 18
    assert "BMD line" in lines[3]
    assert lines[1].split()[:3] == ["100", "BMD", "raw"]
    values = as_rows(list(rows.values()))
    assert values[0]["rmse"] == 21.6
    assert values[0]["share_of_raw"] == 100
    assert None in [row["r2_beyond_bmd"] for row in values]
    assert as_rows(from_rows(values)) == values
    assert set(values[0]) == {
        "mas",
        "quantity",
        "filter",
        "d_avg",
        "rmse",
        "share_of_raw",
        "r2",
        "r2_beyond_bmd",
    }


def test_the_line_is_fitted_to_every_repetition(rows):
    """At 100 mAs the training scans repeat; with one repetition off, the line must move."""
    one_off = patches(
        [(100.0, [60.0, 60.0, 120.0] + [200.0] * 3), (300.0, [160.0, 160.0, 220.0] + [600.0] * 3)]
    )
    found = scores(network(), one_off, TEST, MAS)
    moved = next(r for r in found if (r.mas, r.quantity, r.filter) == (100.0, "BMD", "BMD line"))
    assert abs(moved.d_avg - rows[100.0, "BMD", "BMD line"].d_avg) > 5


def test_nothing_is_known_beyond_bmd_by_a_line_in_bmd(rows):
    """What is left of the line's own prediction is rounding; a constant shift of raw knows no more than raw."""
    assert np.isnan(rows[100.0, "BMD", "BMD line"].r2_beyond_bmd)
    assert np.isnan(rows[100.0, "TMD", "BMD line"].r2_beyond_bmd)
    assert np.isnan(rows[100.0, "BMD", "raw"].r2_beyond_bmd)


def test_beyond_bmd_against_two_regressions(rows):
    """The partial correlation of raw TMD and true TMD given raw BMD, from its textbook formula."""
    sphere = PatchSphere(SPACING_MM, thresholds_mg_cm3=(225.0,))
    parts = [measured(TEST, [(index, scan) for index in range(3)], None, sphere) for scan in range(3)]
    raw, tmd_raw = (np.concatenate([got[name] for got, _ in parts]) for name in ("BMD", "TMD"))
    truth = np.concatenate([want["TMD"] for _, want in parts])
    xy, xz, yz = (np.corrcoef(a, b)[0, 1] for a, b in ((tmd_raw, truth), (tmd_raw, raw), (truth, raw)))
    wanted = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert rows[100.0, "TMD", "raw"].r2_beyond_bmd == pytest.approx(100 * wanted**2, rel=1e-3)
