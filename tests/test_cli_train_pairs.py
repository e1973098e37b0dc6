"""`qctrun train --pairs`: real pairs in, a network, its scores and its card out; and how it refuses."""

import json
import re

import numpy as np
import pytest
from tiny_pairs import SPACING_MM, dataset, specimen

torch = pytest.importorskip("torch")
pytest.importorskip("h5py")

from qctrun.runtime import Grid, Volume  # noqa: E402
from qctrun.runtime.filtering import load_model  # noqa: E402
from qctrun.runtime.writing import write  # noqa: E402

RECIPE = """
channels = [2, 2, 2, 2, 2]
residual = true
truths_per_step = 1
scans_per_truth = 2
steps_per_epoch = 2
epochs = 1
"""
COARSE_MM = (0.3, 0.3, 0.3)
CURRENTS = {"A": (100.0, 250.0, 100.0, 100.0), "B": (100.0,), "C": (100.0, 250.0)}


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def study_of(folder, **more):
    """Three donors, of whom one has four scans, one a single one, and one two."""
    return dataset(folder, *(specimen(f"{donor}1", currents=CURRENTS[donor]) for donor in "ABC"), **more)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("study"))


@pytest.fixture
def tiny(fresh):
    (fresh / "tiny.toml").write_text(RECIPE)
    return fresh


def train(qctrun, study, *words):
    return qctrun(
        "train", "--pairs", study, "--recipe", "tiny.toml", "--threads", "1", "--device", "cpu", *words
    )


def test_donors_held_apart(study, tiny, qctrun):
    said = train(qctrun, study)
    assert said.code == 0, said.err
    out = tiny / "runs" / "tiny-pairs"
    assert {path.name for path in out.iterdir()} == {"checkpoint.pt", "log.csv", "training.json"}
    assert "next: qctrun export runs/tiny-pairs" in said.err
    assert "real pairs never seen in training, threshold 225 mg/cm3, spheres of 4.3 mm" in said.out
    notes = json.loads((out / "training.json").read_text())
    assert notes["data"] == "real pairs"
    assert notes["donors"] == {"train": ["A"], "validation": ["B"], "test": ["C"]}
    assert (notes["tube_currents_mas"], notes["repetitions"]) == ([100.0, 250.0], 3)
    assert (notes["spacing_mm"], notes["sphere_mm"], notes["material"]) == (list(SPACING_MM), 4.3, "HA")
    assert [one["name"] for one in notes["pairs"]["specimens"]] == ["A1", "B1", "C1"]
    assert notes["pairs"]["scanner"]["kernel"] == ["B70s"]
    (rows,) = notes["scores"].values()
    assert [row["mas"] for row in rows] == [100.0] * 9 + [250.0] * 9
    assert {row["filter"] for row in rows} == {"raw", "NNSP", "BMD line"}
    for private in ("1.2.840", "someone", str(tiny), str(study)):
        assert private not in (out / "training.json").read_text()


def test_the_same_words_go_on(study, tiny, qctrun):
    first, again = train(qctrun, study / "pairs.h5", "-o", "run"), train(qctrun, study, "-o", "run")
    assert (first.code, again.code) == (0, 0), again.err
    assert again.out == first.out
    assert "epoch 1" not in again.err
    longer = train(qctrun, study, "-o", "run", "--epochs", "2")
    assert "epoch 2" in longer.err


def test_from_pairs_to_a_filtered_scan(tiny, tmp_path, qctrun):
    """Another grid and another material than the paper's: the model knows both, and says so."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    study = study_of(tmp_path / "study", spacing_mm=COARSE_MM, material="K2HPO4")
    said = train(qctrun, study, "-o", "run")
    assert said.code == 0, said.err
    assert "spheres of 3.9 mm" in said.out
    said = qctrun("export", "run", "-o", "mine.onnx")
    assert said.code == 0, said.err
    card = load_model(tiny / "mine.onnx").card
    assert (card.spacing_mm, card.material) == (COARSE_MM, "K2HPO4")
    assert card.training["pairs"]["specimens"][1]["scans"] == {"100": 1}
    words = (tiny / "mine.md").read_text()
    for wanted in (
        "Density (mg K2HPO4/cm3) in",
        "made for 0.3 x 0.3 x 0.3 mm",
        "real pairs at 100, 250 mAs, of donors A (8 patches)",
        "stopped by donors B",
        "C1 of C (8 positions; scans: 1 at 100 mAs, 1 at 250 mAs)",
        "MAKER, kernel B70s, 120 kVp; reference: OTHER",
        "by reference, slopes 0.8 to 0.83 mg/cm3 per HU, intercepts 2 mg/cm3",
        "by mutual information, 7 scans, 2 of them kept although doubted",
        "no test patch shares a voxel with a training patch",
        "spheres of 3.9 mm",
        "Scores on donors never seen in training",
        "### real pairs",
    ):
        assert wanted in words
    assert "simulated" not in words
    assert_it_filters(tiny, qctrun)


def assert_it_filters(folder, qctrun):
    array = np.random.default_rng(0).normal(150, 200, (12, 30, 25)).astype(np.float32)
    scan = Volume(array, Grid(array.shape, COARSE_MM), "mg/cm3", "K2HPO4")
    write(scan, folder / "scan.nii.gz")
    said = qctrun("filter", "scan.nii.gz", "--model", "mine.onnx", "-o", "out", "--device", "cpu")
    assert said.code == 0, said.err
    assert "spacing" not in said.err
    other = Volume(array, Grid(array.shape, SPACING_MM), "mg/cm3", "K2HPO4")
    write(other, folder / "other.nii.gz")
    said = qctrun("filter", "other.nii.gz", "--model", "mine.onnx", "-o", "out2", "--device", "cpu")
    assert "spacing" in said.err


def test_folds_of_positions(study, tiny, qctrun):
    """Test patches share tissue with training patches, as in the paper, and the notes count them."""
    said = train(qctrun, study, "--split", "positions", "--folds", "1")
    assert said.code == 0, said.err
    assert "fold 1: positions never seen in training, in bones that were" in said.out
    notes = json.loads((tiny / "runs" / "tiny-pairs-positions" / "fold-1" / "training.json").read_text())
    assert notes["patches"] == {"train": 17, "validation": 2, "test": 5}
    assert notes["split"] == {"by": "positions", "test_patches_that_overlap_training": 5}
    assert notes["donors"]["train"] == ["A", "B", "C"]


def test_folds_of_donors(study, tiny, qctrun):
    """The second donor has no scan at 250 mAs: the summary is over the fold that has."""
    said = train(qctrun, study, "--split", "donors", "--folds", "2", "-o", "out")
    assert said.code == 0, said.err
    assert said.out.count("a donor never seen in training") == 2
    tested = [
        json.loads((tiny / "out" / f"fold-{fold}" / "training.json").read_text())["donors"]["test"]
        for fold in (1, 2)
    ]
    assert tested == [["A"], ["B"]]
    over = said.out.split("RMSE in percent of raw")[1]
    assert re.search(r"^ *100 +TMD +NNSP +\S+ \+- \S+$", over, re.MULTILINE)
    assert re.search(r"^ *250 +TMD +NNSP +\S+$", over, re.MULTILINE)
    again = train(qctrun, study, "--split", "donors", "--folds", "2", "-o", "out")
    assert (again.code, again.out) == (0, said.out)
    assert "epoch" not in again.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--split", "vertebrae"), 2, "--split positions or donors"),
        (("--microct", "."), 2, "leave --microct away"),
        (("--fields", "1,1,1"), 2, "leave --fields away"),
        (("--split", "donors", "--folds", "4"), 2, "at most 3"),
        (("--split", "positions", "--folds", "6"), 2, "at most 5"),
        (("--folds", "0"), 2, "--folds"),
    ],
)
def test_words_that_mean_nothing(study, tiny, qctrun, words, code, said):
    found = train(qctrun, study, *words)
    assert (found.code, found.err.count("\n")) == (code, 1), found.err
    assert said in found.err
    assert not (tiny / "runs").exists()


def test_too_few_donors(tiny, tmp_path, qctrun):
    study = dataset(tmp_path / "study", specimen("A1", currents=(100.0,)), specimen("A2", currents=(100.0,)))
    said = train(qctrun, study)
    assert (said.code, said.err.count("\n")) == (3, 1), said.err
    assert "say --split positions" in said.err
    assert not (tiny / "runs").exists()
    assert train(qctrun, study, "--split", "donors", "--folds", "1").code == 3


def test_too_few_positions(tiny, tmp_path, qctrun):
    said = train(qctrun, dataset(tmp_path / "study", specimen("A1", currents=(100.0,))), "--folds", "1")
    assert (said.code, said.err.count("\n")) == (3, 1), said.err
    assert "more of them" in said.err
    assert not (tiny / "runs").exists()


@pytest.mark.parametrize("content", [None, b"", b"no HDF5"])
def test_no_dataset(tiny, tmp_path, qctrun, content):
    path = tmp_path / "pairs.h5"
    if content is not None:
        path.write_bytes(content)
    said = train(qctrun, path)
    assert (said.code, said.err.count("\n")) == (3, 1), said.err
    assert "pairs.h5" in said.err
    assert not (tiny / "runs").exists()


def test_a_run_of_other_data_is_not_gone_on_with(study, tiny, tmp_path, qctrun):
    assert train(qctrun, study, "-o", "run").code == 0
    other = study_of(tmp_path / "other", material="K2HPO4")
    said = train(qctrun, other, "-o", "run")
    assert (said.code, said.err.count("\n")) == (3, 1), said.err
    assert "other pairs data" in said.err
    simulated = qctrun("train", "--recipe", "tiny.toml", "--device", "cpu", "-o", "run")
    assert (simulated.code, simulated.err.count("\n")) == (3, 1), simulated.err


def test_a_grid_with_too_little_room(tiny, tmp_path, qctrun):
    said = train(qctrun, study_of(tmp_path / "study", spacing_mm=(0.1, 0.1, 0.1)))
    assert (said.code, said.err.count("\n")) == (3, 1), said.err
    assert "take a larger spacing_mm in the study file" in said.err
    assert not (tiny / "runs").exists()
