"""What the objects of a DICOM folder are, by their storage class and image type; only CT slices pass."""

import re

from pydicom.dataset import Dataset

from qctrun.runtime.reading.tags import text_of, whole_of, words_of

_STORAGE = "1.2.840.10008.5.1.4.1.1."
ENHANCED_CT = (_STORAGE + "2.1", _STORAGE + "2.2")
"""Enhanced CT and Legacy Converted Enhanced CT: many slices in one object."""
CT_IMAGE = _STORAGE + "2"
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"

PARAMETRIC_MAP = "parametric map"

OTHER_CLASSES = {
    MEDIA_DIRECTORY: "DICOM directory",
    _STORAGE + "7": "secondary capture",
    _STORAGE + "66": "raw data object",
    _STORAGE + "30": PARAMETRIC_MAP,
    _STORAGE + "88": "report",
    _STORAGE + "104": "document",
    _STORAGE + "11": "presentation state",
}
"""Storage classes that a CT study has beside its slices."""
WITHOUT_PIXELS = frozenset({"DICOM directory", "raw data object", "report", "document", "presentation state"})

PICTURES = {
    "LOCALIZER": "localizer",
    **dict.fromkeys(("3D", "VRT", "SSD", "VOLUME_RENDER", "SURFACE_RENDER"), "3-D rendering"),
    **dict.fromkeys(("MIP", "MINIP", "AVERAGE", "MAX_IP", "MIN_IP", "PROJECTION IMAGE"), "projection"),
    **dict.fromkeys(("MAXIMUM", "MINIMUM", "MEAN", "MEDIAN"), "projection"),
    **dict.fromkeys(("STD_DEVIATION", "SUBTRACTION", "DIVISION", "MULTIPLICATION"), "computed picture"),
    **dict.fromkeys(("CPR", "CURVED_MPR", "DISTORTED"), "curved reformat"),
}
"""Words of an image type, or of how an Enhanced frame was computed, and what such an image is."""


def storage_of(dataset: Dataset, meta: Dataset) -> str:
    """SOP class of the object; anonymisers blank it in one of the two places where it stands."""
    return text_of(meta, "MediaStorageSOPClassUID") or text_of(dataset, "SOPClassUID")


def class_kind(storage: str) -> str:
    """The name of a storage class that holds no CT slices; empty for all others."""
    known = (kind for uid, kind in OTHER_CLASSES.items() if storage == uid or storage.startswith(f"{uid}."))
    return next(known, "")


def kind_of(dataset: Dataset, storage: str) -> str:
    """The name of what is not a CT slice; empty for a slice, also for one frame of an Enhanced object."""
    if storage == MEDIA_DIRECTORY:
        return OTHER_CLASSES[storage]
    if text_of(dataset, "Modality") != "CT":
        named = f"{text_of(dataset, 'Modality') or 'unnamed'} object"
        return PARAMETRIC_MAP if class_kind(storage) == PARAMETRIC_MAP else named
    if kind := _picture(dataset) or class_kind(storage):
        return kind
    colour = text_of(dataset, "PhotometricInterpretation").startswith("PALETTE")
    return "colour picture" if colour or whole_of(dataset, "SamplesPerPixel") not in (None, 1) else ""


def _picture(dataset: Dataset) -> str:
    """What an image type names that is no slice: whole values, and words of a maker's own values (`CSA MIP`)."""
    fields = ("ImageType", "FrameType", "VolumetricProperties", "VolumeBasedCalculationTechnique")
    values = [value.upper() for name in fields for value in words_of(dataset, name)]
    parts = [part for value in values for part in re.split(r"[ _]", value) if part in _SURE_WORDS]
    return next((PICTURES[word] for word in (*values, *parts) if word in PICTURES), "")


_SURE_WORDS = frozenset({"LOCALIZER", "VRT", "SSD", "MIP", "MINIP", "CPR"})
