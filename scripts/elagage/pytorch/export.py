"""PyTorch network -> ONNX graph that takes raw pixels and keeps the names of the state dict."""

import itertools
import json
import traceback

import onnx
import onnx_ir
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    NotImplemented,
    RuntimeException,
)
from torch import nn

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.logits import logits_difference
from elagage.onnx.graph import INPUT, OUTPUT, PREPROCESS, WEIGHTS, initializer_name
from elagage.onnx.runtime import session
from elagage.pytorch.independence import CHOSEN, allowed_difference, check_independence, probe_images
from elagage.pytorch.models import Normalize, checked_logits, copied, forward_pass, with_other_weights

NETWORK = "network."  # prefix of the network's tensors in the exported program
SHOWN = 5  # tensors in a message


class _Deployed(nn.Module):
    def __init__(self, network: nn.Module, dataset: Dataset):
        super().__init__()
        self.add_module(PREPROCESS, Normalize(dataset))
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(getattr(self, PREPROCESS)(image))


def export_graph(network: nn.Module, dataset: Dataset) -> onnx_ir.Model:
    """Return the network as an ONNX graph: `image`, uint8 [batch, channels, size, size] -> `logits`, float32.

    Raises UserError as export_program does.
    """
    return export_program(network, dataset)[0]


def export_program(network: nn.Module, dataset: Dataset) -> tuple[onnx_ir.Model, torch.export.ExportedProgram]:
    """Return the network as export_graph does, and the PyTorch program that the graph was translated from.

    A value of the graph has the name of the program's node that computes it, except `logits`, the program's output, and
    tensors of the state dict, which have that of graph.initializer_name.

    It is exported without optimization, so that every tensor of the state dict that the forward pass uses is an
    initializer: variants of one network differ only in these, and exporting takes 3 to 8 s. All that runs is a copy, so
    that the network keeps nothing that was computed from its weights as they are now.
    Raises UserError if the network cannot be traced, does not return float32 [batch, classes], lets an image's logits
    depend on other images, on randomness or on earlier calls, or if the graph differs from it, with these or with
    other weights.
    """
    check_independence(network, dataset)
    images = torch.zeros(2, dataset.channels, dataset.image_size, dataset.image_size, dtype=torch.uint8)
    try:
        program = torch.onnx.export(
            _Deployed(copied(network), dataset).eval(),
            (images,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    except Exception as error:
        traceback.print_exc()
        cause = error.__cause__ or error
        raise UserError(
            f"the network cannot be exported to ONNX ({type(cause).__name__}: {str(cause).strip().splitlines()[0]}); "
            f"torch.export has to trace its forward pass for any batch size; the log has the details"
        ) from error
    graph, traced = program.model, program.exported_program
    _name_initializers(graph)
    _rename_values(graph, traced)
    _strip_notes(graph)
    weights = [name for name in network.state_dict() if initializer_name(name) in graph.graph.initializers]
    graph.metadata_props[WEIGHTS] = json.dumps(weights)
    _check_agreement(onnx_ir.to_proto(graph), network, dataset)
    _check_other_weights(onnx_ir.to_proto(graph), network, dataset, weights)
    return graph, traced


def trace(network: nn.Module, dataset: Dataset) -> torch.export.ExportedProgram:
    """Return the program of a network that export_program takes, in 1 to 3 s: operators that change no tensor.

    Raises UserError if the network cannot be traced.
    """
    deployed = _Deployed(copied(network), dataset).eval()
    images = torch.zeros(2, dataset.channels, dataset.image_size, dataset.image_size, dtype=torch.uint8)
    batch = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():  # or what the network computes in such a block becomes a program of its own
        try:
            program = torch.export.export(deployed, (images,), dynamic_shapes=batch, strict=False)
        except Exception:
            traceback.print_exc()
            with forward_pass(images):  # the exporter, too, tries it this way then
                program = torch.export.export(deployed, (images,), dynamic_shapes=batch, strict=True)
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    if any(schema.is_mutable for operator in operators if (schema := getattr(operator, "_schema", None))):
        program = program.run_decompositions({})
    program.graph.eliminate_dead_code()
    return program


def _check_agreement(model: onnx.ModelProto, network: nn.Module, dataset: Dataset) -> None:
    """Raise UserError if the graph differs from the network, for another number of images than it was traced with."""
    deployed, pixels = _Deployed(copied(network), dataset).eval(), probe_images(dataset)
    try:
        deployable = session(model.SerializeToString(), torch.get_num_threads())
    except (Fail, InvalidGraph, NotImplemented) as error:
        raise UserError(
            f"ONNX Runtime cannot load the exported network ({str(error).strip().splitlines()[0]}); the forward pass "
            f"has to compute in float32, without autocast and complex numbers"
        ) from error
    allowed = allowed_difference(deployed, pixels, len(dataset.classes))
    for images in (pixels[CHOSEN : CHOSEN + 1], pixels):
        expected = checked_logits(deployed, images, len(dataset.classes)).numpy()
        try:
            logits = deployable.run(None, {INPUT: images.numpy()})[0]
        except (Fail, InvalidArgument, RuntimeException) as error:
            raise UserError(f"the exported network fails for a batch of {len(images)} image(s): {error}") from error
        if not logits_difference(logits, expected) <= allowed:
            raise UserError(
                f"the exported network gives other logits than PyTorch for a batch of {len(images)} image(s): "
                f"{logits.ravel()[:3]} instead of {expected.ravel()[:3]}; its forward pass has to depend only on the "
                f"image, not on the batch size"
            )


def _check_other_weights(model: onnx.ModelProto, network: nn.Module, dataset: Dataset, read: list[str]) -> None:
    """Raise UserError if the graph differs from the network when both have other weights; read: those of the graph."""
    images, classes, other = probe_images(dataset), len(dataset.classes), with_other_weights(network)
    state = {initializer_name(name): tensor.numpy() for name, tensor in other.state_dict().items()}
    for tensor in model.graph.initializer:
        if tensor.name in state:
            tensor.CopyFrom(onnx.numpy_helper.from_array(state[tensor.name], tensor.name))
    logits = session(model.SerializeToString(), torch.get_num_threads()).run(None, {INPUT: images.numpy()})[0]
    deployed = _Deployed(other, dataset).eval()
    expected, allowed = checked_logits(deployed, images, classes).numpy(), allowed_difference(deployed, images, classes)
    if logits_difference(logits, expected) <= allowed:
        return
    matter = []
    for name in sorted(network.state_dict().keys() - {*read}):
        # Not without the others: zeros may hide what the tensor changes.
        rest = with_other_weights(network, network.state_dict().keys() - {name})
        without = checked_logits(_Deployed(rest, dataset).eval(), images, classes).numpy()
        if logits_difference(without, expected) > allowed:
            matter.append(name)
    named = f", among them what it computed from {', '.join(matter[:SHOWN])}" if matter else ""
    raise UserError(
        f"with other weights the exported network gives other logits than PyTorch: it holds constants that were "
        f"computed from the first ones{named}; the forward pass has to compute them anew"
    )


def _name_initializers(model: onnx_ir.Model) -> None:
    for name in list(model.graph.initializers):
        if name.startswith(NETWORK):
            model.graph.initializers[name].name = initializer_name(name.removeprefix(NETWORK))


def _rename_values(model: onnx_ir.Model, program: torch.export.ExportedProgram) -> None:
    """Let no value, in the graph and in the program, have the name of a tensor, such as a user's buffer `mean`."""
    taken = {*model.graph.initializers, INPUT, OUTPUT}
    values = [value for node in model.graph.all_nodes() for value in node.outputs if value.name != OUTPUT]
    computed = [node for node in program.graph.nodes if node.op == "call_function"]
    used = taken | {value.name for value in values} | {node.name for node in program.graph.nodes}

    def free(name: str) -> str:
        return next(f"{name}_{number}" for number in itertools.count(1) if f"{name}_{number}" not in used)

    for value in values:
        if value.name in taken:
            value.name = free(value.name)
    for node in computed:
        if node.name in taken:
            program.graph_signature.replace_all_uses(node.name, free(node.name))
            node.name = free(node.name)


def _strip_notes(model: onnx_ir.Model) -> None:
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        if f"'{PREPROCESS}'" in scopes:
            node.name = f"{PREPROCESS}/{node.name}"
        # Stack traces with paths of this machine, and other notes of the exporter.
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
