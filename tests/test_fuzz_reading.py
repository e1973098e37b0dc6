"""Damaged scans by the thousand: refused in one line, or read where their tags say; see `fuzzing`."""

import signal
from dataclasses import replace

import fuzzing
import fuzzing_dicom
import pytest

from qctrun.runtime.errors import InputError, OutOfMemoryError
from qctrun.runtime.reading import read

FEW, MANY = 40, 10_400


@pytest.mark.parametrize("family", fuzzing.FAMILIES)
def test_damaged_scans_are_refused_or_read_in_place(family):
    tally = fuzzing.run(family, 0, FEW)
    assert tally.faults == []
    assert tally.outcomes[family]["read"] >= 3  # or nothing was tested but refusals
    assert tally.total == FEW


@pytest.mark.slow
def test_ten_thousand_damaged_scans_are_refused_or_read_in_place():
    total = 0
    for family, share in zip(fuzzing.FAMILIES, fuzzing.SHARES, strict=True):
        tally = fuzzing.run(family, 10_000, MANY * share // sum(fuzzing.SHARES))
        assert tally.faults == []
        total += tally.total
    assert total >= 10_000


@pytest.mark.parametrize("family", fuzzing.FAMILIES)
def test_what_is_not_damaged_is_read(family, tmp_path):
    assert fuzzing.judged(fuzzing.cases_of(family).case(family, 0, tmp_path / "case")) == ("read", "")


def test_a_seed_is_the_same_case_each_time(tmp_path):
    for family in fuzzing.FAMILIES:
        cases = []
        for name in ("one", "two"):
            folder = tmp_path / family / name
            fuzzing.cases_of(family).case(family, 7, folder)
            cases.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert cases[0] == cases[1]


def test_a_wrong_place_a_hang_and_a_crash_are_faults(tmp_path, monkeypatch):
    """The judge sees what it is there for."""

    def raised(error):
        def action():
            raise error

        return fuzzing.judged(action)[0]

    assert raised(InputError("a", wanted="b")) == "refused"
    assert raised(OutOfMemoryError("a")) == "greed"
    assert raised(fuzzing.WrongPlaceError("elsewhere")) == "wrong"
    assert raised(ValueError("a")) == "traceback"
    monkeypatch.setattr(fuzzing, "CASE_SECONDS", 0.2)
    before = signal.signal(signal.SIGALRM, fuzzing._ring)
    try:
        assert fuzzing.judged(lambda: [None for _ in iter(int, 1)])[0] == "hang"
    finally:
        signal.signal(signal.SIGALRM, before)
    script = tmp_path / "worker.py"
    script.write_text("import ctypes, time; print('read\\t', flush=True); ctypes.string_at(0)")
    monkeypatch.setattr(fuzzing, "__file__", str(script))
    tally = fuzzing.run("mha", 0, 2)
    assert tally.outcomes["mha"] == {"read": 1, "crash": 1}


def test_moved_tags_are_seen_by_the_oracle(tmp_path):
    """Another geometry than that of the files is called wrong, whichever part of it it is."""
    fuzzing_dicom.case("dicom-tags", 0, tmp_path)
    volume = read(tmp_path, calibration=(1.0, 0.0), material="HA")
    fuzzing_dicom.require_place(volume, tmp_path)
    grid = volume.grid
    x, y, z = grid.origin
    for other in (
        replace(grid, origin=(x, y, z + 1)),
        replace(grid, spacing=(grid.spacing[0] * 1.5, *grid.spacing[1:])),
        replace(grid, spacing=(grid.spacing[0], grid.spacing[2], grid.spacing[1])),
        replace(grid, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)),
    ):
        with pytest.raises(fuzzing.WrongPlaceError):
            fuzzing_dicom.require_place(replace(volume, grid=other), tmp_path)
    with pytest.raises(fuzzing.WrongPlaceError):
        fuzzing_dicom.require_place(volume.with_array(volume.array[::-1]), tmp_path)
