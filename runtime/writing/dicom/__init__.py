"""Results as DICOM, in the study of the scan: derived CT series and Parametric Maps."""

from qctrun.runtime.writing.dicom.maps import write_map
from qctrun.runtime.writing.dicom.series import write_slices
from qctrun.runtime.writing.dicom.sources import Source, scan_behind, source_of

__all__ = ["Source", "scan_behind", "source_of", "write_map", "write_slices"]
