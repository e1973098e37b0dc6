"""A simulated laboratory: specimens under HR-pQCT and clinical QCT, on disk as scanners leave them, nothing aligned.

In a scan, pose and calibration line are the only errors besides blur and noise; the scanner's own misplacement, gain
and bias (`Scanner`) are off. Blur, noise and its local level act along the scanner's axes.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qctrun.runtime.errors import InputError, OutputExistsError
from qctrun.runtime.formats import UNFINISHED
from qctrun.runtime.json_files import json_text, read_json
from qctrun.runtime.volume import BoolArray, Grid, Progress, Volume
from qctrun.runtime.writing.files import Staging, replace_file, writing
from qctrun.runtime.writing.images import stage_image
from qctrun.runtime.writing.labels import stage_labels
from qctrun.train.insilico.bone import FINE_SPACING_MM
from qctrun.train.insilico.fields import FloatArray
from qctrun.train.insilico.hrpqct import HRPQCT_SPACING_MM, hrpqct_noise, hrpqct_signal, hrpqct_size
from qctrun.train.insilico.lab_plan import (
    TRUTH,
    LabStudy,
    PlannedScan,
    PlannedSpecimen,
    planned,
    read_truth,
    scan_grid,
    truth_of,
)
from qctrun.train.insilico.posed import Spectrum, scan_in_pose, spectrum_of
from qctrun.train.insilico.scanner import PAPER_SPACING_MM, Scanner
from qctrun.train.insilico.series import write_series
from qctrun.train.insilico.specimen import TRABECULAR_PEEL_MM, Body, fine_tissue
from qctrun.train.insilico.study import study_character
from qctrun.train.insilico.vertebra import CORTEX_MM, SOFT_TISSUE_MG_CM3
from qctrun.train.pairs.rigid import Rigid

if TYPE_CHECKING:
    from qctrun.train.pairs.dataset import PairedSpecimen

STUDY = "study.toml"
REFERENCE, BONE, TRABECULAR = "hrpqct.nii.gz", "bone_mask.nii.gz", "trabecular_mask.nii.gz"

AIR_HU = -1000.0
JAR_WIDTH, JAR_ROOM_MM = 0.75, 6.0
"""Radius of the jar as a share of the box's width, and how far it reaches beyond the box along its axis."""
_JAR_EDGE_MM = 1.0

_BODY, _BONE, _REFERENCE, _LEVEL = 2, 3, 4, 5  # what a specimen's streams of random numbers are for


@dataclass(frozen=True, eq=False)
class Simulated:
    """A specimen: its shape, and its density on the fine grid in the reference's world."""

    planned: PlannedSpecimen
    body: Body
    tissue: Volume


def write_study(folder: Path, study: LabStudy, progress: Progress | None = None) -> list[str]:
    """Write a whole study; what is whole already is not made again, and nothing is ever there in part.

    `study.toml` for `qctrun pairs`; for each specimen a folder with `hrpqct.nii.gz`, `bone_mask.nii.gz` and
    `trabecular_mask.nii.gz`, and in it a folder of DICOM slices for each scan; `truth.json`: poses and lines.

    Returns
    -------
    list of str
        What was made now, like "A1/100mAs-1".

    Raises
    ------
    OutputExistsError
        When the folder holds another study, or files that are none.
    OutputError
        When the disk refuses.
    """
    specimens = planned(study)
    _begin(folder, study, specimens)
    steps = [(each, scan) for each in specimens for scan in (None, *each.scans)]
    missing = [(each, scan) for each, scan in steps if not _there(folder, each, scan)]
    told = progress or (lambda done, total: None)
    done = len(steps) - len(missing)
    for each in specimens:
        wanted = [scan for owner, scan in missing if owner is each]
        for _ in _made(folder / each.name, study, each, wanted):
            done += 1
            told(done, len(steps))
    replace_file(folder / STUDY, _study_text(specimens).encode())
    return [str(_path(Path(), each, scan)) for each, scan in missing]


def simulated(study: LabStudy, specimen: PlannedSpecimen) -> Simulated:
    """Make the specimen itself; the same every time."""
    body = Body.draw(study.size_mm, np.random.default_rng((*specimen.seed, _BODY)))
    rng = np.random.default_rng((*specimen.seed, _BONE))
    tissue = fine_tissue(body, study_character(specimen.index), study.size_mm, rng)
    grid = specimen.grid(tissue.shape, FINE_SPACING_MM)
    return Simulated(specimen, body, Volume(tissue, grid, "mg/cm3", "HA"))


def reference_of(study: LabStudy, made: Simulated) -> tuple[Volume, BoolArray]:
    """The noise-free HR-pQCT scan, and the trabecular mask on its grid."""
    size = hrpqct_size(study.size_mm)
    grid = made.planned.grid(size, HRPQCT_SPACING_MM)
    mask = made.body.mask(size, HRPQCT_SPACING_MM, TRABECULAR_PEEL_MM)
    return Volume(hrpqct_signal(made.tissue.array, study.size_mm), grid, "mg/cm3", "HA"), mask


def simulated_scan(study: LabStudy, bone: Spectrum, specimen: PlannedSpecimen, scan: PlannedScan) -> Volume:
    """One QCT scan of a specimen, in HU, on the scanner's grid."""
    grid = scan_grid(study, scan)
    scanner, rng = Scanner(), np.random.default_rng(scan.seed)
    density = scan_in_pose(bone, scan.pose, grid, scanner, SOFT_TISSUE_MG_CM3)
    air = np.float32(scan.slope * AIR_HU + scan.intercept - SOFT_TISSUE_MG_CM3)
    density += air * (1 - _jar(study, grid, scan.pose.after(specimen.place)))
    level = scanner.level(grid.size, np.random.default_rng((*specimen.seed, _LEVEL)), grid.spacing)
    level = scanner.scan_level(level, rng, grid.spacing)
    density += scanner.noise(grid.size, scan.mas, level, rng, grid.spacing)
    density -= np.float32(scan.intercept)
    density /= np.float32(scan.slope)
    return Volume(density, grid, "HU")


def aligned(
    folder: Path, name: str, spacing_mm: tuple[float, float, float] = PAPER_SPACING_MM
) -> "PairedSpecimen":
    """A specimen of a study on disk as if registration and calibration knew everything.

    The same scans as `qctrun pairs` reads, each laid over the reference by its true pose and calibrated by its
    true line; the truth is the reference without its noise.

    Raises
    ------
    InputError
        When the study has no such specimen, or a scan is missing.
    """
    from qctrun.runtime.reading import read_hu
    from qctrun.train.pairs.dataset import PairedSpecimen
    from qctrun.train.pairs.fixed import fixed_volume
    from qctrun.train.pairs.register import resampled
    from qctrun.train.raster import box_positions

    study, specimens = read_truth(folder)
    named = {each.name: each for each in specimens}
    if name not in named:
        raise InputError("specimen", wanted=" or ".join(named), got=name)
    specimen = named[name]
    fixed = fixed_volume(*reference_of(study, simulated(study, specimen)), spacing_mm)
    grid = fixed.density.grid
    scans = np.empty((len(specimen.scans), *grid.size), np.float32)
    for scan, array in zip(specimen.scans, scans, strict=True):
        raw = read_hu(_path(folder, specimen, scan))
        array[:] = resampled(raw, scan.pose, grid).array * scan.slope + scan.intercept
    return PairedSpecimen(
        name,
        specimen.donor,
        fixed.density.array,
        fixed.mask,
        scans,
        np.array([scan.mas for scan in specimen.scans]),
        np.array([scan.repetition for scan in specimen.scans], np.int32),
        np.array(box_positions(fixed.mask), np.int32),
        {"alignment": "true poses and lines of the simulator", "seed": list(specimen.seed)},
    )


def _begin(folder: Path, study: LabStudy, specimens: Sequence[PlannedSpecimen]) -> None:
    """The truth is written first: it says which study the folder is for."""
    text = json_text(truth_of(study, specimens))
    path = folder / TRUTH
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        known = path.is_file()
        others = [each for each in (STUDY, *(s.name for s in specimens)) if (folder / each).exists()]
    if known and json_text(read_json(path)) == text:
        return
    if known or others:
        got = "another one, or one of other options" if known else f"{others[0]} without a {TRUTH}"
        raise OutputExistsError(
            f"{folder}", wanted="no study, or a part of this one", got=got, mend="say another --out"
        )
    replace_file(path, text.encode())


def _path(folder: Path, specimen: PlannedSpecimen, scan: PlannedScan | None) -> Path:
    """What a scan, or else the last file of the reference, is called."""
    return folder / specimen.name / (TRABECULAR if scan is None else scan.name)


def _there(folder: Path, specimen: PlannedSpecimen, scan: PlannedScan | None) -> bool:
    """Whether a scan, or else the reference with its masks, is whole."""
    names = (REFERENCE, BONE, TRABECULAR) if scan is None else (scan.name,)
    return all((folder / specimen.name / name).exists() for name in names)


def _made(
    folder: Path, study: LabStudy, specimen: PlannedSpecimen, wanted: Sequence[PlannedScan | None]
) -> Iterator[None]:
    """Make what is wanted of a specimen, one after the other."""
    if not wanted:
        return
    made = simulated(study, specimen)
    if None in wanted:
        _write_reference(folder, study, made)
        yield
    scans = [scan for scan in wanted if scan is not None]
    bone = spectrum_of(made.tissue) if scans else None
    del made  # the fine volume is large, and its spectrum is all that scans need
    for scan in scans:
        assert bone is not None  # there are scans
        with _whole(folder / scan.name) as hidden:
            volume = simulated_scan(study, bone, specimen, scan)
            number = int(np.random.SeedSequence(scan.seed).generate_state(1)[0])
            write_series(
                volume.array,
                volume.grid.spacing,
                hidden,
                mas=scan.mas,
                seed=number,
                centre_mm=scan.centre_mm,
            )
        yield


def _write_reference(folder: Path, study: LabStudy, made: Simulated) -> None:
    clean, mask = reference_of(study, made)
    bone = made.body.mask(clean.grid.size, HRPQCT_SPACING_MM, -CORTEX_MM)
    noise = hrpqct_noise(clean.grid.size, np.random.default_rng((*made.planned.seed, _REFERENCE)))
    # Whole mg/cm3, as a scanner stores them; they take half the space of others.
    noisy = clean.with_array(np.rint(clean.array + noise))
    names = (_sidecar(REFERENCE), REFERENCE, _sidecar(BONE), BONE, _sidecar(TRABECULAR), TRABECULAR)
    # What a run that was stopped has left in part is made again.
    with Staging(folder, names, overwrite=True) as staging:
        stage_image(staging, noisy, REFERENCE, sidecar={"Manufacturer": "qctrun (simulated)"})
        for name, inside in ((BONE, bone), (TRABECULAR, mask)):
            stage_labels(staging, inside.view(np.uint8), clean.grid, name, {"Sources": [REFERENCE]})
        staging.commit()


def _sidecar(name: str) -> str:
    return name.removesuffix(".nii.gz") + ".json"


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A folder under a hidden name that gets its own when the block has filled it."""
    hidden = path.with_name(f"{UNFINISHED}{path.name}")
    with writing(path):
        shutil.rmtree(hidden, ignore_errors=True)  # of a run that was stopped by force
        hidden.mkdir(parents=True)
        try:
            yield hidden
            hidden.rename(path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def _jar(study: LabStudy, grid: Grid, place: Rigid) -> FloatArray:
    """Share of each voxel that lies in the jar; `place` takes the specimen's own axes to the scanner's world."""
    back = place.inverse()
    corners = [grid.world((0, 0, 0)), *(grid.world(tuple(unit)) for unit in np.eye(3))]
    first, *steps = back.points(np.array(corners))
    first, steps = first.astype(np.float32), [(step - first).astype(np.float32) for step in steps]
    z, y, x = (np.arange(n, dtype=np.float32) for n in grid.size)
    radius, half = JAR_WIDTH * max(study.size_mm[1:]), study.size_mm[0] / 2 + JAR_ROOM_MM
    share = np.empty(grid.size, np.float32)
    for plane, height in zip(share, z, strict=True):  # one at a time: the field is large
        at = [first[i] + height * steps[0][i] + y[:, None] * steps[1][i] + x * steps[2][i] for i in range(3)]
        depth = np.minimum(radius - np.hypot(at[0], at[1]), half - np.abs(at[2]))
        plane[:] = np.clip(depth / _JAR_EDGE_MM + 0.5, 0, 1)
    return share


def _study_text(specimens: Sequence[PlannedSpecimen]) -> str:
    lines = ["# Written by qctrun study lab: simulated scans, as a laboratory would have them."]
    for each in specimens:
        lines += [
            "",
            "[[specimen]]",
            f'name = "{each.name}"',
            f'donor = "{each.donor}"',
            f'reference = "{each.name}/{REFERENCE}"',
            f'mask = "{each.name}/{TRABECULAR}"',
        ]
        for scan in each.scans:
            lines += [
                "",
                "[[specimen.scan]]",
                f'path = "{each.name}/{scan.name}"',
                f"tube_current_mas = {scan.mas:g}",
                f"repetition = {scan.repetition}",
            ]
    return "\n".join(lines) + "\n"
