"""One specimen's walk: its reference, then scan after scan, then its part of the dataset; every stage cached.

At most one native scan is in memory at a time. What is left of it on the study's grid goes into the cache, from where
the part is put together, again scan after scan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from qctrun.runtime.errors import InputError, UsageError
from qctrun.runtime.volume import BoolArray, FloatArray
from qctrun.runtime.writing import sum_of
from qctrun.train.pairs.cache import Cache
from qctrun.train.pairs.choices import Specimen, StudyFile
from qctrun.train.pairs.dataset import PairedSpecimen, write_specimen
from qctrun.train.pairs.fixed import Fixed, fixed_volume, read_reference
from qctrun.train.pairs.keys import calibration_files, keys_of
from qctrun.train.pairs.scan import Move, Place, Seen, density_of, row_of, seen
from qctrun.train.pairs.stored import entry_of_fixed, fixed_of
from qctrun.train.pairs.table import verdict_of
from qctrun.train.pairs.walked import Walked, part_of, save_walked
from qctrun.train.raster import Corner, box_positions, patch_box

Say = Callable[[str], None]

_OF_INPUT = (InputError, UsageError)
_IN_STUDY_FILE = {
    "say --allow-resample to put it onto even, upright slices by one interpolation": "export even, upright slices",
    "say --unit hu or mg/cm3": 'say unit = "mg/cm3" in the study file if it is so',
    "as --unit says": "as a study needs it",
    "leave --unit away": "give another file",
    "--series-uid": "series_uid",
    "--unit": "unit",
    "--material": "material",
    "--mask": "mask",
}
"""What readers advise to type, and what there is instead of these options here."""


def walk(study: StudyFile, specimen: Specimen, cache: Cache, say: Say, move: Move) -> Walked:
    """Do whatever of a specimen's stages is not in the cache.

    Parameters
    ----------
    say : function
        Told a line when a scan is done.
    move : function
        Told how many scans are done, with fractions.

    Returns
    -------
    Walked
        With `failures` where an input is not what it should be, or nothing is left; then it has no part of the
        dataset, but all that could be done is in the cache.

    Raises
    ------
    OutputError, OutOfMemoryError, DeviceError
        When the machine refuses; what is in the cache by then stays.
    """
    try:
        at = Place(study, specimen, cache, keys_of(study, specimen))
        entry = cache.entry(f"{specimen.name}/fixed", at.keys.fixed, lambda: entry_of_fixed(_read(at)))
    except _OF_INPUT as error:
        return _failed(specimen, [_refused(f"specimen {specimen.name}: {error}", say)])
    fixed, found, failures = fixed_of(entry), [], []
    for number, scan in enumerate(specimen.scans):
        try:
            found.append(seen(at, scan, fixed, _after(number, move)))
            say(_said(at, found[-1], fixed))
        except _OF_INPUT as error:
            failures.append(_refused(f"specimen {specimen.name}, scan {scan.name}: {error}", say))
        move(number + 1)
    failures += [_refused(words, say) for words in _copies(specimen, found)]
    return _failed(specimen, failures) if failures else _walked(at, fixed, found, say)


def _read(at: Place) -> Fixed:
    reference, mask = read_reference(at.specimen)
    return fixed_volume(reference, mask, at.study.spacing_mm, at.specimen.peel_mm)


def _after(number: int, move: Move) -> Move:
    return lambda share: move(number + share)


def _said(at: Place, scan: Seen, fixed: Fixed) -> str:
    row = row_of(at, scan, fixed, 0)
    doubts = f": {row['doubts']}" * bool(row["doubts"])
    return f"specimen {at.specimen.name}, scan {scan.scan.name}: {verdict_of(row)}{doubts}"


def _refused(failure: str, say: Say) -> str:
    for option, words in _IN_STUDY_FILE.items():
        failure = failure.replace(option, words)
    say(f"refused: {failure}")
    return failure


def _failed(specimen: Specimen, failures: list[str]) -> Walked:
    return Walked(specimen.name, failures=tuple(failures))


def _copies(specimen: Specimen, found: list[Seen]) -> list[str]:
    """Scans of other names and the same bytes: repetitions that repeat nothing."""
    first: dict[str, str] = {}
    told = []
    for scan in found:
        inputs = scan.registered["volume"]["provenance"].get("inputs", ())
        own = scan.scan.name
        other = first.setdefault(" ".join(each["sha256"] for each in inputs) or own, own)
        if other != own:
            where = f"specimen {specimen.name}, scan {own}"
            told.append(str(InputError(where, wanted="a scan of its own", got=f"a copy of {other}")))
    return told


def _walked(at: Place, fixed: Fixed, found: list[Seen], say: Say) -> Walked:
    """The specimen's part of the dataset, and all that is to be told of it."""
    used = [scan for scan in found if scan.used]
    positions = _positions(at, fixed, used) if used else []
    if not positions:
        return _failed(at.specimen, [_refused(_nothing_left(at, found, fixed), say)])
    name, material = at.specimen.name, fixed.density.material
    part = at.cache.path(part_of(name))
    write_specimen(part, _paired(at, fixed, used, positions), at.study.spacing_mm, material or "HA")
    sums = {part_of(name): sum_of(part) or ""}
    for scan in found:
        sums |= scan.pictures
    walked = Walked(
        name,
        material,
        tuple(row_of(at, scan, fixed, len(positions)) for scan in found),
        {_output(at, picture): picture for scan in found for picture in scan.pictures},
        sums,
        {scan.scan.name: scan.calibrated["line"] for scan in found if scan.calibrated},
        tuple(_inputs(at, fixed, found)),
        tuple(_warnings(at, fixed, found)),
    )
    save_walked(at.cache, at.keys.specimen, walked)
    return walked


def _output(at: Place, picture: str) -> str:
    return f"{at.specimen.name}_{picture.rsplit('/', 1)[-1]}"


def _nothing_left(at: Place, found: list[Seen], fixed: Fixed) -> str:
    """Why a specimen has no patch, and where to look."""
    name = at.specimen.name
    if not any(scan.used for scan in found):
        pictures = at.cache.folder / name / "*_checkerboard.png"
        got = f"{len(found)} doubted of {len(found)}"
        mend = f"look at {pictures}, mend the study file or say accept = true, or leave the specimen away"
        return str(InputError(f"specimen {name}", wanted="one good scan or more", got=got, mend=mend))
    voxels = int(fixed.mask.sum())
    got = f"none in a mask of {voxels} voxels of {at.study.spacing_mm} mm"
    mend = "peel less, draw the mask larger, or leave the specimen away"
    wanted = "one patch or more whose box lies in the mask and in every scan"
    return str(InputError(f"specimen {name}", wanted=wanted, got=got, mend=mend))


def _positions(at: Place, fixed: Fixed, used: list[Seen]) -> list[Corner]:
    """Patches that lie in the mask and are known in every scan that is used."""
    known: BoolArray = np.ones(fixed.mask.shape, bool)
    for scan in used:
        known &= np.isfinite(density_of(at, scan))
    return [corner for corner in box_positions(fixed.mask) if known[patch_box(corner)].all()]


def _paired(at: Place, fixed: Fixed, used: list[Seen], positions: list[Corner]) -> PairedSpecimen:
    return PairedSpecimen(
        at.specimen.name,
        at.specimen.donor,
        fixed.density.array,
        fixed.mask,
        _Scans(at, tuple(used)),
        np.array([scan.scan.tube_current_mas for scan in used]),
        np.array([scan.scan.repetition for scan in used], np.int32),
        np.array(positions, np.int32),
        {
            "reference": {"provenance": fixed.density.provenance, "grid": fixed.facts},
            "scans": [_provenance(scan) for scan in used],
        },
    )


@dataclass(frozen=True, slots=True)
class _Scans(Sequence[FloatArray]):
    """The scans that are used, each taken from the cache when it is asked for."""

    at: Place
    scans: tuple[Seen, ...]

    def __len__(self) -> int:
        return len(self.scans)

    @overload
    def __getitem__(self, index: int) -> FloatArray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FloatArray]: ...
    def __getitem__(self, index: int | slice) -> FloatArray | Sequence[FloatArray]:
        if isinstance(index, slice):
            return _Scans(self.at, self.scans[index])
        return density_of(self.at, self.scans[index])


def _provenance(scan: Seen) -> dict[str, Any]:
    told = ("transform", "registration")
    return {
        "name": scan.scan.name,
        "accepted": scan.scan.accept,
        **{name: scan.registered[name] for name in told},
        "verdict": scan.verdict,
        "calibration": (scan.calibrated or {})["line"],
        "provenance": scan.registered["volume"]["provenance"],
    }


def _inputs(at: Place, fixed: Fixed, found: list[Seen]) -> list[dict[str, Any]]:
    """What was read, for the record of the run; absolute, as the cache may have been filled from elsewhere."""
    own = at.specimen
    scans = [(f"scan {own.name} {s.scan.name}", s.scan, s.registered["volume"]["provenance"]) for s in found]
    read = [(f"reference {own.name}", own.reference, fixed.density.provenance)]
    read += [(role, scan.path, told) for role, scan, told in scans]
    beside = [(f"mask {own.name}", own.mask)]
    for role, scan, _ in scans:
        beside += [(f"landmarks of {role}", scan.landmarks)] if scan.landmarks else []
        files = calibration_files(at.study.calibration, scan)
        beside += [(f"calibration of {role}", file) for file in files]
    return [
        *(
            {"role": role, **each, "path": str(path.resolve())}
            for role, path, told in read
            for each in told.get("inputs", ())
        ),
        *({"role": role, "path": str(path.resolve()), "sha256": sum_of(path)} for role, path in beside),
    ]


def _warnings(at: Place, fixed: Fixed, found: list[Seen]) -> list[str]:
    told = [f"specimen {at.specimen.name}: {words}" for words in fixed.density.warnings]
    for scan in found:
        where = f"specimen {at.specimen.name}, scan {scan.scan.name}"
        told += [f"{where}: {words}" for words in scan.warnings] if scan.used else []
        doubts = "; ".join(scan.verdict["reasons"])
        if doubts:
            told.append(f"{where}: {'kept although doubted' if scan.used else 'LEFT OUT'}: {doubts}")
    return told
