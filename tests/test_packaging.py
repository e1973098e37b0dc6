"""The package as a whole: its list of rooms, its imports, its documents."""

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qctrun.runtime.filtering import load_model
from qctrun.runtime.version import VERSION

ROOT = Path(__file__).parent.parent
ROOMS = ("cli", "export", "runtime", "train")


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_folder_with_code_is_listed_as_a_package(setup: configparser.ConfigParser) -> None:
    listed = set(setup["options"]["packages"].split())
    found = {
        ".".join(("qctrun", *path.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert listed == found


def test_every_folder_with_code_has_an_init() -> None:
    lonely = [
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if "__pycache__" not in path.parts and not (path.parent / "__init__.py").exists()
    ]
    assert lonely == []


def test_the_namespace_has_no_package_of_its_own() -> None:
    assert not (ROOT / "qctrun").exists()
    assert not (ROOT / "__init__.py").exists()


def test_every_room_is_marked_as_typed() -> None:
    assert [room for room in ROOMS if not (ROOT / room / "py.typed").exists()] == []


def test_extras_are_the_promised_ones(setup: configparser.ConfigParser) -> None:
    assert set(setup["options.extras_require"]) == {
        "cpu",
        "cuda",
        "dicom",
        "openvino",
        "pairs",
        "report",
        "scanco",
        "train",
        "study",
        "test",
    }
    core = setup["options"]["install_requires"]
    assert "torch" not in core
    assert "onnxruntime" not in core


@pytest.mark.parametrize("barred", ["torch", "click", "matplotlib", "onnx"])
def test_the_runtime_imports_no_tool_of_the_other_rooms(barred: str) -> None:
    code = (
        "import json, sys; from qctrun.runtime import Filter, Grid, Volume, local_maps, parameters, read, write;"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert barred not in json.loads(done.stdout)


def test_the_simulator_works_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None;"
        "from qctrun.train.insilico import random_field_phantom as make;"
        "print(make((8, 16, 16), seed=1).scan(100, 0).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(8, 16, 16)"


def test_the_readme_opens_with_its_two_lines() -> None:
    readme = (ROOT / "README.md").read_text()
    lines = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    assert any("qctrun demo" in line for line in lines)
    assert any("pytest" in line for line in lines)
    assert readme.index(lines[0]) < 1500


def test_the_changelog_knows_this_version() -> None:
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text()


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "embed.py"], capture_output=True, text=True, check=True
    )
    assert "local BV/TV from" in done.stdout


def test_documents_are_finished_and_their_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        text = page.read_text()
        assert "@@" not in text, page
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_shipped_model_says_what_it_scores() -> None:
    card = load_model().card
    filters = {row["filter"] for rows in card.scores.values() for row in rows}
    assert {"raw", "NNSP", "BMD line"} <= filters
    assert set(card.training["donors"]["train"]).isdisjoint(card.training["donors"]["test"])
    people = (ROOT / "runtime" / "filtering" / "models" / "nnsp.md").read_text()
    assert card.version in people.splitlines()[0]


def test_the_shipped_model_meets_its_floor_on_donors_it_never_saw() -> None:
    rows = load_model().card.scores["micro-CT donors"]
    share = {(r["mas"], r["quantity"]): r["share_of_raw"] for r in rows if r["filter"] == "NNSP"}
    assert share[100, "TMD"] <= 30
    assert share[100, "BV/TV"] <= 25
    assert share[100, "BMD"] <= 100
    assert share[360, "TMD"] < 100
    assert share[360, "BV/TV"] < 100
