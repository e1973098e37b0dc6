"""The dataset of pairs: what goes in comes out, scan after scan, and nothing is told that must not be."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from tiny_pairs import HEADER, SMALL, SPACING_MM, OneAtATime, dataset, small  # noqa: E402

from qctrun.runtime.errors import InputError, RuntimeMissingError  # noqa: E402
from qctrun.train.pairs.dataset import (  # noqa: E402
    SCHEMA,
    PairedSpecimen,
    join,
    read_pairs,
    write_specimen,
)

ARRAYS = ("truth", "mask", "scans", "currents_mas", "repetitions", "positions")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two specimens of two donors, one without a position."""
    folder = tmp_path_factory.mktemp("study")
    return dataset(folder, small("B1", positions=[]), small("A1"))


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    return str(caught.value)


def test_what_was_written_is_read(study):
    pairs = read_pairs(study)
    assert (pairs.spacing_mm, pairs.material, pairs.header, pairs.donors) == (
        SPACING_MM,
        "HA",
        HEADER,
        ["A", "B"],
    )
    for found, wanted in zip(pairs.specimens, (small("A1"), small("B1", positions=[])), strict=True):
        assert (found.name, found.donor) == (wanted.name, wanted.donor)
        for name in ARRAYS:
            got, want = getattr(found, name), getattr(wanted, name)
            np.testing.assert_array_equal(got, want)
            assert got.dtype == want.dtype
            assert got.shape == want.shape
    assert [found.scans.dtype for found in pairs.specimens] == [np.float32] * 2


def test_file_and_folder_are_the_same(study):
    assert read_pairs(study / "pairs.h5").digest == read_pairs(study).digest


def test_layout(study):
    """What another program may rely on."""
    with h5py.File(study / "pairs.h5") as file:
        assert file.attrs["schema"] == SCHEMA == "qctrun/pairs/1"
        assert tuple(file.attrs["spacing_zyx_mm"]) == SPACING_MM
        assert (file.attrs["unit"], file.attrs["material"]) == ("mg/cm3", "HA")
        assert json.loads(file.attrs["study"]) == HEADER
        group = file["specimens/A1"]
        assert group.attrs["donor"] == "A"
        assert json.loads(group.attrs["provenance"])["scans"][0]["name"] == "100mAs-0"
        assert set(group) == set(ARRAYS)
        scans = group["scans"]
        assert (scans.shape, scans.dtype, scans.chunks[0]) == ((3, 22, 42, 43), np.float32, 1)
        assert (scans.compression, scans.shuffle, scans.fletcher32) == ("gzip", True, True)


def test_scans_are_asked_for_one_by_one(tmp_path):
    scans = OneAtATime(6, SMALL["size"])
    write_specimen(tmp_path / "a.h5", small(currents=(100.0,) * 6, scans=scans), SPACING_MM, "HA")
    assert scans.asked == list(range(6))
    assert scans.most <= 2  # the next is made before the name of the last is free
    found = read_pairs(tmp_path / "a.h5").specimens[0].scans
    assert [scan[0, 0, 0] for scan in found] == list(range(6))


def test_the_same_pairs_are_the_same_bytes(study, tmp_path):
    again = dataset(tmp_path, small("B1", positions=[]), small("A1"))
    assert (again / "pairs.h5").read_bytes() == (study / "pairs.h5").read_bytes()


def test_long_texts_and_strange_names(tmp_path):
    """A header of more than the 64 kB that one HDF5 attribute has room for by default, and letters of any script."""
    header = {"words": "äμ語" * 50_000, "nothing": None, "not a number": float("nan")}
    folder = dataset(tmp_path, small("Ä-1.b", donor="母"), header=header)
    pairs = read_pairs(folder)
    assert pairs.header == {**header, "not a number": None}
    assert (pairs.specimens[0].name, pairs.donors) == ("Ä-1.b", ["母"])


def test_no_name_of_a_file_or_series_is_kept(tmp_path):
    """Typed from the folder of the study, paths are relative; folders and files are named after people."""
    inputs = [{"path": "jane/hrpqct.nii.gz", "sha256": "12"}, {"path": "jane.nii", "sha256": "34"}]
    scan = {"series_uid": "1.2.3", "frame_of_reference_uid": "1.2.4", "kernel": "YB"}
    told = {"inputs": inputs, "slice_folders": ["jane/S1", "."], "stem": "jane", "scan": scan}
    folder = dataset(
        tmp_path,
        replace(small(), provenance=told),
        header={"calibration": {"file": "jane/line.json", "by": "file"}},
    )
    pairs = read_pairs(folder)
    assert pairs.header == {"calibration": {"by": "file"}}
    kept = {"inputs": [{"sha256": "12"}, {"sha256": "34"}], "scan": {"kernel": "YB"}}
    assert pairs.specimens[0].provenance == kept
    content = (folder / "pairs.h5").read_bytes()
    assert b"jane" not in content
    assert b"1.2.3" not in content


def test_no_absolute_path_is_kept(study, tmp_path):
    told = {
        "what": "/home/jane/scan.nii",
        "more": [{"C:\\Users\\jane\\x.dcm": r"\\server\jane\y.dcm"}],
        "how": "a/b, /",
    }
    found = replace(small(), provenance=told)
    folder = dataset(tmp_path, found, header={"study": str(tmp_path / "study.toml")})
    pairs = read_pairs(folder)
    assert pairs.header == {"study": "study.toml"}
    assert pairs.specimens[0].provenance == {
        "what": "scan.nii",
        "more": [{"x.dcm": "y.dcm"}],
        "how": "a/b, /",
    }
    content = (folder / "pairs.h5").read_bytes()
    assert b"jane" not in content
    assert str(tmp_path).encode() not in content
    assert b"someone" not in (study / "pairs.h5").read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": ".."}, "name"),
        ({"donor": ""}, "donor"),
        ({"mask": np.ones((22, 42, 42), bool)}, "mask"),
        ({"currents_mas": np.array([100.0, 250.0])}, "scan"),
        ({"currents_mas": np.array([100.0, 100.0, np.nan])}, "tube current"),
        ({"currents_mas": np.array([100.0, 100.0, -250.0])}, "tube current"),
        ({"repetitions": np.array([1, 1, 1])}, "twice"),
        ({"positions": np.array([(2, 0, 0)])}, "inside"),
        ({"positions": np.array([(-1, 0, 0)])}, "inside"),
        ({"positions": np.array([(0, 0)])}, "inside"),
        ({"positions": np.array([(0, 0, 0), (0, 0, 0)])}, "twice"),
    ],
)
def test_a_specimen_that_contradicts_itself_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        replace(small(), **changes)


def test_a_scan_of_another_shape_is_refused(tmp_path):
    scans = [np.zeros(SMALL["size"], np.float32)] * 2 + [np.zeros((22, 42, 42), np.float32)]
    with pytest.raises(InputError, match="scan 3"):
        write_specimen(tmp_path / "a.h5", small(scans=scans), SPACING_MM, "HA")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["scans", "truth"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_patch_must_be_known_in_every_scan(tmp_path, where, value):
    """A corner that no patch holds may be unknown; a voxel of a patch may not."""
    spoilt = small(positions=[(0, 0, 0)])
    getattr(spoilt, where)[..., 21, 41, 42] = value
    write_specimen(tmp_path / "a.h5", spoilt, SPACING_MM, "HA")
    assert not np.isfinite(getattr(read_pairs(tmp_path / "a.h5").specimens[0], where)[..., 21, 41, 42]).any()
    getattr(spoilt, where)[..., 20, 40, 40] = value
    write_specimen(tmp_path / "a.h5", spoilt, SPACING_MM, "HA")
    assert "A1" in refused(tmp_path / "a.h5")


def test_parts_that_do_not_belong_together(tmp_path):
    write_specimen(tmp_path / "a.h5", small(), SPACING_MM, "HA")
    for name, spacing_mm, material in (
        ("A1", SPACING_MM, "HA"),
        ("B1", (0.3, 0.172, 0.172), "HA"),
        ("B1", SPACING_MM, "K2HPO4"),
    ):
        write_specimen(tmp_path / "b.h5", small(name), spacing_mm, material)
        with pytest.raises(InputError, match=r"b\.h5"):
            join([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "pairs.h5", {})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]
    with pytest.raises(InputError):
        join([], tmp_path / "pairs.h5", {})


def test_digest_is_of_what_is_trained_on(study):
    pairs = read_pairs(study)
    first, second = pairs.specimens
    same = replace(pairs, specimens=(replace(first, provenance={}), second), header={})
    assert same.digest == pairs.digest
    others = [
        replace(pairs, spacing_mm=(0.34, 0.172, 0.171)),
        replace(pairs, material="K2HPO4"),
        replace(pairs, specimens=(first,)),
        *(replace(pairs, specimens=(other, second)) for other in _changed(first)),
    ]
    assert len({other.digest for other in (pairs, *others)}) == 1 + len(others)


def _changed(one: PairedSpecimen):
    yield replace(one, donor="C")
    yield replace(one, name="A2")
    yield replace(one, positions=one.positions[:1])
    yield replace(one, repetitions=one.repetitions + 1)
    yield replace(one, currents_mas=one.currents_mas + 1)
    for name in ("truth", "mask", "scans"):
        array = getattr(one, name).copy()
        array[..., 0, 0, 0] = 0
        yield replace(one, **{name: array})


def test_without_h5py_it_says_what_to_type(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RuntimeMissingError, match=r'pip install "qctrun\[pairs\]"'):
        read_pairs(study)
