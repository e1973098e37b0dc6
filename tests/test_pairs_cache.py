"""What a run keeps: whole or not at all, trusted only when its key fits and its bytes are as they were."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qctrun.runtime.errors import InputError, OutputError
from qctrun.train.pairs.cache import Cache, Entry, key_of, stamp_of
from qctrun.train.pairs.walked import Walked, load_walked, part_of, save_walked

ARRAYS = {"hu": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "mask": np.array([True, False])}
ENTRY = Entry({"grid": {"size": (2, 3, 4)}, "shift_mm": 0.1 + 0.2}, ARRAYS)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "out" / ".cache")


def test_an_entry_comes_back_as_it_was(cache: Cache) -> None:
    saved = cache.save("A1/fixed", "key", ENTRY)
    found = cache.load("A1/fixed", "key")
    assert found is not None
    assert found.facts == saved.facts == {"grid": {"size": [2, 3, 4]}, "shift_mm": 0.1 + 0.2}
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_another_key_is_no_entry_and_takes_the_slot(cache: Cache) -> None:
    cache.save("A1/fixed", "old", ENTRY)
    assert cache.load("A1/fixed", "new") is None
    cache.save("A1/fixed", "new", Entry({"now": 1}, {}))
    assert cache.load("A1/fixed", "old") is None
    assert [path.name for path in cache.folder.rglob("*") if path.is_file()] == ["fixed.npz"]


def test_what_is_there_is_not_made_again(cache: Cache) -> None:
    made = []

    def make() -> Entry:
        made.append(1)
        return ENTRY

    first = cache.entry("A1/fixed", "key", make)
    second = cache.entry("A1/fixed", "key", make)
    assert first.facts == second.facts
    assert len(made) == 1


def test_any_byte_that_changes_or_any_end_that_is_cut_off_makes_it_no_entry(cache: Cache) -> None:
    saved = cache.save("A1/fixed", "key", ENTRY)
    path = cache.folder / "A1/fixed.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        found = cache.load("A1/fixed", "key")
        # Some bytes of a zip mean nothing to a reader; then what comes back is what was there.
        assert found is None or _same(found, saved), place
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        assert cache.load("A1/fixed", "key") is None


def _same(one: Entry, other: Entry) -> bool:
    alike = one.facts == other.facts and one.arrays.keys() == other.arrays.keys()
    return alike and all(np.array_equal(one.arrays[name], array) for name, array in other.arrays.items())


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=300))
def test_rubbish_is_no_entry(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    cache = Cache(tmp_path_factory.mktemp("rubbish"))
    (cache.folder / "fixed.npz").write_bytes(content)
    assert cache.load("fixed", "key") is None


def test_a_write_that_is_stopped_leaves_the_earlier_entry(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.save("A1/fixed", "old", ENTRY)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "write_array", stop)
    with pytest.raises(KeyboardInterrupt):
        cache.save("A1/fixed", "new", ENTRY)
    assert cache.load("A1/fixed", "old") is not None
    assert [path.name for path in cache.folder.rglob("*") if path.is_file()] == ["fixed.npz"]


def test_a_disk_that_refuses_is_an_output_error(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OutputError, match="space"):
        cache.save("A1/fixed", "key", ENTRY)
    assert not [path for path in cache.folder.rglob("*") if path.is_file()]


def test_only_one_run_at_a_time_and_leftovers_go(cache: Cache) -> None:
    with cache.alone():
        left = cache.path("A1/.fixed.npz.1.part")
        left.touch()
        with pytest.raises(OutputError, match="another run"), Cache(cache.folder).alone():
            pass
    assert not left.exists()
    left.touch()  # a run that was killed
    with cache.alone():
        assert not left.exists()


def test_keys_depend_on_all_that_decides() -> None:
    keys = {
        key_of("fixed", 1, 0.34, None),
        key_of("fixed", 2, 0.34, None),
        key_of("registered", 1, 0.34, None),
        key_of("fixed", 1, 0.35, None),
        key_of("fixed", 1, 0.34),
        key_of("fixed", 1, None, 0.34),
    }
    assert len(keys) == 6
    assert key_of("fixed", 1, (0.34, 1), Path("a")) == key_of("fixed", 1, [0.34, 1], "a")


def test_a_stamp_sees_every_change_of_a_file_and_its_companions(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"12")
    stamps = [stamp_of(scan)]
    assert stamp_of(scan) == stamps[0]
    os.utime(scan, ns=(1, 1))
    stamps.append(stamp_of(scan))
    scan.write_bytes(b"123")
    os.utime(scan, ns=(1, 1))
    stamps.append(stamp_of(scan))
    (tmp_path / "scan.json").write_text("{}")
    stamps.append(stamp_of(scan))
    (tmp_path / "scanner.json").write_text("{}")
    assert stamp_of(scan) == stamps[-1]
    assert len({repr(stamp) for stamp in stamps}) == 4


def test_a_stamp_of_a_folder_sees_every_file(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "1.dcm").write_bytes(b"1")
    before = stamp_of(folder)
    (folder / "2.dcm").write_bytes(b"2")
    assert stamp_of(folder) != before
    assert len(stamp_of(folder)) == 2


def test_a_stamp_of_nothing_is_refused(tmp_path: Path) -> None:
    assert stamp_of(None) == []
    with pytest.raises(InputError, match="no such file"):
        stamp_of(tmp_path / "scan.nii.gz")


def test_a_walk_is_found_again_while_its_files_are_whole(cache: Cache) -> None:
    sums = {part_of("A1"): cache.save_bytes(part_of("A1"), b"dataset")}
    row = {"specimen": "A1", "slope": None}
    walked = Walked("A1", "HA", (row,), {"a.png": "A1/a.png"}, sums, {}, ({"role": "mask"},), ("beware",))
    save_walked(cache, "key", walked)
    assert load_walked(cache, "key", "A1") == walked
    assert load_walked(cache, "other", "A1") is None
    (cache.folder / part_of("A1")).write_bytes(b"damaged")
    assert load_walked(cache, "key", "A1") is None
    assert load_walked(cache, "key", "A1", look_at_files=False) == walked
