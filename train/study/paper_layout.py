"""Tables 1-3 in the paper's layout with its numbers beside ours, and two tables that it has not, as Markdown."""

from collections.abc import Iterable, Sequence

from qctrun.runtime.measuring.reference import PaperCell, paper_value
from qctrun.train.study.over_folds import (
    FILTERS,
    SHARE,
    STRUCTURE,
    THRESHOLD_MG_CM3,
    UNTRAINED_MAS,
    VOXEL_SD_MG_CM3,
    Place,
    Placed,
    Summary,
    by_place,
    paper_cell,
    paper_share,
    place,
    summary,
    truth_of,
)
from qctrun.train.study.results import QUANTITIES, SPLITS, Result
from qctrun.train.study.tables import Made

PAPER_FILTERS = ("raw", "BM4D", "NNBMD", "NNSP")
_COLUMNS = {
    "d_avg": "dAvg",
    "sd": "SD",
    "rmse": "RMSE",
    "ae_paper": "AE",
    "pe": "PE",
    "psnr_paper": "PSNR",
    "adj_r2_percent": "adj. R², %",
    SHARE: "RMSE, % of raw",
    "partial_r2_percent": "partial R² beyond BMD, %",
}
_NUMBERS = {360.0: "Table 1", 100.0: "Table 2"}
_UNITS = {"voxel": "mg/cm³", "BMD": "mg/cm³", "TMD": "mg/cm³", "BV/TV": "%"}
_LEGEND = (
    "Mean ± half range over the test sets of {folds}, {split}. TMD and BV/TV at 225 mg/cm³ in spheres of 4.3 mm. "
    "AE and PE by the paper's formulas, `≤` where the noise explains all of the error; PSNR is "
    "20 ln(3 SD(truth)/RMSE), which is what the paper prints. Filters that are not in the paper have no row `paper` "
    "(n/a). `BMD line` predicts from raw BMD alone and sees no structure."
)
_MIXED = "† Mean of the folds with a value; the others have only an upper bound."


def paper_table(results: Iterable[Result], mas: float, made: Made, split: str = "positions") -> str:
    """Table 1 (360 mAs) or 2 (100 mAs): a block for each quantity, a row for each filter, the paper's below ours."""
    placed = by_place(results)
    parts = [
        f"# {_NUMBERS.get(mas, 'Table')}: {mas:g} mAs, {split}\n",
        made.markdown(),
        _LEGEND.format(folds=_counted(placed, split, mas), split=SPLITS[split]) + "\n",
    ]
    for quantity in QUANTITIES:
        unit = _UNITS[quantity]
        lines = [f"## {quantity}, {unit}\n", *_header("filter", "", *_COLUMNS.values())]
        for name in _filters(placed, split, mas, PAPER_FILTERS):
            lines += _rows(placed, place(name, mas, quantity, split))
        parts.append("\n".join(lines) + "\n")
    text = "\n".join(parts)
    return text + f"\n{_MIXED}\n" if "†" in text else text


def truth_table(results: Iterable[Result], made: Made, split: str = "positions") -> str:
    """Table 3: mean and SD of the truth beside the paper's."""
    truth = truth_of(results, split)
    lines = [
        "# Table 3: the truth\n",
        made.markdown(),
        "Mean (SD) over the patches of all folds; TMD and BV/TV at 225 mg/cm³.\n",
        *_header("", *(f"{quantity}, {_UNITS[quantity]}" for quantity in QUANTITIES)),
        _line("ours", *(_spread(*truth[one]) if one in truth else "not measured" for one in QUANTITIES)),
        _line(
            "paper", *(_spread(*(_truth(one, name).mean for name in ("mean", "SD"))) for one in QUANTITIES)
        ),
        "",
        "The paper's SD of voxels here contradicts its Tables 1 and 2: PSNR and RMSE of all their rows imply "
        f"{VOXEL_SD_MG_CM3} mg/cm³, and that is what ours is held against.",
    ]
    return "\n".join(lines) + "\n"


def threshold_table(results: Iterable[Result], made: Made, split: str = "positions") -> str:
    """RMSE of TMD and BV/TV as a percentage of raw: a block for each quantity and tube current."""
    placed = by_place(results)
    parts = ["# RMSE as a percentage of raw, by threshold\n", made.markdown(), f"Split: {SPLITS[split]}.\n"]
    for quantity in STRUCTURE:
        here = [at for at in placed if (at.split, at.quantity) == (split, quantity)]
        thresholds = sorted({at.threshold_mg_cm3 for at in here if at.threshold_mg_cm3 is not None})
        for mas in sorted({at.mas for at in here}):
            head = _header("filter", *(f"{threshold:g} mg/cm³" for threshold in thresholds))
            lines = [f"## {quantity}, {mas:g} mAs\n", *head]
            for name in _filters(placed, split, mas):
                places = [Place(split, name, mas, quantity, threshold) for threshold in thresholds]
                if name != "raw":
                    lines.append(_line(name, *(_ours(summary(placed, at, SHARE), 1) for at in places)))
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def untrained_table(results: Iterable[Result], made: Made, split: str = "positions") -> str:
    """BMD, TMD and BV/TV at tube currents that no network was trained on."""
    placed = by_place(results)
    parts = [
        "# Tube currents never trained on\n",
        made.markdown(),
        f"At {THRESHOLD_MG_CM3:g} mg/cm³. Split: {SPLITS[split]}.\n",
    ]
    for mas in UNTRAINED_MAS:
        names = _filters(placed, split, mas)
        lines = [f"## {mas:g} mAs\n"]
        for quantity in QUANTITIES[1:] if names else ():
            shown = ("d_avg", "rmse", SHARE, "adj_r2_percent", "partial_r2_percent")
            lines += _header(f"{quantity}, {_UNITS[quantity]}", *(_COLUMNS[one] for one in shown))
            lines += [
                _line(name, *_cells(placed, place(name, mas, quantity, split), shown)) for name in names
            ]
            lines.append("")
        parts.append("\n".join(lines if names else [*lines, "Not measured.\n"]))
    return "\n".join(parts)


def _rows(placed: Placed, where: Place) -> list[str]:
    """Ours where there is one, and the paper's where it has this filter at this tube current."""
    ours = _cells(placed, where, _COLUMNS)
    if paper_cell(where, "rmse") is None:
        return [_line(where.filter, "ours", *ours)] if where in placed else []
    words = ours if where in placed else ["not run"] + [""] * (len(ours) - 1)
    paper = [f"*{_paper(where, statistic)}*" for statistic in _COLUMNS]
    return [_line(where.filter, "ours", *words), _line("", "*paper*", *paper)]


def _cells(placed: Placed, where: Place, statistics: Iterable[str]) -> list[str]:
    return [_ours(summary(placed, where, one), 1 if one == SHARE else 2) for one in statistics]


def _ours(found: Summary | None, digits: int) -> str:
    if found is None:
        return "n/a"
    text = _number(found.mean, found.half_range, found.is_bound, digits)
    return f"{text} †" if found.bounds_left_out else text


def _paper(where: Place, statistic: str) -> str:
    if statistic == SHARE:
        share = paper_share(where)
        return "n/a" if share is None else f"{share:.1f}"
    cell = paper_cell(where, statistic)
    return "n/a" if cell is None else _number(cell.mean, cell.half_range, cell.is_bound, 2)


def _number(mean: float, half_range: float | None, is_bound: bool, digits: int) -> str:
    spread = "" if half_range is None else f" ± {half_range:.{digits}f}"
    return "≤ " * is_bound + f"{mean:z.{digits}f}{spread}"


def _filters(placed: Placed, split: str, mas: float, also: Sequence[str] = ()) -> list[str]:
    """Filters with results here, and those others, in the order of all tables."""
    known = {at.filter for at in placed if (at.split, at.mas) == (split, mas)} | set(also)
    return sorted(known, key=lambda name: (FILTERS.index(name) if name in FILTERS else len(FILTERS), name))


def _counted(placed: Placed, split: str, mas: float) -> str:
    """How many folds stand behind a table: those of the paper's split are not those of the others."""
    found = {fold for at, folds in placed.items() if (at.split, at.mas) == (split, mas) for fold in folds}
    return "1 fold" if len(found) == 1 else f"{len(found)} folds"


def _truth(quantity: str, statistic: str) -> PaperCell:
    return paper_value(3, quantity, "truth", statistic)


def _spread(mean: float, sd: float) -> str:
    return f"{mean:.2f} ({sd:.2f})"


def _header(first: str, *others: str) -> list[str]:
    return [_line(first, *others), "|---" + "|--:" * len(others) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
