"""Second moments of what the weights of an ONNX graph are multiplied with, from images."""

import collections
import math
from collections.abc import Iterator, Mapping

import numpy
import onnx

from elagage.onnx.runtime import session

MOST_INPUTS = 8192  # of a weight's group: the moments of so many take 0.5 GB, in float64
POSITIONS_PER_INPUT = 4
FEWEST_POSITIONS = 5000
MEMORY = 600e6  # bytes of moments that are summed up in one pass over the images
FIRST_BATCH = 8  # images, which tell how much memory one takes
BATCH_MEMORY = 200e6  # bytes of inputs that are kept at once


class Moments:
    """Means and mean products of a weight's inputs, over positions.

    Positions are places of a convolution's output, or rows of a matrix product. A layer that is not grouped has one
    group; inputs are in the order of the weight's rows.
    """

    def __init__(self, groups: int, inputs: int):
        self.positions = 0
        self.origin: numpy.ndarray | float = 0.0  # near the mean, so that float32 can tell products apart
        self.sums = numpy.zeros((groups, inputs))
        self.products = numpy.zeros((groups, inputs, inputs))

    def add(self, sample: numpy.ndarray) -> None:
        """Add some positions, float32 [positions, groups * inputs]."""
        sample = sample.reshape(len(sample), *self.sums.shape).swapaxes(0, 1)
        if not self.positions:
            self.origin = sample.mean(1, keepdims=True)
        self.positions += sample.shape[1]
        sample = sample - self.origin
        self.sums += sample.sum(1, dtype=numpy.float64)
        self.products += sample.swapaxes(1, 2) @ sample

    @property
    def mean(self) -> numpy.ndarray:
        """The mean input, float64 [groups, inputs]."""
        return self.sums / self.positions + numpy.squeeze(self.origin, 1)

    def mean_products(self, centred: bool) -> numpy.ndarray:
        """Return the mean products of two inputs, float32 [groups, inputs, inputs]; centred, their covariances."""
        rest = self.sums / self.positions
        found = self.products / self.positions - rest[:, :, None] * rest[:, None]
        if not centred:
            found += self.mean[:, :, None] * self.mean[:, None]
        return found.astype(numpy.float32)


def layers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that multiply with each weight, of weights that only convolutions and matrix products have.

    Weights of more than MOST_INPUTS inputs are left out.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    users = collections.defaultdict(list)
    for node in model.graph.node:
        for name in {*node.input} & shapes.keys():
            users[name].append(node)
    found = {}
    for name, nodes in users.items():
        alike = len({(groups(node), output_axis(node)) for node in nodes}) == 1
        known = alike and all(_multiplies(node, name, shapes[name]) for node in nodes)
        if known and inputs(nodes[0], shapes[name]) <= MOST_INPUTS:
            found[name] = nodes
    return found


def rows(node: onnx.NodeProto, weight: numpy.ndarray) -> numpy.ndarray:
    """Return a weight as a view [groups, outputs, inputs]."""
    if node.op_type == "Conv":
        return weight.reshape(groups(node), len(weight) // groups(node), -1)
    return (weight.T if output_axis(node) else weight)[None]


def output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a weight, of those in `layers`, along which the outputs differ."""
    return 0 if node.op_type == "Conv" or _attributes(node).get("transB") else 1


def scaled(node: onnx.NodeProto) -> bool:
    """Whether a layer multiplies its sum, or its bias, with a number."""
    return any(_attributes(node).get(name, 1.0) != 1.0 for name in ("alpha", "beta"))


def groups(node: onnx.NodeProto) -> int:
    """Return the number of groups of a layer."""
    return _attributes(node).get("group", 1)


def inputs(node: onnx.NodeProto, shape: tuple[int, ...]) -> int:
    """Return how many inputs each output of a layer sums over."""
    if node.op_type == "Conv":
        return math.prod(shape[1:])
    return shape[1 - output_axis(node)]


def input_moments(
    model: onnx.ModelProto, weights: Mapping[str, list[onnx.NodeProto]], images: numpy.ndarray
) -> Iterator[tuple[str, Moments]]:
    """Yield the moments of each weight's inputs; weights: some of `layers`; images: uint8 [n, channels, height, width].

    Of a seeded sample of positions, POSITIONS_PER_INPUT for each input. Weights are taken together as memory permits.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    together: dict[str, Moments] = {}
    for number, (name, nodes) in enumerate(weights.items(), 1):
        size = (groups(nodes[0]), inputs(nodes[0], shapes[name]))
        together[name] = Moments(*size)
        taken = sum(moments.products.nbytes for moments in together.values())
        if taken > MEMORY or number == len(weights):
            _add(model, {name: weights[name] for name in together}, shapes, images, together)
            yield from together.items()
            together = {}


def _add(
    model: onnx.ModelProto,
    weights: Mapping[str, list[onnx.NodeProto]],
    shapes: Mapping[str, tuple[int, ...]],
    images: numpy.ndarray,
    found: Mapping[str, Moments],
) -> None:
    """Add what the images make of the weights' inputs to their moments."""
    names = sorted({node.input[0] for nodes in weights.values() for node in nodes})
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    running = session(watched.SerializeToString(), 1)
    generator = numpy.random.default_rng(0)
    start, size = 0, FIRST_BATCH
    while start < len(images):
        batch = images[start : start + size]
        values = dict(zip(names, running.run(None, {model.graph.input[0].name: batch}), strict=True))
        for name, nodes in weights.items():
            wanted = max(FEWEST_POSITIONS, POSITIONS_PER_INPUT * inputs(nodes[0], shapes[name]))
            count = math.ceil(wanted * len(batch) / len(images) / len(nodes))
            for node in nodes:
                found[name].add(_sample(node, values[node.input[0]], shapes[name], count, generator))
        start += len(batch)
        taken = sum(value.nbytes for value in values.values()) / len(batch)
        size = max(1, round(BATCH_MEMORY / taken))
        del values  # before the next are computed


def _multiplies(node: onnx.NodeProto, weight: str, shape: tuple[int, ...]) -> bool:
    """Whether a node multiplies its first input with the weight, in a way that is known here."""
    if [*node.input].count(weight) > 1 or len(node.input) < 2 or node.input[1] != weight:
        return False
    attributes = _attributes(node)
    if node.op_type == "Conv":
        return attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    return (node.op_type == "MatMul" and len(shape) == 2) or (node.op_type == "Gemm" and not attributes.get("transA"))


def _attributes(node: onnx.NodeProto) -> dict:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _sample(
    node: onnx.NodeProto, values: numpy.ndarray, shape: tuple[int, ...], count: int, generator: numpy.random.Generator
) -> numpy.ndarray:
    """Return what a layer multiplies at some positions, [positions, groups * inputs], or at all if there are fewer."""
    if node.op_type == "Conv":
        values = _patches(node, values, shape[2:])
        places, order = [len(values), *values.shape[2 : len(shape)]], (0, *range(2, len(shape)), 1)
        values = values.transpose(*order, *range(len(shape), values.ndim))
    else:
        values = values.reshape(-1, values.shape[-1])
        places = [len(values)]
    drawn = generator.permutation(math.prod(places))[:count]
    return values[numpy.unravel_index(drawn, places)].reshape(len(drawn), -1)


def _patches(node: onnx.NodeProto, images: numpy.ndarray, kernel: tuple[int, ...]) -> numpy.ndarray:
    """Return a view of what a convolution multiplies at each place of its output: [n, channels, *output, *kernel]."""
    attributes, sides = _attributes(node), len(kernel)
    pads = attributes.get("pads", [0] * 2 * sides)
    strides, dilations = (attributes.get(name, [1] * sides) for name in ("strides", "dilations"))
    padded = numpy.pad(images, [(0, 0), (0, 0), *zip(pads[:sides], pads[sides:], strict=True)])
    window = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    view = numpy.lib.stride_tricks.sliding_window_view(padded, window, axis=tuple(range(2, 2 + sides)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    return view[(slice(None), slice(None), *steps)]
