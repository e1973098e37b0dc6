"""What the whole study needs beside the core."""

from qctrun.train.insilico.picture import require_matplotlib
from qctrun.train.needs import require_torch
from qctrun.train.study.filters import require_scikit_image


def require_all() -> None:
    """Say how to install what is missing before hours of work.

    Raises
    ------
    QctrunError, RuntimeMissingError
        Naming the command to type.
    """
    require_torch()
    require_matplotlib()
    require_scikit_image()
