"""The picture of `grids.py`: errors by voxel size, and what the voxels look like."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

mpl.use("Agg")

STYLES = {
    "raw": ("raw", "#B9B9B9", "s"),
    "native": ("filtered, --grid native", "#D55E00", "^"),
    "model": ("filtered, --grid model", "#0072B2", "o"),
    "truth": ("truth averaged onto these voxels", "#000000", ""),
}
UNITS = {"TMD": "mg/cm3", "BV/TV": "%", "BMD": "mg/cm3"}
CUBES = ("the model's", "0.25", "0.35", "0.5", "0.7", "1")
SHOWN = (
    ("the model's", "truth"),
    ("0.35", "raw"),
    ("0.35", "native"),
    ("0.35", "model"),
    ("0.7", "native"),
    ("0.7", "model"),
)
TOPS = {"TMD": 160, "BV/TV": 27, "BMD": 60}
"""Where the panels end; what the truth itself loses in coarse voxels goes beyond."""
GREYS_MG_CM3 = (-200, 700)


def draw(
    rows: list[dict[str, Any]], slices: dict[tuple[str, str], npt.NDArray[np.float32]], path: Path
) -> None:
    """Errors in spheres against the edge of cubic voxels, a row for each current, above slices at the lower current.

    Parameters
    ----------
    rows, slices
        As `grids.measured` gives them.
    path : Path
        The picture.
    """
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    currents = sorted({row["mas"] for row in rows})
    made = plt.figure(figsize=(11, 2.9 * len(currents) + 2.4), layout="constrained")
    curves, pictures = made.subfigures(2, 1, height_ratios=(2.9 * len(currents), 2.4))
    axes = curves.subplots(len(currents), len(UNITS), squeeze=False, sharex=True, sharey="col")
    for line, mas in zip(axes, currents, strict=True):
        for panel, quantity in zip(line, UNITS, strict=True):
            _curves(panel, [row for row in rows if row["mas"] == mas], quantity)
            panel.set_title(f"{quantity}, {mas:g} mAs", fontsize=10, loc="left")
    for panel in axes[-1]:
        panel.set_xlabel("voxel edge, mm")
    axes[-1, -1].legend(frameon=False, fontsize=9, loc="upper left")
    for panel, key in zip(pictures.subplots(1, len(SHOWN)), SHOWN, strict=True):
        _slice(panel, slices[key], key)
    made.savefig(path, dpi=130)
    plt.close(made)


def _curves(panel: Axes, rows: list[dict[str, Any]], quantity: str) -> None:
    for way, (label, colour, mark) in STYLES.items():
        found = {row["grid"]: row[quantity]["rmse"] for row in rows if row["way"] == way}
        places = [(0.172 if name == CUBES[0] else float(name), found[name]) for name in CUBES]
        dashes = ":" if way == "truth" else "-"
        panel.plot(*zip(*places, strict=True), dashes, color=colour, marker=mark, label=label, linewidth=2)
    panel.set_xscale("log")
    panel.set_xticks([0.172, 0.25, 0.35, 0.5, 0.7, 1.0], ["model's", ".25", ".35", ".5", ".7", "1"])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.minorticks_off()
    panel.set_ylabel(f"RMSE of spheres, {UNITS[quantity]}")
    panel.set_ylim(0, TOPS[quantity])
    panel.grid(axis="y", color="#E0E0E0")


def _slice(panel: Axes, values: npt.NDArray[np.float32], key: tuple[str, str]) -> None:
    panel.imshow(values, cmap="gray", vmin=GREYS_MG_CM3[0], vmax=GREYS_MG_CM3[1], interpolation="nearest")
    grid, way = key
    panel.set_title("truth" if way == "truth" else f"{grid} mm, 100 mAs, {way}", fontsize=9)
    panel.set_axis_off()
