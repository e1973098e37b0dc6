"""The table of numbers: one row a case, label and threshold, and what each column means."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qctrun.runtime.json_files import json_text
from qctrun.runtime.version import VERSION
from qctrun.runtime.volume import Volume

if TYPE_CHECKING:  # else every `write` would load the compiler behind the maps
    from qctrun.runtime.measuring import MapMeans, Parameters

Row = dict[str, Any]

COLUMNS = {
    "case_id": "The scan: name of its folder or file without suffixes.",
    "image": "File or folder that the numbers were computed on.",
    "mask": "File that says which voxels count; none: all voxels, air and soft tissue too.",
    "labels": "File that says which voxels belong to which label; none: there is none.",
    "filter": "Model and version that filtered the scan; none: measured as it was read.",
    "label_id": "Value in the label file; n/a: the whole mask.",
    "label_name": "What the label is called, as its file or a lookup says; n/a: not known. "
    "Or: whole mask, whole volume.",
    "threshold_mg_cm3": "Density from which a voxel counts as bone.",
    "voxels": "Voxels that count.",
    "volume_mm3": "Their volume.",
    "bmd_mg_cm3": "Bone mineral density: mean over the voxels (Eq. 1).",
    "bmd_sd_mg_cm3": "Standard deviation of the density over the voxels.",
    "bvtv": "Bone volume fraction, 0 to 1: share of voxels at or above the threshold (Eq. 2).",
    "tmd_mg_cm3": "Tissue mineral density: mean over the voxels at or above the threshold (Eq. 3).",
    "bone_voxels": "Voxels at or above the threshold.",
    "diameter_mm": "Diameter of the spheres of the local maps.",
    "step": "Threshold step of the local maps, fuzzy or hard; the columns above always use the hard step.",
    "local_spheres": "Sphere positions with a value in the local maps (centres among the voxels).",
    "local_spheres_bvtv_under_1pct": "Those with a local BV/TV under 0.01: there the local TMD tends to 0.",
    "local_bmd_mean_mg_cm3": "Mean of the local BMD over the sphere positions.",
    "local_sd_mean_mg_cm3": "Mean of the local standard deviation over the sphere positions.",
    "local_bvtv_mean": "Mean of the local BV/TV, 0 to 1, over the sphere positions.",
    "local_tmd_mean_mg_cm3": "Mean of the local TMD over the sphere positions.",
    "calibration_slope": "Density in mg/cm3 = slope times HU + intercept; n/a where the line is not known.",
    "calibration_intercept_mg_cm3": "Intercept of that line.",
    "calibration_material": "What the density is a density of: HA (hydroxyapatite) or K2HPO4.",
    "calibration_source": "Who or what gave the line.",
    "calibration_density_se_mg_cm3": "Standard error of the line at 150 mg/cm3, common to all rows; n/a where unknown.",
    "calibration_nominal": "true when no calibration of the scan was known and the nominal line was used.",
    "qctrun_version": "Version of the program.",
}
"""Columns of `params.csv` in their order, and what they mean. Units stand at the end of the names."""

_SHORT = {
    "label_id": "label",
    "threshold_mg_cm3": "threshold",
    "bmd_mg_cm3": "BMD",
    "bvtv": "BV/TV",
    "tmd_mg_cm3": "TMD",
    "local_bmd_mean_mg_cm3": "local BMD",
    "local_bvtv_mean": "local BV/TV",
    "local_tmd_mean_mg_cm3": "local TMD",
    "local_sd_mean_mg_cm3": "local SD",
    "local_spheres": "spheres",
}


def parameter_rows(
    volume: Volume,
    parameters: Iterable["Parameters"],
    means: Mapping[int | None, "MapMeans"],
    *,
    image: str,
    case_id: str,
    mask: str,
    labels: str,
    diameter_mm: float,
    step: str,
    names: Mapping[int, str] | None = None,
) -> list[Row]:
    """One row for each region and threshold, with the keys of `COLUMNS`; None where a value is undefined.

    Parameters
    ----------
    volume : Volume
        What was measured.
    parameters : iterable of Parameters
        Its global values.
    means : mapping
        For each label in `parameters` (None: the whole mask) the means of the local maps.
    image, case_id, mask, labels : str
        What the columns of the same names say.
    diameter_mm, step
        Of the local maps.
    names : mapping, optional
        What labels are called.
    """
    line = volume.provenance.get("calibration") or {}
    fixed = {
        "case_id": case_id,
        "image": image,
        "mask": mask,
        "labels": labels,
        "diameter_mm": diameter_mm,
        "step": step,
        "filter": _filter_of(volume),
        "calibration_material": volume.material,
        "calibration_slope": line.get("slope"),
        "calibration_intercept_mg_cm3": line.get("intercept"),
        "calibration_source": line.get("source"),
        "calibration_density_se_mg_cm3": (line.get("error") or {}).get("density_se_mg_cm3"),
        "calibration_nominal": bool(line.get("nominal")),
        "qctrun_version": VERSION,
    }
    whole = "whole volume" if mask == "none" else "whole mask"
    rows = []
    for found in parameters:
        called = whole if found.label is None else (names or {}).get(found.label)
        named = {"label_id": found.label, "label_name": called}
        values = {name: _defined(value) for name, value in asdict(found).items()}
        row = {**fixed, **named, **values, **_local(means[found.label], found.threshold_mg_cm3)}
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as comma-separated text with a header; `n/a` where a value is undefined."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value, ".8g") for name, value in row.items()} for row in rows)
    return text.getvalue()


def rows_text(rows: Sequence[Row]) -> str:
    """The rows as JSON; null where a value is undefined."""
    return json_text(rows)


def dictionary_text() -> str:
    """The data dictionary: what each column of the table means, as JSON."""
    return json_text({name: {"Description": text} for name, text in COLUMNS.items()})


def table_text(rows: Sequence[Row]) -> str:
    """The columns that a person looks at first, aligned for a terminal."""
    lines, (_, *rest) = [list(_SHORT.values())], _SHORT
    lines += [[_label_cell(row), *(_short_cell(name, row[name]) for name in rest)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    spheres = f"local: means over spheres of {rows[0]['diameter_mm']:g} mm"
    return (
        "\n".join([f"Densities in mg/cm3, BV/TV 0 to 1, {spheres}, mask: {rows[0]['mask']}", *aligned]) + "\n"
    )


def _filter_of(volume: Volume) -> str:
    model = volume.provenance.get("filter")
    return f"{model['model']} {model['version']}".strip() if model else "none"


def _local(found: "MapMeans", threshold_mg_cm3: float) -> Row:
    return {
        "local_spheres": found.spheres,
        "local_spheres_bvtv_under_1pct": found.hardly_bone[threshold_mg_cm3],
        "local_bmd_mean_mg_cm3": found.means["BMD"],
        "local_sd_mean_mg_cm3": found.means["SD"],
        "local_bvtv_mean": found.means["BVTV", threshold_mg_cm3],
        "local_tmd_mean_mg_cm3": found.means["TMD", threshold_mg_cm3],
    }


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _label_cell(row: Row) -> str:
    """Number and name of a label, as far as it has any."""
    if row["label_id"] is None:
        return "all"
    return f"{row['label_id']} {row['label_name'] or ''}".rstrip()


def _short_cell(name: str, value: Any) -> str:
    return _cell(value, ".4g" if "bvtv" in name else ".5g")


def _cell(value: Any, number: str) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return str(value).lower()
    return format(value, number) if isinstance(value, float) else str(value)
