"""What a start costs: how little is loaded, and machine code that is kept where it may be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import scans

ROOT = Path(__file__).parent.parent

LOADED_BY = """
import sys, io, contextlib
import click
before = set(sys.modules)
from qctrun.cli.main import main
with contextlib.redirect_stdout(io.StringIO()) as said:
    code = main(sys.argv[1:])
assert code == 0 and said.getvalue(), said.getvalue()
print(*sorted(set(sys.modules) - before))
"""

LIGHT_PARTS = ["cli", "cli.call", "cli.failures", "cli.main", "runtime", "runtime.errors", "runtime.version"]
LIMIT = 30
"""Modules that a start may load beyond click's; half of them are of one piece with what click does for a help."""

MAPS = """
import sys
import numpy as np
from qctrun.runtime import Grid, Volume, local_maps

array = np.random.default_rng(0).normal(200, 100, (9, 17, 17)).astype(np.float32)
maps = local_maps(Volume(array, Grid(array.shape, (0.5, 0.5, 0.5)), "mg/cm3", "HA"), [200.0], 3.0, device="cpu")
kernels = [module for name, module in sys.modules.items() if name.startswith("qctrun.runtime.measuring.kernels.")]
assert all(module.__file__.startswith(sys.argv[1]) for module in kernels), kernels
counts = {f: f.stats for module in kernels for f in vars(module).values() if hasattr(f, "stats")}.values()
print(sum(map(len, (c.cache_hits for c in counts))), sum(map(len, (c.cache_misses for c in counts))), end=" ")
print(*(round(float(np.nanmean(maps[key].array)), 3) for key in ("BMD", "SD", ("BVTV", 200.0), ("TMD", 200.0))))
"""


def told(code: str, *words: object, **environment: str) -> list[str]:
    """The words that a fresh interpreter prints last; a variable that is empty is unset."""
    merged = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in merged.items() if value},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A copy of the runtime whose kernels have no folder to keep machine code in, not even for root."""
    tree = tmp_path / "install"
    ignored = shutil.ignore_patterns("__pycache__", "models")
    shutil.copytree(ROOT / "runtime", tree / "qctrun" / "runtime", ignore=ignored)
    (tree / "qctrun/runtime/measuring/kernels/__pycache__").write_text("a file where the folder would be")
    return tree


def maps_from(tree: Path, home: Path) -> tuple[int, int, list[str]]:
    """Loads from the cache, compilations and map means of a process that imports from the tree."""
    words = told(
        MAPS,
        tree,
        PYTHONPATH=str(tree),
        PYTHONDONTWRITEBYTECODE="1",
        HOME=str(home),
        XDG_CACHE_HOME="",
        NUMBA_CACHE_DIR="",
    )
    return int(words[0]), int(words[1]), words[2:]


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_a_start_loads_click_and_hardly_more(word: str) -> None:
    loaded = told(LOADED_BY, word)
    ours = [name.removeprefix("qctrun.") for name in loaded if name.startswith("qctrun.")]
    assert ours == LIGHT_PARTS
    assert len(loaded) < LIMIT, loaded
    assert not {"importlib.metadata", "email", "numpy", "traceback"} & set(loaded)


def test_filtering_and_measuring_load_neither_torch_nor_pictures(tmp_path: Path) -> None:
    scan = scans.make_scan(tmp_path / "scan")
    out = tmp_path / "out"
    heavy = {"torch", "matplotlib", "onnx", "skimage", "pandas"}
    loaded = set(told(LOADED_BY.replace(" and said.getvalue()", ""), "filter", scan, "--out", out))
    assert not (heavy | {"numba", "scipy"}) & loaded
    assert {"numpy", "onnxruntime", "qctrun.runtime.filtering.apply"} <= loaded
    loaded = set(told(LOADED_BY, "params", "--out", out))
    assert not (heavy | {"onnxruntime", "openvino"}) & loaded
    assert {"numba", "qctrun.runtime.measuring.maps"} <= loaded


@pytest.mark.slow
def test_machine_code_of_a_read_only_install_is_kept_in_the_users_cache(
    unwritable: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    hits, misses, first = maps_from(unwritable, home)
    assert hits == 0
    assert misses > 0
    assert list((home / ".cache").rglob("*.nbc"))
    hits, misses, second = maps_from(unwritable, home)
    assert (hits > 0, misses) == (True, 0)
    assert second == first


@pytest.mark.slow
def test_without_any_place_for_machine_code_the_maps_are_measured_all_the_same(
    unwritable: Path, tmp_path: Path
) -> None:
    hits, _, means = maps_from(unwritable, Path(os.devnull))
    assert hits == 0
    assert len(means) == 4
    assert not list(tmp_path.rglob("*.nbc"))
