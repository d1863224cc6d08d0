"""The axis of losses, as the page and the figures draw it."""

LOST = "points of accuracy lost"
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # points


def loss_ticks(margin: float) -> list[float]:
    """Return where an axis of losses, in points, has ticks: at 0, at the margin, and beyond; gains likewise."""
    ticks = [margin, *(tick for tick in TICKS if tick > 1.5 * margin)]
    return [*(-tick for tick in reversed(ticks)), 0, *ticks]
