"""Stored pixel values of DICOM slices: pydicom where they lie plain, else GDCM, else pydicom's free plug-ins."""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels, pixel_array
from pydicom.uid import (
    HTJ2K,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    RLELossless,
    UncompressedTransferSyntaxes,
    generate_uid,
)

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.codestreams import require_size
from qctrun.runtime.reading.sources import cause, quiet

IntegerArray = npt.NDArray[np.integer[Any]]
LAYOUT = [
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation"),
]
MODULE = [*LAYOUT, "NumberOfFrames", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"]

WAVELETS = frozenset((*JPEG2000TransferSyntaxes, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL))
PLAIN = frozenset(UncompressedTransferSyntaxes)
HELPED = WAVELETS | frozenset(JPEGLSTransferSyntaxes)
"""Transfer syntaxes that the extra `dicom` brings a decoder for."""


def stored_pixels(data: bytes, path: Path) -> IntegerArray:
    """Decode the pixels of one slice, before any rescaling.

    Parameters
    ----------
    data : bytes
        Contents of the file.
    path : Path
        Its name, for messages.

    Returns
    -------
    integer array (rows, columns)

    Raises
    ------
    InputError
        When the pixels are absent, cut short, or packed in a way that cannot be unpacked.
    """
    return next(stored_frames(io.BytesIO(data), path, (0,)))


def stored_frames(file: BinaryIO, path: Path, frames: Sequence[int]) -> Iterator[IntegerArray]:
    """Decode some frames of one object, one at a time.

    Parameters
    ----------
    file : binary file
        The object.
    path : Path
        Its name, for messages.
    frames : sequence of int
        Indices from 0 on, ascending.

    Yields
    ------
    integer array (rows, columns)
        One for each of `frames`.

    Raises
    ------
    InputError
        As `stored_pixels`.
    """
    syntax, unpacked = UID(""), iter(list[IntegerArray]())
    for number, _ in enumerate(frames):
        # Whatever a broken file makes the libraries raise, to the user it is a file that cannot be decoded.
        try:
            with quiet():
                if number == 0:
                    dataset = pydicom.dcmread(file, specific_tags=MODULE[:-3], stop_before_pixels=True)
                    syntax = UID(dataset.file_meta.TransferSyntaxUID)
                    unpacked = _unpacked(file, dataset, syntax, frames)
                pixels = next(unpacked)
                if pixels.shape != (dataset.Rows, dataset.Columns):
                    raise ValueError(f"pixels of shape {pixels.shape}, not {(dataset.Rows, dataset.Columns)}")
        except Exception as error:
            raise _not_decoded(path, syntax, error) from error
        yield pixels


def _unpacked(file: BinaryIO, header: Dataset, syntax: UID, frames: Sequence[int]) -> Iterator[IntegerArray]:
    """The frames as stored; only the plain ones of a large object are left on the disk until their turn."""
    several = int(header.get("NumberOfFrames") or 1) > 1
    if several and not syntax.is_encapsulated and syntax != DeflatedExplicitVRLittleEndian:
        for pixels in iter_pixels(file, indices=frames, correct_unused_bits=False):
            yield _signed(pixels, header)
        return
    file.seek(0)
    dataset = pydicom.dcmread(file, specific_tags=MODULE)
    if "PixelData" not in dataset:
        raise ValueError("no pixel data, or the file is cut short")
    # GDCM refuses some small run-length coded images; pydicom needs no further library for those.
    if not syntax.is_encapsulated or syntax == RLELossless:
        for frame in frames:
            index = frame if several else None
            yield _signed(pixel_array(dataset, index=index, correct_unused_bits=False), dataset)
        return
    packed = _packed(dataset) if several else [dataset.PixelData]
    for frame, data in enumerate(packed):
        if frame in frames:
            yield _decoded(dataset, encapsulate([data]) if several else data, syntax)


def _packed(dataset: Dataset) -> Iterable[bytes]:
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    return generate_frames(
        dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames), extended_offsets=offsets
    )


def _signed(pixels: npt.NDArray[Any], dataset: Dataset) -> IntegerArray:
    """Pixels as stored; bits beside the stored ones (old overlays, lost signs) are shifted out."""
    # pydicom's own correction takes the lowest bits whatever HighBit says, so plain pixels come without it.
    left = dataset.BitsAllocated - 1 - dataset.HighBit
    right = dataset.BitsAllocated - dataset.BitsStored
    return np.right_shift(np.left_shift(pixels, left), right) if right else pixels


def _decoded(dataset: Dataset, data: bytes, syntax: UID) -> IntegerArray:
    """Unpack one compressed frame by the first that can: GDCM, then each of pydicom's plug-ins that is allowed.

    GDCM applies the rescale tags for some storage classes and not for others; without those tags it has
    nothing to apply, and the malformed rest of a header cannot trouble it.
    """
    require_size(data, syntax, dataset.Rows, dataset.Columns)
    if dataset.HighBit != dataset.BitsStored - 1:  # decoders differ in what they make of it
        raise ValueError(f"{dataset.BitsStored} bits below bit {dataset.HighBit} in packed pixels")
    bare = Dataset()
    for name in LAYOUT:
        if name in dataset:
            bare[name] = dataset[name]
    bare.SOPClassUID, bare.SOPInstanceUID = CTImageStorage, generate_uid()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    bare.PixelData = data
    bare["PixelData"].VR = "OB"
    first: Exception | None = None
    for decode in (_by_gdcm, *map(_by_plugin, plugins_for(syntax))):
        try:
            return decode(bare)
        except Exception as error:
            first = first or error
    raise ValueError("packed pixels that no decoder could unpack") from first


def plugins_for(syntax: UID) -> list[str]:
    """The installed plug-ins of pydicom that may unpack a transfer syntax: none that calls a GPL library."""
    try:
        available = get_decoder(syntax).available_plugins
    except NotImplementedError:
        return []
    # pylibjpeg unpacks JPEG and JPEG-LS by pylibjpeg-libjpeg (GPL), but JPEG 2000 by OpenJPEG (BSD).
    return [name for name in available if name != "pylibjpeg" or syntax in WAVELETS]


def _by_plugin(name: str) -> Callable[[Dataset], IntegerArray]:
    return lambda bare: _signed(pixel_array(bare, decoding_plugin=name), bare)


def _by_gdcm(bare: Dataset) -> IntegerArray:
    with tempfile.TemporaryDirectory(prefix="qctrun-") as folder:
        file = Path(folder) / "slice.dcm"
        bare.save_as(file, enforce_file_format=True)
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
    return np.asarray(pixels).squeeze(axis=0) if pixels.ndim == 3 else np.asarray(pixels)


def _not_decoded(path: Path, syntax: UID, error: Exception) -> InputError:
    mend = "copy the file again, or store the scan uncompressed"
    got = cause(error)
    if syntax and syntax not in PLAIN:
        got = f"{got} (transfer syntax {syntax.name}, {syntax})"
    if syntax in HELPED and not plugins_for(syntax):
        mend = 'pip install "qctrun[dicom]", or store the scan uncompressed'
    return InputError(f"{path}", wanted="a CT slice with readable pixels", got=got, mend=mend)
