"""Fake quantization: a network in PyTorch that rounds weights and activations where its int8 ONNX file does.

The places are read from the QDQ file that ONNX Runtime's quantizer makes, and put into the program that its graph was
exported from. Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", https://arxiv.org/abs/1712.05877.
"""

import copy
import operator
from collections.abc import Callable

import numpy
import onnx
import torch
from torch import fx, nn

from elagage.onnx.graph import INPUT, OUTPUT, PREPROCESS, initializer_name
from elagage.onnx.pooling import FLAT
from elagage.onnx.qdq import QdqPlaces
from elagage.pytorch.export import NETWORK
from elagage.rounding import SMALLEST_RANGE

aten = torch.ops.aten
LAYERS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default)
BATCHNORM = aten._native_batch_norm_legit_no_training.default
RANGE_OF = "range of "
WEIGHT_LEVELS = 64  # int8 weights are -64 to 64, as ONNX Runtime makes them with reduce_range
ACTIVATION_LEVELS = 255  # uint8
RANGE_MOMENTUM = 0.01  # share of the newest batch in an activation's range


class FakeQuantize(nn.Module):
    """Round an activation to uint8; in training its range follows the batches, from a calibrated one."""

    def __init__(self, scale: float, zero_point: int):
        super().__init__()
        self.register_buffer("low", torch.tensor(-zero_point * scale))
        self.register_buffer("high", torch.tensor((ACTIVATION_LEVELS - zero_point) * scale))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values, float32 of any shape, rounded and clipped; gradients pass where nothing was clipped."""
        if self.training:
            low, high = torch.aminmax(values.detach())
            self.low.lerp_(low.clamp(max=0), RANGE_MOMENTUM)
            self.high.lerp_(high.clamp(min=0), RANGE_MOMENTUM)
        return self.round(values)

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values rounded; the range does not change."""
        return torch.fake_quantize_per_tensor_affine(values, *self.scale_and_zero_point(), 0, ACTIVATION_LEVELS)

    def scale_and_zero_point(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scale, float32 [], and the zero point, int32 []."""
        scale = (self.high - self.low) / ACTIVATION_LEVELS
        scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)  # as ONNX Runtime for a constant 0
        return scale, torch.round(-self.low / scale).to(torch.int32)


def fake_quantize_weight(weight: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Return the weight rounded to 7 bits, symmetric, with a scale for each index of the axis, or one for all.

    A weight of zero stays exactly zero.
    """
    dims = [dim for dim in range(weight.ndim) if axis is None or dim != axis % weight.ndim]
    low, high = weight.detach().amin(dims).clamp(max=0), weight.detach().amax(dims).clamp(min=0)
    scale = torch.maximum(-low, torch.maximum(high, low + SMALLEST_RANGE)) / WEIGHT_LEVELS
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(weight, scale, zero_point, -WEIGHT_LEVELS, WEIGHT_LEVELS)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, axis, -WEIGHT_LEVELS, WEIGHT_LEVELS)


def fold_batchnorm(weight, bias, scale, shift, mean, variance, epsilon) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of a convolution or linear layer that computes the batch norm after it, too.

    weight: [channels, ...]; all others: [channels], of which bias, scale and shift may be None.
    """
    factor = torch.rsqrt(variance + epsilon)
    factor = factor if scale is None else factor * scale
    folded = weight * factor.view(-1, *[1] * (weight.ndim - 1))
    shifted = (-mean if bias is None else bias - mean) * factor
    return folded, shifted if shift is None else shifted + shift


class FakeQuantizedNetwork(nn.Module):
    """A network that rounds weights and activations as its int8 ONNX file does.

    It takes normalized images, float32 [n, channels, height, width], and returns logits, float32 [n, classes]. Batch
    norm keeps its running statistics, and is folded where the file has it folded. `network`, whose parameters are
    trained, is the network as it came, so that its state dict is that of a checkpoint.
    """

    def __init__(
        self, network: nn.Module, program: torch.export.ExportedProgram, float32: onnx.ModelProto, places: QdqPlaces
    ):
        super().__init__()
        self.network = network
        self.ranges = nn.ModuleDict()  # "range of <tensor>": a bare name may be that of a method of ModuleDict
        self.graph = copy.deepcopy(program.graph)
        self.targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
        self.constants = {target: f"constant{number}" for number, target in enumerate(program.constants)}
        for target, name in self.constants.items():
            self.register_buffer(name, program.constants[target], persistent=False)
        nodes = self._nodes()
        for name, axis in places.weights.items():
            if name in nodes:  # those of layers, which may need folding first, come below
                _insert_after(nodes[name], fake_quantize_weight, axis, but=LAYERS)
        _fold(self.graph, nodes, {node.output[0] for node in float32.graph.node if node.op_type in ("Conv", "Gemm")})
        _fake_quantize_weights(self.graph, nodes[INPUT])
        for name, (scale, zero_point) in places.ranges.items():
            if name in nodes:
                self.ranges[RANGE_OF + name] = FakeQuantize(scale, zero_point)
                self._round_after(nodes[name], name, "__call__")
        for name, owner in places.followers.items():
            if name in nodes and RANGE_OF + owner in self.ranges:
                self._round_after(nodes[name], owner, "round")
        self.graph.eliminate_dead_code()

    def _nodes(self) -> dict[str, fx.Node]:
        """Return the program's nodes by their names in the ONNX graph, with the images in place of the normalized."""
        nodes, images, normalized = {}, None, None
        for node in self.graph.nodes:
            target = self.targets.get(node.name)
            if node.op == "placeholder" and target is None:
                images = node
            elif node.op == "placeholder":
                nodes[initializer_name(target.removeprefix(NETWORK))] = node
            elif node.op == "output":
                nodes[OUTPUT] = node.args[0][0]
            else:
                nodes[node.name] = node
            if PREPROCESS in (path for path, _ in node.meta.get("nn_module_stack", {}).values()):
                normalized = node
            if node.target == aten.view.default:  # was traced with another memory format than that of training
                node.target = aten.reshape.default
            # Operators of prims, which the exporter makes of var and std, have no gradients.
            node.target = getattr(node.target, "impl_aten", node.target)
        nodes |= {f"{name}{FLAT}": node for name, node in nodes.items()}
        normalized.replace_all_uses_with(images)
        nodes[normalized.name] = nodes[INPUT] = images
        return nodes

    def _round_after(self, node: fx.Node, owner: str, method: str) -> None:
        """Let all that uses the node use it rounded to the owner's range; method: of FakeQuantize."""
        with self.graph.inserting_after(node):
            rounding = self.graph.create_node("get_attr", f"ranges.{RANGE_OF}{owner}")
        with self.graph.inserting_after(rounding):
            result = self.graph.call_method(method, (rounding, node))
        node.replace_all_uses_with(result, lambda user: user is not result)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits; without autocast, because bfloat16 cannot tell 256 levels apart."""
        return self._run(fx.Interpreter, images)

    def without_fake_quantization(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits as forward does, but with nothing rounded: those of the float32 network."""
        return self._run(_WithoutFakeQuantization, images)

    def _run(self, interpreter: type[fx.Interpreter], images: torch.Tensor) -> torch.Tensor:
        inputs = [self._input(node, images) for node in self.graph.find_nodes(op="placeholder")]
        with torch.autocast(images.device.type, enabled=False):
            return interpreter(self, graph=self.graph).run(*inputs)[0]

    def _input(self, node: fx.Node, images: torch.Tensor) -> torch.Tensor | None:
        target = self.targets[node.name]
        if target is None:
            return images
        if not node.users:  # among them mean and deviation of the images
            return None
        return operator.attrgetter(self.constants.get(target, target))(self)

    def trained_ranges(self) -> dict[str, dict[str, numpy.ndarray]]:
        """Return scale and zero point of each activation as quantization.quantize takes them."""
        ranges = {}
        for name, module in self.ranges.items():
            scale, zero_point = (value.cpu().numpy() for value in module.scale_and_zero_point())
            ranges[name.removeprefix(RANGE_OF)] = {"scale": scale, "zero_point": zero_point.astype(numpy.uint8)}
        return ranges


class _WithoutFakeQuantization(fx.Interpreter):
    def call_function(self, target, args, kwargs):
        return args[0] if target is fake_quantize_weight else super().call_function(target, args, kwargs)

    def call_method(self, target, args, kwargs):
        return args[1] if isinstance(args[0], FakeQuantize) else super().call_method(target, args, kwargs)


def _insert_after(node: fx.Node, function: Callable, *arguments, but: tuple = ()) -> None:
    """Let all that uses the node use function(node, *arguments) instead, but for calls of certain operators."""
    with node.graph.inserting_after(node):
        result = node.graph.call_function(function, (node, *arguments))
    node.replace_all_uses_with(result, lambda user: user is not result and user.target not in but)


def _fold(graph: fx.Graph, nodes: dict[str, fx.Node], layer_outputs: set[str]) -> None:
    """Fold each batch norm whose output is, in the ONNX graph, that of a layer; `nodes` is kept up to date."""
    for norm in graph.find_nodes(op="call_function", target=BATCHNORM):
        layer = norm.args[0]
        output = next(user for user in norm.users if user.args[1] == 0)
        names = {name for name, node in nodes.items() if node is output}
        if layer.target not in LAYERS or not names & layer_outputs:
            continue
        images, weight, bias, *rest = layer.args if len(layer.args) > 2 else (*layer.args, None)
        with graph.inserting_before(layer):
            folded = graph.call_function(fold_batchnorm, (weight, bias, *norm.args[1:5], norm.args[6]))
            weight, bias = (graph.call_function(operator.getitem, (folded, index)) for index in range(2))
        layer.args = images, weight, bias, *rest
        output.replace_all_uses_with(layer)
        nodes |= dict.fromkeys(names, layer)


def _fake_quantize_weights(graph: fx.Graph, images: fx.Node) -> None:
    """Round the weights of layers, a scale for each output channel, unless they depend on the images."""
    varying = {images}
    for node in list(graph.nodes):
        if not varying.isdisjoint(node.all_input_nodes):
            varying.add(node)
        if node.target in LAYERS and node.args[1] not in varying:
            with graph.inserting_before(node):
                rounded_weight = graph.call_function(fake_quantize_weight, (node.args[1], 0))
            node.update_arg(1, rounded_weight)
