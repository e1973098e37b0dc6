"""DICOM series from Scanco's software: its private tags make density of whatever its rescale line makes."""

import numpy as np
import pydicom
import pytest
from dicom_series import write_series
from pydicom.uid import ImplicitVRLittleEndian
from scanco_files import INTERCEPT, MU_SCALING, MU_WATER, SLOPE, density_of, stored

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import describe, read, read_hu

HU = {"RescaleSlope": f"{1000 / MU_SCALING / MU_WATER:.8g}", "RescaleIntercept": "-1000", "RescaleType": "HU"}
STORED = {"RescaleSlope": "1", "RescaleIntercept": "0", "RescaleType": "HU"}
"""As exports have it that call stored numbers HU."""
DENSITY = {
    "RescaleSlope": f"{SLOPE / MU_SCALING:.8g}",
    "RescaleIntercept": f"{INTERCEPT:.8g}",
    "RescaleType": "US",
}
OWN = {0x1000: MU_SCALING, 0x1003: "mg HA/ccm", 0x1004: SLOPE, 0x1005: INTERCEPT, 0x1006: MU_WATER}


def series(folder, rescale, own=OWN, implicit=False, **tags):
    """A series as a Scanco scanner leaves it, with the private elements of `own`."""
    tags = {"KVP": "59.4", "Manufacturer": "SCANCO Medical AG", **rescale, **tags}
    for path in write_series(folder, stored(), **tags):
        dataset = pydicom.dcmread(path)
        dataset.add_new((0x0029, 0x0010), "LO", "SCANCO")
        for element, value in (own(path) if callable(own) else own).items():
            dataset.add_new((0x0029, element), "LO" if element == 0x1003 else "DS", str(value))
        if implicit:
            dataset = pydicom.dcmread(path).__class__(
                path, dataset, preamble=bytes(128), file_meta=dataset.file_meta
            )
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(path, enforce_file_format=True)
    return folder


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("rescale", [HU, STORED, DENSITY], ids=["HU", "stored", "density"])
def test_density_whatever_the_rescale_line_makes(tmp_path, rescale, implicit):
    volume = read(series(tmp_path / "scan", rescale, implicit=implicit))
    assert (volume.unit, volume.material) == ("mg/cm3", "HA")
    np.testing.assert_allclose(volume.array, density_of(stored()), atol=2e-3)
    assert volume.provenance["density_from"] == "header"
    assert volume.provenance["calibration"]["slope"] is None
    assert volume.provenance["scan"]["scanco"]["mu_water_1_cm"] == MU_WATER
    assert volume.warnings == ()


def test_the_unit_may_be_missing_and_is_told_of(tmp_path):
    own = {element: value for element, value in OWN.items() if element != 0x1003}
    volume = read(series(tmp_path / "scan", HU, own))
    assert volume.material == "HA"
    assert "taken as HA" in volume.warnings[0]


def test_another_unit_is_refused(tmp_path):
    with pytest.raises(InputError, match="density unit: wanted mg HA/ccm, got '1/cm'"):
        read(series(tmp_path / "scan", HU, {**OWN, 0x1003: "1/cm"}))


def test_a_rescale_line_that_is_none_of_them_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"rescale slope 1 and intercept -1024; give the AIM"):
        read(series(tmp_path / "scan", {**HU, "RescaleSlope": "1", "RescaleIntercept": "-1024"}))


def test_stored_numbers_without_a_calibration_are_not_taken_for_hu(tmp_path):
    with pytest.raises(InputError, match=r"stored numbers of a Scanco.*give the AIM or ISQ of the scan$"):
        read(series(tmp_path / "as HU", STORED, {}))
    folder = series(tmp_path / "scan", {**STORED, "RescaleType": "US"}, {})
    with pytest.raises(InputError, match=r"stored numbers of a Scanco.*--unit mg/cm3 --material HA$"):
        read(folder)
    assert "not told" in describe(folder)["series"][0]["values"]
    volume = read(folder, unit="mg/cm3", material="HA")
    np.testing.assert_array_equal(volume.array, stored())


def test_hu_without_a_calibration_stay_hu(tmp_path):
    folder = series(tmp_path / "scan", HU, {})
    volume = read_hu(folder)
    np.testing.assert_allclose(volume.array, stored() / MU_SCALING / MU_WATER * 1000 - 1000, atol=1e-2)
    with pytest.raises(InputError, match=r"the tube voltage is 59\.4 kVp"):
        read(folder)


def test_who_asks_for_hu_gets_what_the_rescale_line_makes(tmp_path):
    folder = series(tmp_path / "scan", HU)
    assert read_hu(folder, unit="hu").unit == "HU"
    with pytest.raises(InputError, match="calibrated already as its header says"):
        read(folder, calibration=(0.8, 0.0))


@pytest.mark.parametrize("kind", ["HU", None, "US"])
@pytest.mark.parametrize("rescale", [HU, STORED, DENSITY], ids=["HU", "stored", "density"])
def test_density_said_beside_is_what_the_tags_make_and_never_the_stored_numbers(tmp_path, rescale, kind):
    """A study file may name unit and material of its references, whatever these are stored as."""
    folder = series(tmp_path / "scan", {**rescale, "RescaleType": kind})
    volume = read(folder, unit="mg/cm3", material="HA")
    np.testing.assert_allclose(volume.array, density_of(stored()), atol=2e-3)
    assert volume.provenance["density_from"] == "header"


@pytest.mark.parametrize(("rescale", "got"), [(STORED, "stored numbers"), (DENSITY, "density")])
def test_hu_said_of_other_numbers_are_refused(tmp_path, rescale, got):
    folder = series(tmp_path / "scan", {**rescale, "RescaleType": None})
    with pytest.raises(InputError, match=f"wanted HU as --unit says, got {got} by the scanner's tags"):
        read_hu(folder, unit="hu")


def test_slices_that_differ_are_refused(tmp_path):
    def own(path):
        return {**OWN, 0x1004: SLOPE + int(path.name[1:])}

    with pytest.raises(InputError, match="wanted one calibration in all slices, got several"):
        read(series(tmp_path / "scan", HU, own))


def test_the_same_tags_of_another_maker_mean_nothing(tmp_path):
    volume = read(series(tmp_path / "scan", STORED, Manufacturer="ACME", KVP="120"))
    assert volume.provenance["calibration"]["nominal"]


def test_a_derived_series_keeps_what_its_rescale_type_says(tmp_path):
    """What this package writes of such a scan is density by its tags, also where no private tag is left."""
    derived = {"RescaleSlope": "1", "RescaleIntercept": "0", "RescaleType": "MGML"}
    volume = read(series(tmp_path / "scan", derived, {}, DerivationDescription="density in mg/cm3 HA"))
    assert volume.provenance["density_from"] == "tags"
    np.testing.assert_array_equal(volume.array, stored())


def test_info_says_what_the_values_are(tmp_path, qctrun):
    folder = series(tmp_path / "scan", STORED)
    assert describe(folder)["series"][0]["values"] == "mg/cm3 HA of stored numbers"
    said = qctrun("info", folder)
    assert said.code == 0 and "say --unit" not in said.out and "mg/cm3 HA of stored numbers" in said.out
