"""Stored pixel values of one DICOM slice: pydicom where they lie plain, SimpleITK (GDCM) where packed."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, RLELossless, generate_uid

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.sources import cause, quiet

IntegerArray = npt.NDArray[np.integer[Any]]
MODULE = [
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "PixelData"),
]


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
    with quiet():
        # Whatever a broken file makes the libraries raise, to the user it is a file that cannot be decoded.
        try:
            dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=MODULE)
            if "PixelData" not in dataset:
                raise ValueError("no pixel data, or the file is cut short")
            syntax = dataset.file_meta.TransferSyntaxUID
            # GDCM refuses some small run-length coded images; pydicom needs no further library for those.
            plain = not syntax.is_encapsulated or syntax == RLELossless
            pixels = _signed(dataset) if plain else _by_gdcm(dataset)
            if pixels.shape != (dataset.Rows, dataset.Columns):
                raise ValueError(f"pixels of shape {pixels.shape}, not {(dataset.Rows, dataset.Columns)}")
        except Exception as error:
            raise InputError(
                f"{path}",
                wanted="a CT slice with readable pixels",
                got=cause(error),
                mend="copy the file again, or store the scan uncompressed",
            ) from error
    return pixels


def _signed(dataset: Dataset) -> IntegerArray:
    """Pixels as stored; bits beside the stored ones (old overlays, lost signs) are shifted out."""
    pixels: IntegerArray = dataset.pixel_array
    left = dataset.BitsAllocated - 1 - dataset.HighBit
    right = dataset.BitsAllocated - dataset.BitsStored
    return np.right_shift(np.left_shift(pixels, left), right) if right else pixels


def _by_gdcm(dataset: Dataset) -> IntegerArray:
    """Unpack compressed pixels through a file that holds them and nothing else.

    GDCM applies the rescale tags for some storage classes and not for others; without those tags it has
    nothing to apply, and the malformed rest of a header cannot trouble it.
    """
    bare = Dataset()
    for name in MODULE:
        if name in dataset:
            bare[name] = dataset[name]
    bare.SOPClassUID, bare.SOPInstanceUID = CTImageStorage, generate_uid()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory(prefix="qctrun-") as folder:
        file = Path(folder) / "slice.dcm"
        bare.save_as(file, enforce_file_format=True)
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
    return np.asarray(pixels).squeeze(axis=0) if pixels.ndim == 3 else np.asarray(pixels)
