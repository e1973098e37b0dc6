"""What calls of the program leave in a folder, and a fresh interpreter that calls it."""

import csv
from pathlib import Path

RUN = "import sys; from qctrun.cli.main import main; sys.exit(main(sys.argv[1:]))"


def table(verb: str, folder: str | Path = "qctrun-out") -> list[dict[str, str]]:
    """The rows of the table that `params` or `metrics` wrote."""
    with (Path(folder) / f"{verb}.csv").open() as file:
        return list(csv.DictReader(file))


def left_behind(folder: Path) -> set[str]:
    """What lies in the folder beside the inputs of a test."""
    return {path.name for path in folder.iterdir()} - {"scan", "images"}
