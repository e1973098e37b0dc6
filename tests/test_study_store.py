"""Readings that are kept: found again, made anew when damaged or when made from something else."""

import numpy as np
import pytest

from qctrun.runtime.errors import OutputError
from qctrun.train.study.store import Store

MADE_FROM = {"subject": "a", "mas": 100.0}


def made(value=1.0):
    rng = np.random.default_rng(0)
    return {
        "voxel": rng.normal(value, 1, 300).astype(np.float32),
        "BV/TV": np.full((2, 3), value, np.float32),
    }


def never():
    raise AssertionError("made again")


def same(one, other):
    assert set(one) == set(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


def test_kept_readings_are_read_by_the_next_program(tmp_path):
    same(Store(tmp_path).kept("a/raw-100", MADE_FROM, made), made())
    same(Store(tmp_path).kept("a/raw-100", MADE_FROM, never), made())


@pytest.mark.parametrize("other", [{"mas": 250.0}, {"subject": "b"}, {"version": ""}])
def test_what_is_made_from_something_else_is_made(tmp_path, other):
    store = Store(tmp_path)
    store.kept("a/raw-100", MADE_FROM, made)
    found = store.kept("a/raw-100", {**MADE_FROM, **other}, lambda: made(9.0))
    assert found["BV/TV"][0, 0] == 9


def test_damage_anywhere_is_mended_and_never_read(tmp_path):
    """Each third byte turned over, and the file cut short: what comes back is whole, and so is the file then."""
    Store(tmp_path).kept("a", MADE_FROM, made)
    (path,) = tmp_path.glob("*.npz")
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), 101)]
    for place in range(0, len(whole), 3):
        turned = bytearray(whole)
        turned[place] ^= 0xFF
        damaged.append(bytes(turned))
    for content in damaged:
        path.write_bytes(content)
        same(Store(tmp_path).kept("a", MADE_FROM, made), made())


def test_a_store_without_a_folder_makes_once_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(None)
    store.kept("a", MADE_FROM, made)
    same(store.kept("a", MADE_FROM, never), made())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        Store(tmp_path / "file").kept("a", MADE_FROM, made)
