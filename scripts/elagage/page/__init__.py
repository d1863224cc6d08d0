"""The page of a study: one HTML file with the answer, its charts and its tables; neither torch nor ONNX."""
