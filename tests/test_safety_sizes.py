"""Headers that claim more than there is: refused in a process that has no memory to give for the claim."""

import gzip
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import slice_dataset, write_series
from image_files import numbers, refused, write_image
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from qctrun.runtime.errors import InputError, OutOfMemoryError
from qctrun.runtime.reading import codestreams, read

READER = """
import json, resource, sys
from pathlib import Path
from qctrun.runtime.reading import describe, read
first, *paths = sys.argv[1:]
def look(path):
    found = []
    for how in (lambda: describe(path), lambda: read(path, unit="HU", calibration=(1.0, 0.0), material="HA")):
        try:
            how()
            found.append("read")
        except Exception as error:
            found.append(type(error).__name__ + ": " + str(error))
    return found
assert look(first)[1] == "read", look(first)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
print(json.dumps([look(path) for path in paths]))
"""


def looked_at(first, *paths):
    """What `describe` and `read` make of each path, with 256 MiB to spare."""
    words = [sys.executable, "-c", READER, str(first), *map(str, paths)]
    run = subprocess.run(
        words, capture_output=True, text=True, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr
    return dict(zip([path.name for path in paths], json.loads(run.stdout), strict=True))


def huge_images(folder):
    """Small files of every format whose headers claim 10^15 voxels, or as many as the format can say."""
    write_image(folder / "first.nii", numbers())
    one = bytearray((folder / "first.nii").read_bytes())
    struct.pack_into("<3h", one, 42, 32000, 32000, 32000)
    nibabel.save(nibabel.Nifti2Image(numbers().transpose(2, 1, 0), np.eye(4)), folder / "two.nii")
    two = bytearray((folder / "two.nii").read_bytes())
    struct.pack_into("<3q", two, 24, 10**5, 10**5, 10**5)
    for name, data in (("one", one), ("two", two)):
        (folder / f"{name}.nii").write_bytes(data)
        (folder / f"{name}.nii.gz").write_bytes(gzip.compress(bytes(data)))
    texts = {".mha": (b"DimSize = 6 5 4", b"DimSize = 100000 100000 100000")}
    texts[".nrrd"] = (b"sizes: 6 5 4", b"sizes: 100000 100000 100000")
    for suffix, (old, new) in {**texts, ".mhd": texts[".mha"], ".nhdr": texts[".nrrd"]}.items():
        for packed in (False, True):
            path = folder / f"{'packed' if packed else 'plain'}{suffix}"
            sitk.WriteImage(sitk.GetImageFromArray(numbers()), str(path), useCompression=packed)
            data = path.read_bytes()
            assert data.count(old) == 1
            path.write_bytes(data.replace(old, new))
    names = [f"{kind}{end}" for kind in ("one", "two") for end in (".nii", ".nii.gz")]
    return [
        folder / name for name in (*names, *(f"{kind}{end}" for kind in ("plain", "packed") for end in texts))
    ] + [folder / f"{kind}{end}" for kind in ("plain", "packed") for end in (".mhd", ".nhdr")]


def test_images_that_claim_too_much_are_refused_without_memory(tmp_path):
    paths = huge_images(tmp_path)
    assert len(paths) == 12
    for name, (_, found) in looked_at(tmp_path / "first.nii", *paths).items():
        assert found.startswith("InputError") and "where the header asks for" in found, (name, found)


def series_of(folder, syntax=None, change=None, **tags):
    """Three noisy slices of 32 x 32, packed if asked, each changed before it is written."""
    folder.mkdir()
    for k in range(3):
        stored = np.random.default_rng(k).integers(0, 1000, (32, 32)).astype(np.int16)
        dataset = slice_dataset(stored, (0, 0, k))
        if syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
            dataset.compress(syntax, generate_instance_uid=False)
        elif syntax:
            dataset.file_meta.TransferSyntaxUID = syntax
        for name, value in tags.items():
            setattr(dataset, name, value)
        if change:
            dataset.PixelData = change(dataset.PixelData)
        dataset.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


def huge_siz(pixels):
    """A JPEG 2000 codestream that says 65535 x 65535."""
    at = pixels.index(b"\xff\x4f\xff\x51") + 8
    return pixels[:at] + struct.pack(">2I", 65535, 65535) + pixels[at + 8 :]


def many_tiles(pixels):
    at = pixels.index(b"\xff\x4f\xff\x51") + 24
    return pixels[:at] + struct.pack(">2I", 0, 1) + pixels[at + 8 :]


def huge_sof(pixels):
    """A JPEG-LS stream that says so."""
    at = pixels.index(b"\xff\xf7") + 5
    return pixels[:at] + struct.pack(">2H", 65535, 65535) + pixels[at + 4 :]


def test_slices_that_claim_too_much_are_refused_without_memory(tmp_path):
    huge = {"Rows": 65535, "Columns": 65535}
    cases = {
        "plain": series_of(tmp_path / "plain", **huge),
        "frames": series_of(tmp_path / "frames", NumberOfFrames=2**31 - 1),
        "huge-frames": series_of(tmp_path / "huge-frames", NumberOfFrames=2**31 - 1, **huge),
        "deflated": series_of(tmp_path / "deflated", DeflatedExplicitVRLittleEndian, **huge),
        "rle": series_of(tmp_path / "rle", RLELossless, **huge),
        "j2k": series_of(tmp_path / "j2k", JPEG2000Lossless, **huge),
        "j2k-siz": series_of(tmp_path / "j2k-siz", JPEG2000Lossless, huge_siz),
        "j2k-both": series_of(tmp_path / "j2k-both", JPEG2000Lossless, huge_siz, **huge),
        "j2k-tiles": series_of(tmp_path / "j2k-tiles", JPEG2000Lossless, many_tiles),
        "bits": series_of(tmp_path / "bits", BitsAllocated=64, **huge),
    }
    first = series_of(tmp_path / "first", JPEG2000Lossless)
    for name, (_, found) in looked_at(first, *cases.values()).items():
        assert found.startswith("InputError"), (name, found)


@pytest.mark.parametrize("way", [JPEG2000Lossless, RLELossless, DeflatedExplicitVRLittleEndian])
def test_packed_slices_are_read_as_long_as_they_are_what_they_say(tmp_path, way):
    volume = read(series_of(tmp_path / "scan", way), calibration=(1.0, 0.0))
    np.testing.assert_array_equal(volume.array[1], np.random.default_rng(1).integers(0, 1000, (32, 32)))


def test_a_frame_is_measured_by_its_own_header():
    jpeg = bytes.fromhex(
        "ffd8 ffe0 0004 0000 ffff c4 0003 00 ffc3 000b 10 0020 0040 01 01 11 00".replace(" ", "")
    )
    ls = jpeg.replace(b"\xff\xc3", b"\xff\xf7")
    for stream in (jpeg, ls):
        data = pydicom.encaps.encapsulate([stream + bytes(len(stream) % 2)])
        codestreams.require_size(data, JPEGLSLossless, 32, 64)
        for size in ((64, 32), (32, 65)):
            with pytest.raises(ValueError, match=r"packed pixels of shape \(32, 64\)"):
                codestreams.require_size(data, JPEGLSLossless, *size)
    for junk in (b"", b"no picture at all", jpeg[:12], b"\xff\xd8" + b"\xff\xe0\x00\x00" * 20):
        with pytest.raises(ValueError):
            codestreams.require_size(
                pydicom.encaps.encapsulate([junk + bytes(len(junk) % 2)]), JPEGLSLossless, 1, 1
            )


def test_a_deflated_object_that_bursts_is_refused(tmp_path, monkeypatch):
    folder = series_of(tmp_path / "scan", DeflatedExplicitVRLittleEndian)
    path = folder / "1.dcm"
    data = path.read_bytes()
    start = 144 + struct.unpack_from("<I", data, 140)[0]
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    plain = zlib.decompress(data[start:], wbits=-zlib.MAX_WBITS)
    long = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 2**22) + bytes(2**22)
    path.write_bytes(data[:start] + packer.compress(long + plain) + packer.flush())
    monkeypatch.setattr(codestreams, "FREE_BYTES", 2**20)
    with pytest.raises(
        InputError, match=r"1\.dcm: wanted a whole DICOM file.*bytes that unpack to more than 1048576"
    ):
        read(folder, calibration=(1.0, 0.0))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd", ".nhdr"])
@pytest.mark.parametrize("change", [lambda data: data[:-4], lambda data: data[:40] + b"\0\0" + data[42:]])
def test_packed_voxels_that_are_not_all_there_are_refused(tmp_path, suffix, change):
    """The libraries would hand out whatever lies in the memory that was meant for them."""
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(numbers()), str(path), useCompression=True)
    data = next((one for one in tmp_path.iterdir() if one.suffix in (".zraw", ".gz")), path)
    content = data.read_bytes()
    at = 0 if data != path else max(content.find(b"LOCAL\n") + 6, content.find(b"\n\n") + 2)
    data.write_bytes(content[:at] + change(content[at:]))
    refused(path, "a whole (MetaImage|image)")


@pytest.mark.parametrize("name", ["../a.raw", "/etc/passwd", "b/../../a.raw", "..\\a.raw"])
@pytest.mark.parametrize(("suffix", "key"), [(".mhd", b"ElementDataFile = "), (".nhdr", b"data file: ")])
def test_voxels_in_another_folder_are_refused(tmp_path, name, suffix, key):
    folder = tmp_path / "scan"
    folder.mkdir()
    write_image(folder / f"a{suffix}", numbers())
    (folder / "a.raw").rename(tmp_path / "a.raw")
    header = (folder / f"a{suffix}").read_bytes()
    assert key + b"a.raw" in header
    (folder / f"a{suffix}").write_bytes(header.replace(key + b"a.raw", key + name.encode()))
    refused(folder / f"a{suffix}", "voxels beside their header")
    (folder / f"a{suffix}").write_bytes(header.replace(key + b"a.raw", key + b"inner/a.raw"))
    (folder / "inner").mkdir()
    (tmp_path / "a.raw").rename(folder / "inner" / "a.raw")
    volume = read(folder / f"a{suffix}", unit="HU", calibration=(1.0, 0.0), material="HA")
    np.testing.assert_array_equal(volume.array, numbers())


@pytest.mark.parametrize("name", ["LIST", "LIST 2", "a%03d.raw 1 4 1"])
@pytest.mark.parametrize(("suffix", "key"), [(".mhd", b"ElementDataFile = "), (".nhdr", b"data file: ")])
def test_lists_and_patterns_of_files_are_refused(tmp_path, name, suffix, key):
    write_image(tmp_path / f"a{suffix}", numbers())
    header = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(header.replace(key + b"a.raw", key + name.encode()))
    refused(tmp_path / f"a{suffix}", "voxels in one file, got ")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize(
    "key", [b"Name", b"Comment", b"kinds", b"endian", b"units", b"ElementType", b"NDims"]
)
def test_long_lines_never_reach_the_library(tmp_path, suffix, key):
    """They write past the end of its buffers, and the process ends."""
    path = tmp_path / f"a{suffix}"
    write_image(path, numbers())
    data = path.read_bytes()
    mark = b" = " if suffix == ".mha" else b": "
    start = data.index(b"\n") + 1
    path.write_bytes(data[:start] + key + mark + b"x" * 3000 + b"\n" + data[start:])
    refused(path, f"a{suffix}: wanted a (whole MetaImage|sound NRRD) file, got ")


def test_a_volume_larger_than_the_machine_is_no_traceback(tmp_path, monkeypatch):
    write_series(tmp_path / "scan", np.zeros((3, 4, 5), np.int16))

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    with pytest.raises(OutOfMemoryError, match="does not fit into memory"):
        read(Path(tmp_path / "scan"), calibration=(1.0, 0.0))
