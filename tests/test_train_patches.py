"""Patches: where they lie, what belongs together, and that no donor is on two sides."""

import numpy as np
import pytest
import tiny_training

torch = pytest.importorskip("torch")

from qctrun.runtime.errors import InputError, UsageError  # noqa: E402
from qctrun.train import dataset  # noqa: E402
from qctrun.train.insilico import random_field_phantom  # noqa: E402
from qctrun.train.insilico.scanner import SIMULATOR_VERSION  # noqa: E402
from qctrun.train.patches import Patches, Scanned, scanned  # noqa: E402
from qctrun.train.raster import PATCH, RASTER  # noqa: E402
from qctrun.train.study import data as study_data  # noqa: E402


def blank(donor="a", size=(29, 58, 58), scans=9):
    """A phantom of zeros that takes no memory."""
    truth = np.broadcast_to(np.float32(0), size)
    return Scanned(f"isodata_{donor}", donor, truth, np.broadcast_to(np.float32(0), (scans, *size)))


def addressed(size=(29, 57, 57)):
    """Every voxel of the truth holds its own number; scan s holds that number + s / 16."""
    truth = np.arange(np.prod(size), dtype=np.float32).reshape(size)
    return Scanned("addressed", "a", truth, np.stack([truth + s / 16 for s in range(9)]))


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ((29, 58, 58), 8),
        ((21, 41, 41), 1),
        ((20, 41, 41), 0),
        ((28, 56, 56), 1),
        ((29, 57, 57), 8),
        ((37, 41, 73), 9),
    ],
)
def test_raster_counts(size, count):
    positions = blank(size=size).positions()
    assert len(set(positions)) == len(positions) == count
    for corner in positions:
        assert all(c >= 0 and c + p <= n for c, p, n in zip(corner, PATCH, size, strict=True))
        assert all(c % step == 0 for c, step in zip(corner, RASTER, strict=True))


def test_raster_of_another_step():
    assert len(blank().positions((4, 8, 8))) == 3 * 3 * 3


def test_truth_is_the_inner_part_of_the_scan():
    patches = Patches.over([addressed()])
    assert len(patches) == 8
    for index in range(len(patches)):
        scan, truth = patches.cut(index, 4)
        assert scan.shape == (21, 41, 41)
        assert truth.shape == (13, 25, 25)
        np.testing.assert_array_equal(scan[4:-4, 8:-8, 8:-8], truth + 4 / 16)
    corner = patches.positions[-1][1]
    assert corner == (8, 16, 16)
    assert truth[0, 0, 0] == addressed().truth[12, 24, 24]


def test_batch_stacks_what_cut_gives():
    patches = tiny_training.patches(0, 1)
    pairs = [(0, 8), (9, 1), (15, 4)]
    scans, truths = patches.batch(pairs)
    assert scans.shape == (3, 1, 21, 41, 41)
    assert truths.shape == (3, 1, 13, 25, 25)
    assert scans.dtype == truths.dtype == torch.float32
    for row, (index, scan) in enumerate(pairs):
        for got, want in zip((scans, truths), patches.cut(index, scan), strict=True):
            np.testing.assert_array_equal(got[row, 0].numpy(), want)


def test_nothing_is_copied_on_the_cpu():
    """A patch is a view into the phantom's own array, before `to` and after."""
    patches = tiny_training.patches(0)
    phantom = patches.phantoms[0]
    for same in (patches, patches.to("cpu")):
        scan, truth = same.cut(5, 2)
        assert np.shares_memory(scan.numpy(), phantom.scans[2])
        assert np.shares_memory(truth.numpy(), phantom.truth)


def test_patches_are_copied_to_a_device_once():
    """Parts of a fold share their phantoms; a phantom that none of the patches lies in stays where it is."""
    first = tiny_training.patches(0, 1, 2)
    second = Patches(first.phantoms, first.positions[8:16])
    there = second.to("meta")  # a device that every machine has
    copy = first.phantoms[1].on("meta")
    assert not any("meta" in first.phantoms[which]._tensors for which in (0, 2))
    assert [part.device.type for part in there.batch([(0, 0), (7, 8)])] == ["meta", "meta"]
    assert [tuple(part.shape) for part in there.batch([(0, 0)])] == [(1, 1, 21, 41, 41), (1, 1, 13, 25, 25)]
    assert all(got is was for got, was in zip(first.to("meta").phantoms[1].on("meta"), copy, strict=True))
    assert second.batch([(0, 0)])[0].device.type == "cpu"
    assert (there.phantoms, there.positions) == (second.phantoms, second.positions)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_batches_cut_on_a_gpu_are_those_of_the_cpu():
    patches = tiny_training.patches(0, 1)
    pairs = patches.random_pairs(4, 3, np.random.default_rng(0))
    for got, want in zip(patches.to("cuda:0").batch(pairs), patches.batch(pairs), strict=True):
        assert got.device.type == "cuda"
        assert torch.equal(got.cpu(), want)


def test_more_noise_is_the_difference_of_the_other_repetitions():
    """Scans whose values are their squared numbers: of scan 4, at the second tube current, the others are 5 and 3."""
    squares = np.full((9, 21, 41, 41), np.arange(9, dtype=np.float32)[:, None, None, None] ** 2)
    phantom = Scanned("a", "a", np.zeros((21, 41, 41), np.float32), squares)
    noise = Patches.over([phantom]).more_noise([(0, 4), (0, 0), (0, 8)], [2.0, 0.5, 0.0])
    assert noise.shape == (3, 1, 21, 41, 41)
    assert [float(part.unique().item()) for part in noise] == [25 - 9, (1 - 4) / 2, 0]


def test_more_noise_has_the_share_of_the_variance_that_was_asked_for():
    phantom = tiny_training.scanned(0)  # noise of 5 mg/cm3
    patches = Patches.over([phantom])
    noise = patches.more_noise([(index, scan) for index in range(8) for scan in range(9)], [0.6] * 72)
    assert float(noise.var()) == pytest.approx(0.6 * 25, rel=0.02)


def test_draws_are_those_of_the_rule_written_out():
    """A donor first, then one of its patches, then its scans in a random order: from one stream of numbers."""
    patches = Patches.over([blank("a"), blank("b", (21, 41, 41)), blank("a", (21, 41, 73))])
    of_donor = {"a": [*range(8), *range(9, 12)], "b": [8]}
    for seed in range(5):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        for _ in range(3):
            donors = rng.choice(2, 6)
            drawn = [int(rng.choice(of_donor["ab"[donor]])) for donor in donors]
            wanted = [(index, int(scan)) for index in drawn for scan in rng.permutation(9)[:4]]
            assert patches.random_pairs(6, 4, again) == wanted


def test_donors_of_patches_are_of_those_in_use():
    patches = Patches.over([blank("a"), blank("b"), blank("c")])
    assert patches.donors == {"a", "b", "c"}
    assert Patches(patches.phantoms, patches.positions[:16]).donors == {"a", "b"}


def test_pairs_never_repeat_a_scan_of_a_patch():
    patches = Patches.over([blank("a"), blank("b")])
    for seed in range(20):
        drawn = patches.random_pairs(16, 4, np.random.default_rng(seed))
        assert len(drawn) == 64
        for first in range(0, 64, 4):
            group = drawn[first : first + 4]
            assert len({index for index, _ in group}) == 1
            assert len({scan for _, scan in group}) == 4
            assert {scan for _, scan in group} <= set(range(9))


def test_all_nine_scans_of_a_patch():
    drawn = Patches.over([blank()]).random_pairs(1, 9, np.random.default_rng(0))
    assert sorted(scan for _, scan in drawn) == list(range(9))


def test_donors_are_drawn_evenly():
    """One donor has eight times the patches of the other and is drawn as often."""
    patches = Patches.over([blank("few", (21, 41, 41)), blank("many")])
    drawn = patches.random_pairs(4000, 1, np.random.default_rng(0))
    share = np.mean([index == 0 for index, _ in drawn])
    assert share == pytest.approx(0.5, abs=0.05)
    assert {index for index, _ in drawn} == set(range(9))


def test_same_seed_same_pairs():
    patches = Patches.over([blank("a"), blank("b")])
    first, again, other = (patches.random_pairs(8, 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_every_patch_with_its_first_scan_at_each_current():
    patches = Patches.over([blank("a", (21, 41, 41)), blank("b", (21, 41, 41))])
    assert patches.pairs() == [(0, 0), (0, 3), (0, 6), (1, 0), (1, 3), (1, 6)]


def test_scans_are_ordered_by_tube_current():
    phantom = random_field_phantom((21, 41, 41), 3)
    found = scanned(phantom)
    assert found.scans.shape == (9, 21, 41, 41)
    assert found.donor == phantom.donor
    np.testing.assert_array_equal(found.truth, phantom.truth)
    for mas, first in ((100.0, 0), (250.0, 3), (360.0, 6)):
        assert found.scans_at(mas) == [first, first + 1, first + 2]
        np.testing.assert_array_equal(found.scans[first + 1], phantom.scan(mas, 1))
    spread = [np.std(scan - phantom.signal) for scan in found.scans]
    assert min(spread[:3]) > max(spread[3:6]) > min(spread[3:6]) > max(spread[6:])


@pytest.fixture
def small_fields(monkeypatch):
    monkeypatch.setattr(dataset, "FIELD_SIZE", (21, 41, 41))


@pytest.fixture
def unscanned(monkeypatch):
    """Cubes are not simulated: only who comes where is asked."""
    monkeypatch.setattr(dataset, "microct_phantom", lambda path, seed: (path.stem, path.stem.split("_")[1]))
    monkeypatch.setattr(dataset, "scanned", lambda phantom: blank(phantom[1]))


def assert_disjoint(split):
    parts = {name: set(donors) for name, donors in split.describe().items()}
    assert list(parts) == ["train", "validation", "test"]
    assert sum(map(len, parts.values())) == len(set.union(*parts.values()))
    return parts


def test_random_fields_are_split(small_fields):
    seen = []
    split = dataset.simulate(dataset.planned(None, (2, 1, 1)), lambda done, total: seen.append((done, total)))
    parts = assert_disjoint(split)
    assert [len(parts[name]) for name in parts] == [2, 1, 1]
    assert [len(part) for part in (split.train, split.validation, split.test)] == [2, 1, 1]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    truths = [
        phantom.truth for part in (split.train, split.validation, split.test) for phantom in part.phantoms
    ]
    for index, truth in enumerate(truths):
        assert not any(np.array_equal(truth, other) for other in truths[index + 1 :])


def test_many_random_fields_share_no_donor(monkeypatch):
    """A population too large for one hundred seeds a part."""
    monkeypatch.setattr(
        dataset, "random_field_phantom", lambda size, seed: (f"f{seed}", f"random-field-{seed}")
    )
    monkeypatch.setattr(dataset, "scanned", lambda phantom: blank(phantom[1], (21, 41, 41)))
    assert_disjoint(dataset.simulate(dataset.planned(None, (130, 120, 20))))


@pytest.mark.data
def test_micro_ct_is_split_by_donor(data, unscanned):
    split = dataset.simulate(dataset.planned(data / "l1_microct", (0, 0, 0)))
    parts = assert_disjoint(split)
    assert parts["test"] == {"06604", "68348"}
    assert parts["validation"] == {"67837"}
    assert parts["train"] == {"04216", "05751", "67599", "67960", "68384"}
    assert sum(len(part.phantoms) for part in (split.train, split.validation, split.test)) == 57


@pytest.mark.data
def test_micro_ct_raster_gives_the_paper_s_count(data, unscanned):
    """The data's README: 456 patches on 57 cubes."""
    split = dataset.simulate(dataset.planned(data / "l1_microct", (0, 0, 0)))
    phantoms = [p for part in (split.train, split.validation, split.test) for p in part.phantoms]
    assert len(Patches.over(phantoms)) == 456


@pytest.mark.data
def test_no_two_cubes_share_their_noise(data, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        dataset,
        "microct_phantom",
        lambda path, seed: seeds.append(seed) or (path.stem, path.stem.split("_")[1]),
    )
    monkeypatch.setattr(dataset, "scanned", lambda phantom: blank(phantom[1]))
    dataset.simulate(dataset.planned(data / "l1_microct", (0, 0, 0)))
    assert len(set(seeds)) == len(seeds) == 57
    assert min(seeds) > 300  # those of the random fields


def test_too_few_donors_are_refused(tmp_path):
    for donor in range(7):
        (tmp_path / f"isodata_{donor:05d}_roi_{donor}.nrrd").touch()
    with pytest.raises(InputError, match="at least 8 donors, got 7 cubes of 7 donors"):
        dataset.simulate(dataset.planned(tmp_path, (1, 1, 1)))


def test_training_patches_lie_denser_than_the_paper_s(monkeypatch):
    monkeypatch.setattr(dataset, "random_field_phantom", lambda size, seed: f"random-field-{seed}")
    monkeypatch.setattr(dataset, "scanned", lambda name: blank(name, (29, 57, 57)))
    split = dataset.simulate(dataset.planned(None, (1, 1, 1)))
    assert (len(split.train), len(split.validation), len(split.test)) == (3 * 3 * 3, 8, 8)


def test_plan_names_are_those_of_the_phantoms(monkeypatch):
    monkeypatch.setattr(dataset, "random_field_phantom", lambda size, seed: f"random-field-{seed}")
    monkeypatch.setattr(dataset, "scanned", lambda name: blank(name, (21, 41, 41)))
    plan = dataset.planned(None, (2, 1, 1))
    split = dataset.simulate(plan)
    made = {part: [p.donor for p in getattr(split, part).phantoms] for part in dataset.PARTS}
    assert plan.names() == {**made, "simulator": [SIMULATOR_VERSION]}
    assert split.names == plan.names()


# The study's vertebrae


@pytest.fixture
def study(monkeypatch):
    """Five vertebrae of eighteen positions each, of which nothing is simulated."""
    size = (29, 73, 73)
    monkeypatch.setattr(study_data, "STUDY_SIZE", size)
    monkeypatch.setattr(study_data, "study_phantom", lambda index: str(index + 1))
    monkeypatch.setattr(study_data, "scanned", lambda number: blank(number, size))
    return study_data.Data(None)


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_positions_of_the_study_are_held_apart(study, fold):
    """No patch is in two parts and none is lost; every part may see every vertebra."""
    split = study.patches("positions", fold)
    parts = [split.train, split.validation, split.test]
    assert [len(part) for part in parts] == [63, 9, 18]
    everything = Patches.over(split.train.phantoms)
    assert len(everything) == 90
    assert sorted(position for part in parts for position in part.positions) == sorted(everything.positions)
    assert all(part.phantoms is split.train.phantoms for part in parts)


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_a_vertebra_of_the_study_is_left_out(study, fold):
    split = study.patches("vertebrae", fold)
    assert [which for which, _ in split.test.positions] == [fold - 1] * 18
    for part in (split.train, split.validation):
        assert fold - 1 not in {which for which, _ in part.positions}
    assert (len(split.train), len(split.validation)) == (65, 7)  # a tenth of 72, rounded


def test_folds_of_the_study_have_names_of_their_own(study):
    """A checkpoint of one fold, or of one way to split, is refused by another; and by another simulator."""
    folds = [(split, fold) for split in ("positions", "vertebrae") for fold in range(1, 6)]
    names = [study.patches(*fold).names for fold in folds]
    for index, one in enumerate(names):
        assert one == study.names(*folds[index])
        assert one not in names[:index]
        assert one["simulator"] == [SIMULATOR_VERSION]
        for part in dataset.PARTS:
            assert one[part][:5] == [f"vertebra-{number}" for number in range(1, 6)]


@pytest.mark.parametrize("split", ["positions", "vertebrae"])
@pytest.mark.parametrize("fold", [0, 6])
def test_the_study_has_no_such_fold(study, split, fold):
    with pytest.raises(UsageError, match=f"wanted a .* from 1 to 5, got {fold}"):
        study.patches(split, fold)
