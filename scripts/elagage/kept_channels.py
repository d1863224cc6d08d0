"""Which output channels of the dense network a checkpoint still has: bits in its provenance, in hexadecimal digits."""

from collections.abc import Mapping

import numpy

KEY = "kept_channels"  # in the provenance: weight -> bits


def kept_channels(provenance: Mapping) -> dict[str, list[int]]:
    """Return, for each weight that lost some, the output channels of the dense network that are left."""
    return {weight: _places(bits) for weight, bits in provenance.get(KEY, {}).items()}


def with_kept_channels(provenance: Mapping, kept: Mapping[str, list[int]]) -> dict:
    """Return the provenance of a network of which only these channels are kept; it may have lost some before."""
    joined = kept_channels(provenance)
    for weight, places in kept.items():
        joined[weight] = [joined[weight][place] for place in places] if weight in joined else places
    return (
        {**provenance, KEY: {weight: _bits(places) for weight, places in joined.items()}} if joined else {**provenance}
    )


def _bits(places: list[int]) -> str:
    return numpy.packbits(numpy.isin(range(places[-1] + 1), places)).tobytes().hex()


def _places(bits: str) -> list[int]:
    return numpy.flatnonzero(numpy.unpackbits(numpy.frombuffer(bytes.fromhex(bits), numpy.uint8))).tolist()
