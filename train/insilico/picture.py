"""One picture that shows what the filter buys, in the manner of the paper's figure 4."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qctrun.runtime.extras import library
from qctrun.runtime.volume import MapKey
from qctrun.train.insilico.demonstration import Measured, rmse

NAMES = ("raw", "filtered", "truth")


def draw(found: Mapping[str, Measured], threshold_mg_cm3: float, path: Path) -> None:
    """Draw slices of raw, filtered and truth with their BMD, TMD and BV/TV maps and absolute errors.

    Parameters
    ----------
    found : mapping of "raw", "filtered" and "truth"
        The three, measured over the same mask.
    threshold_mg_cm3 : float
        Which threshold's TMD and BV/TV maps are shown.
    path : Path
        The PNG to write.

    Raises
    ------
    RuntimeMissingError
        When matplotlib is not installed.
    """
    figure_module = library("matplotlib.figure", "picture")
    keys: tuple[MapKey, ...] = ("BMD", ("TMD", threshold_mg_cm3), ("BVTV", threshold_mg_cm3))
    figure = figure_module.Figure(figsize=(21, 9), layout="constrained")
    axes = figure.subplots(3, 7)
    drawing = _Drawing(figure, found, _window(found["truth"].maps["BMD"].array))
    for row, name in zip(axes, NAMES, strict=True):
        drawing.slice_of(row[0], name)
        for column, key in enumerate(keys):
            drawing.map_of(row[1 + column], name, key)
            drawing.error_of(row[4 + column], name, key)
    grid = found["raw"].volume.grid
    figure.suptitle(
        f"axial slice {drawing.window[0]}, spacing {grid.spacing[2]:g} x {grid.spacing[1]:g} x {grid.spacing[0]:g} mm, "
        f"spheres of 4.3 mm, threshold {threshold_mg_cm3:g} mg/cm³: simulated data, research use"
    )
    figure.savefig(path, dpi=80)


def _window(array: npt.NDArray[np.float32]) -> tuple[int, slice, slice]:
    """The middle slice that has values, and a margin of 24 voxels around them."""
    valued = np.isfinite(array)
    z = int(np.median(np.flatnonzero(valued.any(axis=(1, 2)))))
    rows, columns = (np.flatnonzero(valued[z].any(axis=axis)) for axis in (1, 0))
    y, x = (slice(max(0, int(i[0]) - 24), int(i[-1]) + 25) for i in (rows, columns))
    return z, y, x


@dataclass(frozen=True)
class _Drawing:
    """A figure, what is drawn in it, and the slice (z, y, x) that is shown."""

    figure: Any
    found: Mapping[str, Measured]
    window: tuple[int, slice, slice]

    def slice_of(self, axis: Any, name: str) -> None:
        axis.imshow(self.found[name].volume.array[self.window], cmap="gray", vmin=-200, vmax=800)
        axis.set_title(f"{name}: density −200 to 800 mg/cm³", fontsize=9)
        axis.axis("off")

    def map_of(self, axis: Any, name: str, key: MapKey) -> None:
        scale, unit, label = _described(key)
        low, high = np.nanpercentile(self._shown("truth", key), (1, 99)) * scale
        room = 0.25 * (high - low)
        values = self._shown(name, key) * scale
        image = axis.imshow(values, cmap="viridis", vmin=max(0, low - room), vmax=high + room)
        self._finish(axis, image, f"{name}: {label}, {unit}")

    def error_of(self, axis: Any, name: str, key: MapKey) -> None:
        if name == "truth":
            axis.axis("off")
            return
        scale, unit, label = _described(key)
        # Both rows share the raw row's scale, so that what is left of the error is seen.
        high = np.nanpercentile(self._error("raw", key), 99) * scale
        image = axis.imshow(self._error(name, key) * scale, cmap="magma", vmin=0, vmax=high)
        whole = rmse(self.found[name].maps[key], self.found["truth"].maps[key]) * scale
        self._finish(axis, image, f"{name}: |error| of {label}, RMSE {whole:.3g} {unit}")

    def _shown(self, name: str, key: MapKey) -> npt.NDArray[np.float32]:
        return self.found[name].maps[key].array[self.window]

    def _error(self, name: str, key: MapKey) -> npt.NDArray[np.float32]:
        return np.asarray(np.abs(self._shown(name, key) - self._shown("truth", key)), dtype=np.float32)

    def _finish(self, axis: Any, image: Any, title: str) -> None:
        axis.set_title(title, fontsize=9)
        axis.axis("off")
        self.figure.colorbar(image, ax=axis, shrink=0.8, extend="both")


def _described(key: MapKey) -> tuple[float, str, str]:
    """Factor for the picture, unit and name of a map."""
    name = key[0] if isinstance(key, tuple) else key
    return (100.0, "%", "BV/TV") if name == "BVTV" else (1.0, "mg/cm³", name)
