"""What files are chosen by: sizes and time, how each is called, how numbers of it are written, and axes of losses."""

from typing import NamedTuple


class Objective(NamedTuple):
    """One cost.

    Attributes:
        column: of the summary.
        title: of the file that is best by it.
        name: of the cost.
        what: has this cost, in a sentence.
        written: writes one number of it.
        better: writes how many times less another file costs.
        axis: what an axis counts.
    """

    column: str
    title: str
    name: str
    what: str
    written: str
    better: str
    axis: str

    def times_better(self, ratio: float) -> str:
        """Return a ratio of two costs in words."""
        return self.better.format(f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}")


BYTES = "{:,.0f} bytes", "{} times smaller", "kB"
OBJECTIVES = {
    "file_size": Objective("model_size_bytes", "Smallest file", "size of the ONNX file", "the file", *BYTES),
    "packed_size": Objective(
        "packed_size_bytes", "Smallest to send", "size of the packed file", "the packed file", *BYTES
    ),
    "time": Objective("time_ms", "Fastest", "time per image", "an image", "{:.3f} ms", "{} times as fast", "ms"),
}
