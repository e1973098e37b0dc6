"""A derived CT series: density on the grid of a volume, one CT Image Storage object a slice."""

import math
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DS

from qctrun.runtime.errors import InputError
from qctrun.runtime.reading.sources import quiet
from qctrun.runtime.volume import Volume, require_finite
from qctrun.runtime.writing.dicom import codes, common
from qctrun.runtime.writing.dicom.kept import (
    ACQUISITION,
    LOSSES,
    PATIENT,
    PLACE,
    SERIES,
    STUDY,
    TEXTS,
    kept,
    say_side,
)
from qctrun.runtime.writing.dicom.sources import Source, uids_of
from qctrun.runtime.writing.folders import slice_name

STEPS_MG_CM3 = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Rescale slopes to choose from; what is written is off by at most half of one."""
LARGEST = 65535
WINDOW_MG_CM3 = (300.0, 1200.0)
"""Centre and width that a viewer opens with: marrow to cortex."""


def write_slices(volume: Volume, source: Source, folder: Path) -> None:
    """Write the slices of a density volume into an empty folder.

    Parameters
    ----------
    volume : Volume
        mg/cm3, finite, on any grid in the frame of reference of the source.
    source : Source
        The scan that it was made of.
    folder : Path
        Where the slices go, as `slice-0001.dcm` and so on.

    Raises
    ------
    InputError
        When the volume is no density, is not finite, or spans more than 16 bits hold at half a mg/cm3.
    """
    step, lowest = rescaling(volume)
    series_uid, slice_uids = uids_of(source, volume, "CT")
    with quiet():
        fixed = _fixed(volume, source, step, lowest)
        for k, plane in enumerate(volume.array):
            dataset = _slice(volume, source, k)
            dataset.update(fixed)
            dataset.SeriesInstanceUID, dataset.SOPInstanceUID = series_uid, slice_uids[k]
            dataset.InstanceNumber = k + 1
            stored = np.rint((plane.astype(np.float64) - lowest) / step).astype("<u2")
            dataset.PixelData = stored.tobytes()
            dataset["PixelData"].VR = "OW"
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            common.save(dataset, folder / slice_name(k + 1))


def rescaling(volume: Volume) -> tuple[float, float]:
    """Slope and intercept by which 16 bits hold the volume: a power of two, so that reading back adds no error.

    Raises
    ------
    InputError
        When the volume is no density, is not finite or its range is too wide.
    """
    if volume.unit != "mg/cm3":
        raise InputError("CT series", wanted="density in mg/cm3", got=f"a volume in {volume.unit}")
    require_finite(volume.array, "CT series")
    lowest, highest = float(volume.array.min()), float(volume.array.max())
    for step in STEPS_MG_CM3:
        first = math.floor(lowest / step) * step
        if (highest - first) / step <= LARGEST:
            return step, first
    raise InputError(
        "CT series",
        wanted=f"densities within {STEPS_MG_CM3[-1] * LARGEST:.0f} mg/cm3 of each other",
        got=f"{lowest:.0f} to {highest:.0f} mg/cm3",
        mend="write nii.gz, mha or nrrd, or mend the values that no body has",
    )


def _fixed(volume: Volume, source: Source, step: float, lowest: float) -> Dataset:
    """What all slices share beside what they take over from the scan."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality = CTImageStorage, "CT"
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    dataset.SeriesNumber = common.series_number(source)
    made = "NNSP" if volume.provenance.get("filter") else "density"
    words = f"{made} mg/cm3 {volume.material or ''}".strip()
    dataset.SeriesDescription = common.series_description(source, words)
    dataset.ContentQualification = "RESEARCH"
    dataset.DerivationDescription = common.derivation(volume)
    done = [codes.SMOOTHING] * bool(volume.provenance.get("filter"))
    done += [codes.RESAMPLING] * bool(volume.provenance.get("resampling"))
    if done:
        dataset.DerivationCodeSequence = [codes.item(code) for code in done]
    dataset.CodingSchemeIdentificationSequence = [codes.scheme()]
    common.add_maker(dataset, source)
    _add_pixels(dataset, volume, step, lowest)
    common.add_private(dataset, volume)
    return dataset


def _add_pixels(dataset: Dataset, volume: Volume, step: float, lowest: float) -> None:
    _, dataset.Rows, dataset.Columns = volume.grid.size
    dataset.PixelSpacing = [DS(mm, auto_format=True) for mm in volume.grid.spacing[1:]]
    dataset.SpacingBetweenSlices = DS(volume.grid.spacing[0], auto_format=True)
    dataset.ImageOrientationPatient = [DS(v, auto_format=True) for v in common.orientation(volume.grid)]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = DS(step), DS(lowest), "MGML"
    centre, width = WINDOW_MG_CM3
    dataset.WindowCenter, dataset.WindowWidth = DS(centre), DS(width)
    dataset.WindowCenterWidthExplanation = "Bone, mg/cm3"
    mapping = Dataset()
    mapping.LUTLabel, mapping.LUTExplanation = (
        "BMD",
        f"Bone mineral density, mg/cm3 {volume.material or ''}".strip(),
    )
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = 0, LARGEST
    mapping["RealWorldValueFirstValueMapped"].VR = mapping["RealWorldValueLastValueMapped"].VR = "US"
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = step, lowest
    mapping.MeasurementUnitsCodeSequence = [codes.item(codes.MG_CM3)]
    mapping.QuantityDefinitionSequence = codes.definition(volume)
    dataset.RealWorldValueMappingSequence = [mapping]


def _slice(volume: Volume, source: Source, k: int) -> Dataset:
    """What a slice takes over from the slice of the scan that lies nearest, and where it lies itself."""
    nearest = source.nearest(volume.grid, k)
    dataset = kept(
        source.headers[nearest], [*TEXTS, *PATIENT, *STUDY, *SERIES, *PLACE, *ACQUISITION, *LOSSES]
    )
    scan = volume.provenance.get("scan") or {}
    thickness = source.headers[nearest].get("SliceThickness") or scan.get("slice_thickness_mm")
    if not thickness or volume.grid.size[0] != len(source.headers):  # other slices than those of the scan
        thickness = DS(volume.grid.spacing[0], auto_format=True)
    dataset.SliceThickness = thickness
    dataset.ImagePositionPatient = [DS(v, auto_format=True) for v in common.position(volume.grid, k)]
    dataset.SourceImageSequence = [common.reference(source, nearest)]
    dataset.ReferencedSeriesSequence = [common.series_reference(source, [nearest])]
    _fill_ct(dataset, volume)
    return dataset


def _fill_ct(dataset: Dataset, volume: Volume) -> None:
    """Tags that a CT image must have, if only empty; what a multi-frame scan said elsewhere is known of reading."""
    scan = volume.provenance.get("scan") or {}
    if not dataset.get("KVP"):
        dataset.KVP = None if scan.get("kvp") is None else DS(scan["kvp"], auto_format=True)
    if not dataset.get("ConvolutionKernel") and scan.get("kernel"):
        dataset.ConvolutionKernel = str(scan["kernel"]).split("\\")
    for name in ("AcquisitionNumber", "PatientPosition"):
        if name not in dataset:
            setattr(dataset, name, None)
    say_side(dataset)
    dataset.BurnedInAnnotation = "YES" if dataset.get("BurnedInAnnotation") == "YES" else "NO"
