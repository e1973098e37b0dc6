"""Files into volumes: DICOM, NIfTI, MHA and NRRD scans as calibrated density on their native grid."""

from qctrun.runtime.reading.calibration import Calibration, load_calibration
from qctrun.runtime.reading.companions import Beside, find_beside, find_mask
from qctrun.runtime.reading.describe import describe
from qctrun.runtime.reading.dicom import list_series
from qctrun.runtime.reading.labels import LabelMap, load_label_map, read_label_map, read_labels
from qctrun.runtime.reading.scans import read, read_density, read_hu
from qctrun.runtime.reading.sources import stem_of
from qctrun.runtime.reading.stacks import Series

__all__ = [
    "Beside",
    "Calibration",
    "LabelMap",
    "Series",
    "describe",
    "find_beside",
    "find_mask",
    "list_series",
    "load_calibration",
    "load_label_map",
    "read",
    "read_density",
    "read_hu",
    "read_label_map",
    "read_labels",
    "stem_of",
]
