"""Weights on a few levels in an int8 file: as fast as any int8 file, and packed to half or less."""

import math
from collections import Counter
from collections.abc import Container
from typing import NamedTuple

import numpy
import onnx

from elagage.job import say
from elagage.onnx.contents import Weight, end_weights, listed
from elagage.onnx.layer_inputs import input_moments, layers, output_axis, rows, scaled
from elagage.onnx.qdq import QdqPlaces
from elagage.rounding import round_weight

MENTIONED = 0.5  # share of the weights that keep more levels, above which the user is told


class FewBits(NamedTuple):
    """A float32 model whose layers have weights on few levels, and their scales.

    scales: weight -> what the option TensorQuantOverrides of ONNX Runtime's quantizer takes.
    """

    model: onnx.ModelProto
    scales: dict[str, list[dict]]


def round_layers(model: onnx.ModelProto, places: QdqPlaces, images: numpy.ndarray, largest: int) -> FewBits:
    """Round the weights of layers to levels from -largest to largest times a scale for each output channel.

    As round_weight does, for the inputs that images, uint8 [n, channels, height, width], give a layer in the float32
    network; a bias that is of this weight alone takes what the mean output moves. The first and the last layers stay as
    they are: they are small, and at 4 bits networks lose most there (Zhou et al. 2016, "DoReFa-Net",
    https://arxiv.org/abs/1606.06160). So do weights that ONNX Runtime does not make int8 with a scale for each output
    channel, and those of other operators than convolutions and matrix products. places: of the model in mode `static`.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in rounded.graph.initializer}
    uses, ends = Counter(name for node in model.graph.node for name in node.input), end_weights(model)
    chosen = {
        name: nodes
        for name, nodes in layers(model).items()
        if name not in ends and places.weights.get(name) == output_axis(nodes[0])
    }
    _tell_left(model, places, chosen)
    scales = {}
    for name, moments in input_moments(model, chosen, images):
        node, tensor = chosen[name][0], tensors[name]
        bias = tensors.get(node.input[2]) if len(node.input) > 2 else None
        if bias is not None and (uses[name] > 1 or uses[bias.name] > 1 or scaled(node)):
            bias = None
        weight = onnx.numpy_helper.to_array(tensor).copy()
        view = rows(node, weight)
        found = round_weight(view, moments.mean_products(centred=bias is not None), largest, moments.positions)
        if bias is not None:
            moved = numpy.einsum("goi,gi->go", view - found.weight, moments.mean).ravel()
            shifted = onnx.numpy_helper.to_array(bias) + moved.astype(numpy.float32)
            bias.CopyFrom(onnx.numpy_helper.from_array(shifted, bias.name))
        view[...] = found.weight
        tensor.CopyFrom(onnx.numpy_helper.from_array(weight, name))
        scales[name] = [{"scale": scale, "zero_point": numpy.int8(0)} for scale in found.scales.ravel()]
        scales[name][0]["axis"] = places.weights[name]
    return FewBits(rounded, scales)


def _tell_left(model: onnx.ModelProto, places: QdqPlaces, chosen: Container[str]) -> None:
    """Print which weights keep the levels of mode `static`, and tell the user if they are a large part."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.name in places.weights}
    left = [Weight(name, size, 0, int8=True) for name, size in sizes.items() if name not in chosen]
    share = sum(weight.size for weight in left) / max(1, sum(sizes.values()))
    names = listed(sorted(left, key=lambda weight: -weight.size))
    (say if share > MENTIONED else print)(f"{share:.1%} of the weights keep the levels of static: {names}")
