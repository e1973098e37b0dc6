"""What paths mean, what lies beside them, and zips that nobody should trust."""

import errno
import io
import json
import os
import stat
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import write_series

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import (
    Beside,
    describe,
    find_beside,
    find_mask,
    list_series,
    load_calibration,
    read,
    read_labels,
    sources,
    stem_of,
)

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


def write_mask_of(folder, values, path):
    grid = read(folder, calibration=(1.0, 0.0)).grid
    image = sitk.GetImageFromArray((values > 5).astype(np.uint8))
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    sitk.WriteImage(image, str(path))


def zipped(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize("place", ["", "case", "case/scan"])
def test_a_folder_and_its_zip_have_the_same_companions(tmp_path, place):
    top = tmp_path / "top"
    write_series(top / "case" / "scan", VALUES)
    (top / "reports").mkdir()
    (top / "reports" / "calibration.json").write_text(LINE.replace("0.8", "0.3"))
    write_mask_of(top, VALUES, top / place / "mask.nii.gz")
    (top / place / "calibration.json").write_text(LINE)
    for path in (top, zipped(top)):
        beside = find_beside(path)
        assert beside == Beside(path / place / "calibration.json", path / place / "mask.nii.gz")
        assert find_mask(path) == beside.mask
        volume = read(path)
        np.testing.assert_allclose(volume.array, 0.8 * VALUES + 1, rtol=1e-6)
        np.testing.assert_array_equal(read_labels(beside.mask, volume.grid), VALUES > 5)


def test_companions_lie_with_the_slices_of_the_chosen_series(tmp_path):
    top = tmp_path / "top"
    for uid, slope in (("1.2.3", "0.8"), ("1.2.4", "0.9")):
        write_series(top / uid, VALUES, SeriesInstanceUID=uid)
        (top / uid / "calibration.json").write_text(LINE.replace("0.8", slope))
    for path in (top, zipped(top)):
        assert find_beside(path) == Beside(None, None)
        for uid, slope in (("1.2.3", 0.8), ("1.2.4", 0.9)):
            assert find_beside(path, series_uid=uid).calibration == path / uid / "calibration.json"
            volume = read(path, series_uid=uid)
            np.testing.assert_allclose(volume.array, slope * VALUES + 1, rtol=1e-6)
            assert volume.provenance["slice_folders"] == [uid]


def test_companions_that_contradict_each_other_are_refused(tmp_path):
    top = tmp_path / "top"
    write_series(top / "scan", VALUES)
    for folder in (top, top / "scan"):
        (folder / "calibration.json").write_text(LINE)
    for path in (top, zipped(top)):
        assert find_beside(path).calibration == path / "calibration.json"
    (top / "scan" / "calibration.json").write_text(LINE.replace("0.8", "0.9"))
    for path in (top, zipped(top)):
        with pytest.raises(
            InputError, match=r"top.*calibration\.json and .*scan/cal.*differ; .*--calibration"
        ):
            read(path)
        assert read(path, calibration=(1.0, 0.0)).array.max() == 23
        assert find_mask(path) is None
        assert "which differ" in describe(path)["calibration"]["error"]


def denied(monkeypatch, *names):
    """Let the system refuse to open files, or to list folders, of these names; root may do all."""
    real_open, real_list = io.open, os.scandir

    def refuse(path):
        if Path(str(path)).name in names:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def opened(file, *args, **options):
        refuse(file)
        return real_open(file, *args, **options)

    def listed(path="."):
        refuse(path)
        return real_list(path)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr(os, "scandir", listed)


def test_a_slice_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    paths = write_series(tmp_path / "scan", VALUES)
    denied(monkeypatch, paths[1].name)
    for look in (read, describe, list_series):
        with pytest.raises(InputError, match=rf"{paths[1].name}: cannot be read: Permission denied"):
            look(tmp_path / "scan")


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    write_series(tmp_path / "scan" / "inner", VALUES)
    denied(monkeypatch, "inner")
    for look in (read, find_beside):
        with pytest.raises(InputError, match=r"inner: cannot be read: Permission denied"):
            look(tmp_path / "scan")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.zip", "a"])
def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"anything")
    denied(monkeypatch, name)
    with pytest.raises(InputError, match=rf"{name}: cannot be read: Permission denied"):
        read(tmp_path / name, unit="HU", calibration=(1.0, 0.0))


def test_a_file_in_a_folder_that_may_not_be_entered_is_named(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    for look in (read, stem_of, find_beside):
        with pytest.raises(InputError, match=r"a\.nii: cannot be read: Permission denied"):
            look(tmp_path / "a.nii")
