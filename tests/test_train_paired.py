"""Training on real pairs: which patches, which scans, who is held apart, and what the notes say."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import tiny_training

torch = pytest.importorskip("torch")
pytest.importorskip("h5py")

from tiny_pairs import NINE, SPACING_MM, dataset, specimen  # noqa: E402

import oracles  # noqa: E402
from qctrun.runtime.errors import InputError, UsageError  # noqa: E402
from qctrun.train.evaluate import measured, scores  # noqa: E402
from qctrun.train.fit import fit  # noqa: E402
from qctrun.train.losses import DenoisingLoss, ParameterLoss, PatchSphere, loss_of, sphere_mm  # noqa: E402
from qctrun.train.network import NNSP  # noqa: E402
from qctrun.train.paired import PairedFolds, donors_apart, overlapping  # noqa: E402
from qctrun.train.pairs.dataset import Pairs, read_pairs  # noqa: E402
from qctrun.train.pairs.facts import facts_of  # noqa: E402
from qctrun.train.patches import Patches, Scanned  # noqa: E402
from qctrun.train.raster import OUTPUT, PATCH, corners  # noqa: E402
from qctrun.train.recipe import Recipe  # noqa: E402

ONE = {"size": (21, 41, 41)}
TWO = {"size": (21, 41, 57)}


def pairs(*specimens, spacing_mm=SPACING_MM):
    return Pairs(tuple(specimens), spacing_mm, "HA", {})


def of_donors(count, **size):
    return pairs(*(specimen(f"{chr(65 + i)}1", currents=(100.0,), **(size or TWO)) for i in range(count)))


def unequal():
    """At 100 mAs three scans of the first specimen, one of the second; at 250 mAs one and two."""
    places = [(0, 0, 0), (3, 5, 7)]
    first = specimen("A1", currents=(100.0, 250.0, 100.0, 100.0), positions=places)
    return PairedFolds(pairs(first, specimen("B1", currents=(250.0, 100.0, 250.0), positions=places[1:])))


def test_patches_lie_at_the_positions_only():
    patches = unequal().patches_of_all
    assert patches.positions == [(0, (0, 0, 0)), (0, (3, 5, 7)), (1, (3, 5, 7))]
    scan, truth = patches.cut(1, 2)
    phantom = patches.phantoms[0]
    np.testing.assert_array_equal(scan, phantom.scans[2, 3:24, 5:46, 7:48])
    np.testing.assert_array_equal(truth, phantom.truth[7:20, 13:38, 15:40])


def test_every_specimen_has_its_own_scans():
    patches = unequal().patches_of_all
    assert patches.currents_mas == [100.0, 250.0]
    assert patches.pairs() == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert patches.pairs_at(100.0) == [[(0, 0), (1, 0), (2, 1)], [(0, 2), (1, 2)], [(0, 3), (1, 3)]]
    assert patches.pairs_at(250.0) == [[(0, 1), (1, 1), (2, 0)], [(2, 2)]]
    assert patches.pairs_at(360.0) == []


def test_draws_are_of_the_specimen_s_own_scans():
    """Three scans asked for four: all three, and then the first of them again."""
    patches = unequal().patches_of_all
    for seed in range(20):
        drawn = patches.random_pairs(6, 4, np.random.default_rng(seed))
        for group in (drawn[first : first + 4] for first in range(0, 24, 4)):
            scans = [scan for _, scan in group]
            if group[0][0] == 2:
                assert sorted(scans[:3]) == [0, 1, 2]
                assert scans[3] == scans[0]
            else:
                assert sorted(scans) == [0, 1, 2, 3]


def test_donors_are_drawn_evenly_whatever_they_bring():
    found = pairs(specimen("A1", "A"), specimen("A2", "A"), specimen("B1", "B", positions=[(0, 0, 0)]))
    patches = PairedFolds(found).patches_of_all
    drawn = patches.random_pairs(3000, 1, np.random.default_rng(0))
    assert np.mean([index == 16 for index, _ in drawn]) == pytest.approx(0.5, abs=0.05)


def test_extra_noise_is_of_other_scans_at_the_same_current():
    """Scans whose values are their squared numbers; where two others are missing nothing is added."""
    squares = np.full((5, *PATCH), np.arange(5, dtype=np.float32)[:, None, None, None] ** 2)
    phantom = Scanned("a", "a", squares[0], squares, (100.0, 250.0, 100.0, 250.0, 100.0))
    noise = Patches.over([phantom]).more_noise([(0, 0), (0, 2), (0, 4), (0, 1), (0, 3)], [2.0] * 5)
    assert [float(part.unique().item()) for part in noise] == [4 - 16, 16 - 0, 0 - 4, 0, 0]


def test_extra_noise_needs_three_scans_at_a_current(tmp_path):
    recipe = tiny_training.recipe(extra_noise=0.5, epochs=1)
    few = PairedFolds(pairs(specimen("A1", currents=(100.0, 100.0, 250.0, 250.0)))).patches_of_all
    with pytest.raises(InputError, match="take a recipe without extra_noise"):
        fit(recipe, few, few, tmp_path)
    assert not list(tmp_path.iterdir())
    enough = unequal().patches_of_all  # the first specimen has three, the second gets none
    assert fit(recipe, enough, enough, tmp_path).epoch == 1


RULE = {
    3: ("A", "B", "C"),
    4: ("AD", "B", "C"),
    5: ("ABD", "E", "C"),
    6: ("ABDF", "E", "C"),
    7: ("ABDF", "E", "CG"),
    8: ("ABDFH", "E", "CG"),  # as of the micro-CT donors
    11: ("ABDFHIJ", "E", "CGK"),
}


@pytest.mark.parametrize(("count", "parts"), RULE.items())
def test_donors_are_held_apart_by_a_rule(count, parts):
    whole = PairedFolds(of_donors(count))
    split = whole.split(whole.held_apart(), {}, "donors")
    assert split.describe() == dict(zip(("train", "validation", "test"), map(list, parts), strict=True))
    assert split.about["split"] == {"by": "donors", "test_patches_that_overlap_training": 0}


def test_all_specimens_of_a_donor_stay_together():
    found = of_donors(3)
    again = tuple(specimen(f"{name}2", name, **TWO, currents=(100.0,)) for name in "CBA")
    whole = PairedFolds(replace(found, specimens=found.specimens + again))
    named = [whole.specimens_in(part) for part in whole.held_apart()]
    assert named == [["A1", "A2"], ["B1", "B2"], ["C1", "C2"]]


def test_a_specimen_without_positions_or_scans_is_no_donor():
    empty = specimen("C1", positions=[], **TWO), specimen("D1", currents=(), **TWO)
    whole = PairedFolds(pairs(*of_donors(2).specimens, *empty))
    assert whole.donors == ["A", "B"]
    with pytest.raises(InputError, match=r"2, A, B; say --split positions .* --split donors --folds 2"):
        whole.held_apart()


def test_too_little_is_refused_with_what_to_do():
    with pytest.raises(InputError, match="bring more specimens"):
        PairedFolds(pairs(specimen("A1", positions=[])))
    with pytest.raises(InputError, match=r"positions or more for train.*, got 1; bring more"):
        PairedFolds(of_donors(3, **ONE)).held_apart()
    with pytest.raises(InputError, match="say --split positions"):
        PairedFolds(of_donors(1)).require("donors", None)
    with pytest.raises(InputError, match="positions"):
        PairedFolds(of_donors(2)).require("positions", 1)
    with pytest.raises(UsageError, match="at most 3"):
        PairedFolds(of_donors(3)).require("donors", 4)
    with pytest.raises(UsageError, match="at most 5"):
        PairedFolds(of_donors(3)).require("positions", 6)


def test_folds_of_positions_test_each_position_once():
    whole = PairedFolds(pairs(*(specimen(name, currents=(100.0,)) for name in ("A1", "B1", "C1"))))
    assert whole.require("positions", None) == 5
    tested = []
    for fold in range(1, 6):
        split = whole.patches("positions", fold)
        parts = [set(part.positions) for part in (split.train, split.validation, split.test)]
        assert all(not (a & b) for a, b in combinations(parts, 2))
        assert set.union(*parts) == set(whole.patches_of_all.positions)
        assert split.about["split"]["test_patches_that_overlap_training"] == len(split.test)
        tested += split.test.positions
    assert sorted(tested) == sorted(whole.patches_of_all.positions)


def test_folds_of_donors_leave_one_out():
    whole = PairedFolds(pairs(*(specimen(name, currents=(100.0,)) for name in ("A1", "B1", "C1"))))
    assert whole.require("donors", None) == 3
    assert whole.require("donors", 2) == 2
    for fold, donor in enumerate("ABC", 1):
        split = whole.patches("donors", fold)
        assert split.test.donors == {donor}
        assert donor not in split.train.donors | split.validation.donors
        assert [len(part) for part in (split.train, split.validation, split.test)] == [14, 2, 8]
        assert split.about["split"]["test_patches_that_overlap_training"] == 0


def test_the_notes_name_the_currents_of_the_training_alone():
    """What only the donors of validation and test were scanned at, the network has not learnt."""
    found = [
        specimen(f"{donor}1", currents=(mas,), **TWO)
        for donor, mas in zip("ABC", (100.0, 250.0, 12.5), strict=True)
    ]
    whole = PairedFolds(pairs(*found))
    split = whole.split(whole.held_apart(), {}, "donors")
    assert split.about["tube_currents_mas"] == [100.0]
    assert [len(one["scans"]) for one in split.about["pairs"]["specimens"]] == [1, 1, 1]
    assert split.test.currents_mas == [12.5]


def test_overlap_against_counted_voxels():
    rng = np.random.default_rng(3)
    size = (100, 200, 200)
    empty = np.broadcast_to(np.float32(0), size)
    places = [tuple(int(n) for n in rng.integers(0, np.subtract(size, PATCH))) for _ in range(30)]
    other = np.broadcast_to(np.float32(1), size)
    phantoms = [Scanned("a", "a", empty, empty[None]), Scanned("b", "b", other, other[None])]
    owned = [(i % 2, place) for i, place in enumerate(places)]
    some, others = Patches(phantoms, owned[:20]), Patches(phantoms, owned[20:])
    seen = np.zeros((2, *size), bool)
    for which, (z, y, x) in others.positions:
        seen[which, z : z + 21, y : y + 41, x : x + 41] = True
    wanted = sum(
        bool(seen[which, z : z + 21, y : y + 41, x : x + 41].any()) for which, (z, y, x) in some.positions
    )
    assert 0 < wanted < 20
    assert overlapping(some, others) == wanted
    first = Patches(phantoms, [(0, (0, 0, 0))])
    beside = Patches(phantoms, [(0, (21, 0, 0)), (0, (0, 41, 0)), (0, (0, 0, 41)), (1, (0, 0, 0))])
    assert overlapping(first, beside) == 0
    assert overlapping(first, Patches(phantoms, [(0, (20, 40, 40))])) == 1


def two_parts(first: str, second: str, voxels: int):
    """One reference named twice, with masks for its two ends that share so many voxels in x."""
    ends = np.arange(57) < 41, np.arange(57) >= 41 - voxels
    whole = specimen("A1", currents=(100.0,), size=(21, 41, 57), positions=[(0, 0, 0)])
    masks = [np.broadcast_to(end, whole.mask.shape) for end in ends]
    one = replace(whole, donor=first, mask=masks[0])
    return pairs(one, replace(whole, name="A2", donor=second, mask=masks[1], positions=[(0, 0, 16)]))


def test_one_bone_under_two_donors_is_refused():
    """By default a donor is its specimen: two masks in one reference would train and test on the same voxels."""
    with pytest.raises(InputError, match=r"A1 and A2: wanted one donor.* got A1 and A2; give them the same"):
        PairedFolds(two_parts("A1", "A2", 1))
    assert PairedFolds(two_parts("A1", "A2", 0)).donors == ["A1", "A2"]  # two bones in one jar
    assert PairedFolds(two_parts("A", "A", 25)).donors == ["A"]


def test_two_specimens_of_one_reference_share_voxels():
    patches = PairedFolds(two_parts("A", "A", 25)).patches_of_all
    first, second = (Patches(patches.phantoms, [one]) for one in patches.positions)
    assert overlapping(first, second) == 1


def test_names_tell_one_dataset_and_one_fold_from_another():
    found = of_donors(3)
    first = PairedFolds(found)
    other = PairedFolds(
        replace(found, specimens=(replace(found.specimens[0], donor="Z"), *found.specimens[1:]))
    )
    named = [
        one.names(split, fold)
        for one in (first, other)
        for split, fold in (("positions", 1), ("positions", 2), ("donors", 1), ("donors", 2))
    ]
    assert all(a != b for a, b in combinations(named, 2))
    assert named[0]["pairs"] == [found.digest]


@pytest.mark.parametrize(
    ("spacing_mm", "diameter_mm"),
    [
        (SPACING_MM, 4.3),
        ((0.5, 0.25, 0.25), 4.3),  # larger voxels: the same sphere, with a rim around it
        ((0.3, 0.3, 0.3), 3.9),  # 13 slices of 0.3 mm
        ((0.34, 0.1, 0.172), 2.5),  # 25 rows of 0.1 mm
        ((0.16, 0.16, 0.16), 2.08),
    ],
)
def test_the_sphere_is_the_paper_s_or_the_largest_that_fits(spacing_mm, diameter_mm):
    assert sphere_mm(spacing_mm) == pytest.approx(diameter_mm)
    ball = oracles.sphere(spacing_mm, diameter_mm)
    sphere = PatchSphere(spacing_mm, thresholds_mg_cm3=(225.0,))
    assert all(own <= whole for own, whole in zip(ball.shape, OUTPUT, strict=True))
    patch = np.random.default_rng(0).normal(225, 100, OUTPUT).astype(np.float32)
    middle = tuple(slice((w - o) // 2, (w + o) // 2) for w, o in zip(OUTPUT, ball.shape, strict=True))
    inside = patch[middle][ball].astype(float)
    found = sphere.parameters(torch.from_numpy(patch)[None, None])
    assert float(found.bmd) == pytest.approx(inside.mean(), rel=1e-5)
    assert float(found.bvtv) == pytest.approx(oracles.soft_step(inside - 225.0).mean(), rel=1e-4)


def test_a_grid_without_room_for_a_sphere_is_refused():
    with pytest.raises(InputError, match=r"got one of 1\.95 mm; take a larger spacing_mm"):
        sphere_mm((0.15, 0.15, 0.15))


@pytest.mark.parametrize("spacing_mm", [(0.16, 0.16, 0.16), (0.3, 0.3, 0.3)])
def test_plain_denoising_needs_room_for_its_spheres(spacing_mm):
    assert isinstance(loss_of(Recipe(), spacing_mm=spacing_mm), ParameterLoss)
    with pytest.raises(InputError, match="take a recipe with loss nnsp"):
        loss_of(Recipe(loss="nnbmd"), spacing_mm=spacing_mm)
    assert isinstance(loss_of(Recipe(loss="nnbmd"), spacing_mm=(0.25, 0.25, 0.25)), DenoisingLoss)


def test_fit_and_scores_take_the_grid_of_the_data(tmp_path):
    found = PairedFolds(pairs(specimen("A1"), spacing_mm=(0.3, 0.3, 0.3))).patches_of_all
    state = fit(tiny_training.recipe(epochs=1), found, found, tmp_path)
    ours = measured(found, found.pairs(), None, PatchSphere((0.3, 0.3, 0.3), (225.0,)))[0]["BMD"]
    paper = measured(found, found.pairs(), None, PatchSphere(SPACING_MM, (225.0,)))[0]["BMD"]
    assert abs(ours - paper).max() > 0.1
    again = PairedFolds(pairs(specimen("A1"))).patches_of_all  # the same numbers on the paper's grid
    other = fit(tiny_training.recipe(epochs=1), again, again, tmp_path / "paper")
    assert all(abs(state.scales[name] / value - 1) > 1e-6 for name, value in other.scales.items())
    row = next(r for r in scores(state.network.cpu(), found, found, [100.0]) if r.filter == "raw")
    want = measured(
        found,
        [pair for turn in found.pairs_at(100.0) for pair in turn],
        None,
        PatchSphere((0.3,) * 3, (225.0,)),
    )
    assert row.d_avg == pytest.approx(np.mean(want[0]["BMD"] - want[1]["BMD"]), rel=1e-6)


def test_scores_of_each_current_that_the_test_has():
    """Nothing in training is at 360 mAs: the line there is that of 250 mAs, the nearest, not of 100 or 1000 mAs."""
    known = specimen("A1", currents=(100.0, 1000.0, 250.0))
    known.scans[:2] += 150
    train = PairedFolds(pairs(known)).patches_of_all
    test = PairedFolds(pairs(specimen("B1", currents=(100.0, 100.0, 360.0)))).patches_of_all
    found = scores(NNSP((2, 2, 2, 2, 2)), train, test, test.currents_mas)
    assert {row.mas for row in found} == {100.0, 360.0}
    assert len(found) == 2 * 3 * 3
    line = next(row for row in found if (row.mas, row.quantity, row.filter) == (360.0, "BMD", "BMD line"))
    assert abs(line.d_avg) < 3  # scans are 60 too dense at every current


def test_facts_are_short_and_name_nobody():
    found = facts_of(
        replace(pairs(specimen("A1", currents=NINE[:4])), header={"calibration": {"by": "rods"}})
    )
    assert found["specimens"] == [{"name": "A1", "donor": "A", "positions": 8, "scans": {"100": 3, "250": 1}}]
    assert found["scanner"] == {"manufacturer": ["MAKER"], "kernel": ["B70s"], "kvp": [120.0]}
    assert found["reference_scanner"] == {"manufacturer": ["OTHER"]}
    assert found["calibration"]["by"] == "rods"
    assert found["calibration"]["slope"] == [0.8, 0.83]
    assert found["registration"]["doubted_but_accepted"] == 1
    assert found["registration"]["local_shift_mm"] == [0.0, 0.03]
    for private in ("1.2.840", "someone", ".nii"):
        assert private not in repr(found)


@pytest.mark.parametrize("told", [{}, {"scans": None}, {"scans": [None, {"calibration": 3, "verdict": []}]}])
def test_facts_of_a_dataset_that_says_little(told):
    found = facts_of(pairs(replace(specimen("A1"), provenance=told)))
    assert found["scanner"] == {}
    assert found["calibration"]["slope"] is None


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    whole = of_donors(3).specimens
    return dataset(tmp_path_factory.mktemp("study"), *whole)


def test_a_killed_run_goes_on_as_if_nothing_had_been(study, tmp_path):
    recipe = tiny_training.recipe(epochs=3)
    runs = {name: tmp_path / name for name in ("whole", "killed")}
    whole = fitted(recipe, runs["whole"], study)
    fitted(replace(recipe, epochs=1), runs["killed"], study)
    again = fitted(recipe, runs["killed"], study)
    assert again.epoch == whole.epoch == 3
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(weights, again.network.state_dict()[name])


def fitted(recipe, out, study):
    split = donors_apart(recipe, out, study)
    return fit(recipe, split.train, split.validation, out, data=split.names)


def test_a_checkpoint_of_another_dataset_is_refused(study, tmp_path):
    """One voxel of one scan differs: what this run calls unseen may have been seen."""
    recipe = tiny_training.recipe(epochs=1)
    fitted(recipe, tmp_path / "run", study)
    first, *others = read_pairs(study).specimens
    first.scans[0, 0, 0, 0] += 1
    other = dataset(tmp_path / "other", first, *others)
    with pytest.raises(InputError, match="other pairs data; name another folder"):
        donors_apart(recipe, tmp_path / "run", other)
    assert donors_apart(recipe, tmp_path / "run", study).names["test"] == ["C1"]


def test_it_learns(study, tmp_path):
    """Scans are 60 mg/cm3 too dense: the network takes off some of it at donors that it never saw."""
    recipe = tiny_training.recipe(epochs=14, patience=14)
    split = donors_apart(recipe, tmp_path, study)
    state = fit(recipe, split.train, split.validation, tmp_path, data=split.names)
    found = scores(state.network, split.train, split.test, split.test.currents_mas)
    bmd = {row.filter: row for row in found if row.quantity == "BMD"}
    assert bmd["NNSP"].rmse < 0.9 * bmd["raw"].rmse
    assert corners(TWO["size"]) == [(0, 0, 0), (0, 0, 16)]
