"""What an ONNX file holds: counts of weights, operators and multiply-accumulates, as stored."""

import math
from collections.abc import Mapping

import numpy
import onnx

# Operators that multiply and accumulate in ways that are not counted here.
UNCOUNTED = {"Einsum", "LSTM", "GRU", "RNN", "DeformConv", "Attention"}
SHAPE_BYTES = 1024  # tensors up to this size may say how to reshape, pad or slice
# Input that holds the weight, of each operator that multiplies and accumulates.
WEIGHT_INPUT = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "ConvInteger": 1,
    "MatMulInteger": 1,
}
INTEGER_ZERO_POINT_INPUT = 3  # of ConvInteger and MatMulInteger, both with the weight as input 1


def count_contents(model: onnx.ModelProto) -> dict[str, int]:
    """Count weights and operators, as stored, of convolutions, linear layers and matrix products with a constant.

    weights, zeros: elements of the weight tensors, shared tensors once, and how many stand for 0.0; int8_weights: those
    stored in 8 bits; operators, int8_operators: how many operators there are and how many multiply 8-bit integers.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    tensors: dict[str, tuple[int, int, bool]] = {}
    operators = int8_operators = 0
    for node in model.graph.node:
        if node.op_type not in WEIGHT_INPUT:
            continue
        source, zero_point = node.input[1], ""
        producer = producers.get(source)
        if producer is not None and producer.op_type == "DequantizeLinear":
            source, zero_point = producer.input[0], producer.input[2] if len(producer.input) > 2 else ""
        elif node.op_type in ("ConvInteger", "MatMulInteger") and len(node.input) > INTEGER_ZERO_POINT_INPUT:
            zero_point = node.input[INTEGER_ZERO_POINT_INPUT]
        if source not in constants:
            continue
        weight = onnx.numpy_helper.to_array(constants[source])
        int8 = weight.dtype in (numpy.int8, numpy.uint8)
        operators += 1
        int8_operators += int8 and _multiplies_integers(node, producers)
        zero = onnx.numpy_helper.to_array(constants[zero_point]) if zero_point in constants else weight.dtype.type(0)
        if zero.size > 1:
            axis = _channel_axis(node, producer)
            zero = numpy.expand_dims(zero, [a for a in range(weight.ndim) if a != axis % weight.ndim])
        tensors[source] = (weight.size, int(numpy.count_nonzero(weight == zero)), int8)
    return {
        "weights": sum(size for size, _, _ in tensors.values()),
        "zeros": sum(zeros for _, zeros, _ in tensors.values()),
        "int8_weights": sum(size for size, _, int8 in tensors.values() if int8),
        "operators": operators,
        "int8_operators": int8_operators,
    }


def _channel_axis(node: onnx.NodeProto, producer: onnx.NodeProto | None) -> int:
    """Return the axis of the weight along which its zero points differ."""
    if node.op_type == "ConvInteger":
        return 0
    if node.op_type == "MatMulInteger":
        return -1
    assert producer is not None  # only a DequantizeLinear has several zero points otherwise
    return next((attribute.i for attribute in producer.attribute if attribute.name == "axis"), 1)


def _multiplies_integers(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether the other operand is 8-bit too: by the operator itself, or dequantized right before it (QDQ)."""
    if node.op_type in ("ConvInteger", "MatMulInteger"):
        return True
    other = producers.get(node.input[0])
    return other is not None and other.op_type == "DequantizeLinear"


def count_multiply_accumulates(model: onnx.ModelProto) -> int | None:
    """Count the multiply-accumulates of one image: of convolutions, linear layers and matrix products, zeros included.

    An operator behind QDQ counts like the float32 one, a bias not at all. None if the shapes cannot be inferred from
    the graph, or if it has an operator of UNCOUNTED.
    """
    if UNCOUNTED & {node.op_type for node in model.graph.node}:
        return None
    single = _without_large_values(model)
    for value in single.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in single.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type in WEIGHT_INPUT:
            count = _multiply_accumulates(node, shapes)
            if count == 0:
                return None
            total += count
    return total


def _without_large_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which weights have only their shapes: shape inference copies their values several times."""
    graph = model.graph
    initializers = [
        tensor
        if len(tensor.raw_data) <= SHAPE_BYTES
        else onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        for tensor in graph.initializer
    ]
    copy = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    copy.graph.CopyFrom(
        onnx.GraphProto(
            name=graph.name,
            node=graph.node,
            input=graph.input,
            output=graph.output,
            value_info=graph.value_info,
            initializer=initializers,
        )
    )
    return copy


def _multiply_accumulates(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int:
    """Return the count of one operator, 0 if a shape is unknown: an unknown size is 0, an unknown shape empty."""
    first, second, output = (shapes.get(name, [0]) or [0] for name in (*node.input[:2], node.output[0]))
    if node.op_type in ("Conv", "ConvInteger"):  # every output sums over the channels and places of a filter
        return math.prod(output) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # every input is spread over the channels and places of a filter
        return math.prod(first) * math.prod(second[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * first[0 if transposed else -1]
