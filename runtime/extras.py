"""Libraries that come with an extra: imported when something needs them, or the line that installs them."""

from importlib import import_module
from typing import Any

from qctrun.runtime.errors import RuntimeMissingError

_PACKAGES = {
    "h5py": ("h5py", "pairs"),
    "highdicom": ("highdicom", "dicom"),
    "jinja2": ("jinja2", "report"),
    "matplotlib.figure": ("matplotlib", "report"),
    "skimage.restoration": ("scikit-image", "study"),
}
"""What each module's package is called, and which extra installs it."""


def library(module: str, what: str) -> Any:
    """A module of an extra.

    Parameters
    ----------
    module : str
        Its name, one of those above.
    what : str
        What needs it, for the error.

    Raises
    ------
    RuntimeMissingError
        When it is not installed.
    """
    package, extra = _PACKAGES[module]
    try:
        return import_module(module)
    except ImportError as error:
        mend = f'type: pip install "qctrun[{extra}]"'
        raise RuntimeMissingError(what, wanted=package, got="not installed", mend=mend) from error
