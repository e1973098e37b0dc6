"""Volumes on disk: read back by two independent libraries, and never half a file."""

import errno
import gzip
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import scans
import SimpleITK as sitk

from qctrun.runtime import Grid, Volume, read, write
from qctrun.runtime.errors import OutputError, OutputExistsError, UsageError
from qctrun.runtime.writing import Staging, images

SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")
LEFT_HANDED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def oblique() -> tuple[float, ...]:
    a, b = np.deg2rad(20), np.deg2rad(-35)
    tilt = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return tuple((tilt @ turn).ravel())


def volume(direction: tuple[float, ...] = Grid((1, 1, 1), (1.0, 1.0, 1.0)).direction) -> Volume:
    array = np.random.default_rng(1).normal(200, 80, (3, 5, 7)).astype(np.float32)
    array[1, 2, 3] = np.nan
    return Volume(
        array, Grid(array.shape, (0.34, 0.172, 0.2), (-101.5, 20.25, 3000.125), direction), "mg/cm3", "HA"
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("direction", [Grid((1, 1, 1), (1.0, 1.0, 1.0)).direction, oblique(), LEFT_HANDED])
def test_simpleitk_reads_back_what_was_written(
    tmp_path: Path, suffix: str, direction: tuple[float, ...]
) -> None:
    wanted = volume(direction)
    image = sitk.ReadImage(str(write(wanted, tmp_path / f"a{suffix}")))
    assert image.GetPixelID() == sitk.sitkFloat32
    # ITK's NIfTI reader makes zeros of NaN; that the file holds NaN is tested with nibabel.
    values = np.nan_to_num(wanted.array) if suffix.startswith(".nii") else wanted.array
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values)
    found = Grid(wanted.grid.size, image.GetSpacing()[::-1], image.GetOrigin(), image.GetDirection())
    assert not wanted.grid.difference(found)


@pytest.mark.parametrize("direction", [oblique(), LEFT_HANDED])
def test_nibabel_sees_both_forms_at_the_same_place_in_mm(
    tmp_path: Path, direction: tuple[float, ...]
) -> None:
    wanted = volume(direction)
    image: Any = nibabel.load(write(wanted, tmp_path / "scan_thr200_BVTVmap.nii.gz"))
    sform, qform = (getattr(image.header, name)(coded=True) for name in ("get_sform", "get_qform"))
    assert sform[1] > 0
    assert qform[1] > 0
    np.testing.assert_allclose(sform[0], qform[0], atol=1e-4)
    corner = sform[0] @ [6, 4, 2, 1]
    np.testing.assert_allclose(
        corner[:3] * [-1, -1, 1], wanted.grid.world((2, 4, 6)), atol=1e-3
    )  # RAS to LPS
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(), wanted.array)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_intent()[2] == "BVTVmap"
    assert b"mg/cm3 HA" in image.header["descrip"].item()


@pytest.mark.parametrize(
    ("name", "intent"),
    [
        ("x_thr62.5_BVTVmap.nii", "BVTVmap"),
        ("1.2.840_desc-nnsp_ct.nii.gz", "ct"),
        ("a.b_BMDmap.nii.gz", "BMDmap"),
        ("plain.nii", "plain"),
    ],
)
def test_the_intent_is_the_quantity_also_behind_dots(tmp_path: Path, name: str, intent: str) -> None:
    image: Any = nibabel.load(write(volume(), tmp_path / name))
    assert image.header.get_intent()[2] == intent


def test_a_written_volume_is_read_without_being_told_its_unit(tmp_path: Path) -> None:
    line = {"slope": 0.8, "intercept": 0.0, "material": "K2HPO4", "source": "guess", "nominal": True}
    wanted = Volume(
        np.ones((3, 4, 5), np.float32), Grid((3, 4, 5), (1, 1, 1)), "mg/cm3", "K2HPO4", {"calibration": line}
    )
    found = read(write(wanted, tmp_path / "a.mha"))
    assert (found.unit, found.material) == ("mg/cm3", "K2HPO4")
    assert found.provenance["calibration"] == {**line, "error": None, "measured_in": None}


def test_the_sidecar_says_unit_sources_and_what_the_caller_adds(tmp_path: Path) -> None:
    provenance = {
        "inputs": [{"path": "scan/"}],
        "scan": {"kvp": 120.0, "kernel": ""},
        "warnings": ["careful"],
    }
    written = Volume(np.ones((1, 2, 3), np.float32), Grid((1, 2, 3), (1, 1, 1)), "1", None, provenance)
    write(written, tmp_path / "new" / "b.nrrd", sidecar={"Threshold": np.float64(200), "Mean": float("nan")})
    sidecar = json.loads((tmp_path / "new" / "b.json").read_text())
    assert sidecar.pop("qctrunVersion")
    assert sidecar == {
        "Units": "1",
        "KVP": 120.0,
        "Sources": ["scan/"],
        "Warnings": ["careful"],
        "Threshold": 200.0,
        "Mean": None,
    }


def test_equal_volumes_give_equal_files(tmp_path: Path) -> None:
    first, second = (write(volume(), tmp_path / name / "a.nii.gz") for name in ("1", "2"))
    assert first.read_bytes() == second.read_bytes()


def test_an_output_that_exists_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"a\.json.*overwrite"):
        write(volume(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    write(volume(), path, overwrite=True)
    assert json.loads((tmp_path / "a.json").read_text())["Units"] == "mg/cm3"


def test_an_unknown_suffix_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.nii\.gz.*got '\.png'"):
        write(volume(), tmp_path / "a.png")


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a part of the path is a file"):
        write(volume(), tmp_path / "file" / "deeper" / "a.nii.gz")


def test_an_output_named_like_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match="a folder has the name"):
        write(volume(), tmp_path / "a.nii.gz", overwrite=True)


def test_nifti_refuses_what_its_header_cannot_count(tmp_path: Path) -> None:
    long = Volume(np.zeros((1, 1, 40000), np.float32), Grid((1, 1, 40000), (1, 1, 1)), "1")
    with pytest.raises(OutputError, match="32767"):
        write(long, tmp_path / "a.nii")
    assert write(long, tmp_path / "a.mha").is_file()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, MemoryError, OSError(errno.EDQUOT, "Disk quota exceeded")]
)
def test_nothing_stays_when_the_writing_breaks_off(
    tmp_path: Path, suffix: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object, **__: object) -> None:
        raise kind

    monkeypatch.setattr(images, "json_text", break_off)
    with pytest.raises((KeyboardInterrupt, MemoryError, OSError, OutputError)):
        write(volume(), tmp_path / "new" / f"a{suffix}")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can be mounted only by root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_an_error_and_leaves_nothing(
    small_disk: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(size=(10, 256, 256)).astype(np.float32)
    with pytest.raises(OutputError, match="no space left on device; free some space"):
        write(Volume(noise, Grid(noise.shape, (1, 1, 1)), "HU"), small_disk / f"a{suffix}")
    assert not list(small_disk.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_disk_that_is_full_from_the_start_is_seen_before_any_work(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb") as filler, pytest.raises(OSError, match="space"):
        filler.write(bytes(2_000_000))
    with pytest.raises(OutputError, match="free some space"), Staging(small_disk, ["a.txt"]):
        pytest.fail("entered")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_read_only_folder_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match=f"{small_disk}.*read-only"):
        write(volume(), small_disk / "a.nii.gz")


def test_a_compressed_file_is_whole(tmp_path: Path) -> None:
    packed = write(scans.density(), tmp_path / "a.nii.gz")
    assert len(gzip.decompress(packed.read_bytes())) == 352 + scans.density().array.nbytes


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_sidecar_of_another_image_is_never_taken_over(tmp_path: Path, overwrite: bool) -> None:
    write(volume(), tmp_path / "a.nii.gz")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputExistsError, match=r"a\.mha.*a\.nii\.gz.*another name"):
        write(volume(), tmp_path / "a.mha", overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "a.json").unlink()
    with pytest.raises(OutputExistsError, match="another name"):
        write(volume(), tmp_path / "a.nii", overwrite=overwrite)
    write(volume(), tmp_path / "a.nii.gz", overwrite=True)


def test_the_sidecar_says_series_filter_and_step_width(tmp_path: Path) -> None:
    how = {
        "diameter_mm": 4.3,
        "sphere_voxels": 4125,
        "step": "fuzzy",
        "step_width_mg_cm3": 10.0,
        "where": "mask",
        "threshold_mg_cm3": 200.0,
    }
    known = {
        "scan": {"series_uid": "1.2.3"},
        "filter": {"model": "nnsp", "filtered_fraction": 0.5, "margin_mm": 5.0},
        "map": how,
    }
    write(volume().with_array(volume().array, provenance=known), tmp_path / "a.mha")
    sidecar = json.loads((tmp_path / "a.json").read_text())
    assert sidecar["SeriesInstanceUID"] == "1.2.3"
    assert (sidecar["FilteredFraction"], sidecar["FilterMarginMM"]) == (0.5, 5.0)
    assert (sidecar["Step"], sidecar["StepWidth"], sidecar["StepWidthUnits"]) == ("fuzzy", 10.0, "mg/cm3")


def test_several_at_a_time_are_what_they_are_one_by_one(tmp_path: Path) -> None:
    given = {f"map-{i}.nii.gz": volume().with_array(volume().array + i) for i in range(5)}
    for name, each in given.items():
        write(each, tmp_path / "single" / name)
    sidecars = [name.replace(".nii.gz", ".json") for name in given]
    with Staging(tmp_path / "together", (*given, *sidecars)) as staging:
        staged = images.stage_images(staging, given, threads=3)
        assert list(staged) == [*given, *sidecars]
        staging.commit()
    for name in (*given, *sidecars):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "single" / name).read_bytes()


def test_one_that_cannot_be_written_stops_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = images._stream

    def full(each: Volume, *rest: Any, **words: Any) -> None:
        if each.unit == "1":
            raise OSError(errno.ENOSPC, "No space left on device")
        stream(each, *rest, **words)

    monkeypatch.setattr(images, "_stream", full)
    given = {f"{i}.nii.gz": volume() for i in range(3)}
    given["3.nii.gz"] = volume().with_array(volume().array, unit="1", material=None)
    names = (*given, *(f"{i}.json" for i in range(4)))
    with pytest.raises(OutputError, match="no space left"), Staging(tmp_path / "out", names) as staging:
        images.stage_images(staging, given)
    assert not (tmp_path / "out").exists()
