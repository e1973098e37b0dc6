"""The picture of `dilution.py`: how far slopes are off, by tube current, sphere, misregistration, disturbance."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

mpl.use("Agg")

WAYS = {"ours": ("this package", "#0072B2"), "other way": ("reference on scan", "#D55E00")}
GOAL_MEDIAN, GOAL_95 = 1.0, 4.0
MAIN_MM, MAIN_MAS = 5.0, 100.0
WIDEST = 12.0
"""Where the last panel ends; what lies beyond is written."""
SCENES = (
    ("noise", "ours", "noise alone"),
    ("cortex", "ours", "cortex"),
    ("cortex", "with rim", "... mask not trimmed"),
    ("cortex, mask 0.3 mm wider", "ours", "mask 0.3 mm too wide"),
    ("cortex, mask 0.3 mm wider", "with rim", "... mask not trimmed"),
    ("metal", "ours", "metal bead"),
    ("metal", "all kept", "... nothing left out"),
    ("smooth bias of the scan", "ours", "smooth bias"),
)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Mean error and 95 % range of the slope in four panels.

    Parameters
    ----------
    rows
        As `dilution.main` makes them.
    path : Path
        The picture.
    """
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    made, panels = plt.subplots(2, 2, figsize=(11, 7.6), layout="constrained")
    _by_current(panels[0, 0], rows)
    _by_diameter(panels[0, 1], rows)
    _by_shift(panels[1, 0], rows)
    _by_scene(panels[1, 1], rows)
    for panel in panels.ravel()[:3]:
        _goal(panel.axhspan)
        panel.set_ylabel("error of the slope, %")
    made.savefig(path, dpi=130)
    plt.close(made)


def _goal(span: Any) -> None:
    span(-GOAL_95, GOAL_95, color="#0072B2", alpha=0.06, lw=0)
    span(-GOAL_MEDIAN, GOAL_MEDIAN, color="#0072B2", alpha=0.08, lw=0)


def _bars(panel: Axes, found: list[dict[str, Any]], places: list[float], label: str, colour: str) -> None:
    means = [row["mean"] for row in found]
    low = [row["mean"] - row["range95"][0] for row in found]
    high = [row["range95"][1] - row["mean"] for row in found]
    panel.errorbar(places, means, [low, high], fmt="o", color=colour, label=label, capsize=3, lw=2)


def _of(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _by_current(panel: Axes, rows: list[dict[str, Any]]) -> None:
    currents = sorted({row["mas"] for row in _of(rows, scene="noise")})
    for aside, (way, (label, colour)) in zip((-0.08, 0.08), WAYS.items(), strict=True):
        found = _of(rows, scene="noise", diameter_mm=MAIN_MM, way=way)
        _bars(panel, found, [at + aside for at in range(len(currents))], label, colour)
    panel.set_xticks(range(len(currents)), [f"{mas:g}" for mas in currents])
    panel.set_xlabel("tube current, mAs; spheres of 5 mm")
    panel.legend(frameon=False, fontsize=9)


def _by_diameter(panel: Axes, rows: list[dict[str, Any]]) -> None:
    diameters = sorted({row["diameter_mm"] for row in _of(rows, scene="noise")})
    for aside, (way, (label, colour)) in zip((-0.08, 0.08), WAYS.items(), strict=True):
        found = _of(rows, scene="noise", mas=MAIN_MAS, way=way)
        _bars(panel, found, [at + aside for at in range(len(diameters))], label, colour)
    panel.set_xticks(range(len(diameters)), [f"{mm:g}" for mm in diameters])
    panel.set_xlabel("diameter of the spheres, mm; 100 mAs")


def _by_shift(panel: Axes, rows: list[dict[str, Any]]) -> None:
    ways = (("ours", "with curvatures", "#0072B2"), ("plain", "without", "#B9B9B9"))
    for aside, (way, label, colour) in zip((-0.08, 0.08), ways, strict=True):
        found = _of(rows, scene="noise", diameter_mm=MAIN_MM, mas=MAIN_MAS, way=way)
        found += _of(rows, scene="shift", diameter_mm=MAIN_MM, way=way)
        _bars(panel, found, [at + aside for at in range(len(found))], label, colour)
    panel.set_xticks(range(len(found)), [f"{row['shift_mm']:g}" for row in found])
    panel.set_xlabel("misregistration, mm; 100 mAs, 5 mm")
    panel.legend(frameon=False, fontsize=9)


def _by_scene(panel: Axes, rows: list[dict[str, Any]]) -> None:
    found = [
        _of(rows, scene=scene, way=way, mas=MAIN_MAS, diameter_mm=MAIN_MM)[0] for scene, way, _ in SCENES
    ]
    for at, (row, (_, _, label)) in enumerate(zip(found, SCENES, strict=True)):
        colour = "#B9B9B9" if label.startswith("...") else "#0072B2"
        low, high = row["range95"]
        panel.plot([low, high], [at, at], color=colour, lw=2)
        panel.plot(row["mean"], at, "o", color=colour)
        if abs(row["mean"]) > WIDEST:
            panel.text(WIDEST, at, f"{low:+.0f} to {high:+.0f}  ", ha="right", va="bottom", fontsize=9)
    panel.set_xlim(-WIDEST, WIDEST)
    panel.set_yticks(range(len(SCENES)), [label for _, _, label in SCENES])
    panel.invert_yaxis()
    _goal(panel.axvspan)
    panel.set_xlabel("error of the slope, %; 100 mAs, 5 mm")
