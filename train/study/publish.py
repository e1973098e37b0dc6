"""The study's results as files: tables beside the paper's, goals, figures, and a page that leads to them."""

from collections.abc import Iterable, Mapping, Sequence

from qctrun.train.study.goals import goal_rows, goals_markdown
from qctrun.train.study.goals import judged as goals_judged
from qctrun.train.study.over_folds import truth_of
from qctrun.train.study.paper_layout import paper_table, threshold_table, truth_table, untrained_table
from qctrun.train.study.raw_checks import check_rows, raw_checks
from qctrun.train.study.results import SPLITS, Result
from qctrun.train.study.tables import Made, csv_text, tidy_dictionary, tidy_rows

INDEX = "README.md"
_FIGURES = {
    "error-curves": "Loss of training, validation and test over the epochs (the paper's figure 5)",
    "histograms": "Distributions of voxels, BMD, TMD and BV/TV in the test of the first fold",
    "sample-maps": "A slice and its maps: truth, raw and filtered (figure 4)",
    "tmd-bvtv": "TMD against BV/TV with the hull of each vertebra (figure 6)",
    "thresholds-positions": "RMSE as a share of raw over the thresholds, the paper's split",
    "thresholds-vertebrae": "The same, one vertebra left out",
    "thresholds-donors": "The same, real donors",
}


def published(results: Sequence[Result], made: Made) -> dict[str, str]:
    """All texts by file name: Markdown for people, CSV for programs; the page that leads to them is `index_page`."""
    goals, checks = goals_judged(results), raw_checks(results, truth_of(results))
    texts = {
        "results.csv": csv_text(tidy_rows(results)),
        "results.json": tidy_dictionary(),
        "goals.md": goals_markdown(goals, made),
        "goals.csv": csv_text(goal_rows(goals)),
        "raw-checks.csv": csv_text(check_rows(checks)),
    }
    for split in splits_of(results):
        end = "" if split == "positions" else f"-{split}"
        texts[f"table-1{end}.md"] = paper_table(results, 360.0, made, split)
        texts[f"table-2{end}.md"] = paper_table(results, 100.0, made, split)
        texts[f"table-3{end}.md"] = truth_table(results, made, split)
        texts[f"thresholds{end}.md"] = threshold_table(results, made, split)
        texts[f"other-currents{end}.md"] = untrained_table(results, made, split)
    return texts


def index_page(texts: Mapping[str, str], pictures: Iterable[str], made: Made, splits: Iterable[str]) -> str:
    """The page that leads to everything."""
    lines = ["# Results of the in-silico study\n", made.markdown()]
    lines.append(
        "All scans are simulated; decision 6 says how, and which numbers were fitted. Not for diagnosis.\n"
    )
    for split in splits:
        end = "" if split == "positions" else f"-{split}"
        tables = {
            "Table 1 (360 mAs)": "table-1",
            "Table 2 (100 mAs)": "table-2",
            "Table 3 (truth)": "table-3",
        }
        tables |= {"all thresholds": "thresholds", "tube currents never trained on": "other-currents"}
        links = ", ".join(
            f"[{words}]({name}{end}.md)" for words, name in tables.items() if f"{name}{end}.md" in texts
        )
        lines.append(f"- **{split}** ({SPLITS[split]}): {links}")
    lines.append("- [What the tables must show](goals.md), [raw scans against the paper](raw-checks.csv)")
    lines.append("- Everything as one table: [results.csv](results.csv), [its columns](results.json)\n")
    for picture in pictures:
        words = _FIGURES[picture.removesuffix(".png")]
        lines.append(f"![{words}]({picture})\n*{words}.*\n")
    return "\n".join(lines)


def splits_of(results: Iterable[Result]) -> list[str]:
    """The splits that have results, in the order of `SPLITS`."""
    there = {one.split for one in results}
    return [split for split in SPLITS if split in there]
