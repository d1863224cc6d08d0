"""Layers of a network, and which of them stay float32 in an int8 file."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy
import onnx
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from elagage.modes import OPERATORS
from elagage.onnx.contents import PRODUCTS, WEIGHT_INPUTS, subgraphs
from elagage.onnx.graph import PREPROCESS

CONVOLUTIONS = ("Conv", "ConvTranspose")
FOLLOWING = ("Relu", "Clip")  # what int8 has in the layer before
# Operators whose results are values that they take, on the same levels.
MOVES = {"Flatten", "Gather", "MaxPool", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
NORMS = ("LayerNormalization", "InstanceNormalization", "BatchNormalization")
GATHERS = ("Gather", "GatherElements")
MASK = -1000  # and below: added to a score, or instead of one, so that softmax makes 0 of it
KEEPS_MASKED = MOVES | {"Add", "Cast", "Concat", "Expand", "Mul", "Sub", "Where"}
OWN_SCALES = ".float32"  # after the name of a tensor, of the same with a scale for each channel


class Layer(NamedTuple):
    """The nodes that use a weight, or a node without one, each with the ReLU that follows."""

    nodes: list[str]  # names
    kind: str  # what ONNX Runtime has the same kernel for


def named_layers(model: onnx.ModelProto) -> dict[str, Layer]:
    """Return the layers of a float32 model, by the name of the weight or, of what has none, of the result.

    Of two graphs of the same network the names are the same.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, Layer] = {}
    of_node: dict[str, Layer] = {}
    for node in model.graph.node:
        if node.name.startswith(PREPROCESS):
            continue
        before = producers.get(node.input[0]) if node.input else None
        if node.op_type in FOLLOWING and before is not None and before.name in of_node:
            of_node[before.name].nodes.append(node.name)
            continue
        weights = [node.input[place] for place in WEIGHT_INPUTS.get(node.op_type, ()) if node.input[place] in shapes]
        name = weights[0] if weights else node.output[0]
        first = before is None or before.name.startswith(PREPROCESS)
        layer = found.setdefault(name, Layer([], _kind(node, shapes.get(name), first)))
        layer.nodes.append(node.name)
        of_node[node.name] = layer
    return found


def _kind(node: onnx.NodeProto, shape: tuple[int, ...] | None, first: bool) -> str:
    if node.op_type not in CONVOLUTIONS or shape is None:
        return node.op_type if shape or node.op_type != "MatMul" else "MatMul of activations"
    groups = _attribute(node, "group", 1)
    widens = node.op_type == "Conv" and shape[1] == 1
    depthwise = "depthwise" if groups == shape[0] else "widening depthwise" if widens else "grouped"
    parts = ["first" if first else "", "" if groups == 1 else depthwise, node.op_type, "x".join(map(str, shape[2:]))]
    return " ".join(filter(None, parts))


def int8_layers(float32: onnx.ModelProto, int8: onnx.ModelProto, operators: str) -> dict[str, Layer]:
    """Return the layers of a float32 model that its int8 file has in int8, without those that only move values.

    operators: of OPERATORS, those that became int8.
    """
    types = OPERATORS[operators].types or [*QDQRegistry, *QLinearOpsRegistry]
    producers = {output: node for node in int8.graph.node for output in node.output}
    rounded = {
        node.name
        for node in int8.graph.node
        if node.op_type in types and node.op_type not in MOVES
        for name in node.input
        if name in producers and producers[name].op_type == "DequantizeLinear" and not name.endswith(OWN_SCALES)
    }
    return {name: layer for name, layer in named_layers(float32).items() if layer.nodes[0] in rounded}


def nodes_of(model: onnx.ModelProto, names: Collection[str]) -> Iterator[str]:
    """Yield the names of the nodes of these layers of a float32 model."""
    for name, layer in named_layers(model).items():
        if name in names:
            yield from layer.nodes


def widening(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the names of the layers that make several channels of each one, by itself.

    ONNX Runtime multiplies their int8 matrices channel by channel: in a FastViT-T8 for 224x224 pixels one, 7x7 from 48
    to 96 channels, takes 7.4 ms where float32 takes 0.6 ms.
    """
    for name, layer in named_layers(model).items():
        if "widening" in layer.kind:
            yield name


def unsupported(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the names of the nodes of which ONNX Runtime's quantizer makes files that compute something else, or none.

    Nodes that share a weight whose channels are along another axis in each: the kernels take the scales along the one
    axis for both; and rows that are chosen of such a weight get its scales along the wrong axis. Clip between bounds of
    the same sign, which is left out as if the range of uint8, in which zero is, did the same. Norms, whose weights lose
    their levels to biases in 32 bits if they take small values. What makes masked scores, and takes them: beside the
    -1e4 or -3e38 of a mask, all others would be on one level. Transposed convolutions in groups with a bias, where the
    quantizer fails.
    """
    yield from masking(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for place in WEIGHT_INPUTS.get(node.op_type, ()):
            if node.input[place] in constants:
                users.setdefault(node.input[place], []).append(node)
        if (
            (node.op_type == "Clip" and not _clips_at_zero(node, constants))
            or (node.op_type == "ConvTranspose" and _attribute(node, "group", 1) > 1 and len(node.input) > 2)
            or node.op_type in NORMS
        ):
            yield node.name
    yield from (node.name for node in model.graph.node if node.op_type in GATHERS and node.input[0] in users)
    for name, nodes in users.items():
        if len({_output_axis(node, len(constants[name].dims)) for node in nodes}) > 1:
            yield from (node.name for node in nodes)


def masking(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the names of the nodes whose values are those of a mask, or have some of a mask among them."""
    constants = (tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    masks = {tensor.name for tensor in constants if _lowest(tensor) <= MASK}
    masked: set[str] = set()  # values
    for node in model.graph.node:
        passes_on = node.op_type in KEEPS_MASKED
        if masked.isdisjoint(_taken(node)) and not (passes_on and not masks.isdisjoint(node.input)):
            continue
        if passes_on:
            masked.update(node.output)
        yield node.name


def _lowest(tensor: onnx.TensorProto) -> float:
    return float(onnx.numpy_helper.to_array(tensor).min(initial=0.0))


def _clips_at_zero(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether zero is between the bounds of a Clip, which may be missing, as far as they are constants."""
    low, high = [*node.input[1:], "", ""][:2]
    if not {low, high} - {""} <= constants.keys():
        return False
    below = not low or onnx.numpy_helper.to_array(constants[low]) <= 0
    return bool(below and (not high or onnx.numpy_helper.to_array(constants[high]) >= 0))


def _output_axis(node: onnx.NodeProto, rank: int) -> int:
    """Return the axis of a weight of this rank along which its scales differ."""
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(node.op_type, 0)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def answering(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the names of the nodes that only make the answer: no product follows them, and they are none.

    On 256 levels logits would often be equal: of 2,000 images, an EfficientNet-B0 for 64x64 pixels classifies 870
    otherwise with int8 logits, 662 with float32 ones, and one image takes as long.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in _answering(model):
        before = producers.get(node.input[0]) if node.input else None
        if not (node.op_type in FOLLOWING and before is not None and before.op_type in CONVOLUTIONS):
            yield node.name


def _answering(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    feeding: set[str] = set()  # values that a product follows
    nodes = []
    for node in reversed(model.graph.node):
        if _multiplies(node) or not feeding.isdisjoint(node.output):
            feeding.update(_taken(node))
        else:
            nodes.append(node)
    return nodes


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for graph in subgraphs(node):
        yield from graph.node


def _multiplies(node: onnx.NodeProto) -> bool:
    return node.op_type in PRODUCTS or any(map(_multiplies, _inner_nodes(node)))


def _taken(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the values that a node takes, those inside it too."""
    yield from node.input
    for inner in _inner_nodes(node):
        yield from _taken(inner)


def keep_answer(model: onnx.ModelProto) -> None:
    """Let the last matrix products of an int8 model have float32 results, where no other product follows them.

    The model is changed in place.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    uses = Counter(name for node in model.graph.node for name in _taken(node))
    removed: set[str] = set()
    for node in _answering(model):
        if node.op_type != "DequantizeLinear" or node.input[0] not in producers:
            continue
        rounding = producers[node.input[0]]
        product = producers.get(rounding.input[0])
        if product is None or product.op_type not in ("Gemm", "MatMul"):
            continue
        if uses[product.output[0]] == uses[rounding.output[0]] == 1:
            product.output[0] = node.output[0]
            removed |= {node.name, rounding.name}
    kept = [node for node in model.graph.node if node.name not in removed]
    used = {name for node in kept for name in _taken(node)}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    for field, values in ((model.graph.node, kept), (model.graph.initializer, constants)):
        del field[:]
        field.extend(values)


def keep_float32(model: onnx.ModelProto) -> None:
    """Let ONNX Runtime compute layers whose weights are float32 in float32, though what they take was rounded.

    Between a DequantizeLinear with one scale and a QuantizeLinear it rounds their weights itself when it loads the
    file, to 8 bits with one scale for all channels (its optimizer WeightBiasQuantization). So these layers get what
    they take from a DequantizeLinear with a scale for each channel, all equal. The model is changed in place.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    own: set[str] = set()
    for node in model.graph.node:
        source = producers.get(node.input[0]) if node.input else None
        if source is not None and source.op_type == "DequantizeLinear" and (channels := _channels(node, constants)):
            name = f"{source.input[0]}{OWN_SCALES}"
            if name not in own:
                own.add(name)
                nodes.append(_with_scales(source, name, channels, model.graph, constants))
            node.input[0] = name
        nodes.append(node)
    used = {name for node in nodes for name in _taken(node)} | {value.name for value in model.graph.output}
    kept = [node for node in nodes if not used.isdisjoint(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _with_scales(
    source: onnx.NodeProto, name: str, channels: int, graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]
) -> onnx.NodeProto:
    """Return a DequantizeLinear as the source, with its scale and zero point for each channel, that makes `name`."""
    parameters = []
    for ending, of_all in zip(("scale", "zero_point"), source.input[1:], strict=True):
        repeated = numpy.full(channels, onnx.numpy_helper.to_array(constants[of_all]))
        parameters.append(f"{name}_{ending}")
        graph.initializer.append(onnx.numpy_helper.from_array(repeated, parameters[-1]))
    return onnx.helper.make_node("DequantizeLinear", [source.input[0], *parameters], [name], name=name, axis=1)


def _channels(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> int:
    """Return how many channels a layer takes that ONNX Runtime would make int8, 0 for any other node."""
    if node.op_type not in (*CONVOLUTIONS, "Gemm") or node.input[1] not in constants:
        return 0
    dims = constants[node.input[1]].dims
    if node.op_type == "Conv":
        return dims[1] * _attribute(node, "group", 1)
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transA", 0) else dims[1] if _attribute(node, "transB", 0) else dims[0]
    return dims[0]
