"""The README's picture of the results: this program beside others, and how its cost grows.

    python benchmarks/figure.py                                  # benchmarks/results -> docs/benchmarks.png
    python benchmarks/figure.py --results DIR --out PICTURE.png

Draws what it finds: bars for each race with a JSON file, curves where scaling.json is. Needs matplotlib.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from racing import Row

mpl.use("Agg")

ROOT = Path(__file__).resolve().parent.parent
BARS = {"filter_cpu": "Filter on the CPU", "maps_cpu": "Maps on the CPU", "gpu": "Maps on the GPU"}
"""Races that are shown as bars: the scene of theirs that was raced last."""
CURVES = {
    "volume": ("voxels", "voxels", ("maps", "scipy fft, shared sphere", "filter")),
    "diameter": ("diameter_mm", "diameter of the sphere, mm", ("maps", "scipy fft, shared sphere")),
    "thresholds": ("thresholds", "thresholds", ("maps", "scipy fft, shared sphere")),
}
"""What the cost grows by: the key of the row, the words on the axis, and who is shown."""
OURS, OTHERS = "#0072B2", "#B9B9B9"
STYLES = {"maps": ("#0072B2", "o"), "filter": ("#009E73", "s"), "scipy fft, shared sphere": ("#D55E00", "^")}
"""Colours that the colour-blind tell apart, and marks for print in black and white."""


def main() -> None:
    """Read the results, draw and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.png")
    arguments = parser.parse_args()
    reports = {
        name: json.loads((arguments.results / f"{name}.json").read_text(encoding="utf-8"))
        for name in (*BARS, "scaling")
        if (arguments.results / f"{name}.json").exists()
    }
    draw(reports, arguments.out)


def draw(reports: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel a race above, one a curve below.

    Parameters
    ----------
    reports : dict
        Race to what `racing.write` has written; those of other races are not looked at.
    path : Path
        The picture.
    """
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    raced = [name for name in BARS if name in reports]
    curves = list(CURVES) if "scaling" in reports else []
    made = plt.figure(figsize=(11, 3.6 * (bool(raced) + bool(curves))), layout="constrained")
    parts = iter(made.subfigures(bool(raced) + bool(curves), 1, squeeze=False)[:, 0])
    if raced:
        for name, axes in zip(raced, next(parts).subplots(1, len(raced), squeeze=False)[0], strict=True):
            _bars(axes, BARS[name], reports[name]["rows"])
    if curves:
        row = next(parts).subplots(1, len(curves), squeeze=False, sharey=True)[0]
        for by, axes in zip(curves, row, strict=True):
            _curve(axes, by, reports["scaling"]["rows"])
        row[0].set_ylabel("seconds")
        row[0].legend(frameon=False, loc="upper left")
    made.savefig(path, dpi=150)
    plt.close(made)


def _bars(axes: Axes, title: str, rows: list[Row]) -> None:
    """The race that was run last, the quickest on top; each bar says its time as a multiple of ours."""
    scene = [row["scene"] for row in rows if "ratio" in row][-1]
    shown = sorted(
        (row for row in rows if row["scene"] == scene and "ratio" in row), key=lambda row: row["median_s"]
    )
    seconds = [row["median_s"] for row in shown]
    colours = [OURS if row["name"].startswith("qctrun") else OTHERS for row in shown]
    axes.barh(range(len(shown)), seconds, color=colours, height=0.7, left=0)
    axes.set_yticks(range(len(shown)), [row["name"] for row in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain(axes.xaxis)
    axes.set_xlim(min(seconds) / 2.5, max(seconds) * 6)
    for place, row in enumerate(shown):
        times = f"  ({row['ratio']:.{1 if row['ratio'] < 10 else 0}f} x)" if row["ratio"] != 1 else ""
        axes.text(row["median_s"], place, f" {row['median_s']:.3g} s{times}", va="center", fontsize=10)
    axes.set_title(f"{title}\n{scene}", fontsize=11, loc="left")
    axes.set_xlabel("seconds")


def _curve(axes: Axes, by: str, rows: list[Row]) -> None:
    key, words, names = CURVES[by]
    for name in names:
        places = sorted((row[key], row["median_s"]) for row in rows if (row["by"], row["name"]) == (by, name))
        colour, mark = STYLES[name]
        axes.plot(*zip(*places, strict=True), color=colour, marker=mark, label=name, linewidth=2)
    axes.set_xlabel(words)
    axes.set_yscale("log")
    _plain(axes.yaxis)
    axes.grid(axis="y", color="#E0E0E0")
    if by == "volume":
        axes.set_xscale("log")


def _plain(axis: Axis) -> None:
    """Powers of ten in plain figures, and no words between them."""
    axis.set_major_locator(LogLocator(numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    main()
