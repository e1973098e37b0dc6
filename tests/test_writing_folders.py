"""A folder of slices is placed whole or not at all, and what lies in it beside slices is nobody's to remove."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from dicom_sources import LINE, scan, stored

from qctrun.runtime import Grid, Volume, read, write_dicom
from qctrun.runtime.errors import OutputError, OutputExistsError
from qctrun.runtime.writing import Staging, folders, stage_image
from qctrun.runtime.writing.labels import stage_labels

NAMES = ("a.txt", "ct/", "filter.run.json")
RECORD = {"schema": "qctrun/run/1", "outputs": [{"path": "ct/"}, {"path": "a.txt"}]}


def stage(folder: Path, slices: int, **options: bool) -> Staging:
    """Stage a text, a folder of so many slices and a record that lists them."""
    staging = Staging(folder, NAMES, **options)
    with staging:
        staging.add_text("a.txt", "text")
        for number in range(1, slices + 1):
            (staging.hidden("ct/") / folders.slice_name(number)).write_text(f"{slices}")
        staging.add_text("filter.run.json", json.dumps(RECORD))
        staging.commit()
    return staging


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_folder_is_placed_and_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    stage(out, 3)
    assert tree(out) == {*map(str.removesuffix, NAMES, "///")} | {f"ct/slice-000{k}.dcm" for k in (1, 2, 3)}
    with pytest.raises(OutputExistsError, match=r"a\.txt.*already there and 2 more"):
        stage(out, 2)
    stage(out, 2, overwrite=True)
    assert tree(out) == {"a.txt", "ct", "ct/slice-0001.dcm", "ct/slice-0002.dcm", "filter.run.json"}
    assert {path.read_text() for path in (out / "ct").iterdir()} == {"2"}


def test_a_folder_that_only_the_old_record_lists_goes_with_it(tmp_path: Path) -> None:
    stage(tmp_path, 3)
    with Staging(tmp_path, ["b.txt", "filter.run.json"], overwrite=True) as staging:
        staging.add_text("b.txt", "")
        staging.add_text("filter.run.json", "{}")
        assert set(staging.commit()) == {"ct/", "a.txt"}
    assert tree(tmp_path) == {"b.txt", "filter.run.json"}


def test_strangers_in_the_folder_are_never_removed(tmp_path: Path) -> None:
    stage(tmp_path, 2)
    (tmp_path / "ct" / "mask.nii.gz").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"one with mask\.nii\.gz in it; move that away"):
        stage(tmp_path, 2, overwrite=True)
    assert (tmp_path / "ct" / "slice-0002.dcm").is_file()
    with Staging(tmp_path, ["filter.run.json"], overwrite=True) as staging:
        staging.add_text("filter.run.json", "{}")
        staging.commit()
    assert tree(tmp_path) == {"ct", "ct/mask.nii.gz", "filter.run.json"}


@pytest.mark.parametrize("path", ["../", "./", "/", "..", "ct/../../mine/", "/tmp/"])
def test_a_record_cannot_lead_out_of_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "out").mkdir()
    for folder in (tmp_path, tmp_path / "out"):
        (folder / "slice-0001.dcm").write_text("mine")
    record = {"schema": "qctrun/run/1", "outputs": [{"path": path}]}
    (tmp_path / "out" / "filter.run.json").write_text(json.dumps(record))
    stage(tmp_path / "out", 1, overwrite=True)
    assert (tmp_path / "slice-0001.dcm").is_file() and (tmp_path / "out" / "slice-0001.dcm").is_file()


def test_a_file_where_the_folder_would_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ct").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="a part of the path is a file"):
            stage(tmp_path, 1, overwrite=overwrite)
    assert tree(tmp_path) == {"ct"}


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_move_that_fails_takes_everything_back(
    tmp_path: Path, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, replace = [], Path.replace

    def fail(self: Path, target: Path) -> Path:
        moved.append(target)
        if len(moved) == which:
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="input/output error"):
        stage(tmp_path / "out", 2)
    assert not (tmp_path / "out").exists() or not tree(tmp_path / "out")


def test_of_two_runs_at_once_the_first_wins_and_keeps_its_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError, match="another run"), Staging(tmp_path, ["ct/", "b.txt"]) as late:
        (late.hidden("ct/") / "slice-0001.dcm").write_text("late")
        late.add_text("b.txt", "late")
        stage(tmp_path, 2)
        late.commit()
    assert {path.read_text() for path in (tmp_path / "ct").iterdir()} == {"2"}
    assert "b.txt" not in tree(tmp_path)


@pytest.mark.parametrize(
    "fault", [KeyboardInterrupt, MemoryError, OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_stop_in_mid_series_leaves_nothing(
    tmp_path: Path, fault: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = scan(tmp_path / "scan")

    def third(number: int) -> str:
        if number == 3:
            raise fault
        return folders.slice_name(number)

    with monkeypatch.context() as patch:
        patch.setattr("qctrun.runtime.writing.dicom.series.slice_name", third)
        with pytest.raises((KeyboardInterrupt, MemoryError, OutputError)):
            write_dicom(volume, tmp_path / "new" / "ct")
    assert not (tmp_path / "new").exists()
    write_dicom(volume, tmp_path / "new" / "ct")  # and it can be started again
    assert len(tree(tmp_path / "new" / "ct")) == 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted only by root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", ["ct", "map.dcm"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, small_disk: Path, name: str) -> None:
    volume = scan(tmp_path / "scan", stored((5, 200, 200)))
    with pytest.raises(OutputError, match="no space left on device; free some space"):
        write_dicom(volume, small_disk / name)
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd", "labels"])
def test_a_disk_that_another_has_filled_is_called_full(small_disk: Path, name: str) -> None:
    """SimpleITK, which writes the header, says nothing of it."""
    names = ["a.json", "a.nii.gz" if name == "labels" else name]
    grid = Grid((2, 3, 4), (1, 1, 1))
    with (
        pytest.raises(OutputError, match="no space left on device; free some space"),
        Staging(small_disk / "out", names) as staging,
    ):
        filler = small_disk / "filler"
        with suppress(OSError):
            filler.write_bytes(bytes(1 << 20))
        if name == "labels":
            stage_labels(staging, np.ones(grid.size, np.int32), grid, names[1], {})
        else:
            stage_image(staging, Volume(np.ones(grid.size, np.float32), grid, "mg/cm3", "HA"), name)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_killed_run_leaves_no_name_that_could_be_taken_for_a_series(tmp_path: Path) -> None:
    """Nothing can be swept after SIGKILL; what stays has a hidden name, and the next run is not in its way."""
    scan(tmp_path / "scan", stored((40, 128, 128)))
    code = (
        "from qctrun.runtime import read, write_dicom\n"
        f"volume = read({str(tmp_path / 'scan')!r}, calibration=(0.8, 2.0), material='HA')\n"
        "while True:\n"
        f"    write_dicom(volume, {str(tmp_path / 'out' / 'ct')!r}, overwrite=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as running:
        until = time.monotonic() + 30
        while not any(tmp_path.glob("out/.qctrun-*/slice-0002.dcm")) and time.monotonic() < until:
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
    there = [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".qctrun-")]
    assert all(len(folders.slices_in(path)) == 40 for path in there)
    volume = scan(tmp_path / "small")
    assert len(folders.slices_in(write_dicom(volume, tmp_path / "out" / "ct", overwrite=True))) == 5


def test_what_a_killed_run_has_left_is_no_part_of_a_scan(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan")
    (tmp_path / "scan" / ".qctrun-0123abcd").mkdir()
    half = write_dicom(volume, tmp_path / "ct") / "slice-0001.dcm"
    half.rename(tmp_path / "scan" / ".qctrun-0123abcd" / half.name)
    (tmp_path / "scan" / ".qctrun-0123abcd" / "slice-0002.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "scan" / ".qctrun-4567cdef.dcm").write_bytes(b"half")
    assert read(tmp_path / "scan", calibration=LINE, material="HA").array.tobytes() == volume.array.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_in_the_way_is_named(tmp_path: Path, name: str) -> None:
    in_the_way = tmp_path / name.removesuffix("/")
    in_the_way.touch() if name.endswith("/") else in_the_way.mkdir()
    with pytest.raises(OutputError, match=f"cannot write {in_the_way}:"):
        stage(tmp_path, 1, overwrite=True)
    assert tree(tmp_path) == {in_the_way.name}


def test_a_read_only_folder_is_named(tmp_path: Path, small_disk: Path) -> None:
    volume = scan(tmp_path / "scan")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match="read-only"):
        write_dicom(volume, small_disk / "ct")


def test_the_scan_itself_is_never_replaced(tmp_path: Path) -> None:
    volume = scan(tmp_path / "scan")
    derived = write_dicom(volume, tmp_path / "ct")
    before = {path.name: path.read_bytes() for path in derived.iterdir()}
    names, inputs = ["ct/", "filter.run.json"], [derived]
    with (
        pytest.raises(OutputExistsError, match="leaves alone"),
        Staging(tmp_path, names, overwrite=True, inputs=inputs),
    ):
        pytest.fail("entered")
    assert {path.name: path.read_bytes() for path in derived.iterdir()} == before
    assert np.isfinite(volume.array).all()
