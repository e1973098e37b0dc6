"""`qctrun report`: a folder of results in, one page for people out."""

import csv
import json
import shutil
import tracemalloc

import numpy as np
import pytest
import scans
from dicom_series import write_series
from report_pages import Parsed, browse, colours, decoded, pixels, screenshot

from qctrun.cli.main import main
from qctrun.runtime.volume import Grid, Volume
from qctrun.runtime.writing import write
from qctrun.runtime.writing.report.reading import map_array

NAME, NUMBER, BIRTH = "Mustermann^Erika", "PID-4711-XYZ", "19460812"
EVIL = "<script>alert(1)<"
SIZE, SPACING, ORIGIN = (24, 44, 44), (1.0, 0.5, 0.5), (10.0, -20.0, 30.0)
LINE = {"slope": 0.8, "intercept": 2.0, "material": "HA", "source": f"rods {EVIL}"}
SECTIONS = ["scan", "calibration", "slices", "maps", "numbers", "compared", "provenance"]


def mask():
    z, y, x = np.indices(SIZE)
    return (np.hypot(y - 22, x - 22) < 10) & (z > 3) & (z < 20)


@pytest.fixture(scope="module")
def hu():
    return scans.hounsfield(SIZE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, hu):
    """A folder with a scan of a named patient and, in `out`, what filter and params have made of it."""
    folder = tmp_path_factory.mktemp("report")
    scan = folder / f"ct {EVIL} $a_1$"
    tags = {"PatientName": NAME, "PatientID": NUMBER, "PatientBirthDate": BIRTH, "StudyDescription": EVIL}
    described = {"ConvolutionKernel": "<b>B60</b>", "Manufacturer": EVIL, "SeriesDescription": EVIL}
    write_series(scan, hu, spacing=SPACING, origin=ORIGIN, **tags, **described)
    (scan / "calibration.json").write_text(json.dumps(LINE))
    labels = np.where(np.arange(SIZE[0])[:, None, None] < 12, 1, 2) * mask()
    for name, array in (("mask", mask()), ("labels", labels)):
        write(Volume(array.astype(np.float32), Grid(SIZE, SPACING, ORIGIN), "1"), scan / f"{name}.nii.gz")
    words = ["--params", "--thresholds", "200,225", "--labels", str(scan / "labels.nii.gz"), "-q"]
    assert main(["filter", str(scan), "-o", str(folder / "out"), "--device", "cpu", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def reported(finished):
    """The same with its report."""
    assert main(["report", str(finished / "out"), "-q"]) == 0
    return finished / "out"


@pytest.fixture(scope="module")
def page(reported):
    return Parsed((reported / "report.html").read_text("utf-8"))


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the results to spoil; the scan is where it was."""
    folder = tmp_path / "results"
    shutil.copytree(finished / "out", folder, ignore=shutil.ignore_patterns("report*"))
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures cost time; where they do not matter they are one pixel."""
    one = b"\x89PNG\r\n\x1a\n"
    monkeypatch.setattr("qctrun.runtime.writing.report.making.draw_plane", lambda *_, **__: one)
    monkeypatch.setattr("qctrun.runtime.writing.report.atlas.draw_plane", lambda *_, **__: one)
    monkeypatch.setattr("qctrun.runtime.writing.report.making.draw_histogram", lambda *_: one)
    monkeypatch.setattr("qctrun.runtime.writing.report.making.draw_line", lambda *_: one)


def words_of(folder):
    return Parsed((folder / "report.html").read_text("utf-8")).words


def test_the_page_is_whole_and_has_every_section(page):
    assert page.faults == []
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    assert page.words.count("Research use only. Not for diagnosis.") == 2


def test_nothing_is_fetched_and_nothing_runs(page):
    assert page.all("script") == page.all("link") == page.all("iframe") == page.all("object") == []
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_pictures_in_the_page_are_the_files_beside_it(page, reported):
    record = json.loads((reported / "report.run.json").read_text())
    files = {output["path"] for output in record["outputs"] if output["role"] == "picture"}
    assert files == {path.name for path in reported.glob("report_*.png")}
    embedded = {decoded(source) for source in page.sources}
    assert embedded == {(reported / name).read_bytes() for name in files}
    # 2 x 3 slices, 6 maps in 3 planes, 2 plots in 2 colours.
    assert len(files) == 6 + 18 + 4
    assert all(colours(pixels(data)) > 20 for data in embedded)


def test_every_map_states_its_unit_in_words_as_well(page):
    words = [image["alt"] for image in page.all("img")]
    maps = [text for text in words if " map" in text]
    assert len(maps) == 18
    for text in maps:
        assert text.endswith("%" if text.startswith("BV/TV") else "mg/cm³")
    assert sum("grey from −200 to 800 mg/cm³, the mask outlined" in text for text in words) == 6


def test_no_patient_and_no_path_is_in_any_file_of_the_report(finished, reported):
    html = (reported / "report.html").read_text("utf-8")
    assert str(finished) not in html
    assert finished.name not in html
    for path in reported.glob("report*"):
        data = path.read_bytes()
        for secret in (NAME, *NAME.split("^"), NUMBER, BIRTH, "1946"):
            assert secret.encode() not in data, (secret, path.name)


def test_what_the_tags_say_is_shown_and_never_run(page, reported):
    html = (reported / "report.html").read_text("utf-8")
    assert "<script" not in html
    assert "<b>B60" not in html
    assert f"{EVIL} $a_1$" in page.words
    assert f"rods {EVIL}" in page.words
    assert "<b>B60</b>" in page.words


def test_raw_is_measured_over_the_same_voxels(page, hu):
    raw = hu[mask()] * 0.8 + 2.0
    bone = raw >= 225
    assert f"{raw.mean():.1f}" in page.words
    assert f"{100 * bone.mean():.1f}" in page.words
    assert f"{raw[bone].mean():.1f}" in page.words


def test_the_table_of_the_run_stands_on_the_page(page, reported):
    with (reported / "params.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        for text in (f"{float(row['tmd_mg_cm3']):.1f}", f"{100 * float(row['bvtv']):.1f}"):
            assert text in page.words
    assert "label 1" in page.words
    assert "mg/cm³" in page.words


def test_the_record_names_what_was_read(reported):
    record = json.loads((reported / "report.run.json").read_text())
    assert record["verb"] == "report"
    assert [source["role"] for source in record["inputs"]] == ["record", "record"]
    assert record["warnings"] == []


def test_equal_runs_give_equal_pictures(reported, copied):
    assert main(["report", str(copied), "-q", "--slices", "1"]) == 0
    for path in copied.glob("report_*.png"):
        assert path.read_bytes() == (reported / path.name).read_bytes()


@pytest.mark.slow
def test_a_browser_shows_it_wide_and_narrow_light_and_dark(reported, tmp_path):
    lone = tmp_path / "elsewhere" / "report.html"
    lone.parent.mkdir()
    shutil.copy(reported / "report.html", lone)
    wide = screenshot(reported / "report.html", 1180, 2400)
    assert wide.shape == (2400, 1180, 3)
    assert colours(wide) > 500
    assert np.array_equal(wide, screenshot(lone, 1180, 2400)), (
        "it looks otherwise without the files beside it"
    )
    assert wide[600, 5].min() > 220
    assert screenshot(lone, 1180, 2400, "--blink-settings=preferredColorScheme=0")[600, 5].max() < 40
    document = Parsed(browse(lone, "--dump-dom"))
    assert [name for name in document.ids if name in SECTIONS] == SECTIONS


@pytest.mark.slow
def test_a_phone_shows_it_without_cutting_anything_off(reported, tmp_path):
    """Chromium draws no window under 500 pixels, so the page lies in a frame as narrow as a phone."""
    frame = tmp_path / "phone.html"
    (tmp_path / "report.html").write_text((reported / "report.html").read_text("utf-8"), "utf-8")
    frame.write_text(
        '<body style="margin:0"><iframe src="report.html" style="border:0;width:390px;height:2000px"></iframe>'
    )
    narrow = screenshot(frame, 600, 2000)[:, :390]
    assert colours(narrow) > 500
    ground = narrow[1000, 2]
    assert (narrow[60:, :8] == ground).all(), "something touches the left edge"
    assert (narrow[60:, -8:] == ground).all(), "something runs over the right edge"


def test_a_folder_without_records_is_refused_with_what_to_type(fresh, qctrun):
    (fresh / "empty").mkdir()
    for words in ((), ("empty",), ("nowhere",)):
        said = qctrun("report", *words)
        assert said.code == 3
        assert "qctrun filter INPUT --params --out FOLDER" in said.err
        assert said.err.count("\n") == 1
    assert not list(fresh.rglob("report*"))


def test_a_report_is_replaced_only_when_asked(copied, qctrun, undrawn):
    assert qctrun("report", copied).code == 0
    before = (copied / "report.html").read_bytes()
    assert qctrun("report", copied).code == 2
    assert (copied / "report.html").read_bytes() == before
    assert qctrun("report", copied, "--slices", 3, "--overwrite").code == 0
    assert (copied / "report_axial-3_raw.png").is_file()
    assert not (copied / "report_axial_raw.png").exists()
    assert (copied / "params.csv").is_file()
    assert qctrun("report", copied, "--slices", 24, "--overwrite").code == 0
    assert len(list(copied.glob("report_axial-*_raw.png"))) == 16, "the mask has no more slices"


def test_no_picture_of_an_earlier_report_stays_behind(copied, qctrun, undrawn):
    assert qctrun("report", copied).code == 0
    assert (copied / "report_axial_raw.png").is_file()
    record = json.loads((copied / "filter.run.json").read_text())
    record["inputs"][0]["path"] = "/nowhere"
    (copied / "filter.run.json").write_text(json.dumps(record))
    assert qctrun("report", copied, "--overwrite").code == 0
    assert not (copied / "report_axial_raw.png").exists()
    assert (copied / "report_axial_filtered.png").is_file()


def test_a_report_that_fails_leaves_nothing(copied, qctrun, undrawn, monkeypatch):
    def full(*_):
        raise MemoryError

    before = sorted(copied.iterdir())
    monkeypatch.setattr("qctrun.runtime.writing.report.making.rendered", full)
    assert qctrun("report", copied).code == 6
    assert sorted(copied.iterdir()) == before


def test_numbers_of_the_raw_scan_are_not_taken_for_those_of_the_filtered_one(
    finished, copied, qctrun, undrawn
):
    (scan,) = finished.glob("ct *")
    assert qctrun("params", scan, "-o", copied, "--overwrite", "--device", "cpu", "-q").code == 0
    assert qctrun("report", copied).code == 0
    words = words_of(copied)
    assert "the numbers here are of the scan as it came in" in words
    assert "Raw against filtered" not in words
    assert "Local maps" in words


def test_dicom_outputs_are_shown_like_the_others(finished, tmp_path, qctrun, undrawn):
    pytest.importorskip("highdicom")
    (scan,) = finished.glob("ct *")
    out = tmp_path / "out"
    words = ("--params", "--thresholds", "225", "--device", "cpu", "--format", "nii.gz,dicom", "-q")
    assert qctrun("filter", scan, "-o", out, *words).code == 0
    for image in out.glob("*map.nii.gz"):
        dicom = image.with_name(image.name.replace(".nii.gz", ".dcm"))
        same = (map_array(path, Grid(SIZE, SPACING, ORIGIN)) for path in (image, dicom))
        np.testing.assert_array_equal(*same)
    for image in out.glob("*.nii.gz"):
        image.unlink()
    said = qctrun("report", out)
    assert (said.code, "warning" in said.err) == (0, False), said.err
    shown = [image["alt"] for image in Parsed((out / "report.html").read_text("utf-8")).all("img")]
    assert sum(" map" in words for words in shown) == 12
    assert sum("filtered density" in words for words in shown) == 3


def test_it_goes_where_it_is_told_to(copied, tmp_path, qctrun, undrawn):
    said = qctrun("report", copied, "--out", tmp_path / "elsewhere")
    assert said.code == 0
    assert said.out == ""
    assert (tmp_path / "elsewhere" / "report.run.json").is_file()
    assert not list(copied.glob("report*"))


@pytest.mark.parametrize("title", ["Case 7 <b>", ""])
def test_another_title_leaves_the_scans_own_name_out(copied, qctrun, undrawn, title):
    assert qctrun("report", copied, "--title", title).code == 0
    parsed = Parsed((copied / "report.html").read_text("utf-8"))
    assert "$a_1$" not in parsed.words
    assert title in parsed.words


def test_a_scan_that_is_gone_is_said_and_the_rest_is_shown(finished, copied, qctrun, undrawn):
    record = json.loads((copied / "filter.run.json").read_text())
    record["inputs"][0]["path"] = "/nowhere/Doe_John"
    (copied / "filter.run.json").write_text(json.dumps(record))
    said = qctrun("report", copied)
    assert said.code == 0
    assert "the scan as it came in is not shown: no such file" in said.err
    words = words_of(copied)
    assert "cannot be compared: no such file" in words
    assert "Raw against filtered" not in words
    assert "Local maps" in words
    assert "Doe" not in words


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("*_BMDmap.nii.gz", "the BMD map has changed since the run"),
        ("*_thr225_TMDmap.nii.gz", "the TMD map at 225 mg/cm3 has changed since the run"),
        ("*_ct.nii.gz", "the filtered volume has changed since the run"),
        ("params.csv", "the table params.csv has changed since the run"),
    ],
)
def test_a_file_that_has_changed_is_not_shown(copied, qctrun, undrawn, name, told):
    (path,) = copied.glob(name)
    path.write_bytes(path.read_bytes() + b"\n")
    assert told in qctrun("report", copied).err
    assert told in words_of(copied)


def test_a_mask_that_has_changed_is_not_outlined(copied, tmp_path, qctrun, undrawn):
    record = json.loads((copied / "params.run.json").read_text())
    for source in record["inputs"]:
        source["sha256"] = "0" * 64 if source["role"] in ("mask", "labels") else source["sha256"]
    (copied / "params.run.json").write_text(json.dumps(record))
    assert "the mask has changed" in qctrun("report", copied).err
    words = words_of(copied)
    assert "The line is the edge of the mask" not in words
    assert "Raw against filtered" not in words


def test_a_scan_that_has_changed_is_neither_shown_nor_compared(copied, qctrun, undrawn):
    record = json.loads((copied / "filter.run.json").read_text())
    for source in record["inputs"]:
        source["sha256"] = "0" * 64 if source["role"] == "image" else source["sha256"]
    (copied / "filter.run.json").write_text(json.dumps(record))
    said = qctrun("report", copied)
    assert "the scan as it came in is not shown: it cannot be read the same way again" in said.err
    assert "Raw against filtered" not in words_of(copied)


def test_before_anything_is_measured_it_says_what_to_type(copied, qctrun, undrawn):
    (copied / "params.run.json").unlink()
    assert qctrun("report", copied).code == 0
    words = words_of(copied)
    assert "Nothing was measured yet" in words
    assert "qctrun params --mask MASK --thresholds 200,225,250 --out FOLDER" in words
    assert "Local maps" not in words


def test_without_filter_and_mask_a_smaller_report_says_what_is_missing(image, qctrun, undrawn):
    assert qctrun("params", image, "--device", "cpu", "-q").code == 0
    assert qctrun("report").code == 0
    words = words_of(image.parents[1] / "qctrun-out")
    assert "qctrun filter INPUT --out FOLDER" in words
    assert "qctrun params --mask MASK --out FOLDER --overwrite" in words
    assert "no mask: air and soft tissue count too" in words


def test_only_a_calibration_is_a_report_too(fresh, qctrun):
    line = {**LINE, "nominal": False, "error": {"residual_mg_cm3": 4.0}}
    record = {"schema": "qctrun/run/1", "verb": "calibrate", "calibration": line, "outputs": []}
    (fresh / "calibrate.run.json").write_text(json.dumps(record))
    assert qctrun("report", fresh).code == 0
    words = words_of(fresh)
    assert "density = 0.8 × HU + 2 mg/cm³" in words
    assert "±4 mg/cm³" in words


def test_one_volume_is_in_memory_at_a_time(tmp_path, undrawn):
    size = (48, 160, 160)
    volume = Volume(
        np.random.default_rng(1).normal(200, 60, size), Grid(size, (1.0, 0.5, 0.5)), "mg/cm3", "HA"
    )
    inside = np.zeros(size, np.float32)
    inside[20:28, 70:90, 70:90] = 1
    write(volume, tmp_path / "a.nii.gz")
    write(Volume(inside, volume.grid, "1"), tmp_path / "mask.nii.gz")
    out = str(tmp_path / "out")
    words = [
        "--thresholds",
        "180,200,225,250,300",
        "--mask",
        str(tmp_path / "mask.nii.gz"),
        "--device",
        "cpu",
        "-q",
    ]
    assert main(["params", str(tmp_path / "a.nii.gz"), "-o", out, *words]) == 0
    tracemalloc.start()
    try:
        assert main(["report", out, "-q"]) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * volume.array.nbytes, "twelve maps, the volume and the mask are fourteen"
