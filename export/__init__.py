"""From torch to files that the runtime runs. Importing this needs torch and onnx (extra `train`)."""

from qctrun.export.to_onnx import export_onnx
from qctrun.export.training_run import export_run

__all__ = ["export_onnx", "export_run"]
