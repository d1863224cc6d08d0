"""Which losses a number of test images can certify, in words."""

from collections.abc import Mapping

from elagage.noninferiority import DIFFERING, images_to_certify, loss_bounds, smallest_margin
from elagage.sentences import in_points


def certifiable(answer: Mapping, test_images: int) -> str:
    """Return which losses these test images can rule out at best; answer: the table of the configuration."""
    smallest = [
        f"{100 * smallest_margin(test_images, share, answer['confidence']):.2g} points if the two differ on {share:.0%}"
        for share in DIFFERING
    ]
    return (
        f"{test_images:,} test images can certify a file that is as good as the reference to lose less than "
        f"{', '.join(smallest)} of the images. The margin is {in_points(answer['maximum_accuracy_loss'])}."
        + " ".join(["", *nothing_can_be(answer, test_images)])
    )


def nothing_can_be(answer: Mapping, test_images: int) -> list[str]:
    """Return a sentence if no file can be certified on so few test images, whatever it answers, else nothing."""
    margin, confidence = answer["maximum_accuracy_loss"], answer["confidence"]
    # A single file is tested at the whole level, the first of several at half of it.
    if 100 * loss_bounds(0, 0, test_images, confidence)[1] < margin:
        return []
    return [
        f"So no file can be certified, even one that answers every image as the reference does: take at least "
        f"{images_to_certify(margin / 100, confidence):,} test images, or a wider margin "
        f"(answer.maximum_accuracy_loss)."
    ]
