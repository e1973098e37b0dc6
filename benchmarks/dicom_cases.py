"""The table of docs/dicom.md: what four programs make of hard DICOM folders, judged by the tags themselves.

    python benchmarks/dicom_cases.py             # write the table into docs/dicom.md
    python benchmarks/dicom_cases.py --check     # exit 1 where the document is out of date, or qctrun is wrong
    python benchmarks/dicom_cases.py --only N05  # print the lines of some cases and write nothing

QCTRUN_DATA names the folder of scans. Needs highdicom, nibabel and dcm2niix.
"""

import argparse
import os
import re
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dicom_readers import Outcome, by_dcm2niix, by_highdicom, by_qctrun, by_simpleitk
from dicom_truth import GOOD, Made, Plane, in_words, is_sound, judge, planes_of, stacks_of
from pydicom.misc import is_dicom

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "dicom.md"
BEGIN, END = "<!-- cases: begin -->", "<!-- cases: end -->"
OTHERS = (
    "qct_phantom_legs",
    "thoracic_ct_jpeg2000/example_ct_dicom",
    "lumbar_ct_5mm/CRLM-CT-1004.zip",
    "spine_ct_1mm/scan.zip",
)
_ABOUT_PLACES = re.compile("tilt|interslice|nonuniform|missing|single slice|voxel size", re.IGNORECASE)
_LONGEST = 500
COLUMNS = ("qctrun", "qctrun --allow-resample", "SimpleITK", "dcm2niix", "highdicom")


@dataclass(frozen=True)
class Cell:
    """What one program made of one case: the judgement and the facts behind it."""

    verdict: str
    facts: str
    said: str


@dataclass(frozen=True)
class Row:
    """One case."""

    name: str
    tags: str
    cells: dict[str, Cell]


def main() -> int:
    """Judge, then write or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page differs")
    parser.add_argument("--only", default="", metavar="CASE", help="print cases whose name begins so")
    asked = parser.parse_args()
    data = Path(os.environ.get("QCTRUN_DATA", ROOT.parent / "shared" / "data"))
    rows = [row_of(source) for source in cases(data) if source.name.startswith(asked.only)]
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    wanted = f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}"
    faults = [f"{row.name}: {fault}" for row in rows for fault in faults_of(row)]
    if asked.only:
        print(table(rows))
    elif not asked.check:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != page:
        faults.append(f"{PAGE} is out of date; run python benchmarks/dicom_cases.py")
    for fault in faults:
        print(fault, file=sys.stderr)
    return int(bool(faults))


def cases(data: Path) -> list[Path]:
    """The hard folders, then the plain scans."""
    hard = (path for path in (data / "dicom_hard").iterdir() if path.suffix != ".json")
    return [*map(_zip_inside, sorted(hard)), *(data / name for name in OTHERS)]


def row_of(source: Path) -> Row:
    """Let every program read one case, and judge what it made."""
    with tempfile.TemporaryDirectory() as room:
        folder = source
        if source.suffix == ".zip":
            zipfile.ZipFile(source).extractall(room)
            folder = Path(room)
        stacks = stacks_of(planes_of(folder))
        busiest = _busiest(folder)
        readers: dict[str, Callable[[], Outcome]] = {
            COLUMNS[0]: lambda: by_qctrun(source),
            COLUMNS[1]: lambda: by_qctrun(source, allow_resample=True),
            COLUMNS[2]: lambda: by_simpleitk(busiest),
            COLUMNS[3]: lambda: by_dcm2niix(folder),
            COLUMNS[4]: lambda: by_highdicom(busiest),
        }
        cells = {name: _cell(read(), stacks, source) for name, read in readers.items()}
        return Row(_name(source), _tags(stacks), cells)


def faults_of(row: Row) -> list[str]:
    """Where qctrun is wrong: a volume that the tags contradict, or a sound scan refused."""
    return [f"{name}: {row.cells[name].verdict}" for name in COLUMNS[:2] if _is_fault(row.cells[name])]


def table(rows: list[Row]) -> str:
    """Markdown: who is right, and below it what was said."""
    lines = [f"| case | what the tags say | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in rows:
        cells = [f"**{cell.verdict}**<br>{cell.facts}".removesuffix("<br>") for cell in row.cells.values()]
        lines.append(f"| {row.name} | {row.tags} | {' | '.join(cells)} |")
    lines += ["", _sum(rows), "", "What the programs said:", ""]
    for row in rows:
        ours, allowed = (row.cells[name].said for name in COLUMNS[:2])
        told = {name: cell.said for name, cell in row.cells.items() if cell.said}
        if allowed == ours:
            told.pop(COLUMNS[1], None)
        said = [f"  - {name}: {_plain(words)}" for name, words in told.items()]
        lines += [f"- {row.name}", *said] if said else []
    return "\n".join(lines)


def _cell(outcome: Outcome, stacks: list[list[Plane]], source: Path) -> Cell:
    made = [one for one in outcome.made if _is_meant(one, stacks)]
    verdicts = [judge(one, stacks) for one in made]
    words = Counter(f"{one.in_words()}: {verdict}" for one, verdict in zip(made, verdicts, strict=True))
    facts = [f"{count} times {line}" if count > 1 else line for line, count in words.items()]
    said = outcome.refusal or "; ".join(outcome.warnings[:2])
    bad = [verdict for verdict in verdicts if verdict not in GOOD]
    if outcome.refusal == "not installed":
        return Cell("not installed", "", "")
    if bad:
        warned = any(_ABOUT_PLACES.search(words) for words in outcome.warnings)
        how = "wrong, with a warning" if warned else "silently wrong"
        return Cell(how, "<br>".join(facts[:3]), _short(said, source))
    if outcome.refusal:
        if verdicts:
            return Cell("refused", f"with {outcome.asked}: {facts[0]}", _short(said, source))
        needless = sum(map(is_sound, stacks)) == 1
        return Cell("refused, though sound" if needless else "refused", "", _short(said, source))
    verdict = max(verdicts, key=len)
    facts = [line.removesuffix(f": {verdict}") for line in facts[:3]]
    return Cell(verdict, "<br>".join(facts), _short(said, source))


def _is_meant(made: Made, stacks: list[list[Plane]]) -> bool:
    """Not the pictures beside a scan: localizers, pages of doses."""
    scans = {stack[0].shape for stack in stacks if stack[0].is_slice}
    return not scans or made.array.shape[0] > 1 or made.array.shape[1:] in scans


def _is_fault(cell: Cell) -> bool:
    return cell.verdict not in (*GOOD, "refused")


def _tags(stacks: list[list[Plane]]) -> str:
    words = Counter(in_words(stack) for stack in stacks)
    lines = [f"{count} series of {line}" if count > 1 else line for line, count in words.items()]
    return "<br>".join(lines) or "no images"


def _sum(rows: list[Row]) -> str:
    """How often each program is right, refuses or is wrong."""
    said = []
    for name in COLUMNS:
        verdicts = Counter(row.cells[name].verdict for row in rows)
        said.append(
            f"{name}: " + "; ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        )
    return f"Of {len(rows)} cases. " + ". ".join(said) + "."


def _short(said: str, source: Path) -> str:
    """One line without the folders of this machine."""
    said = said.replace(str(source), source.name)
    said = re.sub(r"(?<!\S)(/[\w.+-]+)+/", "", said)
    return said if len(said) <= _LONGEST else said[:_LONGEST].rsplit(" ", 1)[0] + " ..."


def _plain(said: str) -> str:
    return " ".join(said.replace("|", "/").replace("<", "(").replace(">", ")").split())


def _name(source: Path) -> str:
    named = [part for part in source.parts if part[:1] == "N" and part[1:3].isdigit()]
    others = [name for name in OTHERS if str(source).endswith(name)]
    return (named or others)[0].removesuffix(".zip").replace("_", " ")


def _zip_inside(path: Path) -> Path:
    """A folder that holds nothing but a zip is that zip."""
    files = list(path.iterdir()) if path.is_dir() else []
    return files[0] if len(files) == 1 and files[0].suffix == ".zip" else path


def _busiest(folder: Path) -> Path:
    """Where most of the DICOM files lie: what a person would point a reader of one folder at."""
    homes = Counter(path.parent for path in folder.rglob("*") if path.is_file() and is_dicom(path))
    return homes.most_common(1)[0][0] if homes else folder


if __name__ == "__main__":
    sys.exit(main())
