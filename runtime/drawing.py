"""What all that draws needs: matplotlib, which is an extra."""

from typing import Any

from qctrun.runtime.errors import RuntimeMissingError


def require_matplotlib() -> Any:
    """The drawing module, or the line that installs it.

    Raises
    ------
    RuntimeMissingError
        When matplotlib is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        mend = 'type: pip install "qctrun[report]"'
        raise RuntimeMissingError("picture", wanted="matplotlib", got="not installed", mend=mend) from error
    return matplotlib.figure
