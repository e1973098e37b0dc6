"""One HTML page about a run, for people: it needs nothing beside it, and names nobody."""

from qctrun.runtime.writing.report.making import PAGE_NAME, Report, make_report, picture_names
from qctrun.runtime.writing.report.page import require_report
from qctrun.runtime.writing.report.run_folder import RunFolder, open_run

__all__ = [
    "PAGE_NAME",
    "Report",
    "RunFolder",
    "make_report",
    "open_run",
    "picture_names",
    "require_report",
]
