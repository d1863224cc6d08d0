"""PyTorch network -> ONNX graph that takes raw pixels and keeps the names of the state dict."""

import traceback

import onnx_ir
import torch
from torch import nn

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.onnx_graph import PREPROCESS
from elagage.training import Normalize


class _Deployed(nn.Module):
    def __init__(self, network: nn.Module, dataset: Dataset):
        super().__init__()
        self.add_module(PREPROCESS, Normalize(dataset))
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(getattr(self, PREPROCESS)(image))


def export_graph(network: nn.Module, dataset: Dataset) -> onnx_ir.Model:
    """Return the network as an ONNX graph: `image`, uint8 [batch, channels, size, size] -> `logits`, float32.

    It is exported without optimization, so that every tensor of the state dict that the forward pass uses is an
    initializer of the same name: variants of one network differ in these alone, and exporting takes 3 to 8 s.
    Raises UserError if the network cannot be traced or does not return float32 [batch, classes].
    """
    deployed = _Deployed(network, dataset).eval()
    images = torch.zeros(2, dataset.channels, dataset.image_size, dataset.image_size, dtype=torch.uint8)
    with torch.inference_mode():
        logits = deployed(images)
    expected = (2, len(dataset.classes))
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"the network returned {shape} for 2 images, not logits of shape {expected}")
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
        raise UserError(
            f"the network cannot be exported to ONNX ({type(error).__name__}: {str(error).strip().splitlines()[0]}); "
            f"torch.export has to trace its forward pass for any batch size; the log has the details"
        ) from error
    return _renamed(program.model)


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
