"""How much an ONNX file multiplies: the multiply-accumulates of one image."""

import math
from collections.abc import Callable, Mapping

import numpy
import onnx
import onnxruntime

Shapes = list[tuple[int, ...]]  # of the inputs of a node, () for one that is left out, then of its first output

UNCOUNTED = {"DeformConv", "Attention"}  # operators that multiply in ways that are not counted here
PREFIX = "shape of "


def count_multiply_accumulates(model: onnx.ModelProto) -> int | None:
    """Count the multiply-accumulates of one image: of convolutions, recurrent layers and products, zeros included.

    An operator behind QDQ counts like the float32 one, a bias not at all. The shapes are those of a run with one black
    image. None if the image has no fixed size, or if the file has an operator of UNCOUNTED.
    """
    products = [node for node in model.graph.node if node.op_type in COUNTS]
    sizes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.input]
    if UNCOUNTED & {node.op_type for node in model.graph.node} or not all(map(all, (size[1:] for size in sizes))):
        return None
    shapes = _shapes(model, products)
    return sum(
        COUNTS[node.op_type](node, [shapes.get(name, ()) for name in (*node.input, node.output[0])])
        for node in products
    )


def _shapes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the values that the nodes read and write, with a batch of one."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    values = {name for node in nodes for name in (*node.input, node.output[0]) if name} - shapes.keys()
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    names = sorted(values)
    measured.graph.node.extend(onnx.helper.make_node("Shape", [name], [PREFIX + name]) for name in names)
    del measured.graph.output[:]
    measured.graph.output.extend(
        onnx.helper.make_tensor_value_info(PREFIX + name, onnx.TensorProto.INT64, None) for name in names
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # copies no weights
    session = onnxruntime.InferenceSession(measured.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {value.name: _black(value) for value in model.graph.input}) if names else []
    return shapes | {name: tuple(map(int, shape)) for name, shape in zip(names, outputs, strict=True)}


def _black(value: onnx.ValueInfoProto) -> numpy.ndarray:
    tensor = value.type.tensor_type
    shape = [1, *(size.dim_value for size in tensor.shape.dim[1:])]
    return numpy.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every output sums over the channels and places of a filter."""
    return math.prod(shapes[-1]) * math.prod(shapes[1][1:])


def _transposed_convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every input is spread over the channels and places of a filter."""
    return math.prod(shapes[0]) * math.prod(shapes[1][1:])


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = _attribute(node, "transA")
    return math.prod(shapes[-1]) * shapes[0][0 if transposed is not None and transposed.i else -1]


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every step of the sequence multiplies with all weights, those for the input and those for the state."""
    (length, batch, _), of_input, of_state = shapes[:3]
    return length * batch * (math.prod(of_input) + math.prod(of_state))


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every combination of indices is one product, summed or not."""
    equation = _attribute(node, "equation")
    assert equation is not None  # ONNX requires it
    terms = equation.s.decode().replace(" ", "").partition("->")[0].split(",")
    sizes: dict[object, int] = {}
    for term, shape in zip(terms, shapes, strict=False):
        before, _, after = term.partition("...")
        hidden = range(len(shape) - len(before) - len(after), 0, -1)  # places of the dots, counted from their end
        for index, size in zip([*before, *hidden, *after], shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    return math.prod(sizes.values())


COUNTS: Mapping[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _product,
    "MatMul": _product,
    "MatMulInteger": _product,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Einsum": _einsum,
}
