"""From torch to files that the runtime runs. Importing this needs torch and onnx (extra `train`)."""

from qctrun.export.to_onnx import ExportedModel, export_onnx, exported
from qctrun.export.training_run import export_run, loss_of_run

__all__ = ["ExportedModel", "export_onnx", "export_run", "exported", "loss_of_run"]
