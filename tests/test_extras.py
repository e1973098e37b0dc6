"""Libraries of an extra: each one that is named comes with the extra that is named."""

import configparser
import sys
from pathlib import Path

import pytest

from qctrun.runtime.errors import RuntimeMissingError
from qctrun.runtime.extras import _PACKAGES, library

SETUP = Path(__file__).parents[1] / "setup.cfg"


@pytest.mark.parametrize("module", _PACKAGES)
def test_a_missing_one_names_its_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, extra = _PACKAGES[module]
    # A parent that is already loaded would hide that its child is not there.
    for name in {module, module.split(".")[0]}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeMissingError) as said:
        library(module, "picture")
    wanted = f'picture: wanted {package}, got not installed; type: pip install "qctrun[{extra}]"'
    assert (str(said.value), said.value.exit_code) == (wanted, 5)


@pytest.mark.parametrize("module", _PACKAGES)
def test_the_extra_installs_it(module: str) -> None:
    package, extra = _PACKAGES[module]
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    lines = setup["options.extras_require"][extra].split()
    assert any(line.startswith((package + ">", package + "[", package + "=")) for line in lines), lines


def test_one_that_is_there_is_given() -> None:
    module = pytest.importorskip("matplotlib.figure")
    assert library("matplotlib.figure", "picture") is module
