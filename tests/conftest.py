"""What all tests share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from qctrun.cli.main import main


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
