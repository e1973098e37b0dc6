"""AIM and ISQ files of Scanco's HR-pQCT and micro-CT scanners: density, or a mask, as their headers put them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.digests import sha256_of
from qctrun.runtime.errors import InputError, RuntimeMissingError
from qctrun.runtime.formats import is_utf8, suffix_of
from qctrun.runtime.reading.scanco_aim import BYTES, read_aim_header
from qctrun.runtime.reading.scanco_header import DensityLine, ScancoHeader
from qctrun.runtime.reading.scanco_isq import read_isq_header
from qctrun.runtime.reading.scanco_masks import unpacked
from qctrun.runtime.reading.sources import cause, format_of, quiet, readable, stem_of
from qctrun.runtime.volume import Grid, Material, Unit, Volume, require_finite

NumberArray = npt.NDArray[Any]
Facts = dict[str, Any]

FORMATS = ("aim", "isq")
MANUFACTURER = "SCANCO"
LEAST_BONE_MG_CM3 = 100.0
"""A scan without a voxel above has no bone in it, or its numbers are not those that its header speaks of."""

_PIXELS = {"char": "UC", "unsigned char": "UC", "short": "SS", "unsigned short": "US", "float": "F"}
"""ITK's names of the types; a wheel has no signed char, whose bits are kept."""
_MEND = "give the file from the calibrated scanner, or its density as NIfTI with a sidecar"


def read_scanco(path: Path, *, unit: Unit | None = None, material: Material | None = None) -> Volume:
    """Read an AIM or ISQ as density, by the calibration in its header.

    mu = stored / mu_scaling and density = slope mu + intercept. The stored numbers are taken as they are, not by
    way of the whole Hounsfield units that `itk-ioscanco` makes of them, which are cut off at the decimal point.

    Parameters
    ----------
    path : Path
    unit, material : optional
        What the caller takes the density for; the header must agree.

    Returns
    -------
    Volume
        mg/cm3. `provenance["scan"]["scanco"]` has the numbers of the calibration. The axes are the scanner's: x and
        y in a slice, z along its table.

    Raises
    ------
    InputError
        When the file is damaged, has no density calibration, holds a mask, or contradicts itself or the call.
    RuntimeMissingError
        When `itk-ioscanco` is not installed.
    """
    header = _header(path)
    line = _line(header, path)
    _check_call(line, unit, material, path)
    stored = _stored(header, path)
    array = np.multiply(stored, np.float32(line.per_stored), dtype=np.float32)
    array += np.float32(line.intercept)
    if stored.dtype.kind == "f":  # whole numbers are finite; the look takes half a copy more of memory
        require_finite(array, str(path))
    provenance = {
        "inputs": [{"path": str(path), "sha256": sha256_of(path), "files": 1, "format": format_of(path)}],
        "stem": stem_of(path),
        "scan": {"kvp": header.kvp, "manufacturer": MANUFACTURER, "scanco": _told(header, line)},
        "calibration": line.as_calibration(),
        "density_from": "header",
        "warnings": [*header.notes, *line.warnings, *_without_bone(array)],
    }
    return Volume(array, header.grid, "mg/cm3", line.material, provenance)


def load_scanco(path: Path) -> tuple[NumberArray, Grid, tuple[str, ...]]:
    """The stored numbers of an AIM or ISQ, their grid, and what to tell of it; of a mask they are its labels.

    Raises
    ------
    InputError
        When the file is damaged.
    RuntimeMissingError
        When `itk-ioscanco` is not installed and the voxels are not packed.
    """
    header = _header(path)
    return np.array(_stored(header, path)), header.grid, header.notes


def scanco_facts(path: Path) -> Facts:
    """What the header of an AIM or ISQ says, without its voxels and without a name.

    Raises
    ------
    InputError
        When it is damaged.
    """
    header = _header(path)
    grid, line = header.grid, header.density
    found = {
        "dimensions": 3,
        "size_xyz": grid.size[::-1],
        "spacing_xyz_mm": grid.spacing[::-1],
        "origin_xyz_mm": grid.origin,
        "direction_lps": grid.direction,
        "version": header.kind,
        "values": f"{header.values}{' (a mask)' * header.is_mask}",
        "kvp": header.kvp,
    }
    if header.is_mask:
        return found
    if not isinstance(line, DensityLine):
        return {**found, "unit": None, "density": {"error": line}}
    return {**found, "unit": "mg/cm3", "material": line.material, "density": str(line)}


def require_itk() -> Any:
    """ITK with its reader of Scanco's files, or the line that installs it.

    Raises
    ------
    RuntimeMissingError
        When `itk-ioscanco` is not installed.
    """
    try:
        import itk

        itk.ScancoImageIO  # noqa: B018  loaded when it is first named
    except (ImportError, AttributeError) as error:
        mend = 'type: pip install "qctrun[scanco]"'
        raise RuntimeMissingError(
            "AIM and ISQ files", wanted="itk-ioscanco", got="not installed", mend=mend
        ) from error
    return itk


def _header(path: Path) -> ScancoHeader:
    with readable(path):
        return read_isq_header(path) if format_of(path) == "isq" else read_aim_header(path)


def _line(header: ScancoHeader, path: Path) -> DensityLine:
    """The line to density of a scan that has one."""
    if header.is_mask:
        mend = "give it as --mask, and the scan that it was drawn in as the scan"
        raise InputError(f"{path}", wanted="a scan", got=f"a mask (voxels of {header.values})", mend=mend)
    if min(header.grid.size) < 2:
        x, y, z = header.grid.size[::-1]
        raise InputError(f"{path}", wanted="a 3-D volume", got=f"one of {x} x {y} x {z} voxels")
    if not isinstance(header.density, DensityLine):
        got = f"none: {header.density}"
        raise InputError(f"{path}", wanted="a density calibration in its header", got=got, mend=_MEND)
    return header.density


def _check_call(line: DensityLine, unit: Unit | None, material: Material | None, path: Path) -> None:
    if unit not in (None, "mg/cm3"):
        got, mend = "a calibration to mg/cm3 in its header", "leave --unit away"
        raise InputError(f"{path}", wanted=f"{unit} as --unit says", got=got, mend=mend)
    if material not in (None, line.material):
        got, mend = f"{line.material} by its header", "leave --material away"
        raise InputError(f"{path}", wanted=f"{material} as --material says", got=got, mend=mend)


def _stored(header: ScancoHeader, path: Path) -> NumberArray:
    """The voxels within the border, as they are stored; a view of ITK's memory where they are not packed."""
    return header.within(_by_itk(header, path)) if header.values in BYTES else unpacked(header, path)


def _by_itk(header: ScancoHeader, path: Path) -> NumberArray:
    with quiet(), _as_itk_likes(path) as name:
        itk = require_itk()
        image = itk.Image[getattr(itk, _PIXELS[header.values]), 3]
        source = itk.ScancoImageIO.New()
        reader = itk.ImageFileReader[image].New(FileName=str(name), ImageIO=source)
        try:
            reader.UpdateOutputInformation()
            _require_same(source, header, path)
            # With a scaling of 1 it leaves the numbers alone, which it would turn into whole HU, and masks with them.
            source.SetMuScaling(1.0)
            reader.Update()
        except (RuntimeError, ValueError, IndexError, OverflowError) as error:
            raise InputError(f"{path}", wanted=f"a sound {header.kind} file", got=cause(error)) from error
    stored: NumberArray = itk.array_view_from_image(reader.GetOutput())
    return stored.view(np.int8) if header.values == "char" else stored


def _require_same(source: Any, header: ScancoHeader, path: Path) -> None:
    """Two readers of one header must agree on it: this package's own and ITK's."""
    corner = zip(header.position, header.spacing_mm, strict=True)
    ours: dict[str, tuple[float, ...]] = {
        "size": header.dimensions[::-1],
        "spacing": header.spacing_mm[::-1],
        "origin": tuple(first * mm for first, mm in corner)[::-1],
    }
    theirs = {
        "size": tuple(source.GetDimensions(axis) for axis in range(3)),
        "spacing": tuple(source.GetSpacing(axis) for axis in range(3)),
        "origin": tuple(source.GetOrigin(axis) for axis in range(3)),
    }
    line = header.density
    if isinstance(line, DensityLine):
        ours["mu scaling"], theirs["mu scaling"] = (line.mu_scaling,), (source.GetMuScaling(),)
    if isinstance(line, DensityLine) and header.kind != "ISQ":  # in an ISQ, ITK looks only in the usual place
        ours["density line"] = (line.slope, line.intercept)
        theirs["density line"] = (source.GetRescaleSlope(), source.GetRescaleIntercept())
    for name, numbers in ours.items():
        if not np.allclose(numbers, theirs[name], rtol=1e-6, atol=0):
            got = f"{name} {theirs[name]} by itk-ioscanco and {numbers} by its header"
            raise InputError(f"{path}", wanted=f"a sound {header.kind} file", got=got, mend=_MEND)


@contextmanager
def _as_itk_likes(path: Path) -> Iterator[Path]:
    """A name in UTF-8 that ends in .aim or .isq, which ITK asks for: a link for `C0001.ISQ;1` and the like."""
    suffix = suffix_of(path)
    if is_utf8(path) and path.name.lower().endswith(suffix):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="qctrun-") as folder:
        link = Path(folder) / f"scan{suffix}"
        try:
            link.symlink_to(path.resolve())
        except OSError as error:  # Windows lets few people make links
            mend = f"rename it so that it ends in {suffix}"
            raise InputError(f"{path}: cannot be linked to under another name", mend=mend) from error
        yield link


def _without_bone(array: npt.NDArray[np.float32]) -> tuple[str, ...]:
    most = float(array.max())
    if most >= LEAST_BONE_MG_CM3:
        return ()
    return (
        f"no voxel above {most:.0f} mg/cm3: no bone, or numbers that are not what the header takes them for",
    )


def _told(header: ScancoHeader, line: DensityLine) -> Facts:
    """The calibration and the place for a record; texts of the header may hold names, and stay there."""
    return {"file": header.kind, **line.as_dict(), "position_zyx_voxels": list(header.position)}
