"""Modes of quantization whose ranges are calibrated on training images, without training."""

# Mode -> largest level of a weight, where weights are on few levels: with 0 and the negative ones 15 and 7.
LARGEST_LEVEL = {"static4": 7, "static3": 3}
CALIBRATED = ("static", *LARGEST_LEVEL)
