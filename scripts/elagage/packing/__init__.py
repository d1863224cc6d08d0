"""The packed form of an ONNX file: pack.py writes it, and unpack.py, which needs no other file, turns it back.

The room imports only NumPy and the standard library. docs/packed_format.md describes the format.
"""
