"""Read and write what an ONNX file holds: values, tensors, files beside it, and names as a tree of modules."""
