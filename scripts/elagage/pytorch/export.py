"""PyTorch network -> ONNX graph that takes raw pixels and keeps the names of the state dict."""

import json
import traceback

import numpy
import onnx_ir
import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from torch import nn

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.onnx.graph import PREPROCESS, WEIGHTS
from elagage.pytorch.models import Normalize, checked_logits


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
    tensors of the state dict.

    It is exported without optimization, so that every tensor of the state dict that the forward pass uses is an
    initializer of the same name: variants of one network differ only in these, and exporting takes 3 to 8 s.
    Raises UserError if the network cannot be traced or does not return float32 [batch, classes].
    """
    deployed = _Deployed(network, dataset).eval()
    images = torch.zeros(2, dataset.channels, dataset.image_size, dataset.image_size, dtype=torch.uint8)
    checked_logits(deployed, images, len(dataset.classes))
    try:
        program = torch.onnx.export(
            deployed,
            (images,),
            input_names=["image"],
            output_names=["logits"],
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
    graph = _renamed(program.model)
    weights = [name for name in network.state_dict() if name in graph.graph.initializers]
    graph.metadata_props[WEIGHTS] = json.dumps(weights)
    _check_agreement(graph, deployed, images, len(dataset.classes))
    return graph, program.exported_program


def _check_agreement(graph: onnx_ir.Model, deployed: nn.Module, images: torch.Tensor, classes: int) -> None:
    """Raise UserError if the graph differs from the network, for more or fewer images than it was traced with."""
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(graph).SerializeToString())
    generator = torch.Generator().manual_seed(0)
    for count in (1, 3):
        pixels = torch.randint(0, 256, (count, *images.shape[1:]), dtype=torch.uint8, generator=generator)
        expected = checked_logits(deployed, pixels, classes).numpy()
        try:
            logits = session.run(None, {"image": pixels.numpy()})[0]
        except (Fail, InvalidArgument, RuntimeException) as error:
            raise UserError(f"the exported network fails for a batch of {count} image(s): {error}") from error
        # float32 sums in another order differ by about 1e-6; a wrong graph by more than 0.1.
        agrees = numpy.allclose(logits, expected, rtol=1e-3, atol=1e-3 * expected.std())
        if not agrees:
            raise UserError(
                f"the exported network gives other logits than PyTorch for a batch of {count} image(s): "
                f"{logits.ravel()[:3]} instead of {expected.ravel()[:3]}; its forward pass has to depend only on the "
                f"image, not on the batch size, on randomness or on earlier calls"
            )


def _renamed(model: onnx_ir.Model) -> onnx_ir.Model:
    for name in list(model.graph.initializers):
        value = model.graph.initializers[name]
        value.name = name.removeprefix("network.")
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        if f"'{PREPROCESS}'" in scopes:
            node.name = f"{PREPROCESS}/{node.name}"
        # Stack traces with paths of this machine, and other notes of the exporter.
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
    return model
