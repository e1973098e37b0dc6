"""The acceptance of the simulator: its truth and its raw scans against the paper's Tables 1-3."""

from pathlib import Path

from qctrun.runtime.volume import Progress
from qctrun.train.study.judge import Fold, Sample, judged
from qctrun.train.study.over_folds import truth_of
from qctrun.train.study.raw_checks import Check, raw_checks
from qctrun.train.study.store import Store
from qctrun.train.study.subjects import study_subjects

CHECKED_MAS = (360.0, 100.0)


def check_raw(work: Path | None = None, progress: Progress | None = None) -> list[Check]:
    """Simulate the study's vertebrae, scan them, and hold every raw cell against the paper.

    Parameters
    ----------
    work : Path, optional
        Where readings are kept for the study; without it nothing is kept.
    progress : callable, optional
        Told (done, total) after each vertebra.
    """
    store, subjects = Store(work), study_subjects()
    for done, subject in enumerate(subjects, start=1):
        subject.truth(store)
        for mas in CHECKED_MAS:
            subject.scans(store, mas)
        subject.forget()
        if progress:
            progress(done, len(subjects))
    everything = [Sample(subject) for subject in subjects]
    fold = Fold("positions", 1, everything, everything)  # the BMD line in it is not looked at
    results = [one for mas in CHECKED_MAS for one in judged(fold, store, mas, (), resamples=0)]
    return raw_checks(results, truth_of(results))
