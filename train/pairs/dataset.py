"""Registered, calibrated scans of two scanners as one HDF5 file: written whole or not at all, read with suspicion.

Layout (schema "qctrun/pairs/1"): attributes `schema`, `spacing_zyx_mm`, `unit`, `material` and `study` (JSON) of the
file; for each specimen a group /specimens/NAME with the attributes `donor` and `provenance` (JSON) and the arrays
`truth`, `mask` (z, y, x), `scans` (scan, z, y, x), `positions` (position, 3), `currents_mas` and `repetitions` (scan).
All parts have checksums. It holds no dates and no names of files or series: the same pairs give the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from qctrun.runtime.errors import InputError
from qctrun.runtime.json_files import json_text
from qctrun.runtime.volume import MATERIALS, FloatArray, Material
from qctrun.train.pairs.h5 import (
    fill,
    member,
    new_array,
    new_file,
    opened,
    require_sealed,
    reserve,
    seal,
    text_of,
    whole_array,
)
from qctrun.train.pairs.values import ARRAYS, PairedSpecimen, Pairs, Spacing
from qctrun.train.raster import PATCH

__all__ = ["PAIRS", "SCHEMA", "PairedSpecimen", "Pairs", "Spacing", "join", "read_pairs", "write_specimen"]

SCHEMA = "qctrun/pairs/1"
PAIRS = "pairs.h5"
"""What the dataset of a study is called in its folder."""


_NAMES = {"path", "file", "stem", "slice_folders", "series_uid", "frame_of_reference_uid"}
"""Keys of provenance that say whose scan it was; the SHA-256 of each input, which stays, says which."""


def write_specimen(path: Path, specimen: PairedSpecimen, spacing_mm: Spacing, material: str) -> None:
    """Write one specimen, scan after scan, as a dataset of its own; an earlier file of this name is replaced.

    Raises
    ------
    RuntimeMissingError
        When h5py is not installed.
    OutputError
        When the disk refuses; the earlier file is still there then.
    """
    with new_file(path) as file:
        _start(file, spacing_mm, material, {})
        group = file.create_group(f"specimens/{specimen.name}")
        provenance = _json(specimen.provenance)
        reserve(file, len(provenance.encode()))
        group.attrs["donor"], group.attrs["provenance"] = specimen.donor, provenance
        seal(group)
        for name in (name for name in ARRAYS if name != "scans"):
            array = np.asarray(getattr(specimen, name), ARRAYS[name][1])
            fill(new_array(group, name, array.shape, ARRAYS[name][1]), ..., array)
        scans = new_array(group, "scans", (len(specimen.scans), *specimen.truth.shape), "f4")
        for index in range(len(specimen.scans)):
            fill(scans, index, _on_grid(specimen.scans[index], specimen, index))


def join(parts: Sequence[Path], path: Path, header: Mapping[str, Any]) -> None:
    """Copy specimens that were written one by one into one dataset, as they are packed.

    Parameters
    ----------
    parts : sequence of Path
        From `write_specimen`, on one grid and of one material.
    path : Path
        The dataset; an earlier one is replaced.
    header : mapping of JSON values
        What the study says of itself.

    Raises
    ------
    RuntimeMissingError, OutputError
        As `write_specimen`.
    InputError
        When a part is no such file, or two of them differ in grid or material or share a name.
    """
    if not parts:
        raise InputError("pairs", wanted="a specimen or more", got="none")
    with new_file(path) as file:
        for part in parts:
            _append(part, file, header)


def read_pairs(path: Path) -> Pairs:
    """Read a dataset, or that of a study's folder.

    Raises
    ------
    RuntimeMissingError
        When h5py is not installed.
    InputError
        When the file is not there, is damaged, is something else or of a newer schema, holds links, or a patch
        is not known in every scan.
    """
    path = path / PAIRS if path.is_dir() else path
    with opened(path) as file:
        spacing_mm, material = _grid_of(file, path)
        groups = member(file, "specimens")
        specimens = tuple(_specimen(member(groups, name), name) for name in sorted(groups))
        if not specimens:
            raise InputError(str(path), wanted="a specimen or more", got="none")
        return Pairs(specimens, spacing_mm, material, _object(file, "study"))


def _on_grid(scan: FloatArray, specimen: PairedSpecimen, index: int) -> FloatArray:
    if scan.shape != specimen.truth.shape:
        where = f"specimen {specimen.name}, scan {index + 1}"
        raise InputError(where, wanted=f"the shape {specimen.truth.shape} of the truth", got=f"{scan.shape}")
    return scan


def _start(file: Any, spacing_mm: Sequence[float], material: str, header: Mapping[str, Any]) -> None:
    file.attrs["schema"] = SCHEMA
    file.attrs["spacing_zyx_mm"] = np.asarray(spacing_mm, float)
    file.attrs["unit"] = "mg/cm3"
    file.attrs["material"] = material
    study = _json(header)
    reserve(file, len(study.encode()))
    file.attrs["study"] = study
    seal(file)


def _append(part: Path, file: Any, header: Mapping[str, Any]) -> None:
    with opened(part) as source:
        grid = spacing_mm, material = _grid_of(source, part)
        names = list(member(source, "specimens"))
    if "schema" not in file.attrs:
        _start(file, spacing_mm, material, header)
        file.create_group("specimens")
    if grid != _grid_of(file, part):
        raise InputError(str(part), wanted=f"grid and material {_grid_of(file, part)}", got=f"{grid}")
    for name in names:
        if name in file["specimens"]:
            raise InputError(str(part), wanted="specimens of different names", got=f"{name} twice")
        reserve(file, part.stat().st_size)
        with opened(part) as source:
            source.copy(f"specimens/{name}", file["specimens"])


def _grid_of(file: Any, path: Path) -> tuple[Spacing, Material]:
    """Spacing and material of a dataset whose schema is known."""
    schema = file.attrs.get("schema")
    if schema != SCHEMA:
        newer = str(schema).startswith("qctrun/pairs/")
        mend = "update qctrun" if newer else "name one that qctrun pairs has written"
        raise InputError(str(path), wanted=f"a dataset of schema {SCHEMA}", got=repr(schema)[:80], mend=mend)
    require_sealed(file)
    z, y, x = (float(step) for step in file.attrs["spacing_zyx_mm"])
    material: Any = text_of(file, "material")
    if (
        not all(0 < step < 100 for step in (z, y, x))
        or material not in MATERIALS
        or file.attrs["unit"] != "mg/cm3"
    ):
        raise ValueError(f"spacing {(z, y, x)}, material {material}")
    return (z, y, x), material


def _specimen(group: Any, name: str) -> PairedSpecimen:
    require_sealed(group)
    arrays = {key: whole_array(group, key, *what) for key, what in ARRAYS.items()}
    if arrays["scans"].shape[1:] != arrays["truth"].shape:
        raise ValueError(f"{name}: scans on another grid")
    found = PairedSpecimen(
        name=name, donor=text_of(group, "donor"), provenance=_object(group, "provenance"), **arrays
    )
    _require_known(found)
    return found


def _require_known(specimen: PairedSpecimen) -> None:
    """Refuse NaN and infinity where a patch is cut: they would spread into all weights."""
    needed = np.zeros(specimen.truth.shape, bool)
    for z, y, x in specimen.positions:
        needed[z : z + PATCH[0], y : y + PATCH[1], x : x + PATCH[2]] = True
    for what, array in (
        ("the reference", specimen.truth),
        *((f"scan {i + 1}", s) for i, s in enumerate(specimen.scans)),
    ):
        if not np.isfinite(array[needed]).all():
            where = f"specimen {specimen.name}"
            raise InputError(where, wanted="patches that every scan reaches", got=f"NaN in {what}")


def _object(node: Any, name: str) -> dict[str, Any]:
    value = json.loads(text_of(node, name))
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no JSON object")
    return value


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(_unnamed(json.loads(json_text(value))), ensure_ascii=False)


def _unnamed(value: Any) -> Any:
    """JSON values without the names of files and series, which may be called after people; of absolute paths
    elsewhere the last name is left.
    """
    if isinstance(value, dict):
        return {_unnamed(key): _unnamed(item) for key, item in value.items() if key not in _NAMES}
    if isinstance(value, list):
        return [_unnamed(item) for item in value]
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and len(value) > 1 and kind(value).is_absolute():
            return kind(value).name
    return value
