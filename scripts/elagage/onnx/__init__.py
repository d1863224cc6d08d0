"""The product: ONNX graphs, quantization, what is deployed, the runtime that measures it. Without torch."""
