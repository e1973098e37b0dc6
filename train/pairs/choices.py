"""What a study asks for, in plain values: all rooms of `train.pairs` take these, none needs the file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qctrun.runtime.volume import Material

Metric = Literal["mutual information", "correlation"]
CalibrationBy = Literal["reference", "line", "file", "rods"]
ReferenceUnit = Literal["mg/cm3"]
Spacing = tuple[float, float, float]

METRICS: tuple[Metric, ...] = ("mutual information", "correlation")
CALIBRATED_BY: tuple[CalibrationBy, ...] = ("reference", "line", "file", "rods")

PAPER_SPACING_MM: Spacing = (0.34, 0.172, 0.172)
"""The grid of the paper's networks, (z, y, x)."""


@dataclass(frozen=True, slots=True)
class RegistrationChoice:
    """How a scan is laid over its reference.

    Attributes
    ----------
    metric : "mutual information" or "correlation"
        What says how well the two agree.
    """

    metric: Metric = "mutual information"


@dataclass(frozen=True, slots=True)
class CalibrationChoice:
    """How HU become density.

    Attributes
    ----------
    by : "reference", "line", "file" or "rods"
        By regression on the reference; by a line that is given; by a calibration.json; by phantom rods.
    slope, intercept : float, optional
        With "line": density in mg/cm3 = slope x HU + intercept.
    material : "HA" or "K2HPO4", optional
        With "line": what the line gives the density of.
    file : Path, optional
        With "file": one calibration.json for all scans. Without it, the one beside each scan.
    phantom : str, optional
        With "rods": the name of a known phantom, or a TOML file of one.
    """

    by: CalibrationBy = "reference"
    slope: float | None = None
    intercept: float | None = None
    material: Material | None = None
    file: Path | None = None
    phantom: str | None = None


@dataclass(frozen=True, slots=True)
class QctScan:
    """One QCT scan of a specimen.

    Attributes
    ----------
    path : Path
        DICOM folder, NIfTI, MHA or NRRD file, in HU.
    tube_current_mas : float
        Tube current time product, mAs.
    repetition : int
        From 1 on; scans of one current are told apart by it.
    series_uid : str, optional
        Which DICOM series, where there are several.
    accept : bool
        Keep the scan although its registration was doubted.
    landmarks : Path, optional
        CSV of points seen in both, where to start from.
    """

    path: Path
    tube_current_mas: float
    repetition: int
    series_uid: str | None = None
    accept: bool = False
    landmarks: Path | None = None

    @property
    def name(self) -> str:
        """Like 100mAs-1: a part of file names, and unique within a specimen."""
        return f"{self.tube_current_mas:g}mAs-{self.repetition}"


@dataclass(frozen=True, slots=True)
class Specimen:
    """One specimen: its reference, what counts of it, and its QCT scans.

    Attributes
    ----------
    name : str
        Letters, digits, `_`, `-` and `.`: it becomes part of file names.
    donor : str
        Specimens of one donor never stand on both sides of a split.
    reference : Path
        The reference scan: density in mg/cm3.
    mask : Path
        On the reference's grid: the trabecular inside, or the whole bone with `peel_mm`.
    peel_mm : float
        How much of the mask's rim is taken off, mm.
    material, unit : optional
        Of the reference, where its file does not say.
    scans : tuple of QctScan
        In the order of the file.
    """

    name: str
    donor: str
    reference: Path
    mask: Path
    peel_mm: float = 0.0
    material: Material | None = None
    unit: ReferenceUnit | None = None
    scans: tuple[QctScan, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A whole study, as its file says it.

    Attributes
    ----------
    path : Path
        The file itself.
    spacing_mm : (float, float, float)
        Of the grid that all specimens come to, (z, y, x).
    """

    path: Path
    spacing_mm: Spacing = PAPER_SPACING_MM
    registration: RegistrationChoice = field(default_factory=RegistrationChoice)
    calibration: CalibrationChoice = field(default_factory=CalibrationChoice)
    specimens: tuple[Specimen, ...] = ()
