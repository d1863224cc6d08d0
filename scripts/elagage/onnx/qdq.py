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
