"""What the card of a model says to people of the real pairs that it was trained on."""

from typing import Any

_SCANNER = {
    "manufacturer": "{}",
    "kernel": "kernel {}",
    "kvp": "{} kVp",
    "slice_thickness_mm": "slices of {} mm",
}


def trained_on_pairs(notes: dict[str, Any]) -> list[str]:
    """Lines of the card: specimens, scanner, calibration, registration, and what the test shares with training."""
    study, donors = notes["pairs"], notes["donors"]
    specimens = "; ".join(map(_specimen, study["specimens"]))
    return [
        f"- **Trained on**: real pairs at {_list(notes['tube_currents_mas'])} mAs, of donors {_list(donors['train'])} "
        f"({notes['patches']['train']} patches);",
        f"  stopped by donors {_list(donors['validation'])}. Specimens: {specimens}.",
        f"- **Scanner**: {_scanner(study['scanner'])}; reference: {_scanner(study['reference_scanner'])}.",
        f"- **Calibration**: {_calibration(study['calibration'])}.",
        f"- **Registration**: {_registration(study['registration'])}.",
        f"- **Split**: {_split(notes)}. Dataset sha256 {study['sha256'][:16]}.",
    ]


def _specimen(specimen: dict[str, Any]) -> str:
    scans = ", ".join(f"{count} at {mas} mAs" for mas, count in specimen["scans"].items())
    return f"{specimen['name']} of {specimen['donor']} ({specimen['positions']} positions; scans: {scans})"


def _scanner(told: dict[str, list[Any]]) -> str:
    parts = [words.format(_list(told[name])) for name, words in _SCANNER.items() if told.get(name)]
    return ", ".join(parts) or "not stated by the scans"


def _calibration(told: dict[str, Any]) -> str:
    parts = [f"by {told['by']}"] if told["by"] else []
    if told["slope"] and told["intercept_mg_cm3"]:
        slope, intercept = (_range(told[name]) for name in ("slope", "intercept_mg_cm3"))
        parts.append(f"slopes {slope} mg/cm3 per HU, intercepts {intercept} mg/cm3")
    return ", ".join(parts) or "not stated"


def _registration(told: dict[str, Any]) -> str:
    parts = [f"{told['scans']} scans, {told['doubted_but_accepted']} of them kept although doubted"]
    if told["metric"]:
        parts.insert(0, f"by {told['metric']}")
    if told["local_shift_mm"]:
        parts.append(f"local shift {_range(told['local_shift_mm'])} mm")
    if told["inverse_consistency_mm"]:
        parts.append(f"a second start ended {_range(told['inverse_consistency_mm'])} mm apart")
    return ", ".join(parts)


def _split(notes: dict[str, Any]) -> str:
    shared, tested = notes["split"]["test_patches_that_overlap_training"], notes["patches"]["test"]
    if shared:
        return (
            f"by {notes['split']['by']}; {shared} of {tested} test patches share voxels with training patches"
        )
    return f"by {notes['split']['by']}; no test patch shares a voxel with a training patch"


def _range(ends: list[float]) -> str:
    least, largest = ends
    return f"{least:g}" if least == largest else f"{least:g} to {largest:g}"


def _list(values: list[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
