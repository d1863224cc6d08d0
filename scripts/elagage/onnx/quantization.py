"""int8 quantization of ONNX graphs through ONNX Runtime."""

import functools
import logging
import pathlib
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping

import numpy
import onnx
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType

from elagage.errors import RefusedError, UserError
from elagage.modes import LARGEST_LEVEL, MINMAX, OPERATORS, Calibration
from elagage.onnx.calibration import histograms, ranges_by
from elagage.onnx.contents import count_contents
from elagage.onnx.few_bits import round_layers
from elagage.onnx.float32_layers import answering, keep_answer, keep_float32, nodes_of, unsupported, widening
from elagage.onnx.graph import PREPROCESS
from elagage.onnx.int32_bias import coarse_by_another_use, leave_room_for_sums
from elagage.onnx.qdq import qdq_places
from elagage.rounding import SMALLEST_RANGE

# Images; ranges are those of all images whatever the batch. With 64 at once, a ResNet-50 for 224x224 pixels takes
# 7.7 GB, with 8 it takes 2.5 GB.
CALIBRATION_BATCH = 8

# 7-bit weights: products of two 8-bit numbers saturate in the 16-bit sums of CPUs without VNNI, so that a file made on
# one machine would lose accuracy on another.
REDUCE_RANGE = True
USUAL_LEVEL = 64  # the largest one of weights with REDUCE_RANGE
FEWEST_LEVELS = 1 / 4  # of these, for the largest weight of a channel


class _Images(CalibrationDataReader):
    """Hands uint8 images [n, channels, height, width] to ONNX Runtime in batches."""

    def __init__(self, images: numpy.ndarray):
        self.batches: Iterator[numpy.ndarray] = iter(
            numpy.array_split(images, max(1, round(len(images) / CALIBRATION_BATCH)))
        )

    def get_next(self) -> dict[str, numpy.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def _dynamic(
    operators: list[str],
    source: pathlib.Path,
    target: pathlib.Path,
    images: None,
    overrides: Mapping,
    calibration: Calibration,
) -> None:
    model = onnx.load(source)
    stacks = _stacks(model)
    quantization.quantize_dynamic(
        source,
        target,
        nodes_to_exclude=[node.name for node in model.graph.node if not stacks.isdisjoint(node.input)],
        op_types_to_quantize=operators,
        per_channel=True,
        weight_type=QuantType.QInt8,
        reduce_range=REDUCE_RANGE,
    )


def _static(
    source: pathlib.Path, target: pathlib.Path, images: numpy.ndarray, overrides: Mapping, calibration: Calibration
) -> None:
    if calibration.method != "minmax":
        few = images[:CALIBRATION_BATCH]
        _minmax(source, target, few, overrides, calibration)  # to see what has a range
        int8 = onnx.load(target)
        keep_answer(int8)
        rounded = qdq_places(int8).ranges.keys() - overrides.keys()
        found = histograms(onnx.load(source), rounded, images)
        ranges = {name: [range_] for name, range_ in ranges_by(calibration.method, found).items()}
        images, overrides = few, {**overrides, **ranges}
    _minmax(source, target, images, overrides, calibration)


def _minmax(
    source: pathlib.Path, target: pathlib.Path, images: numpy.ndarray, overrides: Mapping, calibration: Calibration
) -> None:
    model, operators = onnx.load(source), OPERATORS[calibration.operators]
    preprocess = [node.name for node in model.graph.node if node.name.startswith(PREPROCESS)]
    layers = {*calibration.float32, *widening(model)}
    quantization.quantize_static(
        source,
        target,
        _Images(images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=operators.types,
        per_channel=True,
        reduce_range=REDUCE_RANGE,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[*preprocess, *nodes_of(model, layers), *answering(model), *unsupported(model)],
        extra_options={
            "TensorQuantOverrides": {**_one_scale(model), **overrides},
            "MinimumRealRange": SMALLEST_RANGE,
            "OpTypesToExcludeOutputQuantization": operators.float_results,
        },
    )


def _one_scale(model: onnx.ModelProto) -> dict[str, list[dict]]:
    """Return how weights are rounded that get one scale for all channels."""
    rounding = {"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": REDUCE_RANGE}
    return {name: [rounding] for name in _stacks(model)}


def _stacks(model: onnx.ModelProto) -> set[str]:
    """Return the weights that are several matrices, or a vector. ONNX Runtime has no kernel for them by channel."""
    factors = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    return {tensor.name for tensor in model.graph.initializer if tensor.name in factors and len(tensor.dims) != 2}


def _few_bits(
    largest: int,
    source: pathlib.Path,
    target: pathlib.Path,
    images: numpy.ndarray,
    overrides: Mapping,
    calibration: Calibration,
) -> None:
    _minmax(source, target, images[:CALIBRATION_BATCH], overrides, calibration)  # to see what becomes int8
    rounded = round_layers(onnx.load(source), qdq_places(onnx.load(target)), images, largest)
    if not rounded.scales:
        raise RefusedError(
            "quantization.modes: between the first and the last layers, no convolution or matrix product can have "
            "weights on few levels; use static"
        )
    onnx.save(rounded.model, source)
    _static(source, target, images, {**overrides, **rounded.scales}, calibration)


# Gemm is named too: it becomes MatMul before it is quantized.
MODES: dict[str, Callable] = {
    "dynamic": functools.partial(_dynamic, ["MatMul", "Gemm"]),
    "dynamic_conv": functools.partial(_dynamic, ["MatMul", "Gemm", "Conv"]),
    **dict.fromkeys(("static", "mixed", "qat"), _static),
    **{mode: functools.partial(_few_bits, largest) for mode, largest in LARGEST_LEVEL.items()},
}


def quantize(
    model: onnx.ModelProto,
    mode: str,
    images: numpy.ndarray | None = None,
    ranges: Mapping[str, Mapping] | None = None,
    calibration: Calibration = MINMAX,
) -> onnx.ModelProto:
    """Return the float32 model with int8 weights and, as the mode says, 8-bit activations.

    `dynamic` quantizes linear layers, `dynamic_conv` convolutions too, both with activation ranges computed for each
    input; `static` what the calibration says, per channel, as QDQ, with ranges calibrated on `images`, uint8
    [n, channels, height, width]; `mixed` the same; `static4` and `static3` the same, with weights on 15 and 7 levels;
    `qat` as `static`, with the stated ranges (tensor -> scale, float32, and zero_point, uint8, or rmin and rmax,
    float32) of all tensors that `ranges` names, as other modes that calibrate. What `widening` and `unsupported`
    name stays float32, and so does the answer: results of the last products, and what follows them. Raises RefusedError
    if nothing became int8, but for `dynamic`, because a network may have no linear layer, or if what would be rounded
    is infinite, and UserError if there is no room for temporary files.
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    quantized = quantize_some(model, mode, images, ranges, calibration)
    contents = count_contents(quantized)
    if mode != "dynamic" and (contents["int8_weights"] == 0 or contents["int8_operators"] == 0):
        raise RefusedError(
            f"quantization.modes: {mode} changed nothing: none of the {contents['operators']} operators with "
            f"{contents['weights']} weights became int8"
        )
    return quantized


def quantize_some(
    model: onnx.ModelProto,
    mode: str,
    images: numpy.ndarray | None,
    ranges: Mapping[str, Mapping] | None,
    calibration: Calibration,
) -> onnx.ModelProto:
    """Return what quantize does, though perhaps no weight became int8."""
    logging.getLogger().setLevel(logging.ERROR)  # ONNX Runtime advises pre-processing, which fusing has done
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder, "float.onnx"), pathlib.Path(folder, "int8.onnx")
        try:
            onnx.save(model, source)
            MODES[mode](
                source, target, images, {name: [range_] for name, range_ in (ranges or {}).items()}, calibration
            )
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror or error}); make room, or set TMPDIR"
            ) from error
        except (MemoryError, RefusedError):
            raise
        except Exception as error:  # of every kind, for graphs that its authors did not think of
            traceback.print_exc()
            raise RefusedError(
                f"quantization.modes: quantizing fails in mode {mode} ({type(error).__name__}: "
                f"{str(error).strip().partition(chr(10))[0]}); the log has the details"
            ) from error
        quantized = onnx.load(target)
    for tensor in quantized.graph.initializer:
        if tensor.name.endswith("_scale") and not numpy.isfinite(onnx.numpy_helper.to_array(tensor)).all():
            raise RefusedError(
                f"quantization.modes: {mode} cannot round {tensor.name.removesuffix('_scale')}, which is infinite for "
                f"some calibration images; give a mask a large number instead of infinity"
            )
    coarse = coarse_by_another_use(model, quantized, LARGEST_LEVEL.get(mode, USUAL_LEVEL) * FEWEST_LEVELS)
    if coarse:
        apart = calibration._replace(float32=(*calibration.float32, *sorted(coarse)))
        return quantize_some(model, mode, images, ranges, apart)
    leave_room_for_sums(quantized)
    keep_float32(quantized)
    keep_answer(quantized)
    return quantized
