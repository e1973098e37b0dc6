"""The rods of a real scan with streaks, and real scans without any."""

from itertools import combinations

import numpy as np
import pytest

from qctrun.runtime.calibrating.finding import find_rods, place_rods
from qctrun.runtime.calibrating.phantoms import shipped
from qctrun.runtime.calibrating.rods_line import rods_line
from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import read_hu

pytestmark = pytest.mark.data

STATED = [(126, 431), (177, 436), (228, 441), (280, 440), (332, 437), (383, 431)]
STATED_HU = [-113.1, -5.9, 178.8, 427.3, 653.2, 908.9]
QRM = shipped()["qrm-bdc-6"]


@pytest.fixture(scope="module")
def legs(data):
    return read_hu(data / "qct_phantom_legs")


def test_all_six_rods_are_found(legs):
    rods = find_rods(legs, QRM)
    found = np.stack([rods.columns.mean(axis=1), rods.rows.mean(axis=1)], axis=1)
    # The two rods on the left are stated 3 pixels too high: a circle of 18 mm there is half beside their edges.
    seen = np.add(STATED, [(0, 3), (0, 3), (0, 0), (0, 0), (0, 0), (0, -1)])
    assert np.abs(found - seen).max() < 1.5
    assert np.abs(found - STATED)[2:].max() < 2
    assert 2 * rods.radius_mm == pytest.approx(18, abs=0.5)
    assert (rods.first, rods.last, min(rods.seen)) == (0, 8, 1.0)


def test_the_edges_of_the_second_rod_are_where_it_was_found(legs):
    rods = find_rods(legs, QRM)
    row = float(rods.rows[1].mean())
    along = legs.array[:, :, 174:181].mean(axis=(0, 2))
    steps = np.diff(along)[420:432], np.diff(along)[446:455]
    top, bottom = 420.5 + np.argmax(steps[0][4:]) + 4, 446.5 + np.argmin(steps[1][:8])
    assert (top + bottom) / 2 == pytest.approx(row, abs=1.0)


def test_the_plain_fit_at_the_stated_places_is_the_stated_one(legs):
    assert np.polyfit(STATED_HU, QRM.densities_mg_cm3, 1) == pytest.approx([0.7791, 83.9], rel=1e-3)
    placed = place_rods(legs.grid, QRM, STATED)
    found = rods_line(legs, QRM, placed)
    hu = [rod.hu for rod in found.readings.rods]
    assert hu == pytest.approx(STATED_HU, abs=6)
    assert np.polyfit(hu, QRM.densities_mg_cm3, 1) == pytest.approx([0.7791, 83.9], rel=0.01)


def test_streaks_pull_two_rods_and_the_line_does_not_follow(legs):
    found = rods_line(legs, QRM, find_rods(legs, QRM))
    pulled = [QRM.densities_mg_cm3[k] for k in np.flatnonzero(found.line.pulled)]
    assert pulled == [200, 400]
    assert (found.calibration.slope, found.calibration.intercept) == (
        pytest.approx(0.7888, abs=0.003),
        pytest.approx(83.0, abs=2),
    )
    assert any("200 by +24 mg/cm3, 400 by +22 mg/cm3" in warning for warning in found.calibration.warnings)
    assert found.drift is not None
    assert found.drift.beyond_noise


def test_residuals_alone_cannot_tell_which_rods_streaks_pull(legs):
    """Least trimmed squares turns to other rods when two centres are 3 pixels off; the line that is used does not."""
    found, placed = (
        rods_line(legs, QRM, rods) for rods in (find_rods(legs, QRM), place_rods(legs.grid, QRM, STATED))
    )
    assert least_trimmed([rod.hu for rod in found.readings.rods]) == pytest.approx(87.4, abs=1)
    assert least_trimmed(STATED_HU) == pytest.approx(51.3, abs=1)
    assert found.calibration.intercept == pytest.approx(placed.calibration.intercept, abs=7)


def least_trimmed(hu):
    """Intercept of the line through those four of the six rods that lie best in line, mg/cm3."""
    x, y = np.array(QRM.densities_mg_cm3), np.array(hu)
    lines = [np.polyfit(x[list(four)], y[list(four)], 1, full=True) for four in combinations(range(6), 4)]
    gain, offset = min(lines, key=lambda line: line[1][0])[0]
    return -offset / gain


@pytest.mark.parametrize("name", ["qrm-bdc-3", "mindways-3", "b-mas-200", "image-analysis-3"])
def test_the_legs_are_no_other_phantom(legs, name):
    with pytest.raises(InputError, match=f"rods of {name}"):
        find_rods(legs, shipped()[name])


@pytest.fixture(scope="module")
def spine(data):
    return read_hu(data / "spine_ct_1mm/scan.zip")


@pytest.mark.parametrize("name", ["qrm-bdc-6", "mindways-3"])
def test_a_scan_without_a_phantom_is_refused(spine, name):
    with pytest.raises(InputError, match=r"rods: wanted the . rods of .*--rods"):
        find_rods(spine, shipped()[name])
