"""The shipped model, `nnsp.onnx`, and its card for people, `nnsp.md`."""
