"""The scan behind a volume, read again for its headers: whose it is, and which slices an output refers to.

Nothing of a patient stays with a volume, so the headers are read from the files once more when DICOM is written.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from qctrun.runtime.errors import InputError
from qctrun.runtime.json_files import json_text, read_json
from qctrun.runtime.reading.headers import LOSSY_SYNTAXES, read_headers
from qctrun.runtime.reading.images import sidecar_path_of
from qctrun.runtime.reading.kinds import CT_IMAGE, ENHANCED_CT
from qctrun.runtime.reading.sources import format_of, opened_folder, quiet
from qctrun.runtime.reading.stacks import Series, stacked
from qctrun.runtime.volume import Grid, Volume
from qctrun.runtime.writing.dicom.kept import ALL, EMPTY_IF_UNKNOWN, kept
from qctrun.runtime.writing.sidecars import sidecar_of

_FORMATS = ("dicom", "dicom-zip")
_MEND = "leave dicom out of --format, or give the DICOM scan itself"


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One series as it lies in its files, without pixels.

    Attributes
    ----------
    headers : tuple of Dataset
        What is kept of each slice, ordered along the normal; of a multi-frame object the same one for all.
    frames : tuple of int or None
        Which frame (from 0 on) the slice is; None where it is a file of its own.
    positions : float array (slices, 3)
        Of the first voxels, (x, y, z), mm.
    """

    headers: tuple[Dataset, ...]
    frames: tuple[int | None, ...]
    positions: npt.NDArray[np.float64]

    @property
    def first(self) -> Dataset:
        """The header that speaks for the whole series."""
        return self.headers[0]

    def nearest(self, grid: Grid, k: int) -> int:
        """The slice of the scan that lies nearest to slice k of a grid: that very slice where the grid is its own."""
        normal = np.reshape(grid.direction, (3, 3))[:, 2]
        return int(np.argmin(np.abs((self.positions - grid.world((k, 0, 0))) @ normal)))


def scan_behind(path: Path) -> Path:
    """The DICOM folder or zip that an image was made of: itself, or what the sidecars on the way name.

    Raises
    ------
    InputError
        When there is none, or it is not there any more.
    """
    wanted = "an image whose DICOM scan is at hand: only that says whose it is"
    seen: set[Path] = set()
    here = path
    while here not in seen:
        seen.add(here)
        if not here.exists():
            raise InputError(
                f"{path}: --format dicom", wanted=wanted, got=f"no {here}, its source", mend=_MEND
            )
        if format_of(here) in _FORMATS:
            return here
        sidecar = sidecar_path_of(here)
        sources = read_json(sidecar).get("Sources") if sidecar.is_file() else None
        if isinstance(sources, list) and sources:
            here = Path(str(sources[0]))
    raise InputError(f"{path}: --format dicom", wanted=wanted, got="none", mend=_MEND)


def source_of(volume: Volume) -> Source:
    """Read the headers of the series that a volume comes from, in the order of its slices.

    Raises
    ------
    InputError
        When the volume tells of no DICOM scan, or its series is not there any more.
    """
    inputs = volume.provenance.get("inputs") or ()
    if not inputs:
        raise InputError(
            "volume", wanted="one that was read from a DICOM scan", got="no inputs in its provenance"
        )
    path = scan_behind(Path(inputs[0]["path"]))
    scan = volume.provenance.get("scan") or {}
    uid, part = str(scan.get("series_uid") or ""), scan.get("series_part")
    with opened_folder(path) as folder:
        found = [each for each in stacked(read_headers(folder)[0]) if each.uid == uid]
        series = _series([each for each in found if part in (None, each.part)], volume.grid)
        if series is None:
            raise InputError(
                f"{path}", wanted=f"the series {uid} that the volume was read from", got="others"
            )
        return _source(series)


def told_of(volume: Volume) -> str:
    """The text that stands beside an image of other formats, without paths: objects leave the machine.

    In ASCII, because it is not known which letters the character set of the scan has.
    """
    told = json.loads(json_text(sidecar_of(volume)))
    told.pop("Sources", None)  # the slices of the scan stand in the object by their UIDs
    return json.dumps(told)


def uids_of(source: Source, volume: Volume, kind: str) -> tuple[str, list[str]]:
    """UIDs of a series and its slices, a function of all that they hold.

    The same result of the same scan gets the same UIDs, wherever the scan lies, so an archive that is sent it
    twice keeps it once; whatever differs, down to a bit or a version, gets others, as DICOM asks.

    Parameters
    ----------
    source : Source
        The scan.
    volume : Volume
        The result.
    kind : str
        What the volume itself does not say of the object: its class, its quantity, what else made it.
    """
    digest = hashlib.sha256(told_of(volume).encode())
    digest.update(repr((kind, volume.grid, source.frames)).encode())
    digest.update(volume.array.data)
    for header in {id(each): each for each in source.headers}.values():
        written = io.BytesIO()
        with quiet():
            header.save_as(written, implicit_vr=False, little_endian=True)
        digest.update(written.getvalue())
    key = digest.hexdigest()
    slices = [generate_uid(entropy_srcs=[key, "slice", str(k)]) for k in range(volume.grid.size[0])]
    return str(generate_uid(entropy_srcs=[key, "series"])), [str(uid) for uid in slices]


def _series(found: list[Series], grid: Grid) -> Series | None:
    """Of several the one on the grid, else the one of most slices."""
    largest = sorted(found, key=lambda series: -series.size[0])
    on_grid = (series for series in largest if series.grid is not None and not series.grid.difference(grid))
    return next(on_grid, largest[0] if largest else None)


def _source(series: Series) -> Source:
    read = {path: _header(path) for path in series.files}
    _name_series(list(read.values()))
    return Source(
        headers=tuple(read[header.path] for header in series.headers),
        frames=tuple(header.frame for header in series.headers),
        positions=np.array([header.position for header in series.headers], float),
    )


def _header(path: Path) -> Dataset:
    """What is kept of a slice, with all tags that no object may lack."""
    with quiet():
        whole = pydicom.dcmread(path, stop_before_pixels=True)
        dataset, meta = kept(whole, ALL), whole.file_meta
    # Anonymisers blank or change one of the two places where these stand, or both; only CT slices come here.
    storage = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    dataset.SOPClassUID = storage if storage in (CT_IMAGE, *ENHANCED_CT) else CT_IMAGE
    if not dataset.get("SOPInstanceUID"):
        dataset.SOPInstanceUID = meta.get("MediaStorageSOPInstanceUID") or _made_up(
            [path.name], "SOPInstanceUID"
        )
    if meta.get("TransferSyntaxUID") in LOSSY_SYNTAXES:
        dataset.LossyImageCompression = "01"
    for name in EMPTY_IF_UNKNOWN:
        if name not in dataset:
            setattr(dataset, name, None)
    methods = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    if dataset.get("PatientIdentityRemoved") == "YES" and not any(name in dataset for name in methods):
        dataset.DeidentificationMethod = "not stated in the scan"
    return dataset


def _name_series(headers: list[Dataset]) -> None:
    """Make up what names the series, its study and its frame of reference where these are blank."""
    known = [str(header.SOPInstanceUID) for header in headers]
    for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        made_up = _made_up(known, name)
        for header in headers:
            if not header.get(name):
                setattr(header, name, made_up)


def _made_up(known: list[str], name: str) -> str:
    """A UID where the scan has none, the same one each time."""
    return str(generate_uid(entropy_srcs=[*known, name]))
