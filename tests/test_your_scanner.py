"""docs/your-scanner.md: what is typed there runs, and prints what is shown; and the script that types it."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "your-scanner.md"

SMALLEST = {
    "--size 24,28,28 --currents 100,360 --repetitions 2": "--size 18,24,24 --currents 360 --repetitions 1",
    "--recipe nnsp-short --epochs 2": "--recipe tiny.toml",
    "100mAs-1": "360mAs-1",
    "peel_mm = 2": "peel_mm = 1.5",
}
"""The walk on less, so that it takes a minute; the registrations and the training are what lasts."""

TINY = (
    "channels = [2, 2, 2, 2, 2]\nepochs = 1\nsteps_per_epoch = 2\ntruths_per_step = 2\nscans_per_truth = 1\n"
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("typed")


def on_less(text):
    for words, fewer in SMALLEST.items():
        text = text.replace(words, fewer)
    return text


def test_the_page_says_what_the_walk_on_less_replaces():
    text = PAGE.read_text()
    assert [words for words in SMALLEST if words not in text] == []


@pytest.mark.slow
def test_the_walk_runs_as_it_is_typed(script, tmp_path):
    for extra in ("h5py", "matplotlib", "torch"):
        pytest.importorskip(extra)
    (tmp_path / "tiny.toml").write_text(TINY)
    walked = list(script.typed(PAGE, tmp_path, on_less))
    assert len(walked) > 12
    assert [(one.command, one.printed) for one in walked if one.status] == []
    assert (tmp_path / "mine.onnx").is_file()
    same = [one for one in walked if on_less(one.command) == one.command and "mAs" not in one.printed]
    assert [(one.command, one.missing) for one in same if one.missing] == []


def test_commands_are_typed_in_order_and_files_written_before_them(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\n$ exit 1\n```\n```\n$ echo 1 > a; echo first\nfirst\n```\n"
        "```toml\n# b.toml\nkey = 2\n```\n```\n$ cat a \\\n  b.toml\n1\n# b.toml\nkey = 3\n$ ls nothing\n```\n"
    )
    one, two, three = script.typed(page, tmp_path, lambda text: text.replace("first", "second"))
    assert (one.printed, one.status, one.missing) == ("second\n", 0, ["first"])
    assert (two.printed, two.status, two.missing) == ("1\n# b.toml\nkey = 2\n", 0, [])
    assert three.status != 0


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ("wrote 12.5 s", False),
        ("wrote 3 s", False),
        ("...", False),
        ("wro...", False),
        ("wrote 3 min", True),
        ("written...", True),
        ("", True),
    ],
)
def test_a_line_is_missing_when_nothing_like_it_is_printed(script, shown, missing):
    assert bool(script.Typed("x", [shown], "first\nwrote 7.25 s\n").missing) == missing
