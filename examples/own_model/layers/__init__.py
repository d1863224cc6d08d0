"""The parts of the network: a package, as a larger model would have one."""

from .blocks import ResidualBlock

__all__ = ["ResidualBlock"]
