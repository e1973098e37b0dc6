"""What a dataset of pairs says of its study, in short, for the notes of a training and the card of its model.

Only counts, ranges and what a scanner calls itself and its kernel: no file, no UID, no date.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from qctrun.train.pairs.values import PairedSpecimen, Pairs

SCANNER = ("manufacturer", "kernel", "kvp", "slice_thickness_mm")
"""What is told of the scans, where it is known; the manufacturer's name has the scanner's with it."""
JUDGED = ("overlap", "inverse_consistency_mm", "inverse_consistency_deg", "local_shift_mm")
"""What is told of the registrations: the range over all scans."""


def facts_of(pairs: Pairs) -> dict[str, Any]:
    """The study in JSON values.

    Keys: `sha256` of the pairs, `specimens` (name, donor, number of positions, scans at each tube current), `scanner`,
    `reference_scanner`, `calibration` and `registration`.
    """
    scans = [scan for specimen in pairs.specimens for scan in _maps(specimen.provenance.get("scans"))]
    references = [_at(specimen.provenance, "reference", "provenance", "scan") for specimen in pairs.specimens]
    return {
        "sha256": pairs.digest,
        "specimens": [_specimen(specimen) for specimen in pairs.specimens],
        "scanner": _told(_at(scan, "provenance", "scan") for scan in scans),
        "reference_scanner": _told(references),
        "calibration": _calibration(pairs.header, scans),
        "registration": _registration(pairs.header, scans),
    }


def _specimen(specimen: PairedSpecimen) -> dict[str, Any]:
    currents = specimen.currents_mas.tolist()
    return {
        "name": specimen.name,
        "donor": specimen.donor,
        "positions": len(specimen.positions),
        "scans": {f"{mas:g}": currents.count(mas) for mas in sorted(set(currents))},
    }


def _calibration(header: Mapping[str, Any], scans: list[Mapping[str, Any]]) -> dict[str, Any]:
    lines = [_at(scan, "calibration") for scan in scans]
    return {
        "by": _at(header, "calibration").get("by"),
        "source": sorted({str(line["source"]) for line in lines if line.get("source")}),
        "slope": _range(line.get("slope") for line in lines),
        "intercept_mg_cm3": _range(line.get("intercept") for line in lines),
    }


def _registration(header: Mapping[str, Any], scans: list[Mapping[str, Any]]) -> dict[str, Any]:
    verdicts = [_at(scan, "verdict") for scan in scans]
    return {
        "metric": _at(header, "registration").get("metric"),
        "scans": len(scans),
        "doubted_but_accepted": sum(verdict.get("good") is False for verdict in verdicts),
        **{name: _range(verdict.get(name) for verdict in verdicts) for name in JUDGED},
    }


def _told(scans: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Each value that the scans name, once."""
    known = list(scans)
    found = {name: {scan[name] for scan in known if scan.get(name)} for name in SCANNER}
    return {name: sorted(values, key=str) for name, values in found.items() if values}


def _range(values: Iterable[Any]) -> list[float] | None:
    """Least and largest, to four digits; None where none is known."""
    known = [float(value) for value in values if isinstance(value, int | float)]
    return [float(f"{end(known):.4g}") for end in (min, max)] if known else None


def _at(value: Any, *names: str) -> Mapping[str, Any]:
    """What lies at a path of keys; nothing where it is not there."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _maps(values: Any) -> list[Mapping[str, Any]]:
    return [value for value in values or () if isinstance(value, Mapping)]
