"""Choose how int8 is calibrated, and what becomes int8: what changes the answers of the dense network least."""

import os
from collections.abc import Iterator, Sequence

import numpy
import onnx

from elagage.checkpoints import named
from elagage.data import Split
from elagage.errors import RefusedError
from elagage.files import write_json
from elagage.job import job
from elagage.modes import CALIBRATIONS, MINMAX, OPERATORS, Calibration
from elagage.onnx.calibration import Histogram, histograms, ranges_by
from elagage.onnx.divergence import Answers, first_images
from elagage.onnx.graph import float32_model
from elagage.onnx.qdq import qdq_places
from elagage.onnx.quantization import CALIBRATION_BATCH, quantize
from elagage.progress import progress
from elagage.refusals import refusing

# Images of validation, at most, of up to 64 x 64 pixels, and fewer of large ones: ten files classify each.
IMAGES, FEWEST_IMAGES = 1000, 250
# Shares of the divergence of what is usual, below which something else is taken: it has to be worth the difference.
# Another machine's rounding should not change the choice, and files with fewer int8 operators are slower, a
# ResNet-20's by 13 %, a vision transformer's by 5 %.
CLEARLY, WORTH_TIME = 0.9, 0.5
# Nats, below which nothing else is tried: about one image in a hundred changes its class (of a ResNet-20 on CIFAR-10
# 1.15 % at 0.0011).
NEGLIGIBLE = 0.001


def calibrate(
    graph: str,
    checkpoint: str,
    *,
    training: Split,
    validation: Split,
    methods: Sequence[str],
    threads: int,
    output: str,
) -> None:
    """Write the choice for a model and seed (JSON), with the divergences that it rests on.

    training: images that ranges follow from; methods: of CALIBRATIONS, those to choose from, the usual one first. A
    divergence is that of Kullback and Leibler, in nats, of the int8 network's class probabilities from those of the
    float32 one, the mean over validation images.
    """
    float32, provenance = float32_model(graph, checkpoint)
    answers = Answers(float32, first_images(validation.images, IMAGES, FEWEST_IMAGES), threads)
    divergences: dict[str, dict[str, float]] = {operators: {} for operators in usual_first(float32)}
    with progress(len(OPERATORS) * len(methods), " files", f"calibrate {named(provenance)}") as advance:
        for calibration, int8 in _candidates(float32, training.images, list(divergences), methods):
            divergence, _ = answers.compare(int8)
            print(f"{calibration.operators}, {calibration.method}: {divergence} nats")
            if numpy.isfinite(divergence):
                divergences[calibration.operators][calibration.method] = divergence
            advance(1)
            if calibration == (methods[0], next(iter(divergences)), ()) and divergence <= NEGLIGIBLE:
                break
    chosen = choose(divergences)
    print(f"chosen: {chosen.operators}, {chosen.method}")
    write_json(output, {**chosen._asdict(), "images": len(answers.images), "divergence": divergences})


def usual_first(float32: onnx.ModelProto) -> list[str]:
    """Return the names of OPERATORS, the usual ones first: of attention those are `weighted`, which is faster."""
    attention = any(node.op_type == "Softmax" for node in float32.graph.node)
    return sorted(OPERATORS, key=lambda operators: (operators == "weighted") != attention)


def choose(divergences: dict[str, dict[str, float]]) -> Calibration:
    """Return the choice from divergences: operators, the usual ones first -> method -> nats.

    What was refused is not among them.
    """
    methods = {operators: _method(found) for operators, found in divergences.items() if found}
    if not methods:
        return MINMAX
    least = {operators: divergences[operators][method] for operators, method in methods.items()}
    usual, better = next(iter(least)), min(least, key=lambda operators: least[operators])
    operators = better if least[better] <= WORTH_TIME * least[usual] else usual
    return Calibration(methods[operators], operators)


def _method(divergences: dict[str, float]) -> str:
    usual = next(iter(divergences))
    best = min(divergences, key=lambda method: divergences[method])
    return best if divergences[best] <= CLEARLY * divergences[usual] else usual


def _candidates(
    float32: onnx.ModelProto, images: numpy.ndarray, sets: Sequence[str], methods: Sequence[str]
) -> Iterator[tuple[Calibration, onnx.ModelProto]]:
    """Yield an int8 model for each set of operators and each method, but none where that is refused."""
    few = images[:CALIBRATION_BATCH]
    for operators in sets:
        usual = Calibration(MINMAX.method, operators)
        found: dict[str, Histogram] = {}  # once for all methods, where quantize would count for each
        for method in methods:
            try:
                if method == usual.method:
                    yield usual, quantize(float32, "static", images, calibration=usual)
                    continue
                if not found:
                    rounded = quantize(float32, "static", few, calibration=usual)
                    found = histograms(float32, qdq_places(rounded).ranges, images)
                int8 = quantize(float32, "static", few, ranges_by(method, found), usual)
                yield Calibration(method, operators), int8
            except RefusedError as error:
                print(f"{operators}, {method}: {error}")


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        parts = {
            name: Split.read(snakemake.input[f"{name}_images"], snakemake.input[f"{name}_labels"])
            for name in ("train", "validation")
        }
        calibrate(
            snakemake.input.graph,
            snakemake.input.checkpoint,
            training=parts["train"].first(snakemake.params.calibration_images, "quantization.calibration_images"),
            validation=parts["validation"],
            methods=[snakemake.params.calibration] if snakemake.params.calibration else CALIBRATIONS,
            threads=min(snakemake.threads, os.cpu_count() or 1),
            output=snakemake.output.choice,
        )
