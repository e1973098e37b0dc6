"""`qctrun info`: what is in a file or folder, also where that is no volume."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qctrun.cli.call import Call
from qctrun.cli.options import PathType, verb

if TYPE_CHECKING:
    from qctrun.runtime.reading import Series

Facts = dict[str, Any]


@verb("info")
@click.argument("source", metavar="INPUT", type=PathType())
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def command(call: Call, source: Path, as_json: bool) -> None:
    """Show what is in a file or folder, also when it is not a volume.

    Of a DICOM folder or a zip of one: every CT series with its size, spacing (z, y, x), tube voltage and
    kernel, and whether it makes a volume or why not. Of a NIfTI, MHA or NRRD file: its geometry, type and unit.
    Of both: the calibration and the mask that lie beside it.
    """
    from qctrun.runtime.reading.sources import format_of
    from qctrun.runtime.writing.files import json_text

    kind = format_of(source)
    facts = {"path": str(source), "format": kind}
    facts |= _dicom(source) if kind in ("dicom", "dicom-zip") else _image(source)
    facts |= _beside(source)
    click.echo(json_text(facts) if as_json else "\n".join(_lines(facts)) + "\n", nl=False)


def _dicom(source: Path) -> Facts:
    from qctrun.runtime.reading.headers import read_headers
    from qctrun.runtime.reading.sources import opened_folder
    from qctrun.runtime.reading.stacks import stacked

    with opened_folder(source) as folder:
        headers, set_aside = read_headers(folder)
        return {"series": [_series(found) for found in stacked(headers)], "other_files": dict(set_aside)}


def _series(found: "Series") -> Facts:
    return {
        "series_uid": found.uid,
        "description": found.description,
        "size_zyx": found.size,
        "spacing_zyx_mm": found.spacing_mm,
        "slice_thickness_mm": found.thickness_mm,
        "kvp": found.kvp,
        "kernel": found.kernel,
        "manufacturer": found.manufacturer,
        "volume": found.grid is not None,
        "problems": found.problems,
    }


def _image(source: Path) -> Facts:
    import SimpleITK as sitk

    from qctrun.runtime.errors import InputError
    from qctrun.runtime.reading.calibration import read_json
    from qctrun.runtime.reading.sources import quiet, stem_of

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(source))
    try:
        with quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{source}", wanted="an image", got="a header that cannot be read") from error
    sidecar = source.with_name(f"{stem_of(source)}.json")
    said = read_json(sidecar) if sidecar.is_file() else {}
    return {
        "dimensions": reader.GetDimension(),
        "size_xyz": reader.GetSize(),
        "spacing_xyz_mm": reader.GetSpacing(),
        "origin_xyz_mm": reader.GetOrigin(),
        "direction_lps": reader.GetDirection(),
        "values": sitk.GetPixelIDValueAsString(reader.GetPixelID()),
        "unit": said.get("Units"),
        "material": said.get("CalibrationMaterial"),
        "kvp": said.get("KVP"),
    }


def _beside(source: Path) -> Facts:
    from qctrun.runtime.reading import find_beside, load_calibration

    beside = find_beside(source)
    line = load_calibration(beside.calibration).as_dict() if beside.calibration else None
    return {"calibration": line, "mask": beside.mask}


def _lines(facts: Facts) -> list[str]:
    series = facts.pop("series", None)
    lines = [f"{name}: {_words(value)}" for name, value in facts.items()]
    if series is None:
        return lines
    lines.append(f"series: {len(series)}")
    for number, found in enumerate(series, start=1):
        lines.append(f"[{number}] {found.pop('series_uid')}")
        lines += [f"    {name}: {_words(value)}" for name, value in found.items()]
    return lines


def _words(value: Any) -> str:
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        separator = "; " if isinstance(value[0], str) else " "
        return separator.join(_words(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
