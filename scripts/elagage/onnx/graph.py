"""ONNX graphs without PyTorch: exchange weights, fold batch norm."""

import collections
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence

import numpy
import onnx
import onnx_ir
from onnxscript import optimizer, rewriter
from onnxscript.optimizer import _constant_folding as constant_folding
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from elagage.checkpoints import read_checkpoint
from elagage.errors import UserError
from elagage.files import reading
from elagage.onnx.contents import PRODUCTS, VIEWS

WEIGHTS = "elagage_weights"  # metadata of an exported graph: the tensors that a checkpoint must have, as JSON
PREPROCESS = "elagage_preprocess"  # module, and prefix of the nodes, that normalize the image
NUMBER_BITS = 32  # that tell initializers apart
PADDED = "__padded"  # after the name of a tensor, before that of the average over it, of the same between zeros
FLAT = "__flat"  # after the name of a tensor, of the same without its last two axes
EXPORTED = "val_"  # before the number of a value that PyTorch's program does not name
# Of the names that ONNX Runtime's quantizer makes of others. If there is one already, it takes that for its own.
QUANTIZER_ENDINGS = ("_scale", "_zero_point", "_quantized", "_QuantizeLinear_Input", "_QuantizeLinear_Output")
UNTIED = ".use"  # between the name of a tensor and the number of a use that has a copy of its own
INPUT, OUTPUT = "image", "logits"  # of the graph
FUSE_BATCHNORM = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)


def initializer_name(tensor: str) -> str:
    """Return the name in the graph of a tensor of a state dict: its own, unless something else may have that name."""
    taken = tensor in (INPUT, OUTPUT) or tensor.startswith(f"{PREPROCESS}.") or tensor.endswith(QUANTIZER_ENDINGS)
    return f".{tensor}" if taken else tensor  # names in a state dict never start with a dot


def float32_model(graph: str | os.PathLike, checkpoint: str | os.PathLike) -> tuple[onnx.ModelProto, dict]:
    """Return the float32 model of an exported graph and a checkpoint, two files, and the checkpoint's provenance.

    Raises UserError if one is damaged, or if they do not fit.
    """
    state, provenance = read_checkpoint(checkpoint)
    with reading(graph):
        return with_weights(onnx_ir.load(graph), state), provenance


def with_weights(graph: onnx_ir.Model, state: Mapping[str, numpy.ndarray]) -> onnx.ModelProto:
    """Return the exported graph with the tensors of a state dict, constants folded and batch norm fused.

    Raises UserError if the state dict lacks a tensor of the graph, or has it in another shape.
    """
    for name in json.loads(graph.metadata_props[WEIGHTS]):
        if name not in state:
            raise UserError(f"the checkpoint lacks {name}, which the exported graph has; delete both and run again")
    tensors = {initializer_name(name): tensor for name, tensor in state.items()}
    for number, (name, value) in enumerate(graph.graph.initializers.items()):
        if name in tensors:
            if tuple(value.shape) != tensors[name].shape:
                raise UserError(f"{name} has shape {tensors[name].shape}, the exported graph {tuple(value.shape)}")
            value.const_value = onnx_ir.tensor(_told_apart(tensors[name], number), name=name)
    moved = _moved_weights(graph.graph)
    optimizer.optimize(graph)
    _fold_weights(graph)
    _name_as_moved(graph.graph, moved)
    _untie_batchnorm(graph.graph)
    rewriter.rewrite(graph, pattern_rewrite_rules=FUSE_BATCHNORM)
    _pool_globally(graph.graph)
    _count_as_pytorch(graph.graph)
    _plain_biases(graph.graph)
    for value in graph.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype == numpy.float32:
            # Folding a negative scale turned pruned weights into -0.0, whose signs would not compress.
            value.const_value = onnx_ir.tensor(array + numpy.float32(0), name=value.name)
    _join_equal(graph.graph)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(graph)
    return onnx_ir.to_proto(graph)


def _told_apart(tensor: numpy.ndarray, number: int) -> numpy.ndarray:
    """Return a matrix of zeros, as of a layer of which pruning left nothing, with signs that spell the number.

    onnxscript's optimizer joins small tensors of the same bytes.
    """
    if tensor.ndim < 2 or tensor.any() or tensor.dtype != numpy.float32:
        return tensor
    signs = numpy.where([number >> bit & 1 for bit in range(min(tensor.size, NUMBER_BITS))], -0.0, 0.0)
    told = tensor.copy()
    told.flat[: len(signs)] = signs
    return told


def _fold_weights(graph: onnx_ir.Model) -> None:
    """Compute what depends on weights alone, however large they are, if the result is no larger.

    onnxscript leaves large tensors alone, so that a weight that is standardized or transposed would be computed anew
    for each image, in float32.
    """
    fold = constant_folding.FoldConstantsPass(
        shape_inference=True, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize, should_fold=_shrinks
    )
    fold(graph)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(graph)


def _moved_weights(graph: onnx_ir.Graph) -> dict[str, str]:
    """Return the results of the exporter's own that are an initializer in another layout: name -> the initializer's."""
    moved: dict[str, str] = {}
    for node in graph:
        source = node.inputs[0] if node.op_type in VIEWS else None
        if source is None:
            continue
        name = source.name if source.is_initializer() else moved.get(source.name)
        if name is not None and node.outputs[0].name.startswith(EXPORTED):
            moved[node.outputs[0].name] = name
    return moved


def _name_as_moved(graph: onnx_ir.Graph, moved: Mapping[str, str]) -> None:
    """Let an initializer that was folded, as the transposed weight of a linear layer, have the name of the weight."""
    for name, value in list(graph.initializers.items()):
        weight = moved.get(name)
        if weight is not None and weight not in graph.initializers:
            value.name = weight


def _shrinks(node: onnx_ir.Node) -> bool:
    """Whether the result of a node is no larger than its largest input, so that the file does not grow."""
    shapes = [output.shape for output in node.outputs]
    if any(shape is None or not shape.is_static() for shape in shapes):
        return False
    inputs = [value.const_value.size for value in node.inputs if value is not None]
    return sum(math.prod(shape.numpy()) for shape in shapes) <= max(inputs, default=0)


def _count_as_pytorch(graph: onnx_ir.Graph) -> None:
    """Let averages of windows that reach over the edge of an image count what PyTorch counts.

    That is the image and its padding, not what is beyond. ONNX Runtime's int8 kernel (1.32) divides by the whole
    window where count_include_pad is set, which it is though there be no padding. So the padding becomes zeros of a
    node of its own, and count_include_pad goes.
    """
    for node in list(graph):
        if node.op_type != "AveragePool" or not node.attributes.get_int("count_include_pad", 0):
            continue
        pads = node.attributes.get_ints("pads", ())
        if any(pads) and not node.attributes.get_int("ceil_mode", 0):
            continue
        if any(pads):
            _pad_before(node, pads, graph)
            node.attributes.pop("pads")
        node.attributes.pop("count_include_pad")


def _pad_before(node: onnx_ir.Node, pads: Sequence[int], graph: onnx_ir.Graph) -> None:
    """Let a pooling node take its images between zeros, as far as its windows reach.

    pads: before each axis of the image, then after each. PyTorch has no windows that start behind the image; none does
    if there is no padding behind the last window.
    """
    images, axes = node.inputs[0], len(pads) // 2
    kernel = node.attributes.get_ints("kernel_shape")
    strides = node.attributes.get_ints("strides", (1,) * axes)
    behind = []
    for axis, (size, windows) in enumerate(zip(images.shape[2:], node.outputs[0].shape[2:], strict=True)):
        reached = (windows - 1) * strides[axis] + kernel[axis]
        behind.append(min(pads[axes + axis], max(0, reached - size - pads[axis])))
    widths = numpy.array([0, 0, *pads[:axes], 0, 0, *behind], numpy.int64)
    name = f"{images.name}{PADDED}.{node.outputs[0].name}"
    constant = onnx_ir.tensor(widths, name=f"{name}.widths")
    graph.initializers[constant.name] = value = onnx_ir.Value(
        name=constant.name, type=onnx_ir.TensorType(constant.dtype), shape=constant.shape, const_value=constant
    )
    padded = onnx_ir.node("Pad", [images, value]).outputs[0]
    padded.name, padded.type = name, images.type
    sizes = [before + size + after for before, size, after in zip(pads, images.shape[2:], behind, strict=False)]
    padded.shape = onnx_ir.Shape([*images.shape[:2], *sizes])
    graph.insert_before(node, padded.producer())
    node.replace_input_with(0, padded)


def _plain_biases(graph: onnx_ir.Graph) -> None:
    """Give each product of matrices that has a constant bias one number for each output, and the factor 1 for it.

    ONNX Runtime's quantizer (1.32) drops the factor beta, and fails at biases of other shapes.
    """
    for node in graph:
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if bias is None or bias.const_value is None or node.outputs[0].shape is None:
            continue
        beta, outputs = node.attributes.get_float("beta", 1.0), node.outputs[0].shape[-1]
        array = bias.const_value.numpy()
        if (beta == 1 and array.shape == (outputs,)) or not isinstance(outputs, int) or array.size not in (1, outputs):
            continue
        plain = numpy.broadcast_to(numpy.float32(beta) * array.reshape(-1), outputs).astype(array.dtype)
        name = f"{bias.name}.{node.outputs[0].name}"
        graph.initializers[name] = value = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(plain, name=name))
        value.type, value.shape = bias.type, onnx_ir.Shape(plain.shape)
        node.replace_input_with(2, value)
        node.attributes.pop("beta", None)


def _pool_globally(graph: onnx_ir.Graph) -> None:
    """Let GlobalAveragePool compute the mean of a channel, as PyTorch's exporter writes ReduceMean.

    ONNX Runtime has it for int8, and ReduceMean not: in a static EfficientNet-B0 for 224x224 pixels 17 ReduceMean take
    1.8 of 11.0 ms, 17 QLinearGlobalAveragePool 0.2 of 8.9 ms.
    """
    for node in list(graph):
        axes = _reduced_axes(node)
        if axes != {2, 3}:
            continue
        mean, keepdims = node.outputs[0], node.attributes.get_int("keepdims", 1)
        if not keepdims and mean.is_graph_output():
            continue
        pool = onnx_ir.node("GlobalAveragePool", [node.inputs[0]])
        pooled = pool.outputs[0]
        pooled.type, pooled.shape = mean.type, onnx_ir.Shape([*node.inputs[0].shape[:2], 1, 1])
        graph.insert_before(node, pool)
        # The name is that of the mean in PyTorch's program, too.
        name = mean.name
        if keepdims:
            mean.replace_all_uses_with(pooled, replace_graph_outputs=True)
        else:
            flatten = onnx_ir.node("Flatten", [pooled])
            flat = flatten.outputs[0]
            flat.name, flat.type, flat.shape = f"{name}{FLAT}", mean.type, mean.shape
            graph.insert_before(node, flatten)
            mean.replace_all_uses_with(flat)
        graph.remove(node, safe=True)
        pooled.name = name


def _reduced_axes(node: onnx_ir.Node) -> set[int]:
    """Return the axes, from 0, of which a node computes the mean, if it has images as input; else none."""
    images = node.inputs[0] if node.inputs else None
    if node.op_type != "ReduceMean" or images is None or images.shape is None or len(images.shape) != 4:
        return set()
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return set() if axes is None else {int(axis) % 4 for axis in axes.numpy().ravel()}


def _join_equal(graph: onnx_ir.Graph) -> None:
    """Let equal initializers be stored once, but weights only if they were one before they were untied.

    Others are counted one by one, though layers may be equal before training, or when pruning left nothing of them.
    """
    first: dict[tuple, onnx_ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        array = value.const_value.numpy()
        weight = array.ndim > 1 and any(node.op_type in PRODUCTS for node, _ in value.uses())
        owner = name.partition(UNTIED)[0] if weight else None
        kept = first.setdefault((array.dtype.str, array.shape, array.tobytes(), owner), value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            del graph.initializers[name]


def _untie_batchnorm(graph: onnx_ir.Graph) -> None:
    """Give every use of a convolution that is called several times its own weights, where batch norm can then fold.

    The rules of onnxscript do not touch shared weights. Where all uses are followed by the same batch norm, all folded
    copies are equal and the pass after them joins them again; otherwise a copy for each use would make the file
    larger, so such a batch norm stays.
    """
    uses = collections.defaultdict(list)
    for node in graph:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and node.inputs[1].is_initializer():
            uses[node.inputs[1]].append(node)
    for nodes in uses.values():
        norms = {_batchnorm_after(node) for node in nodes}
        if len(norms) == 1 and None not in norms:
            for number, node in enumerate(nodes[1:], start=2):
                _untie(graph, node, f"{UNTIED}{number}")


def _batchnorm_after(node: onnx_ir.Node) -> tuple | None:
    """Return the parameters of the batch norm that is the only user of the node's output, or None."""
    users = [user for user, _ in node.outputs[0].uses()]
    return tuple(users[0].inputs[1:]) if [user.op_type for user in users] == ["BatchNormalization"] else None


def _untie(graph: onnx_ir.Graph, node: onnx_ir.Node, suffix: str) -> None:
    for index, shared in enumerate(node.inputs[1:], start=1):
        name = shared.name + suffix
        tensor = onnx_ir.tensor(shared.const_value.numpy(), name=name)
        untied = onnx_ir.Value(name=name, shape=shared.shape, type=shared.type, const_value=tensor)
        graph.register_initializer(untied)
        node.replace_input_with(index, untied)
