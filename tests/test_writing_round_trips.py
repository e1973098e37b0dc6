"""One volume through DICOM, NIfTI, MHA and NRRD and back: the same voxels at the same place by two more libraries."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import rotation
from dicom_sources import CROOKED, scan

from qctrun.runtime import Grid, Volume, read, write, write_dicom

AXES = {**CROOKED, "oblique": rotation(0.3, -0.5, 1.1), "half turn": np.diag([-1.0, -1.0, 1.0])}
LEFT = np.diag([1.0, 1.0, -1.0])
OPTIONS: dict[str, Any] = {"spacing": (1.25, 0.35, 0.7), "origin": (-101.5, 20.25, 1003.125)}
CHAIN = ("nii.gz", "dicom", "mha", "nrrd", "nii", "dicom", "nrrd")
CORNERS = ((0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 6), (2, 3, 4))


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_a_chain_of_formats_changes_neither_place_nor_more_than_the_quantum(
    tmp_path: Path, axes: Any
) -> None:
    first = volume = scan(tmp_path / "scan", axes=axes, **OPTIONS)
    for step, fmt in enumerate(CHAIN):
        if fmt == "dicom":
            path = write_dicom(volume, tmp_path / f"{step}")
        else:
            path = write(volume, tmp_path / f"{step}.{fmt}")
        volume = read(path)
        assert not first.grid.difference(volume.grid), fmt
        assert np.abs(volume.array - first.array).max() <= 1 / 32
        assert (volume.unit, volume.material) == (first.unit, first.material)
        assert volume.provenance["calibration"] == first.provenance["calibration"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("axes", [*AXES.values(), LEFT], ids=[*AXES, "left-handed"])
def test_every_image_lies_where_the_scan_lies_by_other_libraries(
    tmp_path: Path, axes: Any, suffix: str
) -> None:
    grid = Grid((5, 6, 7), OPTIONS["spacing"], OPTIONS["origin"], axes)
    array = np.random.default_rng(2).normal(300, 100, grid.size).astype(np.float32)
    path = write(Volume(array, grid, "mg/cm3", "K2HPO4"), tmp_path / f"a{suffix}")
    image = sitk.ReadImage(str(path))
    for index in CORNERS:
        point = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(point, grid.world(index), atol=1e-3)
        assert image.GetPixel(index[::-1]) == array[index]
    assert not grid.difference(read(path).grid)
    if suffix.startswith(".nii"):
        assert_nibabel_agrees(nibabel.load(path), grid, array)


def assert_nibabel_agrees(image: Any, grid: Grid, array: np.ndarray) -> None:
    (sform, s_code), (qform, q_code) = (getattr(image.header, f"get_{k}form")(coded=True) for k in "sq")
    assert s_code > 0 and q_code > 0
    np.testing.assert_allclose(sform, qform, atol=1e-3)
    for index in CORNERS:
        world = sform @ [*index[::-1], 1]
        np.testing.assert_allclose(world[:3] * [-1, -1, 1], grid.world(index), atol=1e-3)  # RAS to LPS
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(), array)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_zooms(), grid.spacing[::-1], rtol=1e-6)
    assert image.header.get_slope_inter() == (None, None) or image.header.get_slope_inter() == (1, 0)
    assert b"mg/cm3 K2HPO4" in image.header["descrip"].item()
