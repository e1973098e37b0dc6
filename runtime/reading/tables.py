"""Tables of measurements: CSV files as rows of text, and the cells that mean something."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qctrun.runtime.errors import InputError

MISSING = frozenset({"", "n/a", "na", "nan", "none", "null"})
"""What a cell without a value says, in any case of letters."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text as they stand in one or several CSV files.

    Attributes
    ----------
    columns : tuple of str
        Those that all files have.
    rows : list of mappings
        Column to cell, without the blanks around it.
    places : list of str
        File and line of each row, for messages.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    places: list[str]

    def name(self, row: int, column: str) -> str:
        """A cell that names something.

        Raises
        ------
        InputError
            When it is empty.
        """
        cell = self.rows[row][column]
        if not cell:
            raise InputError(self.places[row], wanted=f"a name in column {column!r}", got="an empty cell")
        return cell

    def number(self, row: int, column: str) -> float:
        """A cell that measures something; NaN where it says that the value is missing.

        Raises
        ------
        InputError
            When it is no finite number.
        """
        cell = self.rows[row][column]
        if cell.lower() in MISSING:
            return math.nan
        try:
            value = float(cell)
        except ValueError:
            value = math.inf
        if math.isinf(value):
            wanted, mend = (
                f"a number in column {column!r}",
                "leave it empty, or n/a, where a value is missing",
            )
            raise InputError(self.places[row], wanted=wanted, got=repr(cell), mend=mend)
        return value


def read_table(paths: Sequence[Path]) -> Table:
    """Read CSV files (UTF-8, commas, a header) one below the other.

    Raises
    ------
    InputError
        When a file cannot be read, is no such table, or no column is in all of them.
    """
    headers, rows, places = [], [], []
    for path in paths:
        header, lines = _read(path)
        headers.append(header)
        for number, line in lines:
            rows.append(dict(zip(header, line, strict=True)))
            places.append(f"{path} line {number}")
    columns = tuple(name for name in headers[0] if all(name in header for header in headers))
    if not rows:
        raise InputError(f"{paths[0]}", wanted="rows below the header", got="none")
    return Table(columns, rows, places)


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader if any(line)]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}", wanted="a table of comma-separated UTF-8 text", got=str(error)) from error
    if not lines:
        raise InputError(f"{path}", wanted="a header and rows", got="an empty file")
    (_, header), *rows = lines
    _check_header(path, header)
    for number, line in rows:
        if len(line) != len(header):
            got = f"{len(line)} cells"
            raise InputError(f"{path} line {number}", wanted=f"{len(header)} cells like the header", got=got)
    return header, rows


def _check_header(path: Path, header: list[str]) -> None:
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        mend = "save it with commas, and points in numbers"
        raise InputError(f"{path}", wanted="commas between cells", got=repr(header[0]), mend=mend)
    doubles = [name for name, count in Counter(header).items() if count > 1]
    if doubles:
        raise InputError(f"{path}", wanted="each column once", got=f"{doubles[0]!r} twice")
