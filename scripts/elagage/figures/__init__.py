"""What people look at. Without torch and ONNX."""
