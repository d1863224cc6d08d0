"""int32 biases of an int8 ONNX file that leave the sums of products room in 32 bits."""

from collections import Counter

import numpy
import onnx
from onnx import numpy_helper

from elagage.onnx.qdq import qdq_places
from elagage.rounding import SMALLEST_RANGE

# Of a bias. The sums of products, of 8-bit inputs and 7-bit weights, take the other half up to 65,000 inputs.
LARGEST_BIAS = 2**30


def leave_room_for_sums(model: onnx.ModelProto) -> None:
    """Double the scale of weights and bias where the bias is nearly all that 32 bits hold.

    The model is changed in place. ONNX Runtime's quantizer (1.32) raises the scale of small weights until the bias is
    0.9999 of the largest int32. If the channel's products have the same sign, their sum with the bias is beyond it, and
    the result has the other sign. So its weights get half as many levels here; their products are 3 % of the bias at
    most, of 2,000 inputs.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    biases: dict[str, dict[str, onnx.NodeProto]] = {}  # by weight; a weight that is shared has several
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
            continue
        weight, bias = (producers.get(name) for name in node.input[1:3])
        if not weight or not bias or not {weight.input[0], bias.input[0]} <= constants.keys():
            continue
        if len(constants[bias.input[0]].dims) == 1:
            biases.setdefault(weight.input[0], {})[bias.input[0]] = bias
    dequantizers = {node.input[0]: node for node in producers.values()}
    for name, of_weight in biases.items():
        sums = [numpy_helper.to_array(constants[bias]) for bias in of_weight]
        large = numpy.any([numpy.abs(values.astype(numpy.int64)) > LARGEST_BIAS for values in sums], axis=0)
        if large.any():
            one_scale = not constants[dequantizers[name].input[1]].dims
            large |= one_scale
            for dequantizer in (dequantizers[name], *of_weight.values()):
                _halve(dequantizer, large, constants)


def coarse_by_another_use(float32: onnx.ModelProto, int8: onnx.ModelProto, fewest: float) -> set[str]:
    """Return the weights that several nodes share, of which a channel has fewer levels because of one bias.

    Where the inputs of one use are hardly anything beside its bias, the quantizer raises the scale for all uses.
    fewest: levels that the largest weight of a channel has at least.
    """
    uses = Counter(name for node in float32.graph.node for name in set(node.input))
    weights = {tensor.name: tensor for tensor in float32.graph.initializer if uses[tensor.name] > 1}
    scales = {tensor.name: tensor for tensor in int8.graph.initializer}
    coarse = set()
    for name, axis in qdq_places(int8).weights.items():
        if name not in weights or axis is None:
            continue
        weight = numpy.abs(numpy_helper.to_array(weights[name]))
        largest = weight.max(tuple(other for other in range(weight.ndim) if other != axis % weight.ndim))
        levels = largest / numpy_helper.to_array(scales[f"{name}_scale"])
        if (levels[largest > SMALLEST_RANGE] < fewest).any():
            coarse.add(name)
    return coarse


def _halve(node: onnx.NodeProto, channels: numpy.ndarray, constants: dict[str, onnx.TensorProto]) -> None:
    """Halve the integers of these channels, bool [n], and double their scale; all of them, if they have one."""
    integers, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    chosen = channels if scale.size == channels.size else numpy.True_  # ONNX Runtime's one scale of a bias is [1]
    along = numpy.expand_dims(chosen, [a for a in range(integers.ndim) if a != axis]) if chosen.ndim else chosen
    halved = numpy.where(along, numpy.rint(integers / 2), integers).astype(integers.dtype)
    doubled = numpy.where(chosen, 2 * scale, scale).astype(scale.dtype)
    for name, values in zip(node.input[:2], (halved, doubled), strict=True):
        constants[name].CopyFrom(numpy_helper.from_array(values, name))
