"""What an int8 ONNX file rounds, read from its QuantizeLinear and DequantizeLinear nodes."""

import dataclasses

import numpy
import onnx


@dataclasses.dataclass(frozen=True)
class QdqPlaces:
    """What an int8 ONNX file rounds.

    ranges: tensor -> (scale, zero point) of uint8. followers: tensor -> the tensor whose range it shares, such as that
    of a maximum -> its input. weights: constant -> axis along which its scales differ, None if it has one.
    """

    ranges: dict[str, tuple[float, int]]
    followers: dict[str, str]
    weights: dict[str, int | None]


def qdq_places(model: onnx.ModelProto) -> QdqPlaces:
    """Read what a QDQ file of ONNX Runtime's quantizer rounds, by the names of the float32 graph."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    places = QdqPlaces({}, {}, {})
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        source, scale, zero_point = node.input[0], constants[node.input[1]], constants[node.input[2]]
        owner = node.input[1].removesuffix("_scale")
        if node.op_type == "QuantizeLinear":
            name = source.removesuffix("_QuantizeLinear_Input")
            if name == owner:
                places.ranges[name] = float(scale), int(zero_point)
            else:
                places.followers[name] = owner
        elif source in constants and constants[source].dtype == numpy.int8:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
            places.weights[owner] = axis if scale.ndim else None
    return places


def known_ranges(model: onnx.ModelProto) -> dict[str, dict[str, numpy.ndarray]]:
    """Return scale, float32, and zero point, uint8, of each tensor that a QDQ file rounds, shared ones too."""
    places = qdq_places(model)
    followed = {name: places.ranges[owner] for name, owner in places.followers.items() if owner in places.ranges}
    return {
        name: {"scale": numpy.array(scale, numpy.float32), "zero_point": numpy.array(zero_point, numpy.uint8)}
        for name, (scale, zero_point) in {**followed, **places.ranges}.items()
    }


def dequantized_weights(model: onnx.ModelProto) -> dict[str, numpy.ndarray]:
    """Return the weights of a QDQ file as float32 arrays, by the names of the float32 graph.

    Other constants too, such as what a layer scale multiplies with, which are uint8 there.
    """
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        levels = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if levels is None or levels.dtype not in (numpy.int8, numpy.uint8):
            continue
        scale, zero_point = constants[node.input[1]], constants[node.input[2]]
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if scale.ndim:
            others = [other for other in range(levels.ndim) if other != axis % levels.ndim]
            scale, zero_point = numpy.expand_dims(scale, others), numpy.expand_dims(zero_point, others)
        weight = (levels.astype(numpy.float32) - zero_point) * scale
        found[node.input[1].removesuffix("_scale")] = weight.astype(numpy.float32)
    return found
