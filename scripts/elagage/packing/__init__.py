"""The packed form of an ONNX file: pack.py writes it, and unpack.py, one file for itself, gives back the same bytes.

It imports NumPy and the standard library only. docs/packed_format.md describes the format.
"""
