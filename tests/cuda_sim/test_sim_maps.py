"""The GPU's maps in the simulator, bit for bit those of the processor, and within the oracle's bounds."""

import numpy as np
import pytest
from map_cases import PAPER, assert_same_bits, bone_like, volume_of

import oracles
from qctrun.runtime.errors import InputError, OutOfMemoryError
from qctrun.runtime.measuring import local_maps

SIZE = (4, 8, 9)


def both(array, spacing_mm=PAPER, thresholds=(225.0,), diameter_mm=0.8, **options):
    """The maps of the simulated GPU, after they were held against those of the processor."""
    volume = volume_of(array, spacing_mm)
    there = local_maps(volume, thresholds, diameter_mm, device="cuda", **options)
    here = local_maps(volume, thresholds, diameter_mm, device="cpu", **options)
    assert_same_bits(there, here)
    assert {each.provenance["map"]["device"] for each in there.values()} == {"cuda:0"}
    return there


@pytest.mark.parametrize("step", ["fuzzy", "hard"])
def test_maps_are_those_of_the_processor_and_of_the_oracle(step):
    array = bone_like(SIZE)
    maps = both(array, thresholds=(200.0, 225.0), step=step)
    want = oracles.local_maps(array, PAPER, (200.0, 225.0), 0.8, step=step)
    oracles.assert_maps_agree({key: volume.array for key, volume in maps.items()}, want)


@pytest.mark.parametrize(
    ("spacing_mm", "diameter_mm", "size"),
    [
        (PAPER, 0.516, (2, 5, 8)),
        (PAPER, 1.548, (6, 10, 11)),
        ((0.3, 0.3, 0.3), 1.3, (6, 6, 8)),
        ((0.172, 0.5, 0.25), 1.1, (8, 4, 7)),
    ],
)
def test_any_sphere(spacing_mm, diameter_mm, size):
    both(bone_like(size), spacing_mm, diameter_mm=diameter_mm)


def test_tiles_as_wide_as_on_a_gpu(monkeypatch):
    """The last tile of a row has four of its 64 columns within the volume."""
    from qctrun.runtime.measuring.kernels.cuda import spheres as cuda_spheres

    for name, value in {"LANES": 32, "COLUMNS": 64, "_LANES": np.uint32(32)}.items():
        monkeypatch.setattr(cuda_spheres, name, value)
    both(bone_like((1, 4, 70)), diameter_mm=0.516)


def test_a_sphere_too_large_for_a_tile(monkeypatch):
    from qctrun.runtime.measuring.kernels.cuda import maps as cuda_maps

    monkeypatch.setattr(cuda_maps, "SHARED_BYTES", 0)
    both(bone_like(SIZE))


@pytest.mark.parametrize("inside", [False, True])
def test_masks(inside):
    array = bone_like((6, 11, 12))
    mask = np.random.default_rng(1).random(array.shape) < 0.2
    mask[1:6, 1:9, 3:12] = True
    maps = both(array, mask=mask, inside=inside)
    assert 0 < np.isfinite(maps["BMD"].array).sum() < mask.sum()


def test_a_mask_of_one_voxel():
    mask = np.zeros(SIZE, bool)
    mask[2, 5, 4] = True
    assert np.isfinite(both(bone_like(SIZE), mask=mask)["SD"].array).sum() == 1


def test_extreme_densities_whose_runs_need_64_bits():
    array = np.random.default_rng(2).choice([-60000.0, 225.0, 65536.0], (1, 1, 40)).astype(np.float32)
    both(array, (1.0, 1.0, 0.1), thresholds=(1.0,), diameter_mm=1.9)


def test_extreme_densities_whose_discs_need_64_bits():
    """Five runs of (V - t) H_s do not fit into 32 bits together, three do."""
    array = np.random.default_rng(3).choice([-60000.0, 225.0, 60000.0], SIZE).astype(np.float32)
    array[1:3] = 60000.0
    both(array, thresholds=(1.0,))


def test_rare_bone():
    """Under 0.41 % the soft positive part needs an exponential, which is the processor's own in the simulator."""
    array = np.full(SIZE, 20.0, np.float32)
    array[2, 4, 5] = 150.0
    both(array)


def test_slabs_give_the_same_bits(monkeypatch):
    from qctrun.runtime.measuring.kernels.cuda import host

    array, seen = bone_like((7, 8, 9)), []
    run = host._measure

    def spied(*arguments):
        seen.append(len(arguments[6]))
        run(*arguments)

    monkeypatch.setattr(host, "_measure", spied)
    memory(monkeypatch, 13000)
    both(array)
    assert seen == [3]


def test_too_little_memory_is_said_with_the_numbers(monkeypatch):
    memory(monkeypatch, 1000)
    with pytest.raises(
        OutOfMemoryError, match=r"wanted \d+ MB for the thinnest slab .* got 0 MB free"
    ) as caught:
        local_maps(volume_of(bone_like(SIZE)), (225.0,), 0.8, device="cuda")
    assert "--device cpu" in str(caught.value)


def test_what_the_processor_refuses_is_refused():
    array = bone_like(SIZE)
    array[2, 2, 2] = 70000.0
    with pytest.raises(InputError, match="at most 65536 mg/cm3 in size, got 70000"):
        local_maps(volume_of(array), (225.0,), 0.8, device="cuda")


def test_progress_is_told():
    told = []
    local_maps(
        volume_of(bone_like((3, 6, 7))),
        (200.0, 225.0),
        0.516,
        device="cuda",
        progress=lambda *call: told.append(call),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def memory(monkeypatch, free):
    """Let the device have so many free bytes."""
    from qctrun.runtime.measuring.kernels.cuda.compiler import cuda

    context = type(cuda.current_context())
    monkeypatch.setattr(context, "get_memory_info", lambda self: type("Info", (), {"free": free}))
