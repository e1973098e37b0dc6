"""What a simulated study is to hold, drawn from its seed before anything is simulated: poses, lines, places."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.json_files import read_json
from qctrun.runtime.volume import Grid
from qctrun.train.insilico.fields import Triple
from qctrun.train.insilico.scanner import SIMULATOR_VERSION
from qctrun.train.insilico.study import VERTEBRAE
from qctrun.train.pairs.rigid import Rigid
from qctrun.train.raster import REPETITIONS, TUBE_CURRENTS_MAS

SCHEMA = "qctrun/lab/1"
TRUTH = "truth.json"

MOST_TILT_DEG = 10.0
MOST_SHIFT_MM = 10.0
"""Of a scan against its reference, about an axis and towards a side of its own."""
REFERENCE_TILT_DEG = 5.0
"""How far the voxel axes of a reference lean against its world, at most."""
SLOPE_MG_CM3_PER_HU, SLOPE_SPREAD = 0.8, 0.03
"""Mean and relative SD of the line from HU to density."""
INTERCEPT_SPREAD_MG_CM3 = 3.0
SMALLEST_MM, LARGEST_MM = (16.0, 20.0, 20.0), 60.0
FINEST_MM, COARSEST_MM = 0.1, 1.0

_PLACE, _SCAN = 1, 2  # what a stream of random numbers is for


@dataclass(frozen=True)
class LabStudy:
    """What is asked for.

    Attributes
    ----------
    seed : int
        Decides everything that is random.
    specimens : int
        1 to 5, each of another character and donor.
    size_mm : (float, float, float)
        Box of the reference scan (z, y, x).
    currents_mas : tuple of float
    repetitions : int
        Scans at each current.
    spacing_mm : (float, float, float)
        Of the QCT scans (z, y, x).

    Raises
    ------
    UsageError
        When there is no room for a patch, or a number makes no sense.
    """

    seed: int = 0
    specimens: int = VERTEBRAE
    size_mm: Triple = (30.0, 40.0, 40.0)
    currents_mas: tuple[float, ...] = TUBE_CURRENTS_MAS
    repetitions: int = REPETITIONS
    spacing_mm: Triple = (0.40, 0.195, 0.195)

    def __post_init__(self) -> None:
        for name in ("size_mm", "currents_mas", "spacing_mm"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        least = ", ".join(f"{mm:g}" for mm in SMALLEST_MM)
        _require("specimens", 1 <= self.specimens <= VERTEBRAE, f"1 to {VERTEBRAE}", self.specimens)
        _require(
            "size",
            len(self.size_mm) == 3
            and all(low <= mm <= LARGEST_MM for low, mm in zip(SMALLEST_MM, self.size_mm, strict=True)),
            f"from {least} to {LARGEST_MM:g} mm (z, y, x)",
            self.size_mm,
        )
        _require(
            "spacing",
            len(self.spacing_mm) == 3 and all(FINEST_MM <= mm <= COARSEST_MM for mm in self.spacing_mm),
            f"from {FINEST_MM:g} to {COARSEST_MM:g} mm (z, y, x)",
            self.spacing_mm,
        )
        sound = all(1 <= mas <= 10_000 for mas in self.currents_mas)
        _require("currents", bool(self.currents_mas) and sound, "1 to 10000 mAs", self.currents_mas)
        names = {f"{mas:g}" for mas in self.currents_mas}
        _require(
            "currents",
            len(names) == len(self.currents_mas),
            "each once, told by six digits",
            self.currents_mas,
        )
        _require("repetitions", 1 <= self.repetitions <= 100, "1 to 100", self.repetitions)


@dataclass(frozen=True)
class PlannedScan:
    """One QCT scan to come.

    Attributes
    ----------
    name : str
        Like 100mAs-1; also its folder in that of the specimen.
    mas : float
    repetition : int
    pose : Rigid
        From the reference's world to the scanner's.
    slope, intercept : float
        Density in mg HA/cm3 = slope x HU + intercept.
    centre_mm : (float, float, float)
        Middle of the field of view in the scanner's world (x, y, z).
    seed : tuple of int
        Of its noise.
    """

    name: str
    mas: float
    repetition: int
    pose: Rigid
    slope: float
    intercept: float
    centre_mm: tuple[float, float, float]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class PlannedSpecimen:
    """One specimen to come.

    Attributes
    ----------
    name, donor : str
    index : int
        0 to 4: its character.
    place : Rigid
        From the middle of its box, along its own axes, to the reference's world.
    seed : tuple of int
    scans : tuple of PlannedScan
    """

    name: str
    donor: str
    index: int
    place: Rigid
    seed: tuple[int, ...]
    scans: tuple[PlannedScan, ...] = field(default_factory=tuple)

    def grid(self, size: Sequence[int], spacing_mm: Triple) -> Grid:
        """A grid (z, y, x) about the middle of the box, along its axes, in the reference's world."""
        half = [(n - 1) / 2 * d for n, d in zip(size, spacing_mm, strict=True)]
        (origin,) = self.place.points([[-mm for mm in half[::-1]]]).tolist()
        z, y, x = size
        return Grid((z, y, x), (spacing_mm[0], spacing_mm[1], spacing_mm[2]), origin, self.place.matrix)


def planned(study: LabStudy) -> tuple[PlannedSpecimen, ...]:
    """All specimens of a study; one scan is the same whatever else is asked for."""
    return tuple(_specimen(study, index) for index in range(study.specimens))


def scan_grid(study: LabStudy, scan: PlannedScan) -> Grid:
    """The grid of a scan in the scanner's world; wide enough for the bone in any pose."""
    tilt = math.radians(MOST_TILT_DEG + REFERENCE_TILT_DEG)
    half, across = study.size_mm[0] / 2, max(study.size_mm[1:]) / 2
    along_axis = half * math.cos(tilt) + across * math.sin(tilt) + MOST_SHIFT_MM
    in_plane = across * math.cos(tilt) + half * math.sin(tilt) + MOST_SHIFT_MM
    size = [
        math.ceil(2 * mm / d)
        for mm, d in zip((along_axis, in_plane, in_plane), study.spacing_mm, strict=True)
    ]
    corner = [
        c - (n - 1) / 2 * d for c, n, d in zip(scan.centre_mm[::-1], size, study.spacing_mm, strict=True)
    ]
    z, y, x = study.spacing_mm
    return Grid((size[0], size[1], size[2]), (z, y, x), (corner[2], corner[1], corner[0]))


def truth_of(study: LabStudy, specimens: Sequence[PlannedSpecimen]) -> dict[str, Any]:
    """What only the simulator knows, in JSON's own types."""
    return {
        "schema": SCHEMA,
        "simulator": SIMULATOR_VERSION,
        "study": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(study).items()},
        "specimens": [
            {
                "name": each.name,
                "donor": each.donor,
                "seed": list(each.seed),
                "scans": [_scan_truth(each, scan) for scan in each.scans],
            }
            for each in specimens
        ],
    }


def read_truth(folder: Path) -> tuple[LabStudy, tuple[PlannedSpecimen, ...]]:
    """What a study on disk was made from.

    Raises
    ------
    InputError
        When truth.json is missing or damaged, or another version of the simulator wrote it.
    """
    path = folder / TRUTH
    told = read_json(path, schema=SCHEMA)
    try:
        study = LabStudy(**told["study"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise InputError(f"{path}", wanted="what qctrun study lab wrote", got=str(error)) from error
    specimens = planned(study)
    if truth_of(study, specimens) != told:
        got = "poses, lines or seeds that do not follow from its study"
        raise InputError(f"{path}", wanted="what this version of the simulator wrote", got=got)
    return study, specimens


def _specimen(study: LabStudy, index: int) -> PlannedSpecimen:
    seed = (study.seed, index)
    rng = np.random.default_rng((*seed, _PLACE))
    place = Rigid(tuple(_turn(rng, REFERENCE_TILT_DEG).ravel()), _point(rng, (30.0, 30.0, 30.0)))
    donor = "ABCDE"[index]
    scans = tuple(
        _scan(seed, place, mas, repetition)
        for mas in study.currents_mas
        for repetition in range(1, study.repetitions + 1)
    )
    return PlannedSpecimen(f"{donor}1", donor, index, place, seed, scans)


def _scan(seed: tuple[int, ...], place: Rigid, mas: float, repetition: int) -> PlannedScan:
    own = (*seed, round(1000 * mas), repetition)
    rng = np.random.default_rng((*own, _SCAN))
    turn, side = _turn(rng, MOST_TILT_DEG), _direction(rng)
    table = _point(rng, (20.0, 20.0, 300.0))
    middle = np.asarray(table) + MOST_SHIFT_MM * rng.uniform() * side
    x, y, z = (middle - turn @ place.offset_mm).tolist()
    return PlannedScan(
        name=f"{mas:g}mAs-{repetition}",
        mas=mas,
        repetition=repetition,
        pose=Rigid(tuple(turn.ravel()), (x, y, z)),
        slope=SLOPE_MG_CM3_PER_HU * float(1 + SLOPE_SPREAD * rng.standard_normal()),
        intercept=INTERCEPT_SPREAD_MG_CM3 * float(rng.standard_normal()),
        centre_mm=table,
        seed=own,
    )


def _scan_truth(specimen: PlannedSpecimen, scan: PlannedScan) -> dict[str, Any]:
    return {
        "name": scan.name,
        "path": f"{specimen.name}/{scan.name}",
        "tube_current_mas": scan.mas,
        "repetition": scan.repetition,
        "transform": scan.pose.as_dict(),
        "slope": scan.slope,
        "intercept": scan.intercept,
        "material": "HA",
        "seed": list(scan.seed),
    }


def _turn(rng: np.random.Generator, most_deg: float) -> npt.NDArray[np.float64]:
    """A rotation by any angle up to the most, about any axis."""
    from scipy.spatial.transform import Rotation

    angle = math.radians(most_deg) * rng.uniform()
    return np.asarray(Rotation.from_rotvec(angle * _direction(rng)).as_matrix(), np.float64)


def _direction(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    arrow = rng.standard_normal(3)
    return np.asarray(arrow / np.linalg.norm(arrow), np.float64)


def _point(rng: np.random.Generator, reach_mm: Triple) -> tuple[float, float, float]:
    x, y, z = (rng.uniform(-1, 1, 3) * reach_mm).tolist()
    return x, y, z


def _require(what: str, sound: bool, wanted: str, got: object) -> None:
    if not sound:
        raise UsageError(what, wanted=wanted, got=str(got))
