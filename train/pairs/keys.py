"""What decides each stage of a specimen's walk, as keys of the cache."""

from dataclasses import asdict, dataclass
from pathlib import Path

from qctrun.train.pairs.cache import key_of, stamp_of
from qctrun.train.pairs.choices import CalibrationChoice, QctScan, Specimen, StudyFile

FIXED = 1
REGISTERED = 1
JUDGED = 1
CALIBRATED = 1
SPECIMEN = 1
"""Of each stage; raise the number when what the stage makes of the same inputs changes."""

BESIDE = "calibration.json"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one specimen's stages.

    Attributes
    ----------
    fixed : str
        Of the reference on the study's grid.
    registered, judged, calibrated : mapping of str
        Of each scan, by its name.
    specimen : str
        Of all together: the part of the dataset, its rows and pictures.
    """

    fixed: str
    registered: dict[str, str]
    judged: dict[str, str]
    calibrated: dict[str, str]
    specimen: str


def keys_of(study: StudyFile, specimen: Specimen) -> Keys:
    """Look at the inputs of a specimen, as they are now.

    Raises
    ------
    InputError
        When one of them is not there or cannot be looked at.
    """
    files = [stamp_of(specimen.reference), stamp_of(specimen.mask)]
    told = [study.spacing_mm, specimen.peel_mm, specimen.material, specimen.unit]
    fixed = key_of("fixed", FIXED, *files, *told)
    registered = {scan.name: _registered(study, scan, fixed) for scan in specimen.scans}
    judged = {name: key_of("judged", JUDGED, specimen.name, key) for name, key in registered.items()}
    calibrated = {
        scan.name: _calibrated(study.calibration, scan, registered[scan.name]) for scan in specimen.scans
    }
    scans = [[scan.name, scan.accept, judged[scan.name], calibrated[scan.name]] for scan in specimen.scans]
    whole = key_of("specimen", SPECIMEN, specimen.name, specimen.donor, fixed, scans)
    return Keys(fixed, registered, judged, calibrated, whole)


def calibration_files(choice: CalibrationChoice, scan: QctScan) -> list[Path]:
    """The files that the line of a scan comes from, where it comes from files."""
    used = [choice.file] if choice.file else []
    if choice.by == "file" and not choice.file:
        used.append((scan.path if scan.path.is_dir() else scan.path.parent) / BESIDE)
    if choice.phantom and choice.phantom.endswith(".toml"):
        used.append(Path(choice.phantom))
    return [path for path in used if path.is_file()]


def _registered(study: StudyFile, scan: QctScan, fixed: str) -> str:
    files = [stamp_of(scan.path), stamp_of(scan.landmarks)]
    return key_of("registered", REGISTERED, fixed, *files, scan.series_uid, asdict(study.registration))


def _calibrated(choice: CalibrationChoice, scan: QctScan, registered: str) -> str:
    used = calibration_files(choice, scan)
    return key_of("calibrated", CALIBRATED, registered, asdict(choice), *map(stamp_of, used))
