"""The study's tables: known folds give known cells, in the rows and with the marks that a reader expects."""

import csv
import io
import json
from statistics import stdev
from typing import Any

import pytest
import study_results
from study_results import result

from qctrun.runtime.measuring.metrics import AccuracyError
from qctrun.train.study.over_folds import (
    SHARE,
    by_place,
    half_range,
    paper_cell,
    paper_share,
    place,
    summary,
    threshold_shares,
    truth_of,
)
from qctrun.train.study.paper_layout import paper_table, threshold_table, truth_table, untrained_table
from qctrun.train.study.results import Result
from qctrun.train.study.tables import COLUMNS, TIDY, Made, csv_text, tidy_dictionary, tidy_rows

MADE = Made("a laptop", "nnsp-short", 3, 61.7, ("reduced schedule: 3 of 5 folds",))
NNSP = place("NNSP", 100.0, "TMD")


def folds(*rmse: float, filter_name: str = "NNSP", **others: Any) -> list[Result]:
    return [
        result(filter_name, 100.0, "TMD", number, rmse=value, **others)
        for number, value in enumerate(rmse, 1)
    ]


def row(text: str, heading: str, name: str, below: int = 0) -> dict[str, str]:
    """The cells of a filter in the block under a heading, by column; of the line so far below it."""
    lines = text.split(f"## {heading}\n\n")[1].split("\n\n")[0].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    number = next(i for i, line in enumerate(cells) if line[0] == name) + below
    return dict(zip(cells[0], cells[number], strict=True))


def test_mean_and_half_range_over_folds_by_hand() -> None:
    found = summary(by_place(folds(20.0, 23.0, 26.0)), NNSP, "rmse")
    assert found is not None
    assert (found.mean, found.half_range, found.folds, found.is_bound) == (23.0, 3.0, 3, False)
    assert half_range([4.0, 1.0, 2.0]) == 1.5
    assert half_range([4.0]) is None


def test_a_fold_without_the_statistic_is_left_out() -> None:
    results = [*folds(20.0, 24.0), result("NNSP", 100.0, "TMD", 3, pe=1.0)]
    found = summary(by_place(results), NNSP, "rmse")
    assert found is not None
    assert (found.mean, found.folds) == (22.0, 2)
    assert summary(by_place(results), NNSP, "sd") is None
    assert summary({}, NNSP, "rmse") is None
    assert summary({}, NNSP, SHARE) is None


def test_intervals_are_the_mean_of_those_of_the_folds() -> None:
    results = [
        result("NNSP", 100.0, "TMD", 1, rmse=20.0, intervals={"rmse": (18.0, 23.0)}),
        result("NNSP", 100.0, "TMD", 2, rmse=22.0, intervals={"rmse": (19.0, 26.0)}),
    ]
    found = summary(by_place(results), NNSP, "rmse")
    assert found is not None
    assert found.ci95 == (18.5, 24.5)


@pytest.mark.parametrize(
    ("marks", "mean", "is_bound", "left_out"),
    [((True, True), 7.0, True, 0), ((False, False), 7.0, False, 0), ((True, False), 8.0, False, 1)],
)
def test_accuracy_errors_are_a_bound_only_when_all_are(
    marks: tuple[bool, bool], mean: float, is_bound: bool, left_out: int
) -> None:
    results = [
        result("NNSP", 100.0, "TMD", number, ae_paper=AccuracyError(value, mark))
        for number, (value, mark) in enumerate(zip((6.0, 8.0), marks, strict=True), 1)
    ]
    found = summary(by_place(results), NNSP, "ae_paper")
    assert found is not None
    assert (found.mean, found.is_bound, found.bounds_left_out) == (mean, is_bound, left_out)
    text = row(paper_table(results, 100.0, MADE), "TMD, mg/cm³", "NNSP")["AE"]
    assert (
        text == {(True, True): "≤ 7.00 ± 1.00", (False, False): "7.00 ± 1.00", (True, False): "8.00 †"}[marks]
    )


def test_the_share_of_raw_is_a_ratio_of_means_over_the_folds_of_both() -> None:
    results = folds(20.0, 30.0, 99.0) + folds(100.0, 100.0, filter_name="raw")
    found = summary(by_place(results), NNSP, SHARE)
    assert found is not None
    assert (found.mean, found.half_range, found.folds) == (25.0, 5.0, 2)
    uneven = summary(by_place(folds(20.0, 30.0) + folds(50.0, 150.0, filter_name="raw")), NNSP, SHARE)
    assert uneven is not None
    assert uneven.mean == 25.0, "not the mean 30 of 40 and 20"


def test_results_of_other_places_stay_apart() -> None:
    others = [
        result("NNSP", 100.0, "TMD", 1, split="donors", rmse=1.0),
        result("NNSP", 100.0, "TMD", 1, threshold_mg_cm3=125.0, rmse=2.0),
        result("NNSP", 360.0, "TMD", 1, rmse=3.0),
        result("NNBMD", 100.0, "TMD", 1, rmse=4.0),
    ]
    found = summary(by_place(folds(20.0) + others), NNSP, "rmse")
    assert found is not None
    assert (found.mean, found.folds) == (20.0, 1)


def test_the_paper_s_cells_are_found_where_it_has_them() -> None:
    cell = paper_cell(NNSP, "rmse")
    assert cell is not None
    assert (cell.mean, cell.half_range) == (21.53, 0.86)
    assert paper_share(NNSP) == pytest.approx(100 * 21.53 / 125.54)
    assert paper_cell(NNSP._replace(threshold_mg_cm3=125.0), "rmse") is None
    assert paper_cell(NNSP._replace(mas=250.0), "rmse") is None
    assert paper_cell(NNSP._replace(filter="Wiener"), "rmse") is None
    assert paper_cell(NNSP, "partial_r2_percent") is None
    assert paper_share(NNSP._replace(filter="BMD line")) is None


def test_the_truth_of_all_folds_is_that_of_the_whole() -> None:
    values = [1.0, 4.0, 6.0, 7.0, 12.0]
    parts = [values[:2], values[2:]]
    results = [
        result(
            "raw", mas, "BMD", fold, points=len(part), mean_truth=sum(part) / len(part), sd_truth=stdev(part)
        )
        for mas in (100.0, 360.0)
        for fold, part in enumerate(parts, 1)
    ]
    found = truth_of(results)
    assert set(found) == {"BMD"}
    assert found["BMD"] == pytest.approx((6.0, stdev(values)))
    assert truth_of([result("raw", 100.0, "BMD", rmse=1.0)]) == {}


def test_tidy_rows_survive_the_round_trip_through_csv() -> None:
    results = [*study_results.paper_results(), *folds(40.0, 50.0, filter_name="Wiener")]
    rows = tidy_rows(results)
    text = csv_text(rows)
    read = list(csv.DictReader(io.StringIO(text)))
    assert list(read[0]) == list(COLUMNS)
    assert len(read) == len(rows)
    for written, got in zip(rows, read, strict=True):
        for name, value in written.items():
            back = None if got[name] == "" and value is None else type(value)(got[name])
            assert back == (pytest.approx(value, rel=5e-5) if isinstance(value, float) else value), (
                name,
                written,
            )
    assert csv_text([]) == ""


def test_tidy_rows_say_all_about_one_number() -> None:
    results = folds(20.0, 22.0, points=300, intervals={"rmse": (19.0, 24.0)})
    (found,) = (one for one in tidy_rows(results) if one["statistic"] == "rmse")
    assert found == {
        "split": "positions",
        "filter": "NNSP",
        "mas": 100.0,
        "quantity": "TMD",
        "unit": "mg/cm3",
        "threshold_mg_cm3": 225.0,
        "statistic": "rmse",
        "mean": 21.0,
        "half_range": 1.0,
        "ci95_low": 19.0,
        "ci95_high": 24.0,
        "bound": "",
        "folds": 2,
        "points": 300,
        "clusters": 5,
        "paper_mean": 21.53,
        "paper_half_range": 0.86,
        "paper_bound": "",
    }


def test_tidy_rows_mark_bounds_and_name_units() -> None:
    rows = tidy_rows(study_results.paper_results())
    marked = {(one["filter"], one["mas"], one["quantity"]) for one in rows if one["bound"]}
    assert marked == {("raw", 100.0, "voxel"), ("BM4D", 100.0, "voxel")}
    assert all((one["bound"] == "<=") == (one["paper_bound"] == "<=") for one in rows)
    units = {(one["quantity"], one["statistic"]): one["unit"] for one in rows}
    assert units["BMD", "psnr_paper"] == "ln units"
    assert units["BMD", "adj_r2_percent"] == units["BV/TV", "rmse"] == units["TMD", SHARE] == "%"
    assert set(json.loads(tidy_dictionary())["statistics"]) == set(TIDY)


@pytest.mark.parametrize("mas", [360.0, 100.0])
def test_the_paper_s_own_numbers_give_its_own_tables(mas: float) -> None:
    """Ours is the paper here, so the two lines of each filter differ in nothing but ranges and slant."""
    text = paper_table(study_results.paper_results(), mas, MADE)
    for heading in ("voxel, mg/cm³", "BMD, mg/cm³", "TMD, mg/cm³", "BV/TV, %"):
        for name in study_results.PAPER_FILTERS:
            ours, paper = (row(text, heading, name, below) for below in (0, 1))
            for column in ("dAvg", "SD", "RMSE", "AE", "PE", "PSNR", "adj. R², %", "RMSE, % of raw"):
                assert paper[column].strip("*").split(" ± ")[0] == ours[column], (heading, name, column)


def test_the_layout_says_what_was_not_run_and_what_the_paper_has_not() -> None:
    results = study_results.paper_results(["raw", "NNSP"]) + folds(40.0, 50.0, filter_name="BMD line")
    text = paper_table(results, 100.0, MADE)
    assert row(text, "TMD, mg/cm³", "BM4D")["dAvg"] == "not run"
    assert row(text, "TMD, mg/cm³", "BM4D", 1)["RMSE"] == "*111.79 ± 0.89*"
    line = row(text, "TMD, mg/cm³", "BMD line")
    assert (line["RMSE"], line["SD"]) == ("45.00 ± 5.00", "n/a")
    assert row(text, "TMD, mg/cm³", "NNSP", 1)["partial R² beyond BMD, %"] == "*n/a*"
    blocks = text.split("## ")
    assert [("| BMD line |" in block) for block in blocks[1:]] == [False, False, True, False]
    names = [line.split("|")[1].strip() for line in blocks[3].splitlines() if line.startswith("| ")]
    assert [name for name in names if name] == ["filter", "raw", "BM4D", "NNBMD", "NNSP", "BMD line"]


def test_every_file_says_how_it_was_made() -> None:
    results = study_results.paper_results()
    texts = [
        paper_table(results, 360.0, MADE),
        truth_table(results, MADE),
        threshold_table(results, MADE),
        untrained_table(results, MADE),
    ]
    for text in texts:
        assert "Made on a laptop; recipe nnsp-short; 3 folds of positions; 62 s of training." in text
        assert "**Note: reduced schedule: 3 of 5 folds**" in text


def test_a_bias_that_rounds_to_nothing_has_no_sign() -> None:
    results = [result("NNSP", 100.0, "TMD", d_avg=-0.001)]
    assert row(paper_table(results, 100.0, MADE), "TMD, mg/cm³", "NNSP")["dAvg"] == "0.00"


def test_only_the_threshold_of_the_paper_is_in_its_tables() -> None:
    other = result("NNSP", 100.0, "TMD", threshold_mg_cm3=125.0, rmse=777.0)
    text = paper_table([*study_results.paper_results(), other], 100.0, MADE)
    assert "777" not in text


def test_the_truth_stands_beside_the_paper_s() -> None:
    text = truth_table(study_results.paper_results(), MADE)
    assert "| ours | 115.90 (127.05) | 115.90 (35.14) | 334.54 (29.73) | 17.30 (6.93) |" in text
    assert "| paper | 115.90 (118.57) | 115.90 (35.14) | 334.54 (29.73) | 17.30 (6.93) |" in text
    assert "127.05" in text.splitlines()[-1]
    assert truth_table([], MADE).count("not measured") == 4


def test_thresholds_have_a_column_each() -> None:
    results = [
        result(name, 100.0, "TMD", 1, threshold_mg_cm3=threshold, rmse=rmse)
        for threshold, raw, nnsp in ((125.0, 50.0, 10.0), (325.0, 80.0, 20.0))
        for name, rmse in (("raw", raw), ("NNSP", nnsp))
    ]
    text = threshold_table(results, MADE)
    assert row(text, "TMD, 100 mAs", "NNSP") == {"filter": "NNSP", "125 mg/cm³": "20.0", "325 mg/cm³": "25.0"}
    assert "| raw |" not in text
    assert threshold_shares(results) == {("TMD", 100.0): {"NNSP": {125.0: 20.0, 325.0: 25.0}}}


def test_tube_currents_never_trained_on() -> None:
    results = [
        result("raw", 50.0, "TMD", 1, rmse=200.0),
        result("NNSP", 50.0, "TMD", 1, rmse=30.0, adj_r2_percent=40.0),
    ]
    text = untrained_table(results, MADE)
    assert "| NNSP | n/a | 30.00 | 15.0 | 40.00 | n/a |" in text
    assert text.split("## 200 mAs")[1].strip() == "Not measured."


def test_a_table_says_how_many_folds_its_own_split_has() -> None:
    results = folds(20.0, 30.0) + folds(40.0, split="donors")
    assert "over the test sets of 2 folds, the paper's" in paper_table(results, 100.0, MADE)
    assert "over the test sets of 1 fold, real" in paper_table(results, 100.0, MADE, "donors")


def test_rows_stand_in_one_order_with_the_bmd_line_last() -> None:
    names = ["BMD line", "NNSP", "TV", "raw", "Wiener", "Gaussian"]
    results = [result(name, 100.0, "TMD", rmse=50.0) for name in names]
    wanted = ["raw", "Gaussian", "TV", "Wiener", "NNSP", "BMD line"]
    assert [at.filter for at in by_place(results)] == wanted
