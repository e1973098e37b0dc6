"""Recipes: the shipped ones are what they say, one's own are checked key by key, and torch is not needed."""

import dataclasses
import json
import subprocess
import sys
import tomllib

import pytest

from qctrun.runtime.errors import InputError
from qctrun.train.recipe import LOSS_WEIGHTS, Recipe, load_recipe, recipe_text

SHIPPED = (
    "nnbmd",
    "nnbmd-residual",
    "nnbmd-short",
    "nnsp",
    "nnsp-residual",
    "nnsp-shipped",
    "nnsp-short",
    "nnsp-wide",
)
PAPER = ("nnsp", "nnbmd")


@pytest.fixture
def own(tmp_path):
    """Write a recipe and load it."""

    def load(text, name="mine.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_recipe(path)

    return load


def refused(call, *args):
    with pytest.raises(InputError) as caught:
        call(*args)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in message
    assert "wanted" in message
    assert "got" in message
    return message


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper(name):
    recipe = load_recipe(name)
    assert recipe == dataclasses.replace(Recipe(), name=name, loss=name)
    assert recipe.learning_rate == pytest.approx(10**-3.5, rel=1e-15)
    assert (recipe.rate, recipe.averaging, recipe.precision) == ("constant", 0.0, "fp32")
    assert (recipe.truths_per_step, recipe.scans_per_truth) == (16, 4)
    assert recipe.steps_per_epoch == 14328 // 64 + 1 == 224
    assert recipe.patience == 20
    assert not recipe.residual


def test_ours():
    recipe = load_recipe("nnsp-residual")
    assert (recipe.loss, recipe.residual, recipe.rate, recipe.averaging) == ("nnsp", True, "cosine", 0.999)
    assert (recipe.learning_rate, recipe.epochs, recipe.steps_per_epoch) == (1e-3, 100, 224)


@pytest.mark.parametrize("name", ["nnsp", "nnbmd"])
def test_short_ones_differ_in_loss_and_length_only(name):
    recipe = load_recipe(f"{name}-short")
    own = {"name": f"{name}-short", "loss": name, "epochs": recipe.epochs, "patience": recipe.patience}
    assert recipe == dataclasses.replace(load_recipe("nnsp-short"), **own)
    assert (recipe.channels, recipe.precision, recipe.rate) == ((16, 16, 8, 8, 16), "bf16", "cosine")


def test_the_wide_one_differs_in_its_width_and_its_steps_only():
    recipe = load_recipe("nnsp-wide")
    own = {name: getattr(recipe, name) for name in ("name", "channels", "optimizer", "epochs", "patience")}
    assert (recipe.optimizer, recipe.channels) == ("muon", (32, 16, 16, 16, 16))
    assert recipe == dataclasses.replace(load_recipe("nnsp-short"), **own)


def test_the_shipped_one_is_as_small_as_the_short_one_and_sees_more_noise():
    """So that filtering takes no longer, and half the lowest tube current of its training is not new to it."""
    shipped, short = load_recipe("nnsp-shipped"), load_recipe("nnsp-short")
    assert (shipped.channels, shipped.residual, shipped.loss) == (short.channels, short.residual, short.loss)
    assert (shipped.extra_noise, shipped.keep) == (1.0, "last")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_say_what_they_are_for(name):
    text = recipe_text(name)
    assert text.startswith("# ")
    assert load_recipe(name).name == name
    assert set(tomllib.loads(text)) <= {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_cosine_is_not_cut_short_by_patience(name):
    recipe = load_recipe(name)
    assert recipe.rate != "cosine" or recipe.patience >= recipe.epochs


def test_what_a_file_leaves_out_has_its_default(own):
    assert own("") == Recipe(name="mine")
    assert own('name = "my own"\nchannels = [1, 2, 3, 4, 5]') == Recipe(
        name="my own", channels=(1, 2, 3, 4, 5)
    )


def test_every_key_of_a_file_arrives(own):
    values = {
        "name": "all", "loss": "nnbmd", "channels": (8, 8, 8, 8, 8), "residual": True, "optimizer": "muon",
        "learning_rate": 1.0, "rate": "halved", "averaging": 0.5, "keep": "last", "extra_noise": 1.5,
        "precision": "tf32", "truths_per_step": 2, "scans_per_truth": 9,
        "steps_per_epoch": 3, "epochs": 4, "patience": 5, "minutes": 6.5, "seed": 7,
        "weights": {"voxel": 1.0, "SD 2.924 mm": 0.5},
    }  # fmt: skip
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    assert dataclasses.asdict(own("\n".join(lines))) == values


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {weight}' for name, weight in value.items()) + "}"
    return json.dumps(value)  # numbers, texts, lists and truths are written alike in both


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("nonsense = 1", "nonsense"),
        ("Epochs = 1", "Epochs"),
        ("[loss]\nkind = 1", "loss"),
        ('name = ""', "name"),
        ("name = 1", "name"),
        ('loss = "mse"', "loss"),
        ("loss = [1]", "loss"),
        ("weights = 1", "weights"),
        ('optimizer = "sgd"', "optimizer"),
        ('keep = "first"', "keep"),
        ("extra_noise = -0.1", "extra_noise"),
        ("extra_noise = nan", "extra_noise"),
        ("weights = {SD = 1}", "weights"),
        ("weights = {TMD = -1}", "weights"),
        ("weights = {TMD = true}", "weights"),
        ("weights = {TMD = nan}", "weights"),
        ("weights = {TMD = 0, BMD = 0}", "weights"),
        ("weights = {}", "weights"),
        ('weights = {TMD = 1}\nloss = "nnbmd"', "weights"),
        ("channels = [8, 4, 4, 8]", "channels"),
        ("channels = [8, 4, 0, 4, 8]", "channels"),
        ("channels = [8, 4, 4.0, 4, 8]", "channels"),
        ("channels = [8, 4, true, 4, 8]", "channels"),
        ('channels = "8,4,4,4,8"', "channels"),
        ("residual = 1", "residual"),
        ('residual = "yes"', "residual"),
        ("learning_rate = 0", "learning_rate"),
        ("learning_rate = -1e-3", "learning_rate"),
        ("learning_rate = inf", "learning_rate"),
        ("learning_rate = nan", "learning_rate"),
        ("learning_rate = true", "learning_rate"),
        ('learning_rate = "1e-3"', "learning_rate"),
        (f"learning_rate = 1{'0' * 400}", "learning_rate"),
        ('rate = "linear"', "rate"),
        ("averaging = 1", "averaging"),
        ("averaging = -0.1", "averaging"),
        ('precision = "fp16"', "precision"),
        ("truths_per_step = 0", "truths_per_step"),
        ("scans_per_truth = 10", "scans_per_truth"),
        ("steps_per_epoch = 0", "steps_per_epoch"),
        ("steps_per_epoch = 2.0", "steps_per_epoch"),
        ("epochs = 0", "epochs"),
        ("epochs = true", "epochs"),
        ("patience = 0", "patience"),
        ("minutes = 0", "minutes"),
        ("minutes = 2020-01-01", "minutes"),
        ("seed = -1", "seed"),
        (f"seed = {2**63}", "seed"),
        ("seed = 1.5", "seed"),
    ],
)
def test_impossible_values_are_named(own, text, key):
    message = refused(own, text)
    assert f"mine.toml, {key}: wanted" in message


@pytest.mark.parametrize("text", ["epochs", "epochs = ", "= 1", "epochs = 1\nepochs = 2", "channels = [1,"])
def test_malformed_toml(own, text):
    assert "wanted TOML" in refused(own, text)


def test_bytes_that_are_no_text(own):
    assert "UTF-8" in refused(own, b"\xff\xfe\x00")


def test_unknown_name_lists_the_shipped_ones():
    assert ", ".join(SHIPPED) in refused(load_recipe, "nssp")


def test_folder_and_odd_paths(tmp_path):
    assert "can be read" in refused(load_recipe, tmp_path)
    assert "can be read" in refused(load_recipe, "a\0b")
    assert "can be read" in refused(load_recipe, "x" * 5000)


def test_a_recipe_made_in_python_is_checked_too():
    assert "recipe 'nnsp', epochs: wanted a whole number from 1 on, got 0" in refused(
        lambda: Recipe(epochs=0)
    )
    assert "weights" in refused(lambda: Recipe(weights=dict.fromkeys(LOSS_WEIGHTS["nnbmd"], 1.0)))


def test_recipes_need_no_torch():
    code = (
        "import sys; from qctrun.train.recipe import load_recipe; load_recipe('nnsp'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
