"""Transfer syntaxes: each that packs without loss gives the very numbers, and no GPL library is ever called."""

import base64
import io

import numpy as np
import pydicom
import pytest
from dicom_series import slice_dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading import read
from qctrun.runtime.reading.headers import read_headers
from qctrun.runtime.reading.pixels import plugins_for, stored_pixels

HTJ2K_SLICE = base64.b64decode(
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQ"
    "iIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAW8AAf+TwAAltQIHdAAAwAATQAATQAARgPr8Aod0AFb8Aod0ABdzAMAAFTAABUwAATjZ"
    "5IMUUQFCtAAS9BsQ8QCDlACQrPUAAzQAwAAWxAABakAAFqCDiiv6o4ZJmF/U5jtWuET5AGdSIACzOAAlSOktj4A9hBbIXxD+AQASRoGXANHdOLDsQ9Fq"
    "FAsj6f4KXFwBApcAwAAvQoAAXoUAAL0EN+7DiZbroi1KIG015G0d6PSd2JADCkkU/3cx2ct3ZGmFpHhDhiI9BYqchxkYmAlVyADHXVzPOFzU4IEQxFsy"
    "+NEBqG58FBSj4BzT5F7Ziz9fLuAeI0pPYwjGc40hAtegLxmrqD3Ai7KgnFA0YJVqN0/7AaQNAw6tdChoV6LXJrrSYbIBcHE8dg0yvap90AWJZEByEMWy"
    "N4oI05nYyjs2CIsj5B2pXiSGt2zBqRPExnO52MC2VQweW5CBRIpKlRIpAHIJkAH/2Q=="
)
"""A 16 x 16 ramp with noise, packed by OpenJPH."""
FIRST_ROW = [-976, -1027, -998, -959, -914, -801, -719, -651, -589, -466, -314, -159, 17, 181, 353, 547]


def stored(seed=1):
    y, x = np.mgrid[:32, :32]
    noise = np.random.default_rng(seed).integers(-40, 40, (3, 32, 32))
    return (noise + 30 * y + x * x - 1000).astype(np.int16)


@pytest.mark.parametrize(
    ("syntax", "needed"),
    [
        (ImplicitVRLittleEndian, ""),
        (ExplicitVRBigEndian, ""),
        (DeflatedExplicitVRLittleEndian, ""),
        (RLELossless, ""),
        (JPEG2000Lossless, "openjpeg"),
        (JPEGLSLossless, "jpeg_ls"),
    ],
)
@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_a_series_of_any_syntax_has_the_very_numbers(tmp_path, syntax, needed, kind):
    if needed:
        pytest.importorskip(needed)
    values = stored() if kind is np.int16 else (stored() + 1100).astype(np.uint16)
    big = syntax == ExplicitVRBigEndian
    for place, plane in enumerate(values):
        dataset = slice_dataset(plane, (0, 0, place), RescaleIntercept="-24")
        if syntax.is_encapsulated:
            dataset.compress(syntax, generate_instance_uid=False)
        elif big:
            dataset.PixelData = plane.astype(plane.dtype.newbyteorder(">")).tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        implicit = syntax == ImplicitVRLittleEndian
        options = {} if syntax.is_encapsulated else {"implicit_vr": implicit, "little_endian": not big}
        dataset.save_as(tmp_path / str(place), enforce_file_format=True, **options)
    volume = read(tmp_path, calibration=(1.0, 0.0), material="HA")
    np.testing.assert_array_equal(volume.array, values.astype(int) - 24)


def packed_slice(data, syntax, **tags):
    dataset = slice_dataset(np.zeros((16, 16), np.int16), (0, 0, 0), **tags)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([data])
    dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("by_gdcm", [True, False])
def test_high_throughput_jpeg_2000_is_unpacked(tmp_path, monkeypatch, by_gdcm):
    if not by_gdcm:
        pytest.importorskip("openjpeg")
        monkeypatch.setattr("qctrun.runtime.reading.pixels._by_gdcm", _cannot)
    pixels = stored_pixels(packed_slice(HTJ2K_SLICE, HTJ2KLossless), tmp_path / "a.dcm")
    assert pixels.dtype == np.int16
    assert pixels[0].tolist() == FIRST_ROW
    assert pixels[15, :4].tolist() == [-140, -58, -109, -10]


def test_a_missing_decoder_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("qctrun.runtime.reading.pixels._by_gdcm", _cannot)
    monkeypatch.setattr(get_decoder(HTJ2KLossless), "_available", {})
    with pytest.raises(InputError) as caught:
        stored_pixels(packed_slice(HTJ2K_SLICE, HTJ2KLossless), tmp_path / "a.dcm")
    said = str(caught.value)
    assert "transfer syntax High-Throughput JPEG 2000" in said
    assert 'pip install "qctrun[dicom]"' in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("number", "name"), [(b"100", "MPEG2"), (b"110", r"1\.2\.840\.10008\.1\.2\.4\.110"), (b"999", "999")]
)
def test_a_syntax_that_nothing_unpacks_is_named(tmp_path, number, name):
    raw = packed_slice(b"\xff\x0a\x00\x00", MPEG2MPML)
    raw = raw.replace(MPEG2MPML.encode(), MPEG2MPML.encode()[:-3] + number)
    with pytest.raises(InputError, match=f"transfer syntax .*{name}.*store the scan uncompressed") as caught:
        stored_pixels(raw, tmp_path / "a.dcm")
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize(
    "syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless]
)
def test_no_plugin_that_calls_a_gpl_library_is_ever_taken(monkeypatch, syntax):
    monkeypatch.setattr(get_decoder(syntax), "_available", {"pylibjpeg": None, "other": None})
    assert plugins_for(syntax) == ["other"]


def test_a_syntax_that_loses_is_said_although_no_tag_says_it(tmp_path):
    for place in range(2):
        jpeg = packed_slice(b"\xff\xd8", JPEGBaseline8Bit, ImagePositionPatient=[0, 0, place])
        (tmp_path / str(place)).write_bytes(jpeg)
    headers, _ = read_headers(tmp_path)
    assert [header.lossy for header in headers] == [True, True]


@pytest.mark.data
def test_every_decoder_that_may_be_taken_gives_the_same_numbers(data, monkeypatch):
    folder = data / "dicom_hard" / "N14_same_ct_slice_in_16_transfer_syntaxes"
    compared = 0
    for path in sorted(folder.glob("*.dcm")):
        raw = path.read_bytes()
        syntax = pydicom.dcmread(path, specific_tags=["Rows"]).file_meta.TransferSyntaxUID
        first = stored_pixels(raw, path)
        if not syntax.is_encapsulated or syntax == RLELossless:
            continue
        for plugin in plugins_for(syntax):
            if plugin == "pillow" and syntax == JPEGExtended12Bit:
                continue  # it unpacks 8 bits only, and says so
            with monkeypatch.context() as patch:
                patch.setattr("qctrun.runtime.reading.pixels._by_gdcm", _cannot)
                patch.setattr("qctrun.runtime.reading.pixels.plugins_for", lambda _, only=plugin: [only])
                np.testing.assert_array_equal(stored_pixels(raw, path), first)
            compared += 1
    assert compared >= 1


def _cannot(bare):
    raise RuntimeError("not this one")


@pytest.mark.data
@pytest.mark.parametrize("kind", ["UNCR", "J2KR"])
def test_the_slices_of_14_bits_agree_with_pydicom(data, kind):
    path = data / "dicom_hard" / "N18_14bit_ct_unc_j2kr_j2ki_set" / f"693_{kind}.dcm"
    pytest.importorskip("openjpeg")
    np.testing.assert_array_equal(stored_pixels(path.read_bytes(), path), pydicom.dcmread(path).pixel_array)
