"""`qctrun peel`, as a user would type it."""

import errno
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from cli_outputs import table
from conftest import Program

from qctrun.runtime.measuring.peel import peel
from qctrun.runtime.reading import load_label_map, read_labels
from qctrun.runtime.volume import Grid
from qctrun.runtime.writing import read_record

SPACING_MM = (0.5, 0.25, 0.25)
GRID = Grid((16, 32, 40), SPACING_MM, (1.0, 2.0, 3.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
PEELED = "labels_desc-peeled_mask"


def labels() -> "np.ndarray[tuple[int, ...], np.dtype[np.int32]]":
    values = np.zeros(GRID.size, np.int32)
    values[1:15, 2:30, 2:20], values[1:15, 2:30, 20:38] = 20, 300
    values[7, 16, 10] = 0
    return values


@pytest.fixture
def mask(fresh: Path) -> Path:
    """Two vertebrae as blocks that touch each other, with a hole of one voxel, named in a file beside."""
    image = sitk.GetImageFromArray(labels())
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin(GRID.origin)
    image.SetDirection(GRID.direction)
    sitk.WriteImage(image, "labels.nii.gz")
    Path("labels.json").write_text('{"LabelNames": {"20": "L1", "300": "vertebrae_L2"}}')
    return Path("labels.nii.gz")


def test_the_inside_is_written_on_the_same_grid_with_its_names(mask: Path, qctrun: Program) -> None:
    code, out, err = qctrun("peel", mask, "--mm", "1.5", "--out")
    assert code == 0, err
    wanted, found = peel(labels(), SPACING_MM, 1.5)
    path = Path("qctrun-out") / f"{PEELED}.nii.gz"
    np.testing.assert_array_equal(read_labels(path, GRID), wanted)
    stored, came = nibabel.load(path), nibabel.load(mask)
    assert stored.get_data_dtype() == np.int16
    np.testing.assert_allclose(stored.affine, came.affine)
    assert stored.header.get_intent()[0] == "label"
    assert (stored.header["qform_code"], stored.header["sform_code"]) == (1, 1)
    assert load_label_map(path).names == {20: "L1", 300: "vertebrae_L2"}
    head, names, first, second = out.splitlines()
    assert head == "1.5 mm peeled off; volumes in mm3, what is left as a share"
    assert names.split() == ["label", "name", "before_mm3", "filled_mm3", "after_mm3", "left", "pieces"]
    one = found[0]
    assert first.split()[:4] == [
        "20",
        "L1",
        f"{one.before_mm3:.1f}",
        f"{SPACING_MM[0] * SPACING_MM[1] ** 2:.1f}",
    ]
    assert second.split() == ["300", "vertebrae_L2", "220.5", "0.0", "24.0", "0.109", "1"]


def test_the_record_and_the_sidecar_say_what_was_done(mask: Path, qctrun: Program) -> None:
    code, out, err = qctrun("peel", mask, "--mm", "1.5", "--label-ids", "l1", "--keep", "all", "--json")
    assert code == 0, err
    (row,) = json.loads(out)
    assert (row["label"], row["name"], row["pieces"], row["largest_mm"]) == (20, "L1", 1, None)
    assert row["before_mm3"] == pytest.approx((labels() == 20).sum() * 0.03125)
    record = read_record(Path("qctrun-out/peel.run.json"))
    assert record["options"]["mm"] == 1.5
    assert [(each["role"], each["path"]) for each in record["outputs"]] == [
        ("labels", f"{PEELED}.nii.gz"),
        ("sidecar", f"{PEELED}.json"),
    ]
    sidecar = json.loads(Path("qctrun-out", f"{PEELED}.json").read_text())
    assert (sidecar["PeeledMM"], sidecar["Keep"], sidecar["LabelNames"]) == (1.5, "all", {"20": "L1"})
    assert load_label_map(Path("qctrun-out") / f"{PEELED}.nii.gz").present == (20,)


def test_a_label_that_is_not_asked_for_still_lies_outside(mask: Path, qctrun: Program) -> None:
    assert qctrun("peel", mask, "--mm", "1", "--label-ids", "20").code == 0
    found = load_label_map(Path("qctrun-out") / f"{PEELED}.nii.gz").array
    np.testing.assert_array_equal(found, peel(labels(), SPACING_MM, 1.0, only=[20])[0])
    assert not (found == 20)[:, :, 17:20].any()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--mm", "9"), 3, "take at most (label: mm) 20: 2.12, 300: 2.12"),
        (("--mm", "2.2", "--label-ids", "300"), 3, "300: 2.12"),
        (("--mm", "1", "--label-ids", "7"), 3, "label 7, got a map of 20, 300"),
        (("--mm", "1", "--label-ids", "L5"), 2, "none among 20 L1, 300 vertebrae_L2"),
        (("--mm", "0"), 2, "--mm"),
        ((), 2, "--mm"),
    ],
)
def test_what_cannot_be_peeled_is_refused_and_leaves_nothing(
    mask: Path, qctrun: Program, words: tuple[str, ...], code: int, said: str
) -> None:
    found, _, err = qctrun("peel", mask, *words)
    assert (found, said in err, err.count("\n")) == (code, True, 1), err
    assert not Path("qctrun-out").exists()


def test_what_happened_to_single_labels_is_warned_of(fresh: Path, qctrun: Program) -> None:
    values = np.zeros((12, 12, 40), np.uint8)
    values[0:11, 1:11, 1:11], values[1:11, 1:11, 20:38] = 1, 2
    values[:, :, 28:30], values[5, 5, 28:30], values[5:7, 5:7, 14:17] = 0, 2, 3
    sitk.WriteImage(sitk.GetImageFromArray(values), "m.mha")
    code, out, err = qctrun("peel", "m.mha", "--mm", "1.5")
    assert code == 0, err
    assert "labels of which nothing is left: 3 (at most 0.5 mm)" in err
    assert "labels at the border of the image, which was taken for their surface: 1" in err
    assert "of whose pieces only the largest is kept: 2 (2)" in err
    assert out.splitlines()[-1].split() == ["3", "n/a", "12.0", "0.0", "0.0", "0.000", "0"]
    assert len(read_record(Path("qctrun-out/peel.run.json"))["warnings"]) == 3
    largest = (nibabel.load("qctrun-out/m_desc-peeled_mask.nii.gz").get_fdata() == 2).sum()
    assert "fell apart" not in qctrun("peel", "m.mha", "--mm", "1.5", "--keep", "all", "--overwrite").err
    assert (nibabel.load("qctrun-out/m_desc-peeled_mask.nii.gz").get_fdata() == 2).sum() > largest


def test_names_may_come_from_a_file(mask: Path, qctrun: Program) -> None:
    Path("other.tsv").write_text("index\tname\n20\tT12\n")
    words = ("peel", mask, "--mm", "1.5", "--label-names", "other.tsv", "--label-ids", "T12", "--json")
    code, out, err = qctrun(*words)
    assert code == 0, err
    assert [(row["label"], row["name"]) for row in json.loads(out)] == [(20, "T12")]
    assert load_label_map(Path(f"qctrun-out/{PEELED}.nii.gz")).names == {20: "T12"}


def test_params_and_filter_take_the_inside(here: Path, qctrun: Program) -> None:
    scan = here / "scan"
    assert qctrun("peel", scan / "mask.nii.gz", "--mm", "0.5", "-o", "inside").code == 0
    inside = Path("inside/mask_desc-peeled_mask.nii.gz")
    assert nibabel.load(inside).get_data_dtype() == np.uint8
    for role in ("--mask", "--labels"):
        code, _, err = qctrun("params", "scan", role, inside, "-o", f"out{role}")
        assert code == 0, err
    rows = table("params", "out--labels")
    assert [row["label_id"] for row in rows] == ["n/a", "1"]
    assert rows[1]["voxels"] == str(int((load_label_map(inside).array == 1).sum()))
    code, _, err = qctrun("filter", "scan", "--mask", inside, "--device", "cpu")
    assert code == 0, err


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_a_stop_leaves_nothing(
    mask: Path, qctrun: Program, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def fail(*_: object) -> int:
        raise fault

    monkeypatch.setattr("gzip.GzipFile.write", fail)
    code, _, err = qctrun("peel", mask, "--mm", "1")
    assert (code, err.count("error:")) == (7 if isinstance(fault, OSError) else 130, 1), err
    assert not Path("qctrun-out").exists()


def test_an_earlier_run_is_replaced_only_when_asked(mask: Path, qctrun: Program) -> None:
    assert qctrun("peel", mask, "--mm", "1").code == 0
    first = (Path("qctrun-out") / f"{PEELED}.nii.gz").read_bytes()
    assert qctrun("peel", mask, "--mm", "1.5").code == 2
    assert (Path("qctrun-out") / f"{PEELED}.nii.gz").read_bytes() == first
    assert qctrun("peel", mask, "--mm", "1", "--overwrite").code == 0
    assert (Path("qctrun-out") / f"{PEELED}.nii.gz").read_bytes() == first


def test_large_labels_keep_their_numbers(fresh: Path, qctrun: Program) -> None:
    values = np.zeros((5, 6, 7), np.int32)
    values[1:4, 1:5, 1:6] = 70_000
    sitk.WriteImage(sitk.GetImageFromArray(values), "m.nrrd")
    assert qctrun("peel", "m.nrrd", "--mm", "1").code == 0
    stored = nibabel.load("qctrun-out/m_desc-peeled_mask.nii.gz")
    assert stored.get_data_dtype() == np.int32
    assert load_label_map("qctrun-out/m_desc-peeled_mask.nii.gz").present == (70_000,)


def test_the_help_names_what_is_written(qctrun: Program) -> None:
    assert "Take the trabecular inside of a vertebral mask." in qctrun("--help").out
    assert "peel.run.json" in qctrun("peel", "--help").out
