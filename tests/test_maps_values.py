"""Where local maps have a value, what they say of themselves, and the same bits each time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from map_cases import PAPER, assert_same_bits, bone_like, size_around, volume_of

from qctrun.runtime.measuring import local_maps
from qctrun.runtime.measuring.kernels import cpu
from qctrun.runtime.volume import Grid, Volume


def test_values_exactly_where_the_whole_sphere_is_inside():
    array = bone_like((9, 17, 21))
    known = np.zeros(array.shape, bool)
    known[2:-2, 4:-4, 4:-4] = True
    for volume in local_maps(volume_of(array), (200.0, 225.0), 1.548).values():
        np.testing.assert_array_equal(np.isfinite(volume.array), known)


def test_a_volume_as_large_as_the_sphere_has_one_value():
    array = bone_like((13, 25, 25))
    for volume in local_maps(volume_of(array), (225.0,)).values():
        assert np.argwhere(np.isfinite(volume.array)).tolist() == [[6, 12, 12]]


@pytest.mark.parametrize("size", [(4, 30, 30), (30, 8, 30), (30, 30, 8), (1, 1, 1)])
def test_a_volume_smaller_than_the_sphere_has_no_values(size):
    for volume in local_maps(volume_of(bone_like(size)), (225.0,), 1.548).values():
        assert np.isnan(volume.array).all()


def test_the_maps_lie_on_the_volumes_grid_and_say_their_units():
    grid = Grid(
        size=(7, 12, 13), spacing=PAPER, origin=(-10.0, 20.0, 30.5), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    )
    provenance = {"stem": "case", "warnings": ["a nominal line"]}
    volume = Volume(bone_like(grid.size), grid, unit="mg/cm3", material="HA", provenance=provenance)
    before = volume.array.copy()
    maps = local_maps(volume, (200, 225.5), 1.548)
    assert set(maps) == {"BMD", "SD", ("BVTV", 200), ("TMD", 200), ("BVTV", 225.5), ("TMD", 225.5)}
    for key, result in maps.items():
        assert result.grid == grid
        assert result.array.dtype == np.float32
        assert result.unit == ("1" if key[0] == "BVTV" else "mg/cm3")
        assert result.material == "HA"
        assert "a nominal line" in result.warnings
    np.testing.assert_array_equal(volume.array, before)


def test_the_defaults_are_the_papers():
    array = bone_like(size_around(PAPER, 4.3))
    named = local_maps(volume_of(array), (225.0,), diameter_mm=4.3, step="fuzzy")
    assert_same_bits(local_maps(volume_of(array), (225.0,)), named)


def test_an_array_that_must_not_be_written_to_is_measured():
    array = bone_like((7, 12, 13))
    expected = local_maps(volume_of(array), (225.0,), 1.548)
    array = array.copy()
    array.flags.writeable = False
    assert_same_bits(local_maps(volume_of(array), (225.0,), 1.548), expected)


def test_progress_counts_up_to_its_total():
    calls = []
    local_maps(volume_of(bone_like((9, 30, 30))), (225.0,), 1.548, progress=lambda *call: calls.append(call))
    done, totals = zip(*calls, strict=True)
    assert len(set(totals)) == 1
    assert list(done) == sorted(done)
    assert done[-1] == totals[0]


def test_the_maps_say_which_device_made_them(monkeypatch):
    monkeypatch.setattr("qctrun.runtime.measuring.maps.has_driver", lambda: False)
    for device in ("auto", "cpu"):
        maps = local_maps(volume_of(bone_like((9, 17, 21))), (200.0,), 1.548, device=device)
        assert {volume.provenance["map"]["device"] for volume in maps.values()} == {"cpu"}


@pytest.mark.parametrize(
    ("made", "diameter_mm", "warned"),
    [
        ({"outside": "raw", "margin_mm": 0.5}, 1.2, True),
        ({"outside": "raw", "margin_mm": 0.5}, 1.0, False),
        ({"margin_mm": 0.5}, 1.2, False),
        ({"outside": "raw"}, 1.2, False),
        ({"margin_mm": None}, 1.2, False),
        (None, 1.2, False),
    ],
)
def test_spheres_that_reach_beyond_what_was_filtered_are_told(made, diameter_mm, warned):
    volume = volume_of(bone_like((9, 12, 12)), provenance={"filter": made})
    warnings = local_maps(volume, (225,), diameter_mm)["BMD"].warnings
    assert [text.startswith("spheres of 1.2 mm mix filtered with raw voxels") for text in warnings] == [
        True
    ] * warned


# The same bits, however the work is divided


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
def test_the_number_of_threads_does_not_show(step):
    volume = volume_of(bone_like((30, 50, 70)))
    one = local_maps(volume, (200.0, 225.0), 2.924, step=step, threads=1)
    assert_same_bits(local_maps(volume, (200.0, 225.0), 2.924, step=step, threads=2), one)
    assert_same_bits(local_maps(volume, (200.0, 225.0), 2.924, step=step), one)


@pytest.mark.parametrize("tile", [(1, 1), (7, 19), (16, 32)])
def test_the_cut_into_tiles_does_not_show(monkeypatch, tile):
    volume = volume_of(bone_like((11, 40, 70)))
    mask = np.zeros(volume.array.shape, np.uint8)
    mask[2:9, 5:33, 3:68] = 1
    options = {"threads": 2, "mask": mask, "inside": True}
    whole = local_maps(volume, (200.0, 225.0), 1.548, **options)
    monkeypatch.setattr(cpu, "TILE_ROWS", tile[0])
    monkeypatch.setattr(cpu, "TILE_COLUMNS", tile[1])
    assert_same_bits(local_maps(volume, (200.0, 225.0), 1.548, **options), whole)


def test_two_callers_at_once_get_what_each_gets_alone():
    volumes = [volume_of(bone_like((20, 50, 60), seed)) for seed in range(6)]

    def measure(volume):
        return local_maps(volume, (200.0, 225.0), 2.924, threads=2)

    alone = [measure(volume) for volume in volumes]
    with ThreadPoolExecutor(max_workers=2) as pool:
        together = list(pool.map(measure, volumes))
    for one, other in zip(alone, together, strict=True):
        assert_same_bits(one, other)
