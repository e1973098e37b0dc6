"""The study's results as files: tables beside the paper's, goals, figures, and a page that leads to them."""

from collections.abc import Iterable, Sequence

from qctrun.train.study.goals import goal_rows, goals_markdown
from qctrun.train.study.goals import judged as goals_judged
from qctrun.train.study.paper_layout import paper_table, threshold_table, truth_table, untrained_table
from qctrun.train.study.raw_checks import Check, check_rows
from qctrun.train.study.results import SPLITS, Result
from qctrun.train.study.tables import Made, csv_text, tidy_dictionary, tidy_rows

INDEX = "README.md"
_EVERYWHERE = ("results.csv", "results.json", "goals.md", "goals.csv", "raw-checks.csv")
_TABLES = {
    "table-1": "Table 1 (360 mAs)",
    "table-2": "Table 2 (100 mAs)",
    "table-3": "Table 3 (truth)",
    "thresholds": "all thresholds",
    "other-currents": "tube currents never trained on",
}
_PICTURES = {
    "error-curves.png": "Loss of training, validation and test over the epochs (the paper's figure 5)",
    "histograms.png": "Distributions of voxels, BMD, TMD and BV/TV in the test of the first fold",
    "sample-maps.png": "A slice and its maps: truth, raw and filtered (figure 4)",
    "tmd-bvtv.png": "TMD against BV/TV with the hull of each vertebra (figure 6)",
}


def file_names(splits: Iterable[str]) -> tuple[str, ...]:
    """The files of a study with these splits, the page that leads to them last."""
    splits = list(splits)
    tables = [f"{table}{_end(split)}.md" for split in splits for table in _TABLES]
    pictures = [*_PICTURES, *(f"thresholds-{split}.png" for split in splits)]
    return (*_EVERYWHERE, *tables, *pictures, INDEX)


def published(results: Sequence[Result], checks: Sequence[Check], made: Made) -> dict[str, str]:
    """All texts by file name: Markdown for people, CSV for programs; the page that leads to them is `index_page`."""
    goals = goals_judged(results)
    texts = {
        "results.csv": csv_text(tidy_rows(results)),
        "results.json": tidy_dictionary(),
        "goals.md": goals_markdown(goals, made),
        "goals.csv": csv_text(goal_rows(goals)),
        "raw-checks.csv": csv_text(check_rows(checks)),
    }
    for split in splits_of(results):
        end = _end(split)
        texts[f"table-1{end}.md"] = paper_table(results, 360.0, made, split)
        texts[f"table-2{end}.md"] = paper_table(results, 100.0, made, split)
        texts[f"table-3{end}.md"] = truth_table(results, made, split)
        texts[f"thresholds{end}.md"] = threshold_table(results, made, split)
        texts[f"other-currents{end}.md"] = untrained_table(results, made, split)
    return texts


def index_page(splits: Sequence[str], made: Made) -> str:
    """The page that leads to everything."""
    lines = ["# Results of the in-silico study\n", made.markdown()]
    lines.append(
        "All scans are simulated; decision 6 says how, and which numbers were fitted. Not for diagnosis.\n"
    )
    for split in splits:
        links = ", ".join(f"[{words}]({name}{_end(split)}.md)" for name, words in _TABLES.items())
        lines.append(f"- **{split}** ({SPLITS[split]}): {links}")
    lines.append("- [What the tables must show](goals.md), [raw scans against the paper](raw-checks.csv)")
    lines.append("- Everything as one table: [results.csv](results.csv), [its columns](results.json)\n")
    shares = {
        f"thresholds-{split}.png": f"RMSE as a share of raw over the thresholds, {split}" for split in splits
    }
    for picture, words in {**_PICTURES, **shares}.items():
        lines.append(f"![{words}]({picture})\n*{words}.*\n")
    return "\n".join(lines)


def splits_of(results: Iterable[Result]) -> list[str]:
    """The splits that have results, in the order of `SPLITS`."""
    there = {one.split for one in results}
    return [split for split in SPLITS if split in there]


def _end(split: str) -> str:
    """What the names of a split's tables end in; the paper's has no addition."""
    return "" if split == "positions" else f"-{split}"
