"""Reading the inputs of a verb, and telling the user and the record what was found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from qctrun.cli.call import Call
from qctrun.cli.options import Reading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from qctrun.runtime import Volume
    from qctrun.runtime.reading import LabelMap
    from qctrun.runtime.writing import RunRecord


def check_formats(source: Path, formats: tuple[str, ...], *, maps: bool) -> None:
    """Refuse DICOM as output, before any work, of an input that no DICOM scan stands behind."""
    if "dicom" not in formats:
        return
    from qctrun.runtime.extras import library
    from qctrun.runtime.writing.dicom import scan_behind

    if maps:
        library("highdicom", "DICOM maps")
    scan_behind(source)


def read_scan(call: Call, record: "RunRecord", source: Path, reading: Reading) -> "Volume":
    """Read a calibrated volume; say how it was calibrated and everything it warns of."""
    from qctrun.runtime import read

    volume = read(source, **reading.keywords())
    record.add_volume(volume)
    _say_calibration(call, record, volume.provenance)
    for warning in volume.warnings:
        call.warn(warning)
    call.detail(f"read {source}: {volume.grid.size} voxels of {volume.grid.spacing} mm (z, y, x)")
    return volume


def read_mask(
    call: Call, record: "RunRecord", path: Path | None, volume: "Volume"
) -> "npt.NDArray[np.bool_] | None":
    """True where the mask file is not zero; None without a file."""
    if path is None:
        return None
    mask: npt.NDArray[np.bool_] = lay_labels(call, record, "mask", path, volume).array != 0
    return mask


def lay_labels(
    call: Call,
    record: "RunRecord",
    role: str,
    path: Path,
    volume: "Volume",
    label_ids: "Sequence[int | str] | None" = None,
    names: Path | None = None,
) -> "LabelMap":
    """Read a label map onto the grid of a volume; say, and note, how it came there and what it warns of."""
    from qctrun.runtime.reading import read_label_map

    found = read_label_map(
        path,
        volume.grid,
        label_ids,
        names=names,
        resample=record.options["resample_labels"],
        frame_uid=(volume.provenance.get("scan") or {}).get("frame_of_reference_uid"),
    )
    record.add_input(role, path, **found.fit)
    notes = (*found.notes, *_drawn_on_the_tilt(volume, path, found.fit["fit"]))
    for note in notes:
        call.warn(note)
    record.warnings += notes
    return found


def _drawn_on_the_tilt(volume: "Volume", path: Path, fit: str) -> tuple[str, ...]:
    """Programs that ignore a tilt show slices as upright; what is drawn there lies beside the mended ones."""
    tilts = [step["what"] for step in volume.provenance.get("resampling", ()) if "tilt" in str(step["what"])]
    if not tilts or fit != "nearest neighbour":
        return ()
    return (
        f"{path.name} was not drawn on the mended scan ({tilts[0]}); if it was drawn in a program that shows tilted "
        "slices as upright, it lies at the wrong place: look at the maps",
    )


def line_words(line: Mapping[str, Any]) -> str:
    """A line from HU to density as people read it: without its source, its error and all that it was fitted to."""
    return f"{line['slope']:g} HU {line['intercept']:+g} mg/cm3 {line['material']}"


def _say_calibration(call: Call, record: "RunRecord", provenance: Mapping[str, Any]) -> None:
    line, file = provenance["calibration"], provenance.get("calibration_file")
    known = line["slope"] is not None
    words = line_words(line) if known else ""
    if said := provenance.get("density_from"):
        by = {
            "sidecar": "its sidecar says",
            "tags": "its rescale type says",
            "header": "the scanner's own calibration says",
            "call": "--unit says",
        }[said]
        unknown = line["source"] if said == "header" else "by what line is not known"
        made = f"made with {words}, {line['source']}" if known else unknown
        call.say(f"density in mg/cm3 {line['material']}, as {by} ({made})")
        return
    words += f" ({line['source']})"
    if file is not None:
        record.add_input("calibration", Path(file))
        words += f", found in {file}"
    call.say(f"calibration: {words}")
    at_hand = record.options["out"] / "calibration.json"
    if line["nominal"] and file is None and at_hand.is_file():  # it may be of another scan
        call.say(f"{at_hand} is not used; if it belongs to this scan: --calibration {quote(str(at_hand))}")
