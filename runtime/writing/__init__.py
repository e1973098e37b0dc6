"""Volumes and numbers to files: images with sidecars, tables, run records; all of a run's files or none."""

from qctrun.runtime.writing.files import Staging
from qctrun.runtime.writing.images import stage_image, stage_images, write, write_dicom
from qctrun.runtime.writing.names import (
    DICTIONARY_NAME,
    TABLE_NAME,
    case_of,
    filtered_name,
    filtered_stem,
    is_dicom_output,
    map_name,
    record_name,
    sidecar_name,
    with_sidecars,
)
from qctrun.runtime.writing.record import RunRecord, read_record, sum_of
from qctrun.runtime.writing.tables import (
    COLUMNS,
    csv_text,
    dictionary_text,
    parameter_rows,
    rows_text,
    table_text,
)

__all__ = [
    "COLUMNS",
    "DICTIONARY_NAME",
    "TABLE_NAME",
    "RunRecord",
    "Staging",
    "case_of",
    "csv_text",
    "dictionary_text",
    "filtered_name",
    "filtered_stem",
    "is_dicom_output",
    "map_name",
    "parameter_rows",
    "read_record",
    "record_name",
    "rows_text",
    "sidecar_name",
    "stage_image",
    "stage_images",
    "sum_of",
    "table_text",
    "with_sidecars",
    "write",
    "write_dicom",
]
