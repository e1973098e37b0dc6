"""Damaged DICOM series of three slices of 4 x 4, and where pydicom says that they lie."""

import shutil
import struct
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import dicom_series
import fuzzing
import numpy as np
import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import describe, read
from qctrun.runtime.volume import Volume

SPACING, ORIGIN = (1.25, 0.5, 0.75), (-31.5, 12.25, 100.0)
AXES = dicom_series.rotation(0.3, -0.2, 0.1)
SYNTAXES = (
    *(ExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian),
    *(DeflatedExplicitVRLittleEndian, RLELossless),
)
LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR", b"SV", b"UV")
PLACING = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


class Element(NamedTuple):
    """One element as it stands in a file of explicit little-endian syntax."""

    tag: int
    kind: bytes
    value: bytes
    length: int | None = None

    def encoded(self) -> bytes:
        """Its bytes; `length` is what is stated where that is not the truth."""
        length = len(self.value) if self.length is None else self.length
        head = struct.pack("<HH", self.tag >> 16, self.tag & 0xFFFF) + self.kind
        if self.kind in LONG:
            return head + struct.pack("<HI", 0, length & 0xFFFFFFFF) + self.value
        return head + struct.pack("<H", length & 0xFFFF) + self.value


NUMBERS = (
    *(b"nan", b"inf", b"-inf", b"-0.5", b"0", b"-0", b"1e308", b"1e-308", b"1e5", b"0.5", b"", b" ", b"abc"),
    *(b"0,5", b"1.0E", b"+.5", b"0x10", b"1_0", b"\xff\xfe", b"0.5\\0.5\\0.5\\0.5", b"1\\0\\0\\0\\1\\0"),
    *(
        b"0\\1\\0\\1\\0\\0",
        b"1\\0\\0\\0\\0.001\\0",
        b"-1\\0\\0\\0\\1\\0",
        b"0.25\\0.5",
        b"0.5\\-0.5",
        b"1\\2\\3",
    ),
    *(b"nan\\0.5", b"\\\\", b"0.5\\", b"1" * 400, b"1e400", b"1\\2\\nan", b"-31.5\\12.25\\101.3"),
)
SHORTS = (0, 1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 31, 32, 64, 255, 32767, 32768, 65535)
TEXTS = (
    *(b"", b"CT", b"MR", b"ISO_IR 192", b"ISO 2022 IR 87\\ISO_IR 100", b"ISO_IR 999", b"\x1b$B\xff", b"A\nB"),
    *(
        b"\x00\x00",
        b"\xf0\x9f\x92\xa9",
        b"x" * 3000,
        b"DERIVED\\SECONDARY",
        b"LOCALIZER",
        b"HU",
        b"US",
        b"MGML",
    ),
    *(b"1.2.840.10008.5.1.4.1.1.2.1", b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.4.90", b"1.2.3", b"9" * 64),
)
TAGS = {
    "numbers": (
        *(0x00200032, 0x00200037, 0x00280030, 0x00281052, 0x00281053, 0x00180050, 0x00180060, 0x00280008),
        *(0x00200032, 0x00200037, 0x00280030),  # the place is what must not be mistaken
    ),
    "shorts": (*range(0x00280010, 0x00280012), *range(0x00280100, 0x00280104), 0x00280002, 0x00280120),
    "texts": (
        *(0x00080005, 0x00080008, 0x00080016, 0x00080060, 0x0020000E, 0x00200052, 0x0008103E, 0x00281054),
        *(0x00280004, 0x00282110, 0x00181210, 0x00080070),
    ),
}
KINDS = (
    b"DS",
    b"US",
    b"SS",
    b"UL",
    b"FD",
    b"FL",
    b"LO",
    b"UI",
    b"IS",
    b"UN",
    b"SQ",
    b"OW",
    b"AT",
    b"CS",
    b"ZZ",
)


def case(family: str, seed: int, folder: Path) -> Callable[[], None]:
    """Write the damaged series of a seed (0: undamaged) to an empty folder; what reads and judges it."""
    chance = Random(f"{family} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    syntax = SYNTAXES[seed % len(SYNTAXES)] if family == "dicom-bytes" else ExplicitVRLittleEndian
    if family == "dicom-frames":
        (folder / "0.dcm").write_bytes(_in_frames(seed, chance))
        return lambda: _judge(folder, look=seed % 4 == 0)
    files = list(series(str(syntax)))
    damage = _in_bytes if family == "dicom-bytes" else _in_tags
    struck = range(3) if chance.random() < 0.3 else [chance.randrange(3)]
    state = chance.getstate()
    for i in struck if seed else ():
        if chance.random() < 0.7:
            chance.setstate(state)  # mostly the same damage in all that are struck
        files[i] = damage(files[i], chance)
    for i, data in enumerate(files):
        (folder / f"{i}.dcm").write_bytes(data)
    return lambda: _judge(folder, look=seed % 4 == 0)


@cache
def series(syntax: str) -> tuple[bytes, ...]:
    """An undamaged oblique series in a transfer syntax; the pixels tell which slice they are of."""
    files = []
    for k in range(3):
        stored = (np.arange(16, dtype=np.int16) + 100 * k).reshape(4, 4)
        place = np.asarray(ORIGIN) + AXES[:, 2] * SPACING[0] * k
        row = [round(float(value), 8) for value in AXES[:, :2].T.ravel()]
        tags = {"ImageOrientationPatient": row, "PixelSpacing": list(SPACING[1:]), "InstanceNumber": k}
        tags |= {"SpecificCharacterSet": "ISO_IR 100", "SeriesDescription": "spine", "RescaleType": "HU"}
        # Fixed, or else a seed would be another case in each process.
        tags |= {"SOPInstanceUID": f"1.2.826.0.1.3680043.8.498.{k}", "RescaleIntercept": "0"}
        dataset = dicom_series.slice_dataset(stored, place, **tags)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if syntax == RLELossless:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = stored.byteswap().tobytes()
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    return tuple(files)


@cache
def enhanced() -> bytes:
    """The same series as one Enhanced object, without pixels that repeat."""
    stored = np.arange(48, dtype=np.int16).reshape(3, 4, 4)
    places = np.asarray(ORIGIN) + np.outer(np.arange(3) * SPACING[0], AXES[:, 2])
    frames = [{"ImagePositionPatient": place.tolist()} for place in places]
    turn = AXES[:, :2].T.ravel().tolist()
    shared = {**dicom_series.SHARED, "ImageOrientationPatient": turn, "PixelSpacing": list(SPACING[1:])}
    buffer = BytesIO()
    uids = {"SOPInstanceUID": "1.2.826.0.1.3680043.8.498.9"}
    dicom_series.enhanced_dataset(stored, frames, shared, **uids).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _in_frames(seed: int, chance: Random) -> bytes:
    """Damage in the functional groups of an Enhanced object, or in its bytes."""
    if seed % 2:
        return fuzzing.damaged(enhanced(), chance, first=128)
    dataset = pydicom.dcmread(BytesIO(enhanced()))
    for _ in range(chance.randint(1, 3) if seed else 0):
        groups = [*dataset.PerFrameFunctionalGroupsSequence, *dataset.SharedFunctionalGroupsSequence]
        held = [element.value[0] for group in groups for element in group if element.value]
        match chance.randrange(6):
            case 0:
                dataset.NumberOfFrames = chance.choice((0, 1, 2, 4, 2**31 - 1))
            case 1:
                frames = list(dataset.PerFrameFunctionalGroupsSequence)
                frames.insert(chance.randrange(3), chance.choice(frames))
                dataset.PerFrameFunctionalGroupsSequence = frames[chance.randrange(2) :][:3]
            case 2:
                item = chance.choice(held)
                for tag in chance.sample(list(item.keys()), min(1, len(item))):
                    del item[tag]
            case _:
                item = chance.choice(held)
                for element in item:
                    _other_numbers(element, chance)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _other_numbers(element: pydicom.DataElement, chance: Random) -> None:
    if element.VR not in ("FD", "DS") or element.value is None:
        return
    single = element.VM == 1
    values = [float(element.value)] if single else [float(value) for value in element.value]
    odd = (0.0, -1.0, 1e5, values[0] + 1.25, values[0] * 1.0001, -values[0])
    odd += (float("nan"), float("inf"), 1e300) if element.VR == "FD" else ()
    values[chance.randrange(len(values))] = chance.choice(odd)
    written = [f"{value:.8g}" for value in values] if element.VR == "DS" else values  # 16 letters at most
    element.value = written[0] if single else written


def _in_bytes(data: bytes, chance: Random) -> bytes:
    return fuzzing.damaged(data, chance, first=128)


def _in_tags(data: bytes, chance: Random) -> bytes:
    end = 144 + int(struct.unpack_from("<I", data, 140)[0])  # the meta group says first how long it is
    meta, elements = parsed(data[144:end]), parsed(data[end:])
    if chance.random() < 0.15:
        meta = _with(meta, Element(0x00020010, b"UI", chance.choice((*SYNTAXES, JPEG2000Lossless)).encode()))
    if chance.random() < 0.05:
        meta = _with(meta, Element(0x00020002, b"UI", chance.choice(TEXTS[-5:])))
    for _ in range(chance.randint(1, 3)):
        elements = _changed(elements, chance)
    head = b"".join(element.encoded() for element in meta)
    length = Element(0x00020000, b"UL", struct.pack("<I", len(head)))
    return data[:132] + length.encoded() + head + b"".join(element.encoded() for element in elements)


def parsed(data: bytes) -> list[Element]:
    """The elements of an undamaged data set of explicit little-endian syntax without sequences."""
    found, at = [], 0
    while at < len(data):
        group, number, kind = struct.unpack_from("<HH2s", data, at)
        wide = kind in LONG
        length = struct.unpack_from("<I" if wide else "<H", data, at + (8 if wide else 6))[0]
        at += 12 if wide else 8
        found.append(Element(group << 16 | number, kind, data[at : at + length]))
        at += length
    return found


def _changed(elements: Sequence[Element], chance: Random) -> list[Element]:
    """One mutation of the elements of a file."""
    found, (at, other) = list(elements), (chance.randrange(len(elements)) for _ in range(2))
    old = found[at]
    match chance.randrange(14):
        case 0 | 1 | 2 | 3:
            return _with(found, Element(chance.choice(TAGS["numbers"]), b"DS", chance.choice(NUMBERS)))
        case 4 | 5:
            value = struct.pack("<H", chance.choice(SHORTS))
            return _with(found, Element(chance.choice(TAGS["shorts"]), chance.choice((b"US", b"SS")), value))
        case 6 | 7:
            return _with(found, Element(chance.choice(TAGS["texts"]), b"LO", chance.choice(TEXTS)))
        case 8:
            found[at] = old._replace(kind=chance.choice(KINDS))
        case 9:
            lengths = (0, 1, len(old.value) + 1, 7, 2**16 - 2, 2**31, 2**32 - 2, 2**32 - 1)
            found[at] = old._replace(length=chance.choice(lengths))
        case 10:
            del found[at]
        case 11:
            place = chance.choice((at, other, len(found)))
            value = chance.choice((old.value, chance.choice(NUMBERS)))
            found.insert(place, old._replace(value=value))  # twice, perhaps out of order
        case 12:
            found.insert(at, _odd(chance))
        case 13:
            pixels = next((e for e in found if e.tag == 0x7FE00010), old)
            cut = chance.choice((0, 1, 15, 30, 31, 33, 64, 4096))
            value = (pixels.value * 200)[:cut]
            tag = chance.choice((0x7FE00010, 0x7FE00010, 0x7FE00008, 0x7FE00009))
            return _with([e for e in found if e.tag != 0x7FE00010], Element(tag, b"OW", value))
    return found


def _with(elements: list[Element], new: Element) -> list[Element]:
    """The elements with a new one in the place of its tag, or where the order asks for it."""
    kept = [element for element in elements if element.tag != new.tag]
    before = sum(element.tag < new.tag for element in kept)
    return [*kept[:before], new, *kept[before:]]


def _odd(chance: Random) -> Element:
    """A private tag, or sequences in sequences with and without stated lengths."""
    if chance.random() < 0.4:
        return Element(0x00091001, chance.choice(KINDS), chance.randbytes(chance.choice((0, 1, 6, 200))))
    item, end = bytes.fromhex("feff00e0ffffffff"), bytes.fromhex("feff0de000000000feffdde000000000")
    start = struct.pack("<HH2sHI", 0x5200, 0x9229, b"SQ", 0, 0xFFFFFFFF) + item
    depth = chance.choice((1, 3, 30, 300, 3000))
    closed = end * depth if chance.random() < 0.7 else end
    tag = chance.choice((0x52009229, 0x00081115, 0x00091002))
    return Element(tag, b"SQ", item + start * depth + closed + end, 0xFFFFFFFF)


def _judge(folder: Path, look: bool) -> None:
    if look:
        describe(folder)
    volume = read(folder, calibration=(1.0, 0.0), material="HA")
    require_place(volume, folder)


def require_place(volume: Volume, folder: Path) -> None:
    """Look with pydicom alone for the slices that the volume is made of.

    Raises
    ------
    fuzzing.WrongPlaceError
        When some layer of the volume lies where no slice of the folder does, or holds another one's pixels.
    """
    slices = [one for path in sorted(folder.iterdir()) for one in _slices(path)]
    grid, found = volume.grid, []
    for k in range(grid.size[0]):
        corner = grid.world((k, 0, 0))
        near = [s for s in slices if np.abs(s["position"] - corner).max() <= 0.11 * grid.spacing[0] + 0.1]
        if not near:
            raise fuzzing.WrongPlaceError(
                f"no slice at {corner}; there are {[s['position'] for s in slices]}"
            )
        found.append(min(near, key=lambda s: float(np.abs(s["position"] - corner).max())))
    if len({id(one) for one in found}) != len(found):
        raise fuzzing.WrongPlaceError("one slice taken twice")
    axes = np.reshape(grid.direction, (3, 3))
    for k, one in enumerate(found):
        if not np.allclose(one["axes"], axes[:, :2].T.ravel(), rtol=0, atol=2e-3):
            raise fuzzing.WrongPlaceError(f"direction {axes.ravel()} where slice {k} has {one['axes']}")
        if not np.allclose(one["spacing"], grid.spacing[1:], rtol=1e-6, atol=0):
            raise fuzzing.WrongPlaceError(f"spacing {grid.spacing} where slice {k} has {one['spacing']}")
        if one["size"] != grid.size[1:]:
            raise fuzzing.WrongPlaceError(f"size {grid.size} where slice {k} has {one['size']}")
        if one["pixels"] is not None and not _same(volume.array[k], one["pixels"]):
            raise fuzzing.WrongPlaceError(
                f"slice {k} holds {volume.array[k].ravel()[:4]}, not {one['pixels'].ravel()[:4]}"
            )
    if np.linalg.det(axes) < 0:
        raise fuzzing.WrongPlaceError("left-handed")


def _slices(path: Path) -> list[dict[str, Any]]:
    """What pydicom says of the slices in one file, none where it says nothing of a place."""
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        size = int(dataset.Rows), int(dataset.Columns)
        groups = dataset.get("PerFrameFunctionalGroupsSequence")
    except Exception:
        return []
    if groups is None:
        found = [_place(size, lambda name: dataset[name].value)]
    else:
        found = [_place(size, lambda name, own=own: _grouped(own, dataset, name)) for own in groups]
    if len(found) == 1 and found[0] is not None:
        found[0]["pixels"] = _pixels(path)
    return [one for one in found if one is not None]


def _grouped(own: pydicom.Dataset, dataset: pydicom.Dataset, name: str) -> Any:
    """The value of a tag in a functional group of the frame, else in a shared one."""
    for groups in (own, dataset.SharedFunctionalGroupsSequence[0]):
        for element in groups:
            if element.VR == "SQ" and element.value and name in element.value[0]:
                return element.value[0][name].value
    raise KeyError(name)


def _place(size: tuple[int, int], value: Callable[[str], Any]) -> dict[str, Any] | None:
    try:
        place, axes, spacing = (np.array([float(v) for v in value(name)], np.float64) for name in PLACING)
    except Exception:
        return None
    if (len(place), len(axes), len(spacing)) != (3, 6, 2):
        return None
    return {"position": place, "axes": axes, "spacing": spacing, "size": size, "pixels": None}


def _pixels(path: Path) -> Any:
    """HU as pydicom decodes them; None where it does not, or where bits beside the stored ones are in play."""
    try:
        dataset = pydicom.dcmread(path)
        if (dataset.BitsStored, dataset.HighBit) != (dataset.BitsAllocated, dataset.BitsAllocated - 1):
            return None
        slope, intercept = (float(dataset.get(f"Rescale{name}", "nan")) for name in ("Slope", "Intercept"))
        return dataset.pixel_array * slope + intercept
    except Exception:
        return None


def _same(found: Any, wanted: Any) -> bool:
    """Equal as float32, or air where the padding value was."""
    wanted = np.asarray(wanted, np.float64)
    if wanted.shape != found.shape or not np.isfinite(wanted).all():
        return True
    close = np.abs(found - wanted) <= 1e-5 * np.abs(wanted).max() + 1e-3
    return bool((close | (found == -1000.0)).all())


__all__ = ["InputError", "case", "require_place", "series"]
