"""`qctrun metrics` on tables and volumes, as a user would type it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scans
from conftest import Program

from qctrun.runtime import Grid, Volume, local_maps, write
from qctrun.runtime.measuring.metrics import STATISTICS, metrics
from qctrun.runtime.writing import read_record
from qctrun.runtime.writing.metric_tables import METRIC_COLUMNS

Doubles = npt.NDArray[np.float64]

PATIENTS, VISITS = 15, 3


def measured() -> tuple[Doubles, Doubles]:
    """BMD of each visit and patient, and the truth, as the table has them (two decimals)."""
    random = np.random.default_rng(0)
    truth = random.normal(110, 30, PATIENTS).round(2)
    return (truth + 1.5 + random.normal(0, 3, (VISITS, PATIENTS))).round(2), truth


def lines() -> list[str]:
    """A precision study: one row a patient and visit."""
    x, truth = measured()
    rows = [
        f"P{patient:02d},{visit + 1},{x[visit, patient]:.2f},{truth[patient]:.2f},L{patient % 5}"
        for patient in range(PATIENTS)
        for visit in range(VISITS)
    ]
    return ["patient,visit,bmd_mg_cm3,truth,level", *rows]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder to work in, with the table of a precision study."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.csv").write_text("\n".join(lines()) + "\n")
    return tmp_path


def table(folder: str | Path = "qctrun-out") -> list[dict[str, str]]:
    with (Path(folder) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def values(rows: list[dict[str, str]], **where: str) -> dict[str, str]:
    chosen = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return {row["statistic"]: row["value"] for row in chosen}


STUDY = ("metrics", "study.csv", "--subject", "patient", "--values", "bmd_mg_cm3")


def test_a_precision_study_needs_three_options_and_no_truth(here: Path, qctrun: Program) -> None:
    code, out, err = qctrun(*STUDY, "--repetition", "visit")
    assert code == 0, err
    assert err == "qctrun: wrote qctrun-out/metrics.csv\n"
    want = metrics(measured()[0])
    assert want.rms_sd is not None
    rows = table()
    assert [row["statistic"] for row in rows] == list(STATISTICS)[:7]
    assert float(values(rows)["rms_sd"]) == pytest.approx(want.rms_sd, rel=1e-7)
    (rms_sd,) = (row for row in rows if row["statistic"] == "rms_sd")
    assert (float(rms_sd["ci95_low"]), float(rms_sd["ci95_high"])) == pytest.approx(want.intervals["rms_sd"])
    assert (float(rms_sd["chi2_95_low"]), float(rms_sd["chi2_95_high"])) == pytest.approx(want.rms_sd_chi2)
    assert {(row["points"], row["repetitions"], row["dropped"]) for row in rows} == {("15", "3", "0")}
    assert f"rms_sd              {want.rms_sd:.4g} [" in out
    assert list(rows[0]) == list(METRIC_COLUMNS)
    assert {path.name for path in (here / "qctrun-out").iterdir()} == {
        "metrics.csv",
        "metrics.json",
        "metrics.run.json",
    }


def test_truth_clusters_and_what_is_given(here: Path, qctrun: Program) -> None:
    words = ("--truth", "truth", "--cluster", "level", "--given", "bmd_mg_cm3", "--seed", "5")
    code, _, err = qctrun(*STUDY, *words)
    assert code == 0
    assert "10 degrees of freedom" in err
    assert "over 5 clusters" in err
    x, truth = measured()
    want = metrics(x, truth, clusters=np.arange(PATIENTS) % 5, seed=5)
    rows = table()
    assert want.ae_unbiased is not None
    assert float(values(rows)["ae_unbiased"]) == pytest.approx(want.ae_unbiased.value, rel=1e-7)
    (slope,) = (row for row in rows if row["statistic"] == "slope")
    assert float(slope["ci95_low"]) == pytest.approx(want.intervals["slope"][0], rel=1e-7)
    record = read_record(Path("qctrun-out/metrics.run.json"))
    assert record["options"]["cluster"] == "level"
    assert len(record["warnings"]) == 2
    assert record["inputs"][0]["path"] == str(here / "study.csv")
    assert [output["path"] for output in record["outputs"]] == ["metrics.csv", "metrics.json"]


def test_json_on_stdout_is_the_table(here: Path, qctrun: Program) -> None:
    code, out, _ = qctrun(*STUDY, "--json", "-q")
    assert code == 0
    rows = json.loads(out)
    assert [row["statistic"] for row in rows] == [row["statistic"] for row in table()]
    assert rows[0]["chi2_95_low"] is None
    assert isinstance(rows[0]["value"], float)


def test_the_dictionary_explains_every_column_and_statistic(here: Path, qctrun: Program) -> None:
    assert qctrun(*STUDY, "--truth", "truth").code == 0
    dictionary = json.loads(Path("qctrun-out/metrics.json").read_text())
    rows = table()
    assert set(rows[0]) <= set(dictionary)
    assert {row["statistic"] for row in rows} <= set(dictionary["statistics"])


def test_a_warning_names_what_it_concerns(here: Path, qctrun: Program) -> None:
    text = "s,g,v,w\na,1,1,5\na,1,2,6\nb,1,3,7\nb,1,4,n/a\na,2,1,5\na,2,2,6\nb,2,3,7\nb,2,4,8\n"
    Path("two.csv").write_text(text)
    code, _, err = qctrun("metrics", "two.csv", "--subject", "s", "--values", "v,w", "--by", "g")
    assert code == 0
    assert "warning: g 1, w: 1 of 2 data points left out: values missing\n" in err
    assert "warning: g 1, v; g 2, v; g 2, w: precision rests on 2 degrees of freedom" in err


def test_a_bound_is_marked(here: Path, qctrun: Program) -> None:
    Path("noisy.csv").write_text("s,v,t\na,1,2\na,3,2\nb,2,3\nb,4,3\nc,3,4\nc,5,4\n")
    code, out, _ = qctrun("metrics", "noisy.csv", "--subject", "s", "--values", "v", "--truth", "t")
    assert code == 0
    assert "ae_paper            <= 1.414" in out
    bounds = {row["statistic"]: row["bound"] for row in table()}
    assert (bounds["ae_paper"], bounds["rmse"]) == ("<=", "")


def test_groups_are_judged_on_their_own_and_tables_of_several_files_are_one(
    here: Path, qctrun: Program
) -> None:
    for visit in range(3):
        rows = [
            f"{patient},{t},{100 + 10 * patient + visit * t / 100},n/a" if patient else f"0,{t},n/a,n/a"
            for patient in range(4)
            for t in (200, 225)
        ]
        text = "\n".join(["case_id,threshold_mg_cm3,bvtv,label_id", *rows])
        (here / f"visit{visit}.csv").write_text(text)
    files = [f"visit{visit}.csv" for visit in range(3)]
    words = ("--subject", "case_id", "--values", "bvtv")
    code, _, err = qctrun("metrics", *files, *words)
    assert code == 2
    assert "wanted one threshold_mg_cm3, for they count as repetitions, got 200, 225" in err
    assert "say --by threshold_mg_cm3" in err

    code, out, err = qctrun("metrics", *files, *words, "--by", "threshold_mg_cm3")
    assert code == 0
    rows = table()
    assert float(values(rows, threshold_mg_cm3="200")["rms_sd"]) == pytest.approx(2)
    assert float(values(rows, threshold_mg_cm3="225")["rms_sd"]) == pytest.approx(2.25)
    assert out.count("threshold_mg_cm3 = ") == 2
    assert err.count("warning: 1 of 4 data points left out: values missing") == 1
    assert {row["dropped"] for row in rows} == {"1"}


@pytest.mark.parametrize(
    ("change", "words", "told", "points", "repetitions"),
    [
        ("drop", (), "1 of 15 data points left out: values missing", "14", "3"),
        ("drop", ("--repetition", "visit"), "1 of 15 data points left out: values missing", "14", "3"),
        ("more", (), "1 data points have more than 3 repetitions: only the first 3 count", "15", "3"),
        ("more", ("--repetition", "visit"), "repetition 4 left out: fewer than half", "15", "3"),
    ],
)
def test_unequal_repetitions_are_told(
    here: Path,
    qctrun: Program,
    change: str,
    words: tuple[str, ...],
    told: str,
    points: str,
    repetitions: str,
) -> None:
    rows = lines()
    changed = rows[:-1] if change == "drop" else [*rows, "P14,4,100,," + rows[-1].split(",")[-1]]
    Path("study.csv").write_text("\n".join(changed))
    code, _, err = qctrun(*STUDY, *words)
    assert code == 0
    assert told in err
    assert {(row["points"], row["repetitions"]) for row in table()} == {(points, repetitions)}
    assert any(told in words for words in read_record(Path("qctrun-out/metrics.run.json"))["warnings"])


def test_one_repetition_says_what_it_cannot_say(here: Path, qctrun: Program) -> None:
    Path("study.csv").write_text("\n".join(lines()[:1] + lines()[1::3]))
    code, _, err = qctrun(*STUDY)
    assert (code, "wanted two or more, or a truth, got one and no truth" in err) == (3, True)
    code, out, err = qctrun(*STUDY, "--truth", "truth")
    assert code == 0
    assert "one repetition: precision, PE and AE are undefined" in err
    assert "rmse" in out
    assert "rms_sd" not in out


@pytest.mark.parametrize(
    ("text", "words", "code", "told"),
    [
        (None, ("--values", "bmd"), 3, "column 'bmd': wanted one of patient, visit, bmd_mg_cm3"),
        (None, ("--repetition", "scan"), 3, "column 'scan'"),
        (None, ("--truth", "truth,level"), 2, "truth: wanted 1 columns, one for each of the values, got 2"),
        (None, ("--truth", "bmd_mg_cm3"), 3, "truth 'bmd_mg_cm3' of 'P00': wanted the same in all its rows"),
        (
            None,
            ("--cluster", "visit"),
            3,
            "study.csv line 2: wanted one 'visit' of a data point, got 1, 2, 3",
        ),
        (None, ("--given", "truth"), 2, "given: wanted a truth"),
        (None, ("--values", "level"), 3, "study.csv line 2: wanted a number in column 'level', got 'L0'"),
        (None, ("--values", "level,level"), 2, "each once"),
        (None, ("--repetition", "level"), 3, "line 3: wanted repetition 'L0' of 'P00' once, got it again"),
        (None, ("--by", "visit"), 3, "wanted two or more, or a truth, got one and no truth"),
        (None, ("--mask", "m.nii.gz"), 2, "--mask and the options of reading scans are for volumes"),
        (None, ("--unit", "hu"), 2, "--mask and the options of reading scans are for volumes"),
        ("", (), 3, "study.csv: wanted a header and rows, got an empty file"),
        ("patient,bmd_mg_cm3\n", (), 3, "study.csv: wanted rows below the header, got none"),
        ("patient;bmd_mg_cm3\na;1\n", (), 3, "wanted commas between cells"),
        ("patient,patient\na,b\n", (), 3, "wanted each column once, got 'patient' twice"),
        ("patient,bmd_mg_cm3\na,1,2\n", (), 3, "line 2: wanted 2 cells like the header, got 3 cells"),
        ("patient,bmd_mg_cm3\n,1\n", (), 3, "line 2: wanted a name in column 'patient'"),
        (
            "patient,bmd_mg_cm3\na,1\na,inf\n",
            (),
            3,
            "line 3: wanted a number in column 'bmd_mg_cm3', got 'inf'",
        ),
        ("patient,bmd_mg_cm3\na,n/a\na,n/a\n", (), 3, "data points: wanted one that has all its repetitions"),
        ('patient,bmd_mg_cm3\n"a,1\n', (), 3, "wanted a table of comma-separated UTF-8 text"),
    ],
)
def test_bad_tables_and_roles_are_one_line(
    here: Path, qctrun: Program, text: str | None, words: tuple[str, ...], code: int, told: str
) -> None:
    if text is not None:
        Path("study.csv").write_text(text)
    found = qctrun(*STUDY, *words)
    assert (found.code, found.out) == (code, "")
    assert told in found.err
    assert found.err.startswith("qctrun: error: ")
    assert found.err.count("\n") == 1
    assert not Path("qctrun-out").exists()


def test_a_file_that_is_no_text_or_not_there(here: Path, qctrun: Program) -> None:
    Path("study.csv").write_bytes(b"patient,bmd_mg_cm3\n\xff\xfe,1\n")
    assert "UTF-8" in qctrun(*STUDY).err
    Path("study.csv").unlink()
    code, _, err = qctrun(*STUDY)
    assert (code, "study.csv: cannot be read: No such file" in err) == (3, True)


def test_repetitions_that_no_two_subjects_share_say_how_to_go_on(here: Path, qctrun: Program) -> None:
    Path("study.csv").write_text("patient,scan,bmd_mg_cm3\na,1,5\na,2,6\nb,3,7\nb,4,8\nc,5,7\nc,6,8\n")
    code, _, err = qctrun(*STUDY, "--repetition", "scan")
    assert (code, "leave --repetition out" in err) == (3, True)
    assert qctrun(*STUDY).code == 0


def test_tables_need_roles_and_groups_need_names_of_their_own(here: Path, qctrun: Program) -> None:
    assert "needs --subject COL and --values COL" in qctrun("metrics", "study.csv").err
    Path("study.csv").write_text("patient,bmd_mg_cm3,variable\na,1,x\na,2,x\n")
    code, _, err = qctrun(*STUDY, "--by", "variable")
    assert (code, "column 'variable'" in err) == (2, True)


def test_nothing_is_replaced_unasked(here: Path, qctrun: Program) -> None:
    assert qctrun(*STUDY).code == 0
    assert qctrun(*STUDY).code == 2
    assert qctrun(*STUDY, "--overwrite").code == 0
    code, _, err = qctrun(
        "metrics", "qctrun-out/metrics.csv", "--subject", "statistic", "--values", "value", "--overwrite"
    )
    assert (code, "an input that this run leaves alone" in err) == (2, True)


# Volumes


@pytest.fixture
def volumes(here: Path) -> Path:
    """Three noisy densities of the synthetic scan, the truth, and a mask."""
    truth = scans.density()
    random = np.random.default_rng(1)
    write(truth, here / "truth.nii.gz")
    for number in range(3):
        noise = random.normal(2, 20, truth.array.shape).astype(np.float32)
        write(truth.with_array(truth.array + noise), here / f"scan{number}.nii.gz")
    scans.write_mask(here / "mask.nii.gz")
    return here


SCANS = ("metrics", "scan0.nii.gz", "scan1.nii.gz", "scan2.nii.gz")


def test_voxels_of_repeated_scans_in_a_mask(volumes: Path, qctrun: Program) -> None:
    code, out, err = qctrun(*SCANS, "--truth", "truth.nii.gz", "--mask", "mask.nii.gz")
    assert code == 0, err
    found = values(table(), variable="voxel")
    assert float(found["rms_sd"]) == pytest.approx(20, rel=0.02)
    assert float(found["d_avg"]) == pytest.approx(2, abs=0.3)
    assert found["degrees_of_freedom"] == "2"
    assert "clusters            1" in out
    assert {row["ci95_low"] for row in table()} == {"n/a"}  # one object says nothing about others
    record = read_record(Path("qctrun-out/metrics.run.json"))
    assert [found["role"] for found in record["inputs"]] == ["image"] * 4 + ["mask"]


def test_labels_of_the_mask_are_clusters(volumes: Path, qctrun: Program) -> None:
    size = scans.SIZE
    labels = 1 + np.arange(np.prod(size)).reshape(size) * 4 // np.prod(size)
    write(Volume(labels.astype(np.float32), scans.grid(), "1"), "levels.nii.gz")
    code, _, err = qctrun(*SCANS, "--mask", "levels.nii.gz")
    assert code == 0
    assert "over 4 clusters" in err
    assert {row["clusters"] for row in table()} == {"4"}


def test_local_maps_need_no_mask_and_lose_no_word_on_empty_voxels(volumes: Path, qctrun: Program) -> None:
    from qctrun.runtime import read

    names = []
    for number in range(2):
        maps = local_maps(read(f"scan{number}.nii.gz"), (225.0,), 1.548)
        for key, name in ((("BVTV", 225.0), "thr225_BVTVmap"), ("BMD", "BMDmap")):
            names.append(write(maps[key], f"s{number}_{name}.nii.gz"))
    code, _, err = qctrun("metrics", names[0], names[2])
    assert code == 0, err
    found = table()
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
    from qctrun.runtime.reading.maps import is_map, read_map

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
        (lambda content: content[:70] + b"\x40\x00" + content[72:], "wanted a whole map of float32"),
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
