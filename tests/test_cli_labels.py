"""Masks and labels of other tools at the command line: names, numbers, other grids."""

import json
from pathlib import Path

import numpy as np
import pytest
import scans
import SimpleITK as sitk
from cli_outputs import table
from conftest import Program

from qctrun.runtime.volume import Grid
from qctrun.runtime.writing import read_record

CPU = ("--device", "cpu")


def labels() -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    values = np.zeros(scans.SIZE, np.uint8)
    values[:, 15:30, 15:22], values[:, 15:30, 22:30] = 20, 21
    return values


def write_map(path: Path, values: object = None, grid: Grid | None = None) -> Path:
    """A label map on the grid of the scans, or on another one."""
    grid = grid or scans.grid()
    image = sitk.GetImageFromArray(labels() if values is None else values)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def maps(here: Path) -> Path:
    """A scan, its label map and a lookup of its names."""
    write_map(here / "labels.nii.gz")
    (here / "names.tsv").write_text("index\tname\n20\tL1\n21\tL2\n22\tL3\n")
    return here


def named(folder: str = "qctrun-out") -> list[tuple[str, str]]:
    return [(row["label_id"], row["label_name"]) for row in table("params", folder)]


def test_rows_have_the_names_of_a_lookup(maps: Path, qctrun: Program) -> None:
    words = ("params", "scan", "--labels", "labels.nii.gz", "--label-names", "names.tsv", *CPU)
    code, out, err = qctrun(*words)
    assert code == 0, err
    assert named() == [("n/a", "whole mask"), ("20", "L1"), ("21", "L2")]
    assert [line.split()[0:2] for line in out.splitlines()[3:]] == [["20", "L1"], ["21", "L2"]]
    roles = {each["role"]: each for each in read_record(Path("qctrun-out/params.run.json"))["inputs"]}
    assert roles["labels"]["fit"] == "as stored"
    assert len(roles["label_names"]["sha256"]) == 64
    assert json.loads(Path("qctrun-out/params.json").read_text())["label_name"]["Description"].endswith(".")


def test_names_beside_the_map_are_found_and_no_name_is_not_available(maps: Path, qctrun: Program) -> None:
    (maps / "labels.json").write_text('{"labels": {"vertebra 20": 20}}')
    code, out, err = qctrun("params", "scan", "--labels", "labels.nii.gz", "--json", *CPU)
    assert code == 0, err
    assert [row["label_name"] for row in json.loads(out)] == ["whole mask", "vertebra 20", None]
    assert named()[1:] == [("20", "vertebra 20"), ("21", "n/a")]


def test_labels_are_asked_for_by_name(maps: Path, qctrun: Program) -> None:
    words = ("params", "scan", "--labels", "labels.nii.gz", "--label-names", "names.tsv", *CPU)
    code, _, err = qctrun(*words, "--label-ids", "vertebrae_l2")
    assert code == 0, err
    assert named() == [("n/a", "whole mask"), ("21", "L2")]
    code, _, err = qctrun(*words, "--label-ids", "20, L2", "-o", "both")
    assert code == 0, err
    assert named("both")[1:] == [("20", "L1"), ("21", "L2")]
    code, _, err = qctrun(*words, "--label-ids", "L3", "-o", "none")
    assert code == 2
    assert err.splitlines()[-1].endswith("wanted one label called 'L3', got none among 20 L1, 21 L2")
    assert not Path("none").exists()


@pytest.mark.parametrize("asked", ["", "20,", "0", "-3", "2.5", "20;21"])
def test_what_is_neither_a_number_nor_a_name_is_refused(maps: Path, qctrun: Program, asked: str) -> None:
    code, _, err = qctrun("params", "scan", "--labels", "labels.nii.gz", "--label-ids", asked)
    assert (code, err.count("\n")) == (2, 1)
    assert "whole numbers above 0 or names" in err


def test_names_without_labels_are_refused(maps: Path, qctrun: Program) -> None:
    code, _, err = qctrun("params", "scan", "--label-names", "names.tsv")
    assert (code, "--label-names needs --labels FILE" in err) == (2, True)
    code, _, err = qctrun("filter", "scan", "--label-names", "names.tsv")
    assert (code, "--label-names is about measuring and needs --params" in err) == (2, True)


def test_a_lookup_that_contradicts_the_map_is_warned_of(maps: Path, qctrun: Program) -> None:
    (maps / "labels.json").write_text('{"LabelNames": {"20": "colon", "21": "L2"}}')
    words = ("params", "scan", "--labels", "labels.nii.gz", "--label-names", "names.tsv", *CPU)
    code, _, err = qctrun(*words)
    assert code == 0, err
    warning = (
        "labels.nii.gz itself calls its labels otherwise than --label-names: 20 colon (--label-names: L1)"
    )
    assert warning in err
    assert warning in read_record(Path("qctrun-out/params.run.json"))["warnings"]


def test_a_crop_is_placed_and_said(maps: Path, qctrun: Program) -> None:
    assert qctrun("params", "scan", "--labels", "labels.nii.gz", "-o", "whole", *CPU).code == 0
    place = Grid((20, 20, 20), scans.SPACING_MM, tuple(scans.grid().world((0, 12, 13))))
    write_map(maps / "crop.nii.gz", labels()[:, 12:32, 13:33], place)
    code, _, err = qctrun("params", "scan", "--labels", "crop.nii.gz", *CPU)
    assert code == 0, err
    assert "placed there without interpolation" in err
    record = read_record(Path("qctrun-out/params.run.json"))
    (source,) = [each for each in record["inputs"] if each["role"] == "labels"]
    assert (source["fit"], source["offset_zyx"]) == ("placed by whole voxels", [0, 12, 13])
    keys = ("label_id", "voxels", "bmd_mg_cm3", "local_bmd_mean_mg_cm3")
    rows = [[[row[key] for key in keys] for row in table("params", out)] for out in ("whole", "qctrun-out")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("verb", ["params", "filter"])
def test_another_grid_is_resampled_only_when_asked(maps: Path, qctrun: Program, verb: str) -> None:
    other = Grid((10, 50, 60), (0.7, 0.15, 0.13), scans.ORIGIN_MM)
    write_map(maps / "other.nii.gz", np.ones(other.size, np.uint8), other)
    code, _, err = qctrun(verb, "scan", "--mask", "other.nii.gz", *CPU)
    assert (code, err.splitlines()[-1].count("say --resample-labels")) == (3, 1)
    assert not Path("qctrun-out").exists()
    code, _, err = qctrun(verb, "scan", "--mask", "other.nii.gz", "--resample-labels", *CPU)
    assert code == 0, err
    assert err.count("was resampled to the scan's grid (nearest neighbour") == 1
    record = read_record(Path(f"qctrun-out/{verb}.run.json"))
    (mask,) = [each for each in record["inputs"] if each["role"] == "mask"]
    assert (mask["fit"], mask["to_spacing_zyx_mm"]) == ("nearest neighbour", list(scans.SPACING_MM))
    assert record["options"]["resample_labels"] is True
    assert any("was resampled" in warning for warning in record["warnings"])


def test_filter_and_params_in_one_resample_alike(maps: Path, qctrun: Program) -> None:
    other = Grid((10, 50, 60), (0.7, 0.15, 0.13), scans.ORIGIN_MM)
    write_map(maps / "other.nii.gz", np.full(other.size, 20, np.uint8), other)
    words = ("--labels", "other.nii.gz", "--label-names", "names.tsv", "--resample-labels", *CPU)
    code, _, err = qctrun("filter", "scan", "--params", *words, "-o", "one")
    assert code == 0, err
    assert named("one")[1] == ("20", "L1")
    assert qctrun("filter", "scan", "-o", "two", *CPU).code == 0
    assert qctrun("params", "-o", "two", *words).code == 0
    assert table("params", "one")[1]["bmd_mg_cm3"] == table("params", "two")[1]["bmd_mg_cm3"]


def test_the_vertebrae_of_a_real_label_map_have_their_names(data: Path, fresh: Path, qctrun: Program) -> None:
    folder = data / "thoracic_ct_jpeg2000"
    words = ("--labels", folder / "example_seg_dicom.nii.gz", "--label-ids", "T12,vertebrae_T11", *CPU)
    code, _, err = qctrun("params", folder / "example_ct_dicom", *words)
    assert code == 0, err
    assert named() == [("n/a", "whole mask"), ("32", "vertebrae_T12"), ("33", "vertebrae_T11")]
    assert [row["voxels"] for row in table("params")] == ["33506", "23576", "9930"]
