"""Small studies of real pairs on disk, for the tests of `qctrun pairs`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qctrun.runtime.volume import FloatArray, Grid, Volume
from qctrun.runtime.writing import write
from qctrun.train.pairs import run, scan
from qctrun.train.pairs.choices import PAPER_SPACING_MM, Specimen, StudyFile
from qctrun.train.pairs.judging import Verdict
from qctrun.train.pairs.register import Registered
from qctrun.train.pairs.rigid import Rigid
from qctrun.train.pairs.specimen import walk
from qctrun.train.pairs.walked import Walked

STUDY = """\
[[specimen]]
name = "A1"
donor = "A"
reference = "A1/reference.nii.gz"
mask = "A1/mask.nii.gz"

[[specimen.scan]]
path = "A1/100mAs-1.nii.gz"
tube_current_mas = 100
repetition = 1

[[specimen.scan]]
path = "A1/100mAs-2.nii.gz"
tube_current_mas = 100
repetition = 2

[[specimen]]
name = "B1"
donor = "B"
reference = "B1/reference.nii.gz"
mask = "B1/mask.nii.gz"

[[specimen.scan]]
path = "B1/100mAs-1.nii.gz"
tube_current_mas = 100
repetition = 1
"""

LINE = """\
[calibration]
by = "line"
slope = 0.8
intercept = 2
material = "HA"

"""

SCANS = ("A1/100mAs-1", "A1/100mAs-2", "B1/100mAs-1")
FILES = ("A1/reference", "A1/mask", "B1/reference", "B1/mask", *SCANS)
SIZE = (24, 44, 44)
OUTPUTS = {"pairs.h5", "pairs.csv", "positions.csv", "pairs.run.json", ".cache"}


def write_study(folder: Path, text: str = STUDY) -> Path:
    """A study file whose files are all there, empty."""
    for name in FILES:
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    path = folder / "study.toml"
    path.write_text(text)
    return path


def changed(old: str, new: str, count: int = 1) -> str:
    """The study with other words in one place."""
    assert old in STUDY
    return STUDY.replace(old, new, count)


def make_study(folder: Path, size: tuple[int, int, int] = SIZE) -> Path:
    """A study with voxels in it: two bones, and scans that lie on them already and have noise."""
    path = write_study(folder, LINE + STUDY)
    place = Grid(size, PAPER_SPACING_MM)
    for seed, name in enumerate(("A1", "B1")):
        density = bone(size, seed)
        write(Volume(density, place, "mg/cm3", "HA"), folder / name / "reference.nii.gz", overwrite=True)
        write(Volume(np.ones(size), place, "1"), folder / name / "mask.nii.gz", overwrite=True)
        (folder / name / "mask.json").unlink()
        for number, own in enumerate(each for each in SCANS if each.startswith(name)):
            noise = np.random.default_rng((seed, number)).normal(0, 20, size)
            scanned = Volume((density - 2) / 0.8 + noise, place, "HU")
            write(scanned, folder / f"{own}.nii.gz", overwrite=True)
    return path


def bone(size: tuple[int, int, int], seed: int) -> FloatArray:
    """Struts of bone in marrow, mg/cm3."""
    z, y, x = np.indices(size)
    noise = np.random.default_rng(seed).normal(0, 30, size)
    density = np.where((z + y + (seed + 1) * x) % 7 < 3, 400.0, 50.0) + noise
    return density.astype(np.float32)


def lay_still(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scans lie on their references already, are good, and are walked in this process without pictures.

    Returned: which were registered, one by one.
    """
    found: list[str] = []

    def registered(fixed: object, volume: Any, *_: object, **__: object) -> Registered:
        found.append(path_of(volume))
        return Registered(Rigid(), Rigid(), 1.0, 1.0, {"metric": "mutual information"})

    def walk_all(study: StudyFile, left: list[Specimen], cache: Any, jobs: int, *told: Any) -> list[Walked]:
        return [walk(study, specimen, cache, *told) for specimen in left]

    monkeypatch.setattr(scan, "register", registered)
    monkeypatch.setattr(scan, "judged", good)
    monkeypatch.setattr(scan, "draw_checkerboard", lambda *_: b"\x89PNG")
    monkeypatch.setattr(run, "walk_all", walk_all)
    return found


def good(*_: object) -> Verdict:
    """A verdict without doubts."""
    return Verdict(True, (), 1.0, 1.0, 0.0, 0.0, 0.0, {})


def doubt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubt scans whose paths hold this name."""

    def doubted(fixed: object, on_grid: Volume, found: object) -> Verdict:
        mine = name in path_of(on_grid)
        return replace(good(), good=False, reasons=("it lies elsewhere",)) if mine else good()

    monkeypatch.setattr(scan, "judged", doubted)


def path_of(volume: Volume) -> str:
    """Where a volume was read."""
    return str(volume.provenance["inputs"][0]["path"])


def outputs(folder: Path = Path("pairs")) -> set[str]:
    """The files of a run, without its pictures."""
    return {path.name for path in folder.iterdir() if path.suffix != ".png"}
