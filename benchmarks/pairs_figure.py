"""The picture of `pairs.py`: residuals and slope errors of all scans, and what they cost a network."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from pairs_page import COLOURS, NEW, RESIDUAL_MM, SLOPE_MEDIAN, SLOPE_MOST, UNITS, rmse

mpl.use("Agg")

Row = dict[str, Any]
MAS_COLOURS = ("#D55E00", "#E69F00", "#0072B2")
LINE = "#808080"


def draw(found: Row, path: Path) -> None:
    """Draw all panels into a PNG."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    made, panels = plt.subplots(
        1, 4, figsize=(14, 3.8), layout="constrained", gridspec_kw={"width_ratios": (3, 3, 2.5, 2.5)}
    )
    _scans(panels[0], found["scans"], "residual_mm", "residual, mm")
    panels[0].set_ylim(0, max(1.15 * RESIDUAL_MM, *(1.1 * row["residual_mm"] for row in found["scans"])))
    panels[0].axhline(RESIDUAL_MM, color=LINE, linestyle="--", linewidth=1)
    _scans(panels[1], found["scans"], "slope_error_percent", "error of the slope, %")
    for limit, style in ((SLOPE_MEDIAN, ":"), (SLOPE_MOST, "--")):
        for side in (-limit, limit):
            panels[1].axhline(side, color=LINE, linestyle=style, linewidth=1)
    panels[1].axhline(0, color=LINE, linewidth=0.8)
    for panel, quantity in zip(panels[2:], UNITS, strict=True):
        _bars(panel, found["networks"], quantity)
    handles, labels = panels[0].get_legend_handles_labels()
    panels[1].legend(
        handles, labels, frameon=False, fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1)
    )
    panels[2].legend(
        frameon=False,
        fontsize=8,
        ncols=3,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        handlelength=1,
        columnspacing=1,
    )
    made.savefig(path, dpi=130)
    plt.close(made)


def _scans(panel: Axes, scans: list[Row], key: str, words: str) -> None:
    """A point a scan, specimen by specimen; those that were left out are hollow."""
    names = list(dict.fromkeys(row["specimen"] for row in scans))
    currents = sorted({row["mas"] for row in scans})
    for mas, colour in zip(currents, MAS_COLOURS, strict=False):
        own = [row for row in scans if row["mas"] == mas and row[key] is not None]
        beside = (currents.index(mas) - (len(currents) - 1) / 2) * 0.22
        spread = np.resize([-0.05, 0, 0.05], len(own))
        places = np.array([names.index(row["specimen"]) for row in own]) + beside + spread
        filled = [colour if row["used"] else "none" for row in own]
        panel.scatter(
            places, [row[key] for row in own], s=22, c=filled, edgecolors=colour, label=f"{mas:g} mAs"
        )
    panel.set_xticks(range(len(names)), names)
    panel.set_ylabel(words)


def _bars(panel: Axes, networks: Row, quantity: str) -> None:
    """Raw, aligned and pairs side by side for each split and current; a dot a seed."""
    places = [
        (split, mas)
        for split, told in networks.items()
        for mas in sorted({row["mas"] for row in told["rows"]})
    ]
    for number, kind in enumerate(COLOURS):
        for place, (split, mas) in enumerate(places):
            rows = networks[split]["rows"]
            values = rmse(rows, "aligned" if kind == "raw" else kind, mas, quantity, raw=kind == "raw")
            at = place + 0.26 * (number - 1)
            label = {"raw": "raw scan", "aligned": "net on aligned", "pairs": "net on pairs"}[kind]
            panel.bar(at, np.mean(values), 0.24, color=COLOURS[kind], label=label if place == 0 else None)
            if len(values) > 1 and kind != "raw":
                panel.scatter([at] * len(values), values, s=10, c="white", edgecolors=COLOURS[kind], zorder=3)
    words = ["\n".join((f"{mas:g} mAs", *NEW[split].rsplit(" ", 1))) for split, mas in places]
    panel.set_xticks(range(len(places)), words, fontsize=7)
    panel.set_ylabel(f"RMSE of {quantity}, {UNITS[quantity]}")
