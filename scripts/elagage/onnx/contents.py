"""What an ONNX file holds: counts of weights and operators, as stored, and whether its zeros are those of pruning."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy
import onnx

from elagage.errors import RefusedError
from elagage.job import say

# Inputs that may hold a weight, of each operator that multiplies and accumulates.
WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "DeformConv": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "ConvInteger": (1,),
    "MatMulInteger": (1,),
}
TOLERANCE = 0.002  # between the shares of zeros in checkpoint and file: folding lets a few tiny weights become 0
SHOWN = 5  # weights in a message
PRODUCTS = {*WEIGHT_INPUTS, "Einsum"}
INTEGER_ZERO_POINT_INPUT = 3  # of ConvInteger and MatMulInteger, both with the weight as input 1
INTEGER_AXIS = {"ConvInteger": 0, "MatMulInteger": -1}  # along which the zero points of the weight differ
# Operators whose result holds values of their first input, and no others but zeros: a weight may pass through them.
VIEWS = {
    "Cast",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the branches or the body of a node, which may take values of the main graph."""
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)


class Weight(NamedTuple):
    """A weight tensor as stored: an initializer that a product has as a factor."""

    name: str
    size: int  # elements
    zeros: int  # elements that stand for 0.0
    int8: bool  # stored in 8 bits


def count_contents(model: onnx.ModelProto) -> dict[str, int]:
    """Count weights and operators, as stored, of convolutions, recurrent layers and matrix products with a constant.

    weights, zeros: elements of the weight tensors, shared tensors once, and how many stand for 0.0; int8_weights: those
    stored in 8 bits; operators, int8_operators: how many operators there are and how many multiply 8-bit integers.
    """
    graph = _Graph(model.graph)
    weights = stored_weights(model)
    products = [node for node in model.graph.node if any(True for _ in graph.weights_of(node))]
    return {
        "weights": sum(weight.size for weight in weights),
        "zeros": sum(weight.zeros for weight in weights),
        "int8_weights": sum(weight.size for weight in weights if weight.int8),
        "operators": len(products),
        "int8_operators": sum(map(graph.multiplies_integers, products)),
    }


def stored_weights(model: onnx.ModelProto) -> list[Weight]:
    """Return the weight tensors of a model, each once, however many operators multiply with it."""
    graph = _Graph(model.graph)
    weights = {}
    for node in model.graph.node:
        for source in graph.weights_of(node):
            values = onnx.numpy_helper.to_array(graph.constants[source.name])
            zeros = int(numpy.count_nonzero(values == graph.zero(source, values)))
            weights[source.name] = Weight(source.name, values.size, zeros, values.dtype in (numpy.int8, numpy.uint8))
    return list(weights.values())


def end_weights(model: onnx.ModelProto) -> set[str]:
    """Return the weights of the first layers, which no other layer feeds, and of the last, which feed no other."""
    graph = _Graph(model.graph)
    products = {node.output[0]: {source.name for source in graph.weights_of(node)} for node in model.graph.node}
    ends: set[str] = set()
    for nodes, sources, results in (
        (model.graph.node, "input", "output"),
        (reversed(model.graph.node), "output", "input"),
    ):
        beyond: set[str] = set()  # values on the far side of a layer
        for node in nodes:
            weights, fed = products[node.output[0]], not beyond.isdisjoint(getattr(node, sources))
            if weights and not fed:
                ends |= weights
            if weights or fed:
                beyond |= {*getattr(node, results)}
    return ends


class _Source(NamedTuple):
    """An initializer from which the factor of a product comes."""

    name: str
    zero_point: str = ""  # what stands for 0.0 in it, "" for 0
    axis: int = 1  # along which there are several zero points


class _Graph:
    def __init__(self, graph: onnx.GraphProto):
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {output: node for node in graph.node for output in node.output}

    def weights_of(self, node: onnx.NodeProto) -> Iterator[_Source]:
        """Yield the weights among the factors of a node; none if it is no product, or one of activations."""
        for name in _factors(node):
            for source in self._sources(name):
                if node.op_type in INTEGER_AXIS and len(node.input) > INTEGER_ZERO_POINT_INPUT:
                    source = _Source(source.name, node.input[INTEGER_ZERO_POINT_INPUT], INTEGER_AXIS[node.op_type])
                yield source

    def _sources(self, name: str) -> Iterator[_Source]:
        if name in self.constants:
            yield _Source(name)
        elif (node := self.producers.get(name)) is None:
            return
        elif node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            yield _Source(node.input[0], node.input[2] if len(node.input) > 2 else "", axis)
        elif node.op_type in VIEWS | {"QuantizeLinear", "DequantizeLinear"}:
            yield from self._sources(node.input[0])
        elif node.op_type == "Concat":  # of activations and a constant it is none
            sources = [list(self._sources(value)) for value in node.input]
            yield from (source for found in sources for source in found if all(sources))
        elif node.op_type in ("Mul", "Div"):  # by one number, as in attention
            yield from self._scaled(node)

    def _scaled(self, node: onnx.NodeProto) -> Iterator[_Source]:
        for name, other in (node.input, reversed(node.input)):
            if other in self.constants and onnx.numpy_helper.to_array(self.constants[other]).size == 1:
                yield from self._sources(name)

    def zero(self, source: _Source, values: numpy.ndarray) -> numpy.ndarray:
        """Return what stands for 0.0 in the values, in a shape that can be compared with them."""
        if source.zero_point not in self.constants:
            return values.dtype.type(0)
        zero = onnx.numpy_helper.to_array(self.constants[source.zero_point])
        if zero.size == 1:
            return zero.reshape(())
        return numpy.expand_dims(zero, [axis for axis in range(values.ndim) if axis != source.axis % values.ndim])

    def multiplies_integers(self, node: onnx.NodeProto) -> bool:
        """Whether both factors are 8-bit: by the operator itself, or dequantized right before it (QDQ)."""
        if node.op_type in INTEGER_AXIS:
            return True
        producers = [self.producers.get(name) for name in node.input[:2]]
        return all(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers)


def _factors(node: onnx.NodeProto) -> list[str]:
    """Return the values that a node multiplies with others: those of an Einsum are all its inputs."""
    if node.op_type == "Einsum":
        return list(node.input)
    return [node.input[place] for place in WEIGHT_INPUTS.get(node.op_type, ())]


def check_zeros(model: onnx.ModelProto, provenance: Mapping) -> None:
    """Raise RefusedError if the file has fewer zeros than were counted when the checkpoint was pruned.

    Fewer is a smaller share of them, and a weight without any. Where each weight has some it is only said: a shared
    weight, which the file has once for each shape it is used in, may make the share smaller, too.
    """
    if "zeros" not in provenance:
        return
    counted = provenance["weights"] + sum(provenance.get("unpruned", {}).values())
    share, contents = provenance["zeros"] / counted, count_contents(model)
    stored = contents["zeros"] / contents["weights"]
    if share - stored <= TOLERANCE:  # more there may be: batch norm scales of 0 make filters of zeros
        return
    differs = (
        f"{stored:.2%} of the {contents['weights']} weights in the file are zero, not {share:.2%} as in the checkpoint "
        f"pruned at rate {provenance['rate']}"
    )
    left = sorted((weight for weight in stored_weights(model) if not weight.zeros), key=lambda weight: -weight.size)
    if left:
        raise RefusedError(f"{differs}: pruning does not reach {listed(left)}")
    say(f"{differs}: a weight is in the file several times, or one that pruning does not reach has zeros of its own")


def listed(weights: list[Weight]) -> str:
    """Return the names and sizes of the first weights, and how many more there are."""
    more = f" and {len(weights) - SHOWN} more" if len(weights) > SHOWN else ""
    return ", ".join(f"{weight.name} ({weight.size})" for weight in weights[:SHOWN]) + more
