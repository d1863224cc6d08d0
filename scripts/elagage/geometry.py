"""How an image of any size becomes a square: scaled, then cropped at its centre."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """What the training of a network did with the size of its images.

    resize: pixels of the shorter side before the crop; "squash" for a square of the image's whole width and height;
    None to cover the square. interpolation: nearest, box, bilinear, bicubic or lanczos, with Pillow's antialiasing.
    """

    resize: int | str | None = None
    interpolation: str = "bilinear"

    def __str__(self) -> str:
        """Return a name for a folder, such as 256-bicubic."""
        return f"{self.resize or 'cover'}-{self.interpolation}"

    def description(self, size: int) -> str:
        """Return in words how to prepare an image for a network."""
        scaled = (
            "until it covers the square" if self.resize is None else f"until its shorter side has {self.resize} pixels"
        )
        if self.resize == "squash":
            return f"scaled to {size}x{size} pixels, whatever its shape ({self.interpolation}, antialiased)"
        return (
            f"scaled {scaled} ({self.interpolation}, antialiased), then cropped at the centre to {size}x{size} pixels"
        )


COVER = Geometry()
