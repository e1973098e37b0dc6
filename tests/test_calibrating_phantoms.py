"""Phantom files: those that are shipped, one's own, and what is refused in them."""

import pytest

from qctrun.runtime.calibrating.phantoms import ANY_SPACING_MM, load_phantom, phantom_from, shipped
from qctrun.runtime.errors import InputError, UsageError

OWN = """
name = "mine"
title = "My phantom"
material = "HA"
densities_mg_cm3 = [0, 75, 150]
rod_diameter_mm = [19, 21]
spacing_mm = [30, 32.5]
source = "its certificate"
"""


def test_every_shipped_phantom_is_sound_and_says_where_its_numbers_come_from():
    found = shipped()
    assert {"qrm-bdc-3", "qrm-bdc-6", "mindways-3", "b-mas-200", "image-analysis-3"} == set(found)
    assert all(name == phantom.name and len(phantom.source) > 40 for name, phantom in found.items())
    assert found["qrm-bdc-6"].densities_mg_cm3 == (0, 100, 200, 400, 600, 800)
    assert [name for name, phantom in found.items() if phantom.material == "K2HPO4"] == ["mindways-3"]
    assert found["mindways-3"].serial == "4541A, 4560"


def test_the_water_of_a_rod_is_counted_from_water():
    assert shipped()["qrm-bdc-3"].water_hu == (0, 0, 0)
    assert shipped()["mindways-3"].water_hu[0] == pytest.approx(1012.25 - 999.6)


def test_a_phantom_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    mine = load_phantom(str(path))
    assert (mine.rods, mine.rod_diameter_mm, mine.spacing_mm) == (3, (19, 21), (30, 32.5))
    path.write_text(OWN.replace("spacing_mm = [30, 32.5]\n", ""))
    assert load_phantom(str(path)).spacing_mm == ANY_SPACING_MM
    path.write_text('serial = "7"\nwater_mg_cm3 = [1000, 1010.5, 990]\n' + OWN)
    assert load_phantom(str(path)).water_mg_cm3 == (1000, 1010.5, 990)


def test_an_unknown_name_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--phantom: wanted b-mas-200, .*or a TOML file, got 'qrm'"):
        load_phantom("qrm")
    with pytest.raises(InputError, match="cannot be read"):
        load_phantom(str(tmp_path / "nowhere.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="TOML in UTF-8"):
        load_phantom(str(tmp_path / "bytes.toml"))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("name =", "name", "wanted TOML"),
        ('name = "mine"', "", "got no name"),
        ('source = "its certificate"', "", "got no source"),
        ('name = "mine"', 'name = "mine"\ncolour = 3', "got colour"),
        ('"mine"', '""', "name: wanted a text"),
        ('"HA"', '"chalk"', "material: wanted HA or K2HPO4"),
        ('"HA"', "3", "material: wanted HA or K2HPO4"),
        ("[0, 75, 150]", "[0]", "two or more rods"),
        ("[0, 75, 150]", "[5, 5, 5]", "two or more rods"),
        ("[0, 75, 150]", "[0, 75, 15000]", "numbers from -500 to 2000"),
        ("[0, 75, 150]", "[0, nan, 150]", "numbers from -500"),
        ("[0, 75, 150]", "[0, true, 150]", "numbers from -500"),
        ("[0, 75, 150]", '"0, 75"', "numbers from -500"),
        ("[19, 21]", "[21, 19]", r"rod_diameter_mm: wanted \[from, to\]"),
        ("[19, 21]", "[19]", r"wanted \[from, to\]"),
        ("[19, 21]", "[0, 21]", "numbers from 4 to 80"),
        ("[30, 32.5]", "[30, inf]", "numbers from 5 to 200"),
        ('name = "mine"', 'name = "mine"\nwater_mg_cm3 = [1000, 1000]', "one for each rod, got 2 for 3"),
        ('name = "mine"', 'name = "mine"\nwater_mg_cm3 = [1, 1, 1]', "numbers from 500"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(old, new, match):
    with pytest.raises(InputError, match=match) as caught:
        phantom_from(OWN.replace(old, new), "mine.toml")
    assert str(caught.value).startswith("mine.toml")
