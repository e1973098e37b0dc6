"""What training and export need beside the core."""

from importlib.util import find_spec

from qctrun.runtime.errors import QctrunError


def require_torch() -> None:
    """Say how to install torch where it is missing.

    Raises
    ------
    QctrunError
        When it is not installed.
    """
    if find_spec("torch") is None:
        raise QctrunError(
            "training", wanted="torch", got="not installed", mend='type: pip install "qctrun[train]"'
        )
