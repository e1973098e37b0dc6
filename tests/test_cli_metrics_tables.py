"""`qctrun metrics` on tables, as a user would type it."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_outputs import table
from conftest import Program
from studies import PATIENTS, STUDY, lines, measured, study, values

from qctrun.runtime.measuring.metrics import STATISTICS, metrics
from qctrun.runtime.writing import read_record
from qctrun.runtime.writing.metric_tables import METRIC_COLUMNS


@pytest.fixture
def here(fresh: Path) -> Path:
    """A fresh folder to work in, with the table of a precision study."""
    (fresh / "study.csv").write_text(study())
    return fresh


def test_a_precision_study_needs_three_options_and_no_truth(here: Path, qctrun: Program) -> None:
    code, out, err = qctrun(*STUDY, "--repetition", "visit")
    assert code == 0, err
    assert err == "qctrun: wrote qctrun-out/metrics.csv\n"
    want = metrics(measured()[0])
    assert want.rms_sd is not None
    rows = table("metrics")
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
    rows = table("metrics")
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
    assert [row["statistic"] for row in rows] == [row["statistic"] for row in table("metrics")]
    assert rows[0]["chi2_95_low"] is None
    assert isinstance(rows[0]["value"], float)


def test_the_dictionary_explains_every_column_and_statistic(here: Path, qctrun: Program) -> None:
    assert qctrun(*STUDY, "--truth", "truth").code == 0
    dictionary = json.loads(Path("qctrun-out/metrics.json").read_text())
    rows = table("metrics")
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
    bounds = {row["statistic"]: row["bound"] for row in table("metrics")}
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
    rows = table("metrics")
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
    assert {(row["points"], row["repetitions"]) for row in table("metrics")} == {(points, repetitions)}
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
