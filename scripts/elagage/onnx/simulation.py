"""A float32 model that rounds what its int8 file rounds, in all layers or in some: fake quantization of a graph.

Made in milliseconds, where ONNX Runtime's quantizer takes seconds for each file.
"""

from collections.abc import Collection

import onnx
import onnxruntime

from elagage.onnx.float32_layers import int8_layers
from elagage.onnx.qdq import dequantized_weights, known_ranges

ROUNDED = ".rounded"  # after the name of a tensor, of the same rounded


class Simulation:
    """The model of an int8 file of mode static, in float32.

    Attributes:
        layers: those that the file has in int8, by name.
    """

    def __init__(self, float32: onnx.ModelProto, int8: onnx.ModelProto, operators: str):
        """operators: of OPERATORS, those that are int8 in the file."""
        self._float32 = float32
        self.layers = int8_layers(float32, int8, operators)
        self._ranges = known_ranges(int8)
        self._weights = dequantized_weights(int8)

    def rounding(self, names: Collection[str]) -> onnx.ModelProto:
        """Return the model that rounds in the layers of these names: their weights, what they take, and their results.

        A tensor that one of them rounds is rounded for all.
        """
        nodes = {node for name in names for node in self.layers[name].nodes}
        inside = [node for node in self._float32.graph.node if node.name in nodes]
        rounded = {name for node in inside for name in (*node.input, *node.output) if name in self._ranges}
        model = onnx.ModelProto()
        model.CopyFrom(self._float32)
        graph = model.graph
        computed = {output for node in graph.node for output in node.output}
        written = [made for name in sorted(rounded - computed) for made in self._round(graph, name)]
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name in rounded or (node.name in nodes and name in self._weights):
                    node.input[place] = name + ROUNDED
            written.append(node)
            written += [made for name in node.output if name in rounded for made in self._round(graph, name)]
        used = {name for node in written for name in node.input}
        for name, weight in self._weights.items():
            if name + ROUNDED in used:
                graph.initializer.append(onnx.numpy_helper.from_array(weight, name + ROUNDED))
        del graph.node[:]
        graph.node.extend(written)
        return model

    def _round(self, graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that round a tensor, whose range becomes a part of the graph."""
        parameters = [f"{name}{ROUNDED}_{ending}" for ending in ("scale", "zero_point")]
        for parameter, value in zip(parameters, self._ranges[name].values(), strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(value, parameter))
        return [
            onnx.helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}{ROUNDED}_levels"]),
            onnx.helper.make_node("DequantizeLinear", [f"{name}{ROUNDED}_levels", *parameters], [name + ROUNDED]),
        ]


def simulating_session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Return a session of the content of a file that computes in float32 between the roundings.

    Any other would make int8 of it again.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
