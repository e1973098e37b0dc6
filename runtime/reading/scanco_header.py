"""What a Scanco AIM or ISQ file says of itself: where its voxels are, and which line makes density of them.

The header is read here before `itk-ioscanco` sees the file. That library copies texts of the header into buffers of
fixed length and takes memory for whatever sizes are said, so only a header that says plain things goes on to it.
The layouts are those of the open readers (aimpack, AimIO, vtk-dicom, ITKIOScanco). No name of a patient is ever
decoded.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from qctrun.runtime.errors import InputError
from qctrun.runtime.volume import Grid, Material

COPY_AGAIN = "copy it again"
SMALLEST_VOXEL_MM, LARGEST_VOXEL_MM = 0.001, 5.0
"""Voxels of all CT scanners lie between; what does not is a header in another unit, or a broken one."""
MAX_HEADER_BYTES = 2**24
WATER_MG_CM3 = 100.0
"""A calibration that puts water further from 0 than this is told of; the scanners' own come to within 20."""

_UNIT = re.compile(r"mg\s*(HA|K2HPO4)\s*/\s*(?:ccm|cm3|cm\^3|cc|ml)", re.IGNORECASE)
_SCALING = re.compile(r"\bScaling\s+(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DensityLine:
    """mu = stored / mu_scaling, in 1/cm; density = slope mu + intercept, in mg/cm3.

    Attributes
    ----------
    mu_scaling : float
        Stored numbers of 1/cm.
    slope, intercept : float
        In mg/cm3 per 1/cm, and mg/cm3.
    material : "HA" or "K2HPO4"
    mu_water : float, optional
        Attenuation of water, 1/cm.
    """

    mu_scaling: float
    slope: float
    intercept: float
    material: Material
    mu_water: float | None = None

    @property
    def per_stored(self) -> float:
        """mg/cm3 of one stored number."""
        return self.slope / self.mu_scaling

    @property
    def water_mg_cm3(self) -> float | None:
        """The density that the line gives to water, where its attenuation is known."""
        return None if self.mu_water is None else self.slope * self.mu_water + self.intercept

    def __str__(self) -> str:
        unit = f"mg {self.material}/cm3"
        return f"{self.slope:g} mu {self.intercept:+g} {unit}, mu = stored / {self.mu_scaling:g} per cm"

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON values for `provenance["scan"]["scanco"]`."""
        return {
            "mu_scaling": self.mu_scaling,
            "density_slope_mg_cm3_per_1_cm": self.slope,
            "density_intercept_mg_cm3": self.intercept,
            "mu_water_1_cm": self.mu_water,
        }

    def as_calibration(self) -> dict[str, Any]:
        """The same in the place of a line from HU, of which it is none."""
        unknown = dict.fromkeys(("slope", "intercept", "error", "measured_in"))
        return {**unknown, "material": self.material, "source": str(self), "nominal": False}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of its densities should be told."""
        water = self.water_mg_cm3
        if water is None or abs(water) <= WATER_MG_CM3:
            return ()
        return (f"the calibration in the header puts water at {water:.0f} mg/cm3, which should be near 0",)


@dataclass(frozen=True, slots=True)
class ScancoHeader:
    """A sound header.

    Attributes
    ----------
    kind : str
        "AIM 020", "AIM 030" or "ISQ".
    values : str
        How voxels are stored, by a name of `scanco_aim.TYPES`; "short" in an ISQ.
    dimensions : (int, int, int)
        Voxels along (z, y, x), the border counted.
    spacing_mm : (float, float, float)
        (z, y, x).
    position : (int, int, int)
        Voxels (z, y, x) from the first voxel of the scan to the first of the border.
    border : (int, int, int)
        Voxels (z, y, x) on either side that mean nothing, the `off` of an AIM: filters of IPL leave it.
    offset, length : int
        Where the voxels begin in the file, and how many bytes there are.
    density : DensityLine or str
        The line, or in words why there is none; of a mask none is looked for.
    kvp : float, optional
    notes : tuple of str
        What a reader of the numbers should be told.
    """

    kind: str
    values: str
    dimensions: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    position: tuple[int, int, int]
    border: tuple[int, int, int]
    offset: int
    length: int
    density: DensityLine | str
    kvp: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_mask(self) -> bool:
        """Whether its voxels are of 8 bits, as those of Scanco's masks are."""
        return "char" in self.values or "bits" in self.values

    @property
    def grid(self) -> Grid:
        """Where the voxels within the border lie: axes of the scanner, its first voxel at the origin."""
        z, y, x = (voxels - 2 * edge for voxels, edge in zip(self.dimensions, self.border, strict=True))
        at = [
            (first + edge) * mm
            for first, edge, mm in zip(self.position, self.border, self.spacing_mm, strict=True)
        ]
        return Grid((z, y, x), self.spacing_mm, (at[2], at[1], at[0]))

    def within(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of stored voxels without their border."""
        return stored[
            tuple(
                slice(edge, voxels - edge) for edge, voxels in zip(self.border, self.dimensions, strict=True)
            )
        ]


def damaged(path: Path, got: str, mend: str = COPY_AGAIN) -> InputError:
    """The refusal of a file whose header is not what it should be."""
    kind = "ISQ" if ".isq" in path.name.lower() else "AIM"
    return InputError(f"{path}", wanted=f"a whole {kind} file", got=got, mend=mend)


def checked_size(xyz: Sequence[int], path: Path) -> tuple[int, int, int]:
    """Dimensions as (z, y, x).

    Raises
    ------
    InputError
        When one is not a whole number from 1 on that the library can take.
    """
    x, y, z = xyz
    if not all(1 <= voxels < 2**31 for voxels in xyz):
        raise damaged(path, f"{x} x {y} x {z} voxels")
    return z, y, x


def checked_spacing(xyz: Sequence[float], path: Path) -> tuple[float, float, float]:
    """Voxel sizes as (z, y, x), mm.

    Raises
    ------
    InputError
        When one is no size that a CT scanner makes.
    """
    x, y, z = xyz
    if not all(SMALLEST_VOXEL_MM <= mm <= LARGEST_VOXEL_MM for mm in xyz):
        wanted = f"voxels of {SMALLEST_VOXEL_MM:g} to {LARGEST_VOXEL_MM:g} mm"
        raise InputError(f"{path}", wanted=wanted, got=f"{x:g} x {y:g} x {z:g} mm", mend=COPY_AGAIN)
    return z, y, x


def checked_line(
    mu_scaling: float,
    slope: float | None,
    intercept: float | None,
    unit: str,
    mu_water: float | None,
    told: str,
    path: Path,
) -> DensityLine | str:
    """The line to density that a header states, held against what else it says.

    Parameters
    ----------
    mu_scaling, slope, intercept, mu_water : float, optional
        As in `DensityLine`; None where the header has none.
    unit : str
        Of the density, `mg HA/ccm`.
    told : str
        The header's text on its calibration, `60 kVp, BH: 200 mg HA/ccm, Scaling 8192`.
    path : Path
        For messages.

    Returns
    -------
    DensityLine or str
        In words why there is no calibration, where there is none.

    Raises
    ------
    InputError
        When the header contradicts itself, or states another unit or an impossible number.
    """
    if not unit.strip() or slope is None or intercept is None:
        missing = {"unit": unit.strip() or None, "slope": slope, "intercept": intercept}
        return "no density " + " and no density ".join(name for name in missing if missing[name] is None)
    found = _UNIT.fullmatch(unit.strip())
    if not found:
        mend = "calibrate the scan to mg HA/ccm, or give its density as NIfTI with a sidecar"
        raise InputError(f"{path}: density unit", wanted="mg HA/ccm", got=repr(unit.strip()), mend=mend)
    numbers = {"mu scaling": mu_scaling, "density slope": slope, "density intercept": intercept}
    for name, value in numbers.items():
        if not math.isfinite(value) or (value <= 0 and name != "density intercept") or abs(value) > 1e9:
            raise InputError(
                f"{path}: {name}", wanted="a sound calibration", got=f"{value:g}", mend=COPY_AGAIN
            )
    for scaling in _SCALING.findall(told):
        if float(scaling) != mu_scaling:
            got = f"scaling {scaling} in its calibration text and {mu_scaling:g} for its voxels"
            mend = "write it again with IPL from the original scan"
            raise InputError(f"{path}", wanted="one scaling from stored numbers to 1/cm", got=got, mend=mend)
    water = mu_water if mu_water is not None and 0 < mu_water < 100 else None
    material: Material = "HA" if found[1].upper() == "HA" else "K2HPO4"
    return DensityLine(mu_scaling, slope, intercept, material, water)


def require_length(stored: int, wanted: int, path: Path) -> None:
    """Refuse a file with fewer bytes of voxels than its dimensions ask for, before memory is taken for them.

    Raises
    ------
    InputError
        Naming both.
    """
    if stored < wanted:
        raise damaged(path, f"{max(0, stored)} bytes of voxels where the header asks for {wanted}")
