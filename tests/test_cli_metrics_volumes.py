"""`qctrun metrics` on volumes and local maps, as a user would type it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scans
from cli_outputs import table
from conftest import Program
from studies import study, values

from qctrun.runtime import Grid, Volume, local_maps, read, write
from qctrun.runtime.reading.maps import is_map, read_map
from qctrun.runtime.writing import read_record


@pytest.fixture
def volumes(fresh: Path) -> Path:
    """Three noisy densities of the synthetic scan, the truth, a mask, and the table of a precision study."""
    truth = scans.density()
    random = np.random.default_rng(1)
    write(truth, fresh / "truth.nii.gz")
    for number in range(3):
        noise = random.normal(2, 20, truth.array.shape).astype(np.float32)
        write(truth.with_array(truth.array + noise), fresh / f"scan{number}.nii.gz")
    scans.write_mask(fresh / "mask.nii.gz")
    (fresh / "study.csv").write_text(study())
    return fresh


SCANS = ("metrics", "scan0.nii.gz", "scan1.nii.gz", "scan2.nii.gz")


def test_voxels_of_repeated_scans_in_a_mask(volumes: Path, qctrun: Program) -> None:
    code, out, err = qctrun(*SCANS, "--truth", "truth.nii.gz", "--mask", "mask.nii.gz")
    assert code == 0, err
    found = values(table("metrics"), variable="voxel")
    assert float(found["rms_sd"]) == pytest.approx(20, rel=0.02)
    assert float(found["d_avg"]) == pytest.approx(2, abs=0.3)
    assert found["degrees_of_freedom"] == "2"
    assert "clusters            1" in out
    assert {row["ci95_low"] for row in table("metrics")} == {"n/a"}  # one object says nothing about others
    record = read_record(Path("qctrun-out/metrics.run.json"))
    assert [found["role"] for found in record["inputs"]] == ["image"] * 4 + ["mask"]


def test_labels_of_the_mask_are_clusters(volumes: Path, qctrun: Program) -> None:
    size = scans.SIZE
    labels = 1 + np.arange(np.prod(size)).reshape(size) * 4 // np.prod(size)
    write(Volume(labels.astype(np.float32), scans.grid(), "1"), "levels.nii.gz")
    code, _, err = qctrun(*SCANS, "--mask", "levels.nii.gz")
    assert code == 0
    assert "over 4 clusters" in err
    assert {row["clusters"] for row in table("metrics")} == {"4"}


def test_local_maps_need_no_mask_and_lose_no_word_on_empty_voxels(volumes: Path, qctrun: Program) -> None:
    names = []
    for number in range(2):
        maps = local_maps(read(f"scan{number}.nii.gz"), (225.0,), 1.548)
        for key, name in ((("BVTV", 225.0), "thr225_BVTVmap"), ("BMD", "BMDmap")):
            names.append(write(maps[key], f"s{number}_{name}.nii.gz"))
    code, _, err = qctrun("metrics", names[0], names[2])
    assert code == 0, err
    found = table("metrics")
    assert {row["variable"] for row in found} == {"BVTVmap"}
    whole = (20 - 4) * (44 - 8) * (44 - 8)
    assert {(row["points"], row["dropped"]) for row in found} == {(str(whole), "0")}
    assert 0 < float(values(found)["rms_sd"]) < 0.1
    assert 0.1 < float(values(found)["mean"]) < 0.9

    code, _, err = qctrun("metrics", names[0], names[3], "--overwrite")
    assert (code, "s1_BMDmap.nii.gz: quantity: wanted BVTVmap" in err) == (3, True)
    code, _, err = qctrun("metrics", names[0], "scan1.nii.gz", "--overwrite")
    assert (code, "wanted local maps only, got scan1.nii.gz" in err) == (2, True)
    code, _, err = qctrun("metrics", names[0], names[2], "--mask", "mask.nii.gz", "--overwrite")
    assert (code, "data points left out" in err) == (0, True)


def test_volumes_that_do_not_fit_are_refused(volumes: Path, qctrun: Program) -> None:
    assert "scans need --mask FILE" in qctrun(*SCANS).err
    assert "--subject is for tables" in qctrun(*SCANS, "--subject", "x").err
    assert "wanted each file once, got scan0.nii.gz twice" in qctrun(*SCANS, "scan0.nii.gz").err
    assert "wanted tables or volumes, got both" in qctrun(*SCANS, "study.csv").err
    small = Volume(np.ones((4, 5, 6), np.float32), Grid((4, 5, 6), (1.0, 1.0, 1.0)), "mg/cm3", "HA")
    write(small, "small.nii.gz")
    code, _, err = qctrun("metrics", "scan0.nii.gz", "small.nii.gz", "--mask", "mask.nii.gz")
    assert (code, "volume 2: wanted the grid of the first volume, got size (20, 44, 44) against" in err) == (
        3,
        True,
    )
    code, _, err = qctrun(*SCANS, "--truth", "small.nii.gz", "--mask", "mask.nii.gz")
    assert (code, "error: truth: wanted the grid" in err) == (3, True)
    other = scans.density()
    write(other.with_array(other.array, material="K2HPO4"), "other.nii.gz")
    code, _, err = qctrun("metrics", "scan0.nii.gz", "other.nii.gz", "--mask", "mask.nii.gz")
    assert (code, "volume 2: material: wanted HA as in the first volume, got K2HPO4" in err) == (3, True)
    code, _, err = qctrun("metrics", "scan0.nii.gz", "--mask", "mask.nii.gz")
    assert (code, "got one and no truth" in err) == (3, True)
    assert not Path("qctrun-out").exists()


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "mha", "nrrd"])
def test_a_map_comes_back_with_its_empty_voxels(volumes: Path, suffix: str) -> None:
    whole = local_maps(scans.density(), (225.0,), 1.548)["TMD", 225.0]
    path = write(whole, volumes / f"x_thr225_TMDmap.{suffix}")
    assert is_map(path)
    assert not is_map(volumes / "truth.nii.gz")
    found = read_map(path)
    np.testing.assert_array_equal(found.array, whole.array)
    assert not found.grid.difference(whole.grid)
    assert (found.unit, found.material, found.provenance["how"]["quantity"]) == ("mg/cm3", "HA", "TMDmap")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-40], "wanted a whole NIfTI file"),
        (lambda content: content[:-3], "wanted a whole map of float32"),
        (lambda content: content[:70] + b"\x08\x00" + content[72:], "wanted a whole map of float32"),
        (lambda content: content[:200], "fewer than a header has"),
    ],
)
def test_a_damaged_map_is_refused(
    volumes: Path, qctrun: Program, damage: Callable[[bytes], bytes], words: str
) -> None:
    path = write(local_maps(scans.density(), (225.0,), 1.548)["BMD"], "x_BMDmap.nii")
    path.write_bytes(damage(path.read_bytes()))
    code, _, err = qctrun("metrics", path, "--truth", path)
    assert (code, words in err, err.count("\n")) == (3, True, 1)
