"""How an image of any size becomes a square: scaled, then cropped at its centre."""

import typing

if typing.TYPE_CHECKING:
    from PIL import Image


class Geometry(typing.NamedTuple):
    """What the training of a network did with the size of its images.

    resize: pixels of the shorter side before the crop; "squash" for a square of the image's whole width and height;
    None to cover the square. interpolation: nearest, box, bilinear, bicubic or lanczos, with Pillow's antialiasing.
    """

    resize: int | str | None = None
    interpolation: str = "bilinear"

    def __str__(self) -> str:
        """Return a name for a folder, such as 256-bicubic."""
        return f"{self.resize or 'cover'}-{self.interpolation}"

    def square(self, image: "Image.Image", size: int) -> "Image.Image":
        """Return the image as a square of `size` pixels; with a number for `resize`, as torchvision's transforms do."""
        # Pillow is not in the environment of Snakemake itself, which imports this module to plan a study.
        from PIL import Image, ImageOps

        method = Image.Resampling[self.interpolation.upper()]
        if self.resize is None:
            return image if image.size == (size, size) else ImageOps.fit(image, (size, size), method)
        if isinstance(self.resize, str):
            return image.resize((size, size), method)
        width, height = image.size
        # Resize(resize), then CenterCrop(size): torchvision/transforms/functional.py.
        longer = int(self.resize * max(width, height) / min(width, height))
        scaled = (self.resize, longer) if width <= height else (longer, self.resize)
        left, top = (round((side - size) / 2) for side in scaled)
        return image.resize(scaled, method).crop((left, top, left + size, top + size))

    def description(self, size: int) -> str:
        """Return in words how to prepare an image for a network."""
        if self.resize is None:
            scaled = "until it covers the square"
        elif self.resize == "squash":
            scaled = "to the square, whatever its shape"
        else:
            scaled = f"until its shorter side has {self.resize} pixels"
        cropped = "" if self.resize == "squash" else f", then cropped at the centre to {size}x{size} pixels"
        return f"scaled {scaled} ({self.interpolation}, antialiased){cropped}"


COVER = Geometry()
