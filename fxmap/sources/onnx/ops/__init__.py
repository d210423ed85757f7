"""The operators of ONNX, by torch: one file a kind, and the table of all that are known."""
