"""Acceptance of the simulator and the table of goals, judged where one can judge by hand."""

from collections.abc import Iterable
from typing import Any

import pytest
from study_results import TRUTH, moved, paper_results, result

from qctrun.runtime.measuring.metrics import AccuracyError
from qctrun.runtime.measuring.reference import paper_value
from qctrun.train.study.goals import Judged, goal_rows, goals, goals_markdown, judged
from qctrun.train.study.measure import THRESHOLDS_MG_CM3
from qctrun.train.study.raw_checks import Check, check_rows, checks_text, raw_checks
from qctrun.train.study.results import Result
from qctrun.train.study.tables import Made


def failed(checks: Iterable[Check]) -> list[str]:
    return [check.name for check in checks if not check.met]


def test_the_paper_passes_its_own_acceptance() -> None:
    checks = raw_checks(paper_results(), TRUTH)
    assert len(checks) == 8 + 2 * (4 * 5 + 2)
    assert failed(checks) == []
    assert all(check.used == pytest.approx(0) for check in checks)


@pytest.mark.parametrize("mas", [360.0, 100.0])
@pytest.mark.parametrize("quantity", ["voxel", "BMD", "TMD", "BV/TV"])
@pytest.mark.parametrize(("statistic", "name"), [("sd", "SD"), ("rmse", "RMSE"), ("pe", "PE")])
def test_a_tenth_is_allowed(mas: float, quantity: str, statistic: str, name: str) -> None:
    paper = paper_value(1 if mas == 360 else 2, quantity, "raw", name).mean
    for factor, met in ((0.901, True), (1.099, True), (0.899, False), (1.101, False)):
        results = moved(paper_results(), "raw", mas, quantity, **{statistic: factor * paper})
        expected = [] if met else [f"{mas:g} mAs {quantity} {name}"]
        # The paper prints a bound of AE here, which stands and falls with PE.
        if not met and (mas, quantity, name) == (100.0, "voxel", "PE"):
            expected = ["100 mAs voxel AE", *expected]
        assert failed(raw_checks(results, TRUTH)) == expected


@pytest.mark.parametrize(
    ("mas", "quantity", "statistics", "name"),
    [
        (360.0, "voxel", {"adj_r2_percent": 7.14 + 5.01}, "360 mAs voxel adj. R2"),
        (100.0, "BMD", {"adj_r2_percent": 89.46 - 5.01}, "100 mAs BMD adj. R2"),
        (360.0, "TMD", {"d_avg": 5.37 - 8.01}, "360 mAs TMD dAvg"),
        (100.0, "TMD", {"d_avg": 119.08 + 8.01}, "100 mAs TMD dAvg"),
        (100.0, "BV/TV", {"d_avg": 19.99 - 1.51}, "100 mAs BV/TV dAvg"),
        (360.0, "TMD", {"ae_paper": AccuracyError(27.48 * 1.11, False)}, "360 mAs TMD AE"),
        (360.0, "TMD", {"ae_paper": AccuracyError(27.48, True)}, "360 mAs TMD AE"),
        (100.0, "voxel", {"ae_paper": AccuracyError(87.45, False)}, "100 mAs voxel AE"),
        (360.0, "BMD", {"rmse": None}, "360 mAs BMD RMSE"),
    ],
)
def test_one_cell_outside_fails_alone(
    mas: float, quantity: str, statistics: dict[str, Any], name: str
) -> None:
    assert failed(raw_checks(moved(paper_results(), "raw", mas, quantity, **statistics), TRUTH)) == [name]


@pytest.mark.parametrize(
    ("mas", "quantity", "statistics"),
    [
        (360.0, "voxel", {"adj_r2_percent": 7.14 + 4.99}),
        (100.0, "TMD", {"d_avg": 119.08 + 7.99}),
        (100.0, "BV/TV", {"d_avg": 19.99 - 1.49}),
        (360.0, "TMD", {"ae_paper": AccuracyError(27.48 * 1.09, False)}),
        (360.0, "voxel", {"d_avg": 99.0}),
        (360.0, "BMD", {"d_avg": 99.0}),
        (100.0, "voxel", {"ae_paper": AccuracyError(50.0, True)}),
    ],
)
def test_inside_or_not_asked_for_passes(mas: float, quantity: str, statistics: dict[str, Any]) -> None:
    assert failed(raw_checks(moved(paper_results(), "raw", mas, quantity, **statistics), TRUTH)) == []


@pytest.mark.parametrize("quantity", TRUTH)
@pytest.mark.parametrize(("number", "name"), [(0, "mean"), (1, "SD")])
def test_the_truth_may_be_a_tenth_away(quantity: str, number: int, name: str) -> None:
    for factor, met in ((0.901, True), (1.099, True), (0.899, False), (1.101, False)):
        pair = list(TRUTH[quantity])
        pair[number] *= factor
        checks = raw_checks(paper_results(), {**TRUTH, quantity: (pair[0], pair[1])})
        assert failed(checks) == ([] if met else [f"truth {quantity} {name}"])


def test_the_spread_of_voxels_is_that_of_tables_1_and_2() -> None:
    (check,) = (one for one in raw_checks([], TRUTH) if one.name == "truth voxel SD")
    assert (check.paper, check.met) == (127.05, True)
    assert not raw_checks([], {"voxel": (115.9, 106.8)})[1].met, "within a tenth of 118.57 is not enough"


def test_filtered_rows_and_other_splits_are_not_looked_at() -> None:
    others = [result("NNSP", 360.0, "TMD", rmse=1.0), result("raw", 360.0, "TMD", split="donors", rmse=1.0)]
    assert failed(raw_checks([*paper_results(["raw"]), *others], TRUTH)) == []
    assert len(failed(raw_checks(paper_results(), TRUTH, split="donors"))) == 44


def test_the_folds_are_averaged() -> None:
    twice = [one for one in paper_results() if (one.filter, one.mas, one.quantity) != ("raw", 360.0, "BMD")]
    (row,) = (one for one in paper_results() if (one.filter, one.mas, one.quantity) == ("raw", 360.0, "BMD"))
    low, high = (moved([row], "raw", 360.0, "BMD", rmse=8.31 + step)[0] for step in (-3.0, 3.0))
    second = Result("positions", 2, "raw", 360.0, "BMD", None, high.metrics)
    assert failed(raw_checks([*twice, low, second], TRUTH)) == []
    assert failed(raw_checks([*twice, low], TRUTH)) == ["360 mAs BMD RMSE"]


def test_the_terminal_shows_what_failed() -> None:
    checks = raw_checks(moved(paper_results(), "raw", 100.0, "TMD", rmse=150.0, sd=None), TRUTH)
    lines = checks_text(checks).splitlines()
    assert lines[-1] == "50 of 52 met"
    marked = [line.split() for line in lines if line.startswith("!!")]
    assert marked[0][:6] == ["!!", "100", "mAs", "TMD", "SD", "not"]
    assert marked[1][:7] == ["!!", "100", "mAs", "TMD", "RMSE", "150.00", "125.54"]
    assert any("<= 87.45" in line and line.endswith("a bound") for line in lines)
    assert len({line.find("125.54") for line in lines if "125.54" in line}) == 1


def test_checks_as_rows() -> None:
    rows = {one["cell"]: one for one in check_rows(raw_checks(paper_results(), TRUTH))}
    row = rows["100 mAs voxel AE"]
    assert (row["ours"], row["ours_bound"], row["paper_bound"], row["met"]) == (87.45, "<=", "<=", "yes")
    assert rows["100 mAs TMD RMSE"]["limit_high"] == pytest.approx(1.1 * 125.54)
    assert check_rows(raw_checks([], {}))[0]["met"] == "no"


def verdicts(results: Iterable[Result]) -> dict[str, Judged]:
    return {one.goal.name: one for one in judged(results)}


def pair(quantity: str, mas: float, ours: float, split: str = "positions", t: float = 225.0) -> list[Result]:
    """Raw and NNSP whose RMSE is so many percent of it."""
    return [
        result("raw", mas, quantity, split=split, threshold_mg_cm3=t, rmse=100.0),
        result("NNSP", mas, quantity, split=split, threshold_mg_cm3=t, rmse=ours),
    ]


def test_nothing_measured_is_said_so() -> None:
    assert {one.verdict for one in judged([])} == {"not measured"}
    assert all(one.ours is None for one in judged([]))


def test_the_paper_meets_what_is_asked_at_least() -> None:
    found = verdicts(paper_results())
    measured = {name: one.verdict for name, one in found.items() if one.verdict != "not measured"}
    aims = {name for name, verdict in measured.items() if verdict == "aim"}
    assert aims == {"BMD RMSE, % of raw, 100 mAs", "BMD RMSE, % of raw, 360 mAs"}
    assert set(measured.values()) == {"aim", "met"}
    assert len(measured) == 12
    for one in found.values():
        if one.ours is not None:
            assert one.ours == pytest.approx(one.goal.paper)


@pytest.mark.parametrize(
    ("quantity", "mas", "at_least", "aim"),
    [
        ("TMD", 100.0, 17.2, 12.0),
        ("TMD", 360.0, 61.5, 45.0),
        ("BV/TV", 100.0, 12.2, 9.0),
        ("BV/TV", 360.0, 18.8, 14.0),
    ],
)
def test_shares_of_raw_at_their_edges(quantity: str, mas: float, at_least: float, aim: float) -> None:
    name = f"{quantity} RMSE, % of raw, {mas:g} mAs"
    edges = [(aim - 0.01, "aim"), (aim + 0.01, "met"), (at_least - 0.01, "met"), (at_least + 0.01, "not met")]
    for value, verdict in edges:
        assert verdicts(pair(quantity, mas, value))[name].verdict == verdict


@pytest.mark.parametrize(("mas", "paper", "aim"), [(100.0, 48.67, 60.0), (360.0, 65.30, 75.0)])
def test_r2_at_its_edges(mas: float, paper: float, aim: float) -> None:
    for value, verdict in ((aim, "aim"), (aim - 0.01, "met"), (paper, "met"), (paper - 0.01, "not met")):
        found = verdicts([result("NNSP", mas, "TMD", adj_r2_percent=value)])
        assert found[f"R² of TMD, {mas:g} mAs"].verdict == verdict


@pytest.mark.parametrize(
    ("worst", "verdict"), [(49.0, "aim"), (51.0, "met"), (99.0, "met"), (100.0, "not met")]
)
def test_the_line_must_be_beaten_at_every_tube_current(worst: float, verdict: str) -> None:
    name = "BV/TV RMSE, % of the BMD line's, unseen donors, every tube current"
    results = [
        result(filter_name, mas, "BV/TV", split="donors", rmse=rmse)
        for filter_name, mas, rmse in (
            ("NNSP", 100.0, 10.0),
            ("BMD line", 100.0, 100.0),
            ("NNSP", 360.0, worst),
            ("BMD line", 360.0, 100.0),
        )
    ]
    found = verdicts(results)[name]
    assert (found.verdict, found.ours, found.where) == (verdict, worst, "360 mAs")
    assert verdicts(results[:3])[name].verdict == "not measured", "one tube current has no line"


@pytest.mark.parametrize(
    ("worst", "verdict"), [(51.0, "aim"), (50.0, "met"), (20.1, "met"), (20.0, "not met")]
)
def test_knowledge_beyond_density(worst: float, verdict: str) -> None:
    results = [
        result("NNSP", mas, "TMD", split="donors", partial_r2_percent=value)
        for mas, value in ((100.0, worst), (360.0, 90.0))
    ]
    found = verdicts(results)["partial R² of TMD given raw BMD, unseen donors, every tube current"]
    assert (found.verdict, found.where) == (verdict, "100 mAs")


def test_less_dose_must_be_nearer_than_raw() -> None:
    name = "TMD RMSE at 100 mAs, % of raw at 360 mAs"
    raw = result("raw", 360.0, "TMD", rmse=30.0)
    assert verdicts([raw, result("NNSP", 100.0, "TMD", rmse=29.9)])[name].verdict == "met"
    assert verdicts([raw, result("NNSP", 100.0, "TMD", rmse=30.0)])[name].verdict == "not met"


def test_plain_denoising_must_be_worse() -> None:
    name = "TMD RMSE, % of NNBMD's, 360 mAs"
    plain = result("NNBMD", 360.0, "TMD", rmse=30.0)
    assert verdicts([plain, result("NNSP", 360.0, "TMD", rmse=15.0)])[name].verdict == "met"
    assert verdicts([plain, result("NNSP", 360.0, "TMD", rmse=31.0)])[name].verdict == "not met"


def test_every_threshold_must_improve() -> None:
    name = "TMD and BV/TV RMSE, % of raw, every threshold and tube current"
    results = [
        one
        for quantity in ("TMD", "BV/TV")
        for t in THRESHOLDS_MG_CM3
        for one in pair(quantity, 360.0, 101.0 if (quantity, t) == ("TMD", 325.0) else 50.0, t=t)
    ]
    found = verdicts(results)[name]
    assert (found.verdict, found.ours, found.where) == ("not met", 101.0, "TMD, 325 mg/cm³, 360 mAs")
    better = [one for one in results if (one.quantity, one.threshold_mg_cm3) != ("TMD", 325.0)]
    assert verdicts(better)[name].verdict == "not measured"
    assert verdicts([*better, *pair("TMD", 360.0, 99.0, t=325.0)])[name].verdict == "met"


def test_tube_currents_never_trained_on_must_improve() -> None:
    name = "TMD and BV/TV RMSE, % of raw, currents never trained on"
    results = [one for q in ("TMD", "BV/TV") for mas in (50.0, 200.0) for one in pair(q, mas, 60.0)]
    assert verdicts(results)[name].verdict == "met"
    assert verdicts([*results[:-2], *pair("BV/TV", 200.0, 100.0)])[name].verdict == "not met"
    assert verdicts(results[:-2])[name].verdict == "not measured"


@pytest.mark.parametrize(("donors", "verdict"), [(25.0, "met"), (25.1, "not met")])
def test_donors_may_be_a_quarter_worse(donors: float, verdict: str) -> None:
    name = "TMD and BV/TV RMSE, % of raw: unseen donors, % of unseen simulated vertebrae, same network"
    places = [(quantity, mas) for quantity in ("TMD", "BV/TV") for mas in (100.0, 360.0)]
    simulated = [one for at in places for one in pair(*at, 20.0, split="simulated")]
    real = [
        one for at in places for one in pair(*at, donors if at == ("BV/TV", 100.0) else 20.0, split="donors")
    ]
    found = verdicts(simulated + real)[name]
    assert (found.verdict, found.where) == (verdict, "BV/TV, 100 mAs")


def test_another_filter_can_be_judged() -> None:
    found = {one.goal.name: one for one in judged(paper_results(), "NNBMD")}
    assert found["TMD RMSE, % of raw, 100 mAs"].verdict == "not met"
    assert found["TMD RMSE, % of raw, 100 mAs"].ours == pytest.approx(100 * 49.99 / 125.54)


def test_goals_as_markdown_and_rows() -> None:
    found = judged(pair("TMD", 100.0, 17.9))
    text = goals_markdown(found, Made("a laptop", "nnsp-short", 1, 5.0, ("reduced schedule",)))
    assert "| TMD RMSE, % of raw, 100 mAs | 17.1 | ≤ 17.2 | ≤ 12.0 | 17.9 |  | **not met** |" in text
    assert "**Note: reduced schedule**" in text
    assert text.count("\n| ") == 1 + len(goals())
    row = goal_rows(found)[0]
    assert (row["ours"], row["at_least"], row["aim"], row["verdict"]) == (17.9, 17.2, 12.0, "not met")
