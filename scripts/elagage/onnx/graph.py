"""ONNX graphs without PyTorch: exchange weights, fold batch norm."""

import collections
import json
import math
import os
import sys
from collections.abc import Mapping

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
from elagage.onnx.pooling import count_as_pytorch, pool_globally

WEIGHTS = "elagage_weights"  # metadata of an exported graph: the tensors that a checkpoint must have, as JSON
PREPROCESS = "elagage_preprocess"  # module, and prefix of the nodes, that normalize the image
NUMBER_BITS = 32  # that tell initializers apart
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
    pool_globally(graph.graph)
    count_as_pytorch(graph.graph)
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
