"""What all tests share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import scans
from hypothesis import settings

from qctrun.cli.main import main
from qctrun.runtime.nvidia import gpus
from qctrun.runtime.writing import write

# Where a change is judged, the same examples every time; at a desk, new ones. No example has to be done within a time:
# on a busy machine a first one would fail now and then.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked gpu is skipped where no GPU answers."""
    if item.get_closest_marker("gpu") and not gpus():
        pytest.skip("there is no CUDA device")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real scans; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("QCTRUN_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}; set QCTRUN_DATA to their folder")
    return folder


class Said(NamedTuple):
    """What a call of the program gave back."""

    code: int
    out: str
    err: str


Program = Callable[..., Said]


@pytest.fixture
def qctrun(capsys: pytest.CaptureFixture[str]) -> Program:
    """The program, called in this process with the words of a command line."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(fresh: Path) -> Path:
    """A fresh folder to work in, with a scan."""
    scans.make_scan(fresh / "scan")
    return fresh


@pytest.fixture
def image(here: Path) -> Path:
    """The same scan as a density image without companions, in its own folder."""
    return write(scans.density(), here / "images" / "density.nii.gz")
