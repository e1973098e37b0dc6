"""What of a specimen is made anew when something that decides it changes: that, what rests on it, and nothing else."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pair_studies import STUDY, write_study

from qctrun.train.pairs.choices import CalibrationChoice, RegistrationChoice, StudyFile
from qctrun.train.pairs.keys import keys_of
from qctrun.train.pairs.study_file import load_study

STAGES = ("fixed", "registered", "judged", "calibrated", "specimen")
ALL = set(STAGES)
FROM_REGISTRATION = ALL - {"fixed"}
FROM_CALIBRATION = {"calibrated", "specimen"}


@pytest.fixture
def study(tmp_path: Path) -> StudyFile:
    """A study of two specimens; the first has two scans."""
    return load_study(write_study(tmp_path, STUDY))


def scan_with(study: StudyFile, **changes: Any) -> StudyFile:
    """The study with another first scan."""
    scans = study.specimens[0].scans
    return specimen_with(study, scans=(replace(scans[0], **changes), *scans[1:]))


def specimen_with(study: StudyFile, **changes: Any) -> StudyFile:
    """The study with another first specimen."""
    return replace(study, specimens=(replace(study.specimens[0], **changes), *study.specimens[1:]))


def changed_stages(before: StudyFile, after: StudyFile, scan: int) -> set[str]:
    """The stages of the first specimen, and of one of its scans, whose keys differ."""
    name = before.specimens[0].scans[scan].name
    found = [keys_of(study, study.specimens[0]) for study in (before, after)]
    keys = [[getattr(each, stage) for stage in STAGES] for each in found]
    told = [[key[name] if isinstance(key, dict) else key for key in each] for each in keys]
    return {stage for stage, one, other in zip(STAGES, *told, strict=True) if one != other}


@pytest.mark.parametrize(
    ("change", "anew", "of_the_other_scan"),
    [
        (lambda s: s, set(), set()),
        (lambda s: replace(s, spacing_mm=(1.0, 1.0, 1.0)), ALL, ALL),
        (lambda s: replace(s, registration=RegistrationChoice("correlation")), *[FROM_REGISTRATION] * 2),
        (lambda s: replace(s, calibration=CalibrationChoice("file")), *[FROM_CALIBRATION] * 2),
        (lambda s: specimen_with(s, peel_mm=1.0), ALL, ALL),
        (lambda s: specimen_with(s, material="HA"), ALL, ALL),
        (lambda s: specimen_with(s, unit="mg/cm3"), ALL, ALL),
        (lambda s: specimen_with(s, donor="Z"), {"specimen"}, {"specimen"}),
        (lambda s: specimen_with(s, name="Z"), {"judged", "specimen"}, {"judged", "specimen"}),
        (lambda s: specimen_with(s, mask=s.specimens[1].mask), ALL, ALL),
        (lambda s: scan_with(s, accept=True), {"specimen"}, {"specimen"}),
        (lambda s: scan_with(s, series_uid="1.2"), FROM_REGISTRATION, {"specimen"}),
        (lambda s: scan_with(s, landmarks=s.path), FROM_REGISTRATION, {"specimen"}),
        (lambda s: scan_with(s, path=s.specimens[1].scans[0].path), FROM_REGISTRATION, {"specimen"}),
    ],
)
def test_a_choice_changes_what_rests_on_it(
    study: StudyFile,
    change: Callable[[StudyFile], StudyFile],
    anew: set[str],
    of_the_other_scan: set[str],
) -> None:
    assert changed_stages(study, change(study), 0) == anew
    assert changed_stages(study, change(study), 1) == of_the_other_scan


@pytest.mark.parametrize(
    ("by", "name", "anew"),
    [
        ("reference", "A1/reference.nii.gz", ALL),
        ("reference", "A1/mask.nii.gz", ALL),
        ("reference", "A1/100mAs-1.nii.gz", FROM_REGISTRATION),
        ("reference", "A1/100mAs-2.nii.gz", {"specimen"}),
        ("reference", "B1/100mAs-1.nii.gz", set()),
        ("reference", "A1/calibration.json", set()),
        ("file", "A1/calibration.json", FROM_CALIBRATION),
        ("reference", "points.csv", FROM_REGISTRATION),
        ("reference", "line.json", FROM_CALIBRATION),
        ("reference", "rods.toml", FROM_CALIBRATION),
    ],
)
def test_a_file_that_is_touched_changes_what_rests_on_it(
    study: StudyFile, by: Any, name: str, anew: set[str]
) -> None:
    path = study.path.parent / name
    path.touch()
    choice = CalibrationChoice(
        by,
        file=path if name == "line.json" else None,
        phantom=str(path) if name == "rods.toml" else None,
    )
    study = scan_with(replace(study, calibration=choice), landmarks=path if name == "points.csv" else None)
    before = keys_of(study, study.specimens[0])
    os.utime(path, ns=(1, 1))
    after = keys_of(study, study.specimens[0])
    scan = study.specimens[0].scans[0].name
    both = [
        [each.fixed, each.registered[scan], each.judged[scan], each.calibrated[scan], each.specimen]
        for each in (before, after)
    ]
    assert {stage for stage, one, other in zip(STAGES, *both, strict=True) if one != other} == anew
