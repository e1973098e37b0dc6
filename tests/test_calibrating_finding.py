"""Rods found in simulated scans wherever they lie, and refused wherever there is doubt."""

from dataclasses import replace

import numpy as np
import pytest
from phantom_scans import Scene, centres, rods_hu, scan

from qctrun.runtime.calibrating.discs import find_discs
from qctrun.runtime.calibrating.finding import find_rods, place_rods
from qctrun.runtime.calibrating.measure import measure_rods
from qctrun.runtime.calibrating.phantoms import shipped
from qctrun.runtime.calibrating.rods_line import rods_line
from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import Grid, Volume

PHANTOMS = shipped()
QRM = PHANTOMS["qrm-bdc-6"]
MINDWAYS = replace(PHANTOMS["mindways-3"], rod_diameter_mm=(16, 20), spacing_mm=(32, 36))

SCENES = {
    "plain": Scene(),
    "noisy": Scene(noise=100),
    "tilted and flipped": Scene(tilt_degrees=-6, flipped=True, bend=-1.9, y=72),
    "to the side": Scene(x=112, y=88, bend=0),
    "askew": Scene(askew=0.06, slices=20),
    "a body denser than a rod": Scene(body=60),
    "oblong pixels": Scene(spacing=(5, 0.8, 1.2)),
    "long and narrow pixels": Scene(spacing=(2.5, 0.6, 2.0)),
    "another tube": Scene(gain=1.8, offset=-20),
}


@pytest.mark.parametrize("name", SCENES)
def test_rods_are_found_and_the_line_with_them(name):
    scene = SCENES[name]
    volume = scan(scene, QRM)
    rods = find_rods(volume, QRM)
    for z in (rods.first, rods.last):
        away = np.stack([rods.columns[:, z - rods.first], rods.rows[:, z - rods.first]], 1) - centres(
            scene, 6, z
        )
        assert np.abs(away * volume.grid.spacing[:0:-1]).max() < 1.5
    assert rods.radius_mm == pytest.approx(9, abs=0.6)
    found = rods_line(volume, QRM, rods)
    assert found.calibration.slope == pytest.approx(1 / scene.gain, rel=0.02)
    assert found.calibration.intercept == pytest.approx(-scene.offset / scene.gain, abs=6)
    assert found.line.kept.all()
    assert found.calibration.warnings == ()


def test_rods_of_a_longer_row_are_not_taken():
    part = replace(QRM, densities_mg_cm3=(400.0, 600.0, 800.0))
    assert find_rods(scan(Scene(), part), part).how == "found"
    with pytest.raises(InputError, match="rods: wanted the 3 rods"):
        find_rods(scan(Scene(), QRM), part)


def test_of_two_phantoms_none_is_chosen():
    one = scan(Scene(), QRM)
    both = np.concatenate([one.array, one.array], axis=1)
    with pytest.raises(InputError, match="2 different rows that could be it"):
        find_rods(Volume(both, Grid(both.shape, one.grid.spacing), "HU"), QRM)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_mindways_phantom_is_found_and_its_water_taken_off(flipped):
    scene = Scene(gain=1.45, offset=-4.0, flipped=flipped)
    volume = scan(scene, MINDWAYS)
    found = rods_line(volume, MINDWAYS, find_rods(volume, MINDWAYS))
    assert found.calibration.material == "K2HPO4"
    assert found.calibration.slope == pytest.approx(1 / (1.45 - 0.2174), rel=0.02)
    assert found.calibration.intercept == pytest.approx(4 / (1.45 - 0.2174), abs=3)
    assert found.slice_slopes == pytest.approx(found.calibration.slope, rel=0.02)
    (warning,) = found.calibration.warnings
    assert "serial 4541A, 4560" in warning
    own = replace(MINDWAYS, serial="7", densities_mg_cm3=(-52.0, *MINDWAYS.densities_mg_cm3[1:]))
    assert rods_line(volume, own, find_rods(volume, own)).calibration.warnings == ()


@pytest.mark.parametrize(
    ("scene", "phantom"),
    [
        (None, QRM),
        (None, PHANTOMS["b-mas-200"]),
        (Scene(x=200), QRM),
        (Scene(x=65), QRM),
        (Scene(gain=0.5), QRM),
        (Scene(pulled=(0, 0, 0, 0, 0, -400)), QRM),
        (Scene(pulled=(0, 0, 150, 200, 0, 0)), QRM),
        (Scene(rod_spacing=25), QRM),
        (Scene(diameter=12), QRM),
    ],
    ids=[
        "absent",
        "absent 2",
        "out right",
        "out left",
        "no such tube",
        "order",
        "bent",
        "spacing",
        "diameter",
    ],
)
def test_doubt_is_refused_with_the_way_out(scene, phantom):
    volume = scan(scene or Scene(), phantom if scene else None)
    with pytest.raises(InputError, match=rf"rods: wanted the {phantom.rods} rods of .*--rods 'COLUMN,ROW"):
        find_rods(volume, phantom)


@pytest.mark.parametrize("name", sorted(set(PHANTOMS) - {"qrm-bdc-6"}))
def test_another_phantom_than_the_one_named_is_refused(name):
    with pytest.raises(InputError, match=f"rods of {name}"):
        find_rods(scan(Scene(), QRM), PHANTOMS[name])


def test_only_the_slices_that_hold_the_phantom_are_measured():
    scene = Scene(slices=16, phantom_slices=(4, 13))
    volume = scan(scene, QRM)
    readings = measure_rods(volume, find_rods(volume, QRM))
    assert (readings.first, readings.last) == (4, 13)
    placed = place_rods(volume.grid, QRM, centres(scene, 6).tolist())
    assert (placed.first, placed.last) == (0, 15)
    readings = measure_rods(volume, placed)
    assert (readings.first, readings.last) == (4, 13)
    rods = find_rods(volume, QRM, (5, 10))
    assert 5 <= rods.first <= rods.last <= 10


def test_the_middle_of_each_rod_is_measured():
    scene = Scene(noise=10, slices=5)
    volume = scan(scene, QRM)
    readings = measure_rods(volume, find_rods(volume, QRM))
    assert [rod.hu for rod in readings.rods] == pytest.approx(rods_hu(scene, QRM), abs=2)
    assert [rod.sd_hu for rod in readings.rods] == pytest.approx([10] * 6, rel=0.2)
    assert readings.slices_hu.shape == (6, 5)


def test_a_phantom_that_reads_far_from_water_is_warned_of():
    scene = Scene(offset=-90, noise=0)
    volume = scan(scene, QRM)
    (warning,) = rods_line(
        volume, QRM, place_rods(volume.grid, QRM, centres(scene, 6).tolist())
    ).calibration.warnings
    assert "density 0 reads -90 HU" in warning


def test_shading_across_a_rod_is_seen():
    volume = scan(Scene(noise=0), QRM)
    slope = 3 * (np.arange(volume.grid.size[1]) - 80)[:, None]
    shaded = volume.with_array(volume.array + slope.astype(np.float32))
    rods = place_rods(volume.grid, QRM, centres(Scene(), 6).tolist())
    plain, pulled = (measure_rods(each, rods).rods[2] for each in (volume, shaded))
    assert plain.shading_hu < 0.5
    # A plane of 3 HU/mm over a disc of 2/3 of 8 mm: its standard deviation is slope times radius over 2.
    assert pulled.shading_hu == pytest.approx(3 * (2 / 3 * 8) / 2, rel=0.05)


def test_places_that_cannot_be_are_refused():
    volume = scan(Scene(), QRM)
    places = centres(Scene(), 6).tolist()
    with pytest.raises(InputError, match="centres of all 6 rods of qrm-bdc-6, got 5"):
        place_rods(volume.grid, QRM, places[:5])
    with pytest.raises(InputError, match="--slices: wanted slices from 0 to 2, got 1-3"):
        place_rods(volume.grid, QRM, places, (1, 3))
    with pytest.raises(InputError, match="wholly in the picture, got one that reaches out of it, number 1"):
        measure_rods(volume, place_rods(volume.grid, QRM, [(2.0, 50.0), *places[1:]]))
    with pytest.raises(
        InputError, match=r"CT numbers of qrm-bdc-6, .*check the phantom's name and the order"
    ):
        rods_line(volume, QRM, place_rods(volume.grid, QRM, places[::-1]))
    coarse = Volume(np.zeros((3, 24, 24), np.float32), Grid((3, 24, 24), (5, 10, 10)), "HU")
    with pytest.raises(InputError, match="12 pixels or more"):
        measure_rods(coarse, place_rods(coarse.grid, QRM, [(12.0, 12.0)] * 6))


@pytest.mark.parametrize(("beside", "noise"), [(4, 20), (6, 20), (6, 100)])
def test_rods_that_are_given_beside_their_places_are_warned_of(beside, noise):
    scene = Scene(noise=noise)
    volume = scan(scene, QRM)
    right, wrong = (
        rods_line(volume, QRM, place_rods(volume.grid, QRM, centres(scene, 6) + np.array([0, below])))
        for below in (0, beside)
    )
    assert not any("centres are given wrong" in words for words in right.calibration.warnings)
    assert any("centres are given wrong" in words for words in wrong.calibration.warnings)


def test_two_rods_and_sagittal_slices_are_not_searched():
    two = replace(QRM, densities_mg_cm3=(0.0, 200.0))
    with pytest.raises(InputError, match="three or more"):
        find_rods(scan(Scene(), QRM), two)
    grid = Grid((3, 20, 20), (1, 1, 1), direction=(0, 0, 1, 1, 0, 0, 0, 1, 0))
    with pytest.raises(InputError, match="axial slices to find rods in, got sagittal"):
        find_rods(Volume(np.zeros(grid.size, np.float32), grid, "HU"), QRM)


def test_discs_are_found_where_they_are_and_none_in_noise():
    y, x = np.mgrid[:90, :140].astype(float)
    image = np.zeros((90, 140))
    for cx, cy, r, hu in ((30.3, 40.6, 8.0, 60), (80.2, 45.1, 9.5, -80), (115, 30, 10, 900)):
        image += hu / (1 + np.exp((np.hypot(x - cx, y - cy) - r) / 0.7))
    found = sorted(find_discs(image, 1.0, (6, 12)), key=lambda disc: disc.x_mm)
    assert [(d.x_mm, d.y_mm) for d in found] == [
        pytest.approx(c, abs=0.5) for c in ((30.3, 40.6), (80.2, 45.1), (115, 30))
    ]
    assert [d.radius_mm for d in found] == pytest.approx([8, 9.5, 10], abs=0.4)
    assert [d.contrast_hu for d in found] == pytest.approx([60, -80, 900], rel=0.1)
    noise = np.random.default_rng(3).normal(0, 2, (90, 140))
    assert len(find_discs(noise, 1.0, (6, 12))) <= 3
    assert find_discs(np.zeros((40, 40)), 1.0, (6, 12)) == []
