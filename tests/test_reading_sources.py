"""What paths mean, what lies beside them, and zips that nobody should trust."""

import json
import stat
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import write_series

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import Beside, find_beside, load_calibration, read, read_labels, sources, stem_of

LINE = json.dumps({"slope": 0.8, "intercept": 1.0, "material": "HA", "source": "rods"})


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("L1.nii.gz", "L1"),
        ("a.b.NII.GZ", "a.b"),
        ("scan.zip", "scan"),
        ("x.mha", "x"),
        ("x_desc-nnsp_ct.nrrd", "x_desc-nnsp_ct"),
    ],
)
def test_stem_of_a_file(name, stem):
    assert stem_of(f"somewhere/{name}") == stem


def test_stem_of_a_folder_is_its_name(tmp_path, monkeypatch):
    (tmp_path / "case.01").mkdir()
    assert stem_of(tmp_path / "case.01") == "case.01"
    monkeypatch.chdir(tmp_path / "case.01")
    assert stem_of(".") == "case.01"


def test_companions_of_a_folder_lie_in_it_and_those_of_a_file_beside_it(tmp_path):
    assert find_beside(tmp_path) == Beside(None, None)
    for name in ("calibration.json", "mask.nii.gz", "scan.nii.gz"):
        (tmp_path / name).write_text("")
    both = Beside(tmp_path / "calibration.json", tmp_path / "mask.nii.gz")
    assert find_beside(tmp_path) == both
    assert find_beside(str(tmp_path / "scan.nii.gz")) == both
    assert find_beside(tmp_path / "mask.nii.gz").mask is None


@pytest.mark.parametrize("top", ["", "case/"])
def test_companions_of_a_zip_lie_in_it_or_beside_it(tmp_path, top):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    write_series(tmp_path / "scan", values)
    grid = read(tmp_path / "scan", calibration=(1.0, 0.0)).grid
    mask = sitk.GetImageFromArray((values > 5).astype(np.uint8))
    mask.SetSpacing(grid.spacing[::-1])
    mask.SetOrigin(grid.origin)
    sitk.WriteImage(mask, str(tmp_path / "scan" / "mask.nii.gz"))
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for path in (tmp_path / "scan").iterdir():
            archive.write(path, f"{top}{path.name}")
    (tmp_path / "calibration.json").write_text(LINE)
    beside = find_beside(tmp_path / "scan.zip")
    assert beside.calibration == tmp_path / "calibration.json"
    assert beside.mask == tmp_path / "scan.zip" / top / "mask.nii.gz"
    np.testing.assert_array_equal(read_labels(beside.mask, grid), values > 5)
    with zipfile.ZipFile(tmp_path / "scan.zip", "a") as archive:
        archive.writestr(f"{top}calibration.json", LINE.replace("0.8", "0.9"))
    inside = find_beside(tmp_path / "scan.zip").calibration
    assert load_calibration(inside).slope == 0.9
    np.testing.assert_allclose(read(tmp_path / "scan.zip").array, 0.9 * values + 1, rtol=1e-6)
    with pytest.raises(InputError, match="no such file in the zip"):
        load_calibration(tmp_path / "scan.zip" / "other.json")


def bad_zip(path, *members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def link():
    member = zipfile.ZipInfo("link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize("member", ["../out", "/abs/out", "a/../../out", "..\\out", "C:/out", link()])
def test_members_that_lead_outside_are_refused(tmp_path, member):
    path = bad_zip(tmp_path / "a.zip", (member, "x"))
    with pytest.raises(InputError, match="plain files below one folder"):
        read(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_bombs_are_refused_before_they_burst(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "FREE_ZIP_BYTES", 1000)
    bomb = bad_zip(tmp_path / "a.zip", ("zeros", bytes(10**6)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"the size of a CT scan, got 1 files, 1 MiB unpacked from 0\.0 MiB"):
        read(bomb)
    monkeypatch.setattr(sources, "MAX_ZIP_MEMBERS", 2)
    many = bad_zip(tmp_path / "b.zip", *((str(k), "x") for k in range(3)))
    with pytest.raises(InputError, match="got 3 files"):
        read(many)


def test_damaged_zips_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"no zip at all")
    with pytest.raises(InputError, match="a whole zip file"):
        read(path)
    bad_zip(path, ("a", "content " * 50))
    path.write_bytes(path.read_bytes().replace(b"content content", b"content kontent", 1))
    with pytest.raises(InputError, match="a whole zip file, got Bad CRC"):
        read(path)
    bad_zip(path, ("notes.txt", "no slices here"))
    with pytest.raises(InputError, match="a CT series of DICOM slices, got 1 file that is not DICOM"):
        read(path)


@pytest.mark.parametrize("shown", [True, False])
def test_threads_that_read_leave_the_warnings_as_they_were(tmp_path, shown):
    values = np.arange(240, dtype=np.int16).reshape(10, 4, 6)
    write_series(tmp_path / "scan", values)
    display, before = sitk.ProcessObject.GetGlobalWarningDisplay(), list(warnings.filters)
    try:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: read(tmp_path / "scan", calibration=(1.0, 0.0)), range(16)))
        assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(display)
    assert warnings.filters == before
    assert all(np.array_equal(volume.array, values) for volume in found)


def test_silence_lasts_until_the_last_reader_is_out():
    first, second = sources.quiet(), sources.quiet()
    shown, before = sitk.ProcessObject.GetGlobalWarningDisplay(), list(warnings.filters)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not sitk.ProcessObject.GetGlobalWarningDisplay()
    second.__exit__(None, None, None)
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown
    assert warnings.filters == before
