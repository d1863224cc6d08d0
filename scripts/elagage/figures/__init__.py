"""The figures of a study. Without torch and ONNX."""
