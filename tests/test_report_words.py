"""What a report says: numbers in the units of its headers, facts without paths, every text escaped."""

import json
import sys
from pathlib import Path

import pytest
from report_pages import Parsed, decoded, pixels

from qctrun.runtime.digests import sha256_of_bytes
from qctrun.runtime.errors import InputError
from qctrun.runtime.measuring import Parameters
from qctrun.runtime.writing.report import facts, numbers, open_run, picture_names
from qctrun.runtime.writing.report.fits import find_fit
from qctrun.runtime.writing.report.page import Page, Shown, rendered
from qctrun.runtime.writing.report.plots import THEMES, draw_line
from qctrun.runtime.writing.report.run_folder import RunFolder

EVIL = '<script>alert("x")</script>'


def row(**more):
    return {
        "case_id": "case",
        "label_id": "n/a",
        "label_name": "whole mask",
        "threshold_mg_cm3": "225",
        "voxels": "1000",
        "volume_mm3": "12345",
        "bmd_mg_cm3": "123.456",
        "bmd_sd_mg_cm3": "45.6",
        "bvtv": "0.1234",
        "tmd_mg_cm3": "n/a",
        "local_spheres": "12345",
        "local_spheres_bvtv_under_1pct": "7",
        "local_bmd_mean_mg_cm3": "120",
        "local_sd_mean_mg_cm3": "40",
        "local_bvtv_mean": "0.5",
        "local_tmd_mean_mg_cm3": "300.04",
        "diameter_mm": "4.3",
        "step": "fuzzy",
        **more,
    }


def run_of(folder, **records):
    whole = {"schema": "qctrun/run/1", "options": {}, "inputs": [], "outputs": [], "warnings": []}
    return RunFolder(folder, {verb: {**whole, **record} for verb, record in records.items()})


def veil_of(folder, title=None, **records):
    return facts.Veil(run_of(folder, **records), title)


def test_fractions_become_percent_and_what_is_undefined_a_dash():
    (block,) = numbers.global_blocks([row()])
    assert (block.name, block.volume_cm3, block.bmd) == ("whole mask", "12.35", "123.5")
    assert block.lines[0] == numbers.Line("225", ("12.3", "–"))
    (local,) = numbers.local_blocks([row()])
    assert local.lines[0].cells == ["120.0", "40.0", "50.0", "300.0", "12\u202f345", "7"]


def test_labels_go_by_their_name_where_the_table_has_one():
    assert numbers.region_name(row(label_id="28", label_name="vertebrae_L4")) == "vertebrae_L4 (28)"
    assert numbers.region_name(row(label_id="28", label_name="n/a")) == "label 28"


def test_the_headline_takes_225_or_else_the_middle_threshold():
    rows = [row(threshold_mg_cm3=t, bvtv=b) for t, b in (("200", "0.3"), ("225", "0.2"), ("250", "0.1"))]
    assert numbers.headlines(rows)[1].value == "20.0"
    others = [row(threshold_mg_cm3=t, bvtv=b) for t, b in (("100", "0.3"), ("150", "0.2"), ("300", "0.1"))]
    assert numbers.headlines(others)[1].value == "20.0"
    assert numbers.headlines([]) == []


def test_raw_and_filtered_are_compared_by_label_and_threshold():
    raw = [Parameters(None, 225.0, 1000, 12345.0, 130.0, 90.0, 0.2, 400.0, 200)]
    (block,) = numbers.compared_blocks([row(tmd_mg_cm3="350"), row(label_id="3")], raw)
    assert block.lines[0].cells == [
        "130.0",
        "123.5",
        "−6.5",
        "20.0",
        "12.3",
        "−7.7",
        "400.0",
        "350.0",
        "−50.0",
    ]


def test_other_voxels_are_never_compared():
    raw = [Parameters(None, 225.0, 999, 12345.0, 130.0, 90.0, 0.2, 400.0, 200)]
    assert numbers.compared_blocks([row()], raw) == []


@pytest.mark.parametrize("text", ["", "n/a", "nan", "inf", "x", None])
def test_what_is_no_number_is_a_dash(text):
    assert numbers.whole(text) == numbers.percent(text) == numbers.count(text) == "–"


def test_no_path_survives_in_a_text(tmp_path):
    scan, mask = "/data/Doe John/scan", "/data/Doe John/mask.nii.gz"
    record = {
        "options": {
            "input": "../Doe John/scan",
            "out": "x",
            "mask": mask,
            "margin_mm": 5.0,
            "device": "auto",
        },
        "inputs": [{"role": "image", "path": scan, "sha256": "ab" * 32}],
        "warnings": [
            f"{mask} has changed",
            "look into /srv/Doe_John/a.nii.gz; it is old",
            "and (/data/Doe John/other.txt)",
            "the scan at x: BV/TV at 0.8 mg/cm3, <b>B60</b>, 3 / 4",
        ],
    }
    veil = veil_of(tmp_path, filter=record)
    told = facts.warnings_of(veil.run, veil)[1]
    assert told == [
        "(a file) has changed",
        "look into (a file); it is old",
        "and ((a folder)/other.txt)",
        "the scan at x: BV/TV at 0.8 mg/cm3, <b>B60</b>, 3 / 4",
    ]
    said = str(facts.made(veil.run, veil))
    assert "Doe" not in said
    assert "margin 5 mm" in said
    assert "ab" * 32 in said


def test_another_title_takes_the_scans_own_name_away(tmp_path):
    record = {"inputs": [{"role": "image", "path": "/data/DOE_JOHN.nii.gz"}], "warnings": ["DOE_JOHN is old"]}
    assert veil_of(tmp_path, filter=record)("of DOE_JOHN, twice DOE_JOHN") == "of DOE_JOHN, twice DOE_JOHN"
    assert (
        veil_of(tmp_path, "case 7", filter=record)("of DOE_JOHN, not DOE_JOHNS")
        == "of (the scan), not DOE_JOHNS"
    )
    assert facts.stem_of_run(run_of(tmp_path, filter=record)) == "DOE_JOHN"


def test_the_nominal_line_is_told_apart_from_other_warnings_and_each_is_told_once(tmp_path):
    warnings = ["NOMINAL CALIBRATION: none was found", "thick slices"]
    run = run_of(tmp_path, filter={"warnings": warnings}, params={"warnings": warnings})
    assert facts.warnings_of(run, facts.Veil(run, None)) == (["None was found"], ["thick slices"])


def test_every_resampling_is_said_wherever_a_record_has_it(tmp_path):
    step = {
        "what": "onto the model's grid",
        "interpolation": "cubic B-spline",
        "from_spacing_zyx_mm": [5.0, 0.8, 0.8],
        "to_spacing_zyx_mm": [0.34, 0.172, 0.172],
    }
    run = run_of(tmp_path, filter={"inputs": [{"role": "image", "resampling": [step]}]})
    (said,) = facts.resampling_of(run, facts.Veil(run, None))
    assert (
        said
        == "onto the model's grid: cubic B-spline, from 0.8 × 0.8 × 5 to 0.172 × 0.172 × 0.34 mm (x, y, z)"
    )


def test_resamplings_are_said_in_their_order(tmp_path):
    spacings = {"interpolation": "x", "from_spacing_zyx_mm": [1, 1, 1], "to_spacing_zyx_mm": [1, 1, 1]}
    of_input, there, back = ({"what": what, **spacings} for what in ("tilt mended", "there", "back"))
    record = {"filter": {"resampling": [there, back]}, "inputs": [{"resampling": [of_input]}]}
    run = RunFolder(
        tmp_path, {"filter": record, "params": {"inputs": [{"resampling": [of_input, there, back]}]}}
    )
    said = facts.resampling_of(run, facts.Veil(run, None))
    assert [words.partition(":")[0] for words in said] == ["tilt mended", "there", "back"]


def test_the_error_of_a_line_is_said_with_its_units(tmp_path):
    error = {
        "residual_mg_cm3": 4.321,
        "slope_se": 0.0012,
        "intercept_se_mg_cm3": 2.5,
        "r2": 0.9987,
        "rods": 6,
    }
    error |= {"density_se_mg_cm3": 3.0, "at_mg_cm3": 150.0, "drift": {"at_mg_cm3": 1}, "warnings": ["x"]}
    line = {"slope": 0.78, "intercept": -3.0, "material": "HA", "source": "rods", "error": error}
    said = dict(facts.calibration_facts(line, veil_of(tmp_path, filter={})))
    assert said["Line"] == "density = 0.78 × HU − 3 mg/cm³"
    assert said["Residual of the rods"] == "±4.3 mg/cm³"
    assert said["Standard error of the slope"] == "±0.0012 mg/cm³ per HU"
    assert said["Standard error at 150 mg/cm³"] == "±3 mg/cm³"
    assert said["R²"] == "0.9987"
    assert len(said) == 8


def test_every_text_of_a_record_is_escaped():
    page = Page(
        title=EVIL,
        date="2026-01-01",
        own_title=True,
        version="1",
        scan=[("Kernel", EVIL)],
        nominal=[EVIL],
        warnings=[EVIL],
        resampling=[EVIL],
        calibration=[("Source", EVIL)],
        calibration_picture=Shown("a.png", f'" onerror="{EVIL}'),
        blocks=numbers.global_blocks([row(label_id="1", label_name=EVIL)]),
        made=[facts.Made(EVIL, [("Options", EVIL)], [(EVIL, EVIL)])],
        missing={"numbers": (EVIL, EVIL)},
    )
    html = rendered(page, {"a.png": b"png"})
    parsed = Parsed(html)
    assert parsed.faults == []
    assert parsed.all("script") == []
    assert html.count("&lt;script&gt;") >= 12
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    assert parsed.words.count(EVIL) >= 12


def test_an_empty_page_is_whole_and_calls_itself_research():
    html = rendered(Page("", "", False, "1"), {})
    parsed = Parsed(html)
    assert parsed.faults == []
    assert parsed.words.count("Research use only. Not for diagnosis.") == 2
    assert "Content-Security-Policy" in html


def test_a_line_is_drawn_with_its_rods_for_both_pages():
    line, rods = {"slope": 0.8, "intercept": 5.0}, [(0.0, 5.0), (500.0, 405.0)]
    with_rods, without = (draw_line(line, given, THEMES["light"]) for given in (rods, []))
    assert with_rods != without
    assert tuple(pixels(with_rods)[0, 0]) == (255, 255, 255)
    assert tuple(pixels(draw_line(line, rods, THEMES["dark"]))[0, 0]) == (23, 28, 34)
    assert decoded("data:image/png;base64,iVBORw0KGgo=").startswith(b"\x89PNG")


def test_a_damaged_record_is_refused_by_name(tmp_path):
    (tmp_path / "filter.run.json").write_text("{")
    with pytest.raises(InputError, match=r"filter\.run\.json"):
        open_run(tmp_path)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "a/../../b"])
def test_a_record_cannot_name_a_file_outside_of_its_folder(tmp_path, path):
    run = run_of(tmp_path, params={})
    assert run.unchanged({"path": path, "sha256": "x"}, "the map") is None
    assert run.notes
    assert path not in run.notes[0]


@pytest.mark.parametrize("record", [{"outputs": None}, {"outputs": [3]}, {"inputs": "x"}, {"outputs": [{}]}])
def test_a_strange_record_breaks_nothing(tmp_path, record):
    whole = {"schema": "qctrun/run/1", **record}
    (tmp_path / "params.run.json").write_text(json.dumps(whole))
    run = open_run(tmp_path)
    assert run.rows == ()
    assert facts.scan_facts(run, facts.Veil(run, None)) == []


@pytest.mark.parametrize("path", ["9" * 5000, "a\x00b"])
def test_a_path_that_no_system_has_is_of_a_file_that_is_not_there(tmp_path, path):
    run = run_of(tmp_path, params={"outputs": [{"role": "map", "path": path}, {"role": "map", "path": "."}]})
    assert [each["path"] for each in run.outputs("params", "map")] == [".", path]


def test_bytes_that_are_no_text_do_not_stop_the_page():
    html = rendered(Page("scan\udcff", "", True, "1"), {})
    assert "scan\\udcff" in html
    html.encode("utf-8")


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_named_with_the_line_that_installs_it(tmp_path, qctrun, monkeypatch, library):
    for module in (library, f"{library}.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    said = qctrun("report", tmp_path)
    assert said.code == 5
    assert f"wanted {library}, got not installed" in said.err
    assert 'pip install "qctrun[report]"' in said.err
    assert said.err.count("\n") == 1


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    draw_line({"slope": 0.8, "intercept": 5.0}, [], THEMES["light"])
    assert dict(matplotlib.rcParams) == before
    source = "".join(path.read_text() for path in Path(facts.__file__).parent.glob("*.py"))
    assert "pyplot" not in source
    assert "rcParams" not in source


def test_rods_are_shown_only_about_their_own_line(tmp_path):
    rods = [{"hu": 100.0, "density_mg_cm3": 80.0, "residual_mg_cm3": 5.0, "used": True}]
    line = {"slope": 0.8, "intercept": 5.0, "material": "HA", "error": {"rods": rods}}
    run = run_of(tmp_path, calibrate={"calibration": line})
    assert find_fit(run, line).rods == [(100.0, 80.0)]
    assert find_fit(run, {**line, "intercept": 50.0}).rods == []
    assert find_fit(run, {**line, "error": {"rods": 6}}).rods == []
    assert find_fit(run, {**line, "error": {"rods": [3]}}).rods == []


def test_the_picture_of_a_calibration_counts_if_it_is_of_this_line_and_unchanged(tmp_path):
    png = b"\x89PNG\r\n\x1a\nrest"
    (tmp_path / "calibration.png").write_bytes(png)
    line = {"slope": 0.8, "intercept": 5.0, "material": "HA", "file": str(tmp_path / "calibration.json")}
    output = {"role": "picture", "path": "calibration.png", "sha256": sha256_of_bytes(png)}
    record = {"schema": "qctrun/run/1", "calibration": line, "outputs": [output]}
    (tmp_path / "calibrate.run.json").write_text(json.dumps(record))
    elsewhere = run_of(tmp_path / "out", filter={})
    assert find_fit(elsewhere, line).picture == png
    assert find_fit(elsewhere, {**line, "slope": 0.7}).picture is None
    assert find_fit(elsewhere, {**line, "file": None}).picture is None
    (tmp_path / "calibration.png").write_bytes(png + b"x")
    assert find_fit(elsewhere, line).picture is None


RECORD = {
    "started": "2026-01-01T00:00:00Z",
    "options": {"input": "a/b", "margin_mm": 5.0, "thresholds": [200.0, 225.0]},
    "versions": {"qctrun": "1"},
    "device": {"used": "cpu"},
    "model": {"sha256": "ab", "card": {"name": "nnsp", "version": "2"}},
    "scan": {"kvp": 120.0, "kernel": "B60", "slice_thickness_mm": 1.0, "set_aside": {"localizer": 1}},
    "calibration": {
        "slope": 0.8,
        "intercept": 2.0,
        "material": "HA",
        "source": "rods",
        "file": "/a/calibration.json",
        "error": {"r2": 1.0, "rods": [{"hu": 1.0}], "density_se_mg_cm3": 3, "at_mg_cm3": 1},
    },
    "inputs": [
        {
            "role": "image",
            "path": "/a/b",
            "sha256": "cd",
            "files": 3,
            "format": "dicom",
            "geometry": {"size_zyx": [1, 2, 3], "spacing_zyx_mm": [1.0, 0.5, 0.5]},
            "resampling": [{"what": "x", "from_spacing_zyx_mm": [1, 1, 1]}],
        }
    ],
    "outputs": [
        {"role": "image", "path": "b_ct.nii.gz", "sha256": "ef"},
        {"role": "map", "path": "b_BMDmap.nii.gz"},
    ],
    "seconds": {"read": 1.0},
    "peak_memory_mb": 3.0,
    "warnings": ["one"],
}


def places(value, path=()):
    """Every place in a record."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def test_whatever_a_record_holds_is_put_into_words_or_refused(tmp_path):
    """One place after the other holds something else."""
    path = tmp_path / "filter.run.json"
    whole = {"schema": "qctrun/run/1", **RECORD}
    for where in places(whole):
        for strange in (None, "x", -1, [{"path": 3}], {"x": [1]}):
            record = json.loads(json.dumps(whole))
            inner = record
            for key in where[:-1]:
                inner = inner[key]
            inner[where[-1]] = strange
            path.write_text(json.dumps(record))
            try:
                run = open_run(tmp_path)
            except InputError:
                continue
            veil, line = facts.Veil(run, None), facts.calibration_of(run)
            facts.scan_facts(run, veil)
            facts.calibration_facts(line, veil)
            facts.warnings_of(run, veil)
            facts.resampling_of(run, veil)
            facts.made(run, veil)
            find_fit(run, line)
            run.measured_kind()
            picture_names(run, 1)
