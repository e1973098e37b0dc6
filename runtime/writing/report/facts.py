"""What the records say, in words for people: the scan, the calibration, how it was made. No path stands in it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qctrun.runtime.writing.names import case_of
from qctrun.runtime.writing.report import numbers
from qctrun.runtime.writing.report.run_folder import VERBS, Record, RunFolder, part

Fact = tuple[str, str]

_PATHS = ("input", "out", "mask", "mask_found", "labels", "label_names", "model", "calibration")
"""Options that may hold a path; a path may hold a name."""
_PATH = re.compile(r"""(?:(?<=[\s"'(=,;:])|^)(?:~|\.{0,2})/[^\s"';,:)]*[^\s"';,:).]""")
"""Any path that starts at the root, at home or here; others, and those with blanks, go if a record names them."""
_LEFT_OUT = ("input", "out", "overwrite", "json", "mask_sha256", "mask_found")
_SOURCE_WORDS = {"image": "scan", "mask": "mask", "labels": "labels", "calibration": "calibration"}
_NOMINAL = "NOMINAL CALIBRATION: "
_ERRORS = {
    "residual_mg_cm3": ("Residual of the rods", "mg/cm³"),
    "slope_se": ("Standard error of the slope", "mg/cm³ per HU"),
    "intercept_se_mg_cm3": ("Standard error of the intercept", "mg/cm³"),
    "r2": ("R²", ""),
}
"""What is shown of how well a line is known: name and unit."""


@dataclass(frozen=True)
class Made:
    """How one verb has run: its facts, and the sums of what it has read."""

    verb: str
    facts: Sequence[Fact]
    inputs: Sequence[Fact]


class Veil:
    """Takes paths, and the scan's own name where it is not to be shown, out of any text of a record.

    Parameters
    ----------
    run : RunFolder
        Whose records name the paths.
    title : str, optional
        What to call the scan in place of its own name, or an empty text.
    """

    def __init__(self, run: RunFolder, title: str | None) -> None:
        self.run = run
        self._known = _known_paths(run)
        self._stem = stem_of_run(run) if title is not None else ""

    def __call__(self, text: object) -> str:
        """The text with every known path replaced by what it is."""
        words = str(text)
        for path, name in self._known:
            words = words.replace(path, name)
        words = _PATH.sub("(a file)", words)
        if self._stem:
            words = re.sub(rf"(?<!\w){re.escape(self._stem)}(?!\w)", "(the scan)", words)
        return words


def stem_of_run(run: RunFolder) -> str:
    """The scan's name without its folder: of the table, or else of what was read."""
    if run.rows and run.rows[0].get("case_id"):
        return run.rows[0]["case_id"]
    entry = (
        run.input("filter", "image") or run.input("params", "image") or run.input("calibrate", "image") or {}
    )
    name = Path(str(entry.get("path", "scan"))).name
    return case_of(re.sub(r"\.(nii\.gz|nii|mha|mhd|nrrd|nhdr|zip)$", "", name, flags=re.IGNORECASE))


def scan_facts(run: RunFolder, veil: Veil) -> list[Fact]:
    """Size, spacing and how the scan was made, as far as it is known."""
    entry = next(
        (found for verb in ("filter", "params", "calibrate") if (found := run.input(verb, "image"))), {}
    )
    scan: Mapping[str, Any] = next(
        (known for verb in ("filter", "params", "calibrate") if (known := run.record(verb).get("scan"))), {}
    )
    geometry = part(entry, "geometry")
    size, spacing = (_steps(geometry.get(key)) for key in ("size_zyx", "spacing_zyx_mm"))
    facts = [
        ("Size", f"{size} voxels (x, y, z)" if size else ""),
        ("Spacing", f"{spacing} mm (x, y, z)" if spacing else ""),
        ("Slice thickness", _with_unit(scan.get("slice_thickness_mm"), "mm")),
        ("Tube voltage", _with_unit(scan.get("kvp"), "kVp")),
        ("Kernel", veil(scan.get("kernel") or "")),
        ("Scanner", veil(scan.get("manufacturer") or "")),
        ("Read from", veil(_kind(entry))),
        ("Set aside", veil(", ".join(f"{n} × {kind}" for kind, n in part(scan, "set_aside").items()))),
    ]
    return [(name, value) for name, value in facts if value]


def calibration_of(run: RunFolder) -> Mapping[str, Any]:
    """The line that made density of the scan; empty where none is recorded."""
    found = (run.record(verb).get("calibration") for verb in ("filter", "params", "calibrate"))
    return next((line for line in found if line), {})


def calibration_facts(line: Mapping[str, Any], veil: Veil) -> list[Fact]:
    """The line, what it is a density of, who says so, and how sure it is."""
    slope, intercept = numbers.as_number(line.get("slope")), numbers.as_number(line.get("intercept"))
    if slope is None or intercept is None:
        words = "not known: the density was calibrated before it came here"
    else:
        words = f"density = {slope:.4g} × HU {'−' if intercept < 0 else '+'} {abs(intercept):.4g} mg/cm³"
    material = {"HA": "hydroxyapatite (HA)", "K2HPO4": "dipotassium phosphate (K₂HPO₄)"}
    facts = [
        ("Line", words),
        ("Density of", material.get(str(line.get("material")), veil(line.get("material") or ""))),
        ("Source", veil(line.get("source") or "")),
    ]
    error = part(line, "error")
    facts += [
        (name, f"±{error[key]:.2g} {unit}" if unit else f"{error[key]:.4f}")
        for key, (name, unit) in _ERRORS.items()
        if isinstance(error.get(key), int | float)
    ]
    if isinstance(at := error.get("density_se_mg_cm3"), int | float):
        facts.append((f"Standard error at {_value(error.get('at_mg_cm3'))} mg/cm³", f"±{at:.2g} mg/cm³"))
    return [(name, value) for name, value in facts if value]


def warnings_of(run: RunFolder, veil: Veil) -> tuple[list[str], list[str]]:
    """What all records warn of, each once: first what is said of the nominal line, then the rest."""
    told = [veil(words) for verb in VERBS for words in run.record(verb).get("warnings") or ()]
    told = list(dict.fromkeys(told))
    nominal = [words.removeprefix(_NOMINAL) for words in told if words.startswith(_NOMINAL)]
    return (
        [words[:1].upper() + words[1:] for words in nominal],
        [words for words in told if not words.startswith(_NOMINAL)],
    )


def resampling_of(run: RunFolder, veil: Veil) -> list[str]:
    """Every interpolation that was done to the voxels, in words and in their order: those of an input came first."""
    records = [run.record(verb) for verb in VERBS]
    steps = [
        step for record in records for part in (record.get("inputs"), record) for step in _resampling(part)
    ]
    words = [
        f"{step.get('what')}: {step.get('interpolation')}, from {_steps(step.get('from_spacing_zyx_mm'))} "
        f"to {_steps(step.get('to_spacing_zyx_mm'))} mm (x, y, z)"
        for step in steps
    ]
    return list(dict.fromkeys(veil(text) for text in words))


def made(run: RunFolder, veil: Veil) -> list[Made]:
    """How each verb has run."""
    return [
        Made(verb, _made_facts(run.record(verb), veil), list(_digests(run.record(verb))))
        for verb in VERBS
        if verb in run.records
    ]


def _made_facts(record: Record, veil: Veil) -> list[Fact]:
    model, device = part(record, "model"), part(record, "device")
    card = part(model, "card")
    facts = [
        ("Started", str(record.get("started", "")).replace("T", " ").replace("Z", " UTC")),
        (
            "Versions",
            ", ".join(f"{name} {number}" for name, number in part(record, "versions").items()),
        ),
        ("Model", " ".join(str(card[key]) for key in ("name", "version") if card.get(key))),
        ("Model, sha256", str(model.get("sha256") or "")),
        (
            "Device",
            ", ".join(str(device[key]) for key in ("used", "provider", "precision") if device.get(key)),
        ),
        ("Options", _options(part(record, "options"))),
        ("Seconds", ", ".join(f"{name} {_value(n)}" for name, n in part(record, "seconds").items())),
        ("Peak memory", _with_unit(record.get("peak_memory_mb"), "MB")),
    ]
    return [(name, veil(value)) for name, value in facts if value]


def _options(options: Mapping[str, Any]) -> str:
    said = []
    for name, value in options.items():
        if name in _LEFT_OUT or value in (None, False, [], ()):
            continue
        is_path = name in _PATHS and not re.fullmatch(r"[-+\d.,eE ]+", str(value))
        words, _, unit = _in_words(name).partition(", ")
        said.append(f"{words} {'a file' if is_path else _value(value)} {unit}".strip())
    return ", ".join(said)


def _digests(record: Record) -> Iterator[Fact]:
    for entry in record.get("inputs") or ():
        files = entry.get("files")
        name = _SOURCE_WORDS.get(str(entry.get("role")), str(entry.get("role")))
        more = f" ({files} files)" if isinstance(files, int) and files > 1 else ""
        yield name + more, str(entry.get("sha256") or "inside of the scan's zip")


def _resampling(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every entry under a key `resampling`, wherever in a record it stands."""
    for key, item in value.items() if isinstance(value, Mapping) else ():
        if key == "resampling" and isinstance(item, list):
            yield from (step for step in item if isinstance(step, dict))
        else:
            yield from _resampling(item)
    for item in value if isinstance(value, list) else ():
        yield from _resampling(item)


def _known_paths(run: RunFolder) -> list[tuple[str, str]]:
    """Paths of the records and the folders above them, and what to say in their place, longest first."""
    found: dict[str, str] = {str(run.folder.resolve()): "(the folder)"}
    for record in run.records.values():
        for entry in record.get("inputs") or ():
            found[str(entry.get("path"))] = f"(the {_SOURCE_WORDS.get(str(entry.get('role')), 'file')})"
        for name, value in part(record, "options").items():
            if name in _PATHS and isinstance(value, str):
                found.setdefault(value, "(a file)")
    for path in [Path(name) for name in found if Path(name).is_absolute()]:
        for parent in path.parents[:-1]:
            found.setdefault(str(parent), "(a folder)")
    # A bare name may be a word of any text, such as `scan`.
    paths = [(path, name) for path, name in found.items() if "/" in path.strip("/") or path.startswith("/")]
    return sorted(paths, key=lambda each: -len(each[0]))


def _kind(entry: Mapping[str, Any]) -> str:
    kinds = {"dicom": "a DICOM folder", "dicom-zip": "a zip of DICOM", "nifti": "a NIfTI file"}
    kind, files = str(entry.get("format") or ""), entry.get("files")
    known = kinds.get(kind, f"an {kind.upper()} file" if kind else "")
    return f"{known}, {files} files" if kind.startswith("dicom") and files else known


def _steps(sizes_zyx: Any) -> str:
    """Three numbers (z, y, x) as x × y × z."""
    listed = sizes_zyx if isinstance(sizes_zyx, list) else []
    found = [number for value in listed if (number := numbers.as_number(value)) is not None]
    return " × ".join(f"{number:.4g}" for number in reversed(found))


def _with_unit(value: Any, unit: str) -> str:
    return f"{value:g} {unit}" if isinstance(value, int | float) else ""


def _in_words(name: str) -> str:
    return re.sub(r"_", " ", re.sub(r"_mg_cm3$", ", mg/cm³", re.sub(r"_mm$", ", mm", name)))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
