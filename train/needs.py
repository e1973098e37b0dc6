"""What training and export need beside the core."""

from importlib import import_module

from qctrun.runtime.errors import QctrunError


def require_torch() -> None:
    """Say how to install torch where it is missing.

    Raises
    ------
    QctrunError
        When it is not installed or does not load.
    """
    try:
        import_module("torch")
    except ImportError as error:
        mend = 'type: pip install "qctrun[train]"'
        raise QctrunError("training", wanted="torch", got=str(error), mend=mend) from error
