"""Damaged NIfTI, MHA and NRRD files and JSON companions, and where nibabel or SimpleITK says that they lie."""

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import dicom_series
import fuzzing
import nibabel
import numpy as np
import SimpleITK as sitk

from qctrun.runtime.reading import describe, read, read_labels
from qctrun.runtime.volume import Grid, Volume

SHAPE = (2, 4, 3)
GRID = Grid(SHAPE, (1.5, 0.5, 0.25), (3.0, -4.0, 5.0), dicom_series.rotation(0.3, -0.2, 0.1).ravel())
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

SHORTS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 128, 255, 256, 511, 512, 768, 1024, 1792, 2304, 32767, -1, -32768)
FLOATS = (
    0.0,
    -1.0,
    1.0,
    2.0,
    0.5,
    1e-30,
    1e30,
    352.0,
    348.0,
    544.0,
    float("nan"),
    float("inf"),
    -float("inf"),
)
FIELDS = {
    # offset: kind, for NIfTI-1; those that place and size the voxels stand there for their own sake
    **dict.fromkeys(range(40, 56, 2), "h"),
    **dict.fromkeys((68, 70, 72, 252, 254), "h"),
    **dict.fromkeys(
        (*range(76, 108, 4), 108, 112, 116, 256, 260, 264, 268, 272, 276, *range(280, 328, 4)), "f"
    ),
    **dict.fromkeys((0, 38, 39, 122, 123, 344, 345, 346, 347, 348, 349), "b"),
}
VALUES = (
    *(
        "0",
        "1",
        "-1",
        "2",
        "3",
        "4",
        "1000000000",
        "99999999999999999999",
        "nan",
        "inf",
        "-inf",
        "1e308",
        "0.5",
    ),
    *("", "abc", "1 2", "1 2 3 4", "2 4 3", "True", "False", "None", "none", "LOCAL", "LIST", "/etc/passwd"),
    *(
        "../../x.raw",
        "x%03d.raw 1 2 1",
        "gzip",
        "raw",
        "ascii",
        "bzip2",
        "MET_FLOAT",
        "MET_OTHER",
        "float",
        "short",
    ),
    *("(1,0,0) (0,1,0) (0,0,nan)", "(0.25,0,0) (0,0.5,0) (0,0,0)", "none none none", "1 0 0 0 1 0 0 0 -1"),
    *(
        "left-posterior-superior",
        "RAS",
        "scanner-xyz",
        "big",
        "little",
        "\xff\xfe",
        "x" * 2000,
        "1,2,3",
        "(1,2,3)",
    ),
)


def case(family: str, seed: int, folder: Path) -> Callable[[], None]:
    """Write the damaged file of a seed (0: undamaged) to an empty folder; what reads and judges it."""
    chance = Random(f"{family} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if family == "companions":
        return _companion(seed, chance, folder)
    if family.startswith("nifti"):
        path, data = _nifti(family, seed, chance, folder)
    else:
        path = folder / f"a.{family}"
        data = stored(f".{family}", seed % 2 == 1 or not seed)
        if seed:
            data = _other_lines(data, chance) if chance.random() < 0.7 else fuzzing.damaged(data, chance)
    path.write_bytes(data)
    return lambda: _judge(path, look=seed % 4 == 0)


@cache
def stored(suffix: str, plain: bool = True, kind: str = "int16") -> bytes:
    """The undamaged image as a file of this suffix, as SimpleITK or nibabel writes it."""
    import tempfile

    values = np.arange(24, dtype=kind).reshape(SHAPE)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(GRID.spacing[::-1])
    image.SetOrigin(GRID.origin)
    image.SetDirection(GRID.direction)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"a{suffix.replace('2', '')}"
        if suffix == ".nii2":
            affine = LPS @ _affine(GRID)
            nibabel.save(nibabel.Nifti2Image(values.transpose(2, 1, 0), affine), path)
        else:
            sitk.WriteImage(image, str(path), useCompression=not plain)
        return path.read_bytes()


def _nifti(family: str, seed: int, chance: Random, folder: Path) -> tuple[Path, bytes]:
    kind = chance.choice(("int16", "float32", "float64", "uint8"))
    second = family == "nifti-bytes" and seed % 3 == 1
    data = stored(".nii2" if second else ".nii", True, kind)
    if not seed:
        return folder / "a.nii", data
    if family == "nifti-bytes":
        data = fuzzing.damaged(data, chance, last=len(data) if chance.random() < 0.2 else 560)
    else:
        content = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            _other_field(content, chance)
        data = bytes(content)
    if seed % 4 < 2:
        return folder / "a.nii", data
    packed = gzip.compress(data, mtime=0)
    return folder / "a.nii.gz", fuzzing.damaged(packed, chance) if chance.random() < 0.2 else packed


def _other_field(content: bytearray, chance: Random) -> None:
    at, kind = chance.choice(list(FIELDS.items()))
    value: Any = chance.choice({"h": SHORTS, "f": FLOATS, "b": range(-128, 128)}[kind])
    if kind == "f" and chance.random() < 0.4:
        value = struct.unpack_from("<f", content, at)[0] * chance.choice((-1.0, 1.0001, 2.0, 0.5, 1 + 1e-6))
    struct.pack_into(f"<{kind}", content, at, value)


def _other_lines(data: bytes, chance: Random) -> bytes:
    """Other values in the text header, lines that are gone, twice, or in another order."""
    mark = b"ElementDataFile = LOCAL\n" if b"ElementDataFile" in data else b"\n\n"
    at = data.index(mark) + len(mark)
    lines, voxels = data[:at].split(b"\n")[:-1], data[at:]
    for _ in range(chance.randint(1, 3)):
        i = chance.randrange(len(lines))
        mark = b"=" if b"=" in lines[i] else b":"
        key, _, old = lines[i].partition(mark)
        match chance.randrange(8):
            case 0:
                lines.insert(chance.randrange(len(lines)), lines[i])
            case 1:
                del lines[i]
                lines = lines or [b""]
            case 2:
                lines[i] = fuzzing.damaged(lines[i] or b" ", chance)
            case 3 | 4:
                words = old.split() or [b""]
                words[chance.randrange(len(words))] = chance.choice(VALUES).encode("latin-1")
                lines[i] = key + mark + b" " + b" ".join(words)
            case _:
                lines[i] = key + mark + b" " + chance.choice(VALUES).encode("latin-1")
    return b"\n".join(lines) + b"\n" + voxels


def _companion(seed: int, chance: Random, folder: Path) -> Callable[[], None]:
    """A sound image with a damaged calibration, sidecar or mask."""
    (folder / "a.nii.gz").write_bytes(stored(".nii.gz"))
    line = {"slope": 0.8, "intercept": 2.0, "material": "HA", "source": "rods", "nominal": False}
    sidecar = {"Units": "HU", "KVP": 120, "Warnings": ["x"], "Calibration": line, "ModelName": "m"}
    texts = {"calibration.json": json.dumps(line), "a.json": json.dumps(sidecar)}
    struck = chance.choice((*texts, "mask.nii.gz")) if seed else ""
    for name, text in texts.items():
        data = text.encode()
        (folder / name).write_bytes(_other_json(data, chance) if name == struck else data)
    mask = stored(".nii", True, "uint8")
    if struck == "mask.nii.gz":
        content = bytearray(mask)
        for _ in range(chance.randint(1, 2)):
            _other_field(content, chance)
        mask = bytes(content)
    (folder / "mask.nii.gz").write_bytes(gzip.compress(mask, mtime=0))

    def look() -> None:
        volume = read(folder / "a.nii.gz")
        line = volume.provenance["calibration"]
        # On a scan the line was applied; as float32, which is coarser than the comparison only for huge numbers.
        stored_hu = (volume.array.astype(np.float64) - line["intercept"]) / line["slope"]
        if abs(line["slope"]) + abs(line["intercept"]) < 1e6:
            _require(volume.with_array(stored_hu), folder / "a.nii.gz")
        labels = read_labels(folder / "mask.nii.gz", volume.grid)
        _require_laid(labels, volume.grid, folder / "mask.nii.gz")

    return look


def _other_json(data: bytes, chance: Random) -> bytes:
    odd = (b"null", b"[]", b"{}", b"1e999", b"-1", b"NaN", b'"\\ud800"', b"true", b"[[[[" * 5000, b"9" * 500)
    if chance.random() < 0.3:
        return fuzzing.damaged(data, chance)
    values = (b"0.8", b"2.0", b'"HA"', b'"rods"', b"false", b'"HU"', b"120", b'["x"]', b'"m"')
    return data.replace(chance.choice(values), chance.choice(odd) if chance.random() < 0.9 else b"9" * 5000)


def _judge(path: Path, look: bool) -> None:
    if look:
        describe(path)
    volume = read(path, unit="HU", calibration=(1.0, 0.0), material="HA")
    _require(volume, path)


def _require(volume: Volume, path: Path) -> None:
    """Compare place and values with nibabel's (NIfTI) or with what the text says (MHA, NRRD)."""
    own, values = _nibabels(path) if ".nii" in path.name else _texts(path)
    mine = _affine(volume.grid)
    if not np.allclose(mine, own, rtol=0, atol=1e-3 + 1e-5 * np.abs(own).max()):
        raise fuzzing.WrongPlaceError(f"{mine.ravel()} where the header says {own.ravel()}")
    if values.shape != volume.array.shape:
        raise fuzzing.WrongPlaceError(f"shape {volume.array.shape} where the header says {values.shape}")
    with np.errstate(all="ignore"):
        off = np.abs(volume.array - values) > 1e-5 * np.abs(values).max() + 1e-3
    if np.isfinite(values).all() and off.any():
        raise fuzzing.WrongPlaceError(
            f"values {volume.array[off][:3]} where the file holds {values[off][:3]}"
        )


def _require_laid(labels: Any, grid: Grid, path: Path) -> None:
    """Look voxel by voxel whether a mask lies on the scan's grid where nibabel says that it lies in the world."""
    affine, values = _nibabels(path)
    wanted = np.zeros(labels.shape)
    for place in np.argwhere(values):
        world = affine @ (*place[::-1], 1)
        index = (np.linalg.inv(_affine(grid)) @ world)[2::-1]
        nearest = np.rint(index).astype(int)
        if np.abs(index - nearest).max() > 0.01 or not ((nearest >= 0) & (nearest < labels.shape)).all():
            raise fuzzing.WrongPlaceError(f"a label at {index}, between the voxels of the scan or outside")
        wanted[tuple(nearest)] = values[tuple(place)]
    if not np.array_equal(labels, wanted):
        raise fuzzing.WrongPlaceError(f"labels {labels.ravel()} where nibabel has {wanted.ravel()}")


def _affine(grid: Grid) -> Any:
    """Index (x, y, z) to LPS mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(grid.direction, (3, 3)) * grid.spacing[::-1]
    affine[:3, 3] = grid.origin
    return affine


def _nibabels(path: Path) -> tuple[Any, Any]:
    image: Any = nibabel.load(path)
    header = image.header
    scale = {1: 1000.0, 3: 1e-3}.get(int(header["xyzt_units"]) & 7, 1.0)  # metres, micrometres
    affine = np.diag([scale, scale, scale, 1.0]) @ image.affine
    if header["qform_code"] <= 0 and header["sform_code"] <= 0:
        # Nothing is said of the place; this package and ITK then take axes along the patient's from 0.
        affine = np.diag([*(-scale * header["pixdim"][1:3]), scale * header["pixdim"][3], 1.0])
    values = np.asarray(image.dataobj).squeeze()
    return LPS @ affine, values.transpose()


def _texts(path: Path) -> tuple[Any, Any]:
    """Place by the words of an MHA or NRRD header, values by SimpleITK."""
    lines = path.read_bytes().split(b"\n\n")[0].split(b"\n")
    if path.suffix == ".mha":
        mark, names = b"=", ("TransformMatrix", "ElementSpacing", "Offset")
    else:
        mark, names = b":", ("space directions", "spacings", "space origin")
    keys = {}
    for line in lines:
        key, _, value = line.partition(mark)
        keys.setdefault(key.strip().decode("latin-1"), value.decode("latin-1"))
    turn, spacing, origin = (_numbers(keys.get(name, "")) for name in names)
    affine = np.eye(4)
    affine[:3, 3] = origin if origin.size else 0
    affine[:3, :3] = (turn if turn.size else np.eye(3)).reshape(3, 3).T * (spacing if spacing.size else 1)
    space = keys.get("space", "lps").strip().lower()
    if space in ("las", "left-anterior-superior"):
        affine = np.diag((1, -1, 1, 1)) @ affine
    elif space[:1] == "r":
        affine = np.diag((-1, -1, 1, 1)) @ affine
    return affine, sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float64)


def _numbers(text: str) -> Any:
    return np.array([float(word) for word in text.translate(str.maketrans("(),", "   ")).split()])
