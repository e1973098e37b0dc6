"""The study file: what it says comes out, and every slip is one line that names it."""

from pathlib import Path

import pytest
from pair_studies import FILES, STUDY, changed, write_study

from qctrun.runtime.errors import InputError
from qctrun.train.pairs.choices import PAPER_SPACING_MM, CalibrationChoice, RegistrationChoice
from qctrun.train.pairs.study_file import load_study

HEAD = """\
spacing_mm = [0.5, 0.25, 0.25]
[registration]
metric = "correlation"
[calibration]
by = "line"
slope = 0.8
intercept = -3
material = "HA"
"""


def refusal(folder: Path, text: str) -> str:
    """The one line that a study of this text is refused with."""
    path = write_study(folder, text)
    with pytest.raises(InputError) as caught:
        load_study(path)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(str(path))
    return said


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    assert study.spacing_mm == PAPER_SPACING_MM
    assert study.registration == RegistrationChoice("mutual information")
    assert study.calibration == CalibrationChoice("reference")
    assert [each.name for each in study.specimens] == ["A1", "B1"]
    assert [scan.name for scan in study.specimens[0].scans] == ["100mAs-1", "100mAs-2"]
    assert not study.specimens[0].scans[0].accept


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_study(tmp_path / "far" / "away")
    monkeypatch.chdir(tmp_path)
    first = load_study(path.relative_to(tmp_path)).specimens[0]
    assert first.reference.samefile(tmp_path / "far/away/A1/reference.nii.gz")
    assert first.scans[1].path.is_file()


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "points.csv").touch()
    scan = 'accept = true\nseries_uid = "1.2.3"\nlandmarks = "points.csv"\nrepetition = 2\n'
    more = 'peel_mm = 1\nmaterial = "K2HPO4"\nunit = "mg/cm3"\nmask = "A1/mask'
    text = HEAD + STUDY.replace("repetition = 2\n", scan).replace('mask = "A1/mask', more)
    study = load_study(write_study(tmp_path, text))
    assert study.spacing_mm == (0.5, 0.25, 0.25)
    assert study.registration.metric == "correlation"
    line = study.calibration
    assert (line.by, line.slope, line.intercept, line.material) == ("line", 0.8, -3.0, "HA")
    first = study.specimens[0]
    assert (first.peel_mm, first.material, first.unit) == (1.0, "K2HPO4", "mg/cm3")
    second = first.scans[1]
    assert (second.accept, second.series_uid, second.landmarks) == (True, "1.2.3", tmp_path / "points.csv")


def test_a_donor_is_the_specimen_when_none_is_named(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, changed('donor = "A"\n', "")))
    assert [each.donor for each in study.specimens] == ["A1", "B"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("reference = ", "refrence = ", "got 'refrence'; did you mean reference?"),
        ("tube_current_mas = ", "tube_current = ", "did you mean tube_current_mas?"),
        ('donor = "A"', 'zebra = "A"', "got 'zebra'"),
        ('name = "A1"\n', "", "specimen 1: wanted the key name, got none"),
        ('mask = "A1/mask.nii.gz"\n', "", "specimen A1: wanted the key mask, got none"),
        ("repetition = 1\n", "", "specimen A1: scan 1: wanted the key repetition"),
        ('name = "A1"', 'name = "A 1"', "no blank"),
        ('name = "A1"', 'name = "../A1"', "wanted up to 64 letters"),
        ('name = "A1"', 'name = "."', "wanted up to 64 letters"),
        ('name = "B1"', 'name = "a1"', "each name once, got a1 twice"),
        ('donor = "B"', 'donor = "a"', "each donor spelt in one way, got A, a"),
        ("tube_current_mas = 100", "tube_current_mas = -1", "wanted a number from 0.001 to 100000, got -1"),
        ("tube_current_mas = 100", "tube_current_mas = nan", "got nan"),
        ("tube_current_mas = 100", "tube_current_mas = true", "got True"),
        ("tube_current_mas = 100", 'tube_current_mas = "100"', "got '100'"),
        ("repetition = 1", "repetition = 1.0", "wanted a whole number from 1 to 9999, got 1.0"),
        ("repetition = 1", "repetition = 0", "got 0"),
        ("repetition = 2", "repetition = 1", "each repetition of one tube current once, got 100mAs-1 twice"),
        ("A1/100mAs-2", "A1/100mAs-1", "each scan once"),
        ("A1/100mAs-2", "A1/../A1/100mAs-1", "each scan once"),
        ("A1/100mAs-2", "A1/reference", "wanted a QCT scan, got the reference or the mask itself"),
        ("repetition = 2", 'repetition = 2\naccept = "yes"', "accept: wanted true or false, got 'yes'"),
        ('donor = "A"', "peel_mm = -1", "peel_mm: wanted a number from 0 to 20, got -1"),
        ('donor = "A"', 'material = "bone"', 'wanted "HA" or "K2HPO4"'),
        ('donor = "A"', 'unit = "HU"', 'wanted "mg/cm3"'),
        ("[[specimen]]", "[specimen]", "wanted"),
    ],
)
def test_a_slip_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert told in refusal(tmp_path, changed(old, new))


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("spacing_mm = [0.34, 0.17]", "spacing_mm: wanted three numbers"),
        ("spacing_mm = [0.34, 0.17, 0]", "got [0.34, 0.17, 0]"),
        ("spacing_mm = 0.34", "got 0.34"),
        ("spacing = [1, 1, 1]", "did you mean spacing_mm?"),
        ('[registration]\nmetric = "mutual"', 'wanted "mutual information" or "correlation"'),
        ("registration = 1", "[registration]: wanted a table"),
        ('[calibration]\nby = "magic"', "got 'magic'"),
        ('[calibration]\nby = "line"\nslope = 1', "wanted the key intercept, got none"),
        ("[calibration]\nslope = 1", 'slope: wanted by = "line", got by = "reference"'),
        (
            '[calibration]\nby = "line"\nslope = 0\nintercept = 0\nmaterial = "HA"',
            "slope: wanted a number from 0.01",
        ),
        ('[calibration]\nby = "rods"', "wanted the key phantom"),
        ('[calibration]\nby = "rods"\nphantom = "jelly"', "got 'jelly'"),
        ('[calibration]\nby = "file"\nfile = "none.json"', "not there: calibration file"),
    ],
)
def test_a_slip_in_the_head_is_named(tmp_path: Path, head: str, told: str) -> None:
    assert told in refusal(tmp_path, f"{head}\n{STUDY}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    path = write_study(tmp_path)
    (tmp_path / f"{name}.nii.gz").unlink()
    with pytest.raises(InputError, match=f"not there.*{name}"):
        load_study(path)


def test_more_than_one_that_is_missing_is_counted(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    for name in FILES[:3]:
        (tmp_path / f"{name}.nii.gz").unlink()
    with pytest.raises(InputError, match="and 2 more"):
        load_study(path)


@pytest.mark.parametrize("text", ["", "spacing_mm = [1, 1, 1]", "specimen = []"])
def test_an_empty_study_is_refused(tmp_path: Path, text: str) -> None:
    assert "wanted one [[specimen]] or more, got none" in refusal(tmp_path, text)


def test_a_specimen_without_scans_is_refused(tmp_path: Path) -> None:
    text = 'specimen = [{name = "A1", reference = "A1/reference.nii.gz", mask = "A1/mask.nii.gz", scan = []}]'
    assert "specimen A1: wanted one [[specimen.scan]] or more, got none" in refusal(tmp_path, text)


def test_two_series_of_one_folder_are_two_scans(tmp_path: Path) -> None:
    old = 'path = "A1/100mAs-2.nii.gz"'
    text = changed(old, 'path = "A1/100mAs-1.nii.gz"\nseries_uid = "1.2"')
    assert len(load_study(write_study(tmp_path, text)).specimens[0].scans) == 2


def test_the_same_reference_and_mask_are_one_specimen(tmp_path: Path) -> None:
    text = STUDY.replace("B1/reference", "A1/reference").replace("B1/mask", "A1/mask")
    assert "each reference with its mask once" in refusal(tmp_path, text)


def test_a_phantom_of_ones_own_is_found_beside_the_file(tmp_path: Path) -> None:
    rods = (
        'name = "own"\ntitle = "Own"\nmaterial = "HA"\ndensities_mg_cm3 = [0, 200]\nsource = "certificate"\n'
    )
    (tmp_path / "own.toml").write_text(rods)
    head = '[calibration]\nby = "rods"\nphantom = "own.toml"\n'
    assert load_study(write_study(tmp_path, head + STUDY)).calibration.phantom == str(tmp_path / "own.toml")


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"name = ", "wanted TOML"), (b"\xff\xfe\x00", "wanted TOML in UTF-8"), (None, "cannot be read")],
)
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "study.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        load_study(path)
