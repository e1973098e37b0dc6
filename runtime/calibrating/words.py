"""A calibration in words: tables for a terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from qctrun.runtime.calibrating.phantoms import Phantom
from qctrun.runtime.reading.calibration import Calibration

_COLUMNS = {
    "density_mg_cm3": ("density", ".1f"),
    "hu": ("HU", ".1f"),
    "sd_hu": ("SD", ".1f"),
    "slices_sd_hu": ("SD of slices", ".1f"),
    "shading_hu": ("shading", ".1f"),
    "residual_mg_cm3": ("off the line", "+.1f"),
}


def rods_text(rows: Iterable[Mapping[str, Any]], calibration: Calibration) -> str:
    """Rods as a table (densities and residuals in mg/cm3, the rest in HU), and the line under it."""
    body = [
        [format(row[key], spec) for key, (_, spec) in _COLUMNS.items()] + ["" if row["used"] else "left out"]
        for row in rows
    ]
    head = [title for title, _ in _COLUMNS.values()] + [""]
    return "\n".join([*_aligned([head, *body]), line_text(calibration)]) + "\n"


def line_text(calibration: Calibration) -> str:
    """The line and its standard errors in one line."""
    error = calibration.error or {}
    line = f"mg {calibration.material}/cm3 = {calibration.slope:.4f} HU {calibration.intercept:+.1f}"
    return (
        f"{line}; at {error['at_mg_cm3']:g} mg/cm3 +- {error['density_se_mg_cm3']:.1f}, "
        f"residual SD {error['residual_mg_cm3']:.1f}, R2 {error['r2']:.4f}"
    )


def phantoms_text(phantoms: Iterable[Phantom]) -> str:
    """Phantoms as a table: name, material, densities."""
    rows = [["phantom", "material", "densities, mg/cm3", ""]]
    for phantom in phantoms:
        densities = ", ".join(f"{density:g}" for density in phantom.densities_mg_cm3)
        whose = f"of serial {phantom.serial}: put in your own certificate's" if phantom.serial else ""
        rows.append([phantom.name, phantom.material, densities, whose])
    return "\n".join(_aligned(rows, left=True)) + "\n"


def _aligned(rows: list[list[str]], *, left: bool = False) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    mark = "<" if left else ">"
    return [
        "  ".join(f"{cell:{mark}{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
