"""Real scans with a tilted gantry: the mended voxels hold what the tags place there, worked out another way."""

import zipfile

import numpy as np
import pydicom
import pytest
from scipy.interpolate import CubicSpline
from scipy.ndimage import map_coordinates

from qctrun.runtime.reading.dicom import read_dicom

MENDED = {"N01": ((37, 611, 512), 36.1, 2.074), "N05": ((4, 521, 512), 1.7, 1.0)}
"""Size of the grid, percent of its voxels that were not scanned, and noise gain along the normal."""


@pytest.mark.data
@pytest.mark.parametrize("case", MENDED)
def test_real_tilted_scans_hold_what_the_tags_place_there(data, tmp_path, case):
    """Each slice looked up in the plane of its own tags, then one spline through the heights."""
    (path,) = (data / "dicom_hard").glob(f"{case}*")
    volume = read_dicom(path, allow_resample=True)
    size, unscanned, gain = MENDED[case]
    (entry,) = volume.provenance["resampling"]
    assert volume.grid.size == size
    assert 100 * entry["voxels_outside"] / volume.array.size == pytest.approx(unscanned, abs=0.05)
    assert entry["noise_gain"] == pytest.approx(gain, abs=0.001)
    slices = slices_of(path, tmp_path)
    x, y = np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float)
    normal = np.cross(x, y) / np.linalg.norm(np.cross(x, y))
    slices.sort(key=lambda one: float(np.asarray(one.ImagePositionPatient, float) @ normal))
    corners = np.array([one.ImagePositionPatient for one in slices], float)
    pixels = [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices]
    down, along = map(float, slices[0].PixelSpacing)
    pick = np.random.default_rng(5)
    wanted, found = [], []
    while len(wanted) < 300:
        index = tuple(int(pick.integers(n)) for n in volume.grid.size)
        offsets = volume.grid.world(index) - corners
        rows, columns = offsets @ y / down, offsets @ x / along
        if min(rows.min(), columns.min()) < 12 or max(rows.max(), columns.max()) > 499:
            continue
        patches = [around(*three) for three in zip(pixels, rows, columns, strict=True)]
        if min(patch.min() for patch, *_ in patches) < -1024:
            continue  # near the scan circle a slice is continued
        column = [map_coordinates(p, [[r], [c]], order=3, mode="mirror")[0] for p, r, c in patches]
        heights = (corners - corners[0]) @ normal
        wanted.append(CubicSpline(heights, column)(heights[0] + offsets[0] @ normal))
        found.append(volume.array[index])
    np.testing.assert_allclose(found, wanted, atol=0.05)
    assert np.ptp(wanted) > 200


def around(pixels, row, column, reach=11):
    """The surroundings of a place in a slice, and the place in them."""
    top, left = int(row) - reach, int(column) - reach
    return pixels[top : top + 2 * reach + 2, left : left + 2 * reach + 2], row - top, column - left


def slices_of(path, room):
    """All slices of a folder or zip, with their pixels."""
    if path.suffix == ".zip":
        zipfile.ZipFile(path).extractall(room)
        path = room
    return [pydicom.dcmread(file) for file in path.rglob("*.dcm") if not file.name.startswith(".")]
