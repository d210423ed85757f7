"""ONNX: a file as a module whose graph torch runs."""
