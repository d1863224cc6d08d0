"""Weights on a few levels in an int8 file: as fast as any int8 file, and packed to half or less."""

from collections import Counter
from typing import NamedTuple

import numpy
import onnx

from elagage.onnx.layer_inputs import input_moments, layers, output_axis, rows
from elagage.onnx.qdq import QdqPlaces
from elagage.onnx.rounding import round_weight


class FewBits(NamedTuple):
    """A float32 model whose layers have weights on few levels, and their scales.

    scales: weight -> what the option TensorQuantOverrides of ONNX Runtime's quantizer takes.
    """

    model: onnx.ModelProto
    scales: dict[str, list[dict]]


def round_layers(model: onnx.ModelProto, places: QdqPlaces, images: numpy.ndarray, largest: int) -> FewBits:
    """Round the weights of layers to levels from -largest to largest times a scale for each output channel.

    As round_weight does, for the inputs that images, uint8 [n, channels, height, width], give a layer in the float32
    network; the bias takes what the mean output moves. The first and the last layer stay as they are: they are small,
    and at 4 bits networks lose most there (Zhou et al. 2016, "DoReFa-Net", https://arxiv.org/abs/1606.06160). So do
    weights that ONNX Runtime does not make int8 with a scale for each output channel, and those of other operators than
    convolutions and matrix products. places: of the model in mode `static`.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in rounded.graph.initializer}
    users, uses = layers(model), Counter(name for node in model.graph.node for name in node.input)
    inner = [name for name in users if name in places.weights][1:-1]
    chosen = {name: users[name] for name in inner if places.weights[name] == output_axis(users[name][0])}
    scales = {}
    for name, moments in input_moments(model, chosen, images):
        node, tensor = users[name][0], tensors[name]
        bias = tensors.get(node.input[2]) if len(node.input) > 2 else None
        if bias is not None and uses[bias.name] > 1:
            bias = None
        weight = onnx.numpy_helper.to_array(tensor).copy()
        view = rows(node, weight)
        found = round_weight(view, moments.mean_products(centred=bias is not None), largest)
        if bias is not None:
            moved = numpy.einsum("goi,gi->go", view - found.weight, moments.mean).ravel()
            shifted = onnx.numpy_helper.to_array(bias) + moved.astype(numpy.float32)
            bias.CopyFrom(onnx.numpy_helper.from_array(shifted, bias.name))
        view[...] = found.weight
        tensor.CopyFrom(onnx.numpy_helper.from_array(weight, name))
        scales[name] = [{"scale": scale, "zero_point": numpy.int8(0)} for scale in found.scales.ravel()]
        scales[name][0]["axis"] = places.weights[name]
    return FewBits(rounded, scales)
