"""Quantization-aware training: a network that computes in PyTorch what its int8 ONNX file will compute.

ONNX Runtime's static quantizer decides which tensors become int8, so that what is trained is what is deployed, by the
same operators as in mode `static`.

Not exported from what torchao's convert_pt2e makes: its quantizer leaves additions in float32, so that the file of a
ResNet-20 (32x32, 1 thread) took 1.04 ms an image where static takes 0.34 and float32 0.82, and was a quarter larger.
"""

from typing import NamedTuple

import numpy
import onnx
import onnx_ir
import onnxruntime
import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.export import export_program
from elagage.fake_quantization import FakeQuantizedNetwork, qdq_places
from elagage.models import Normalize, checked_logits
from elagage.onnx_graph import with_weights
from elagage.quantization import quantize
from elagage.training import check_trainable

# Relative error of logits between PyTorch and ONNX Runtime. Sums in another order round some values to the next level:
# 0.001 to 0.02 in most networks, 0.08 in an untrained ResNet-18. A block that is called several times and rounded
# wrongly makes 0.8.
AGREEMENT = 0.25
# The same without any rounding, between the prepared network and the float32 one: folding makes 1e-6.
FLOAT32_AGREEMENT = 1e-3


class Trainable(NamedTuple):
    """A network prepared for quantization-aware training, and what makes its ONNX file."""

    fake_quantized: FakeQuantizedNetwork
    graph: onnx.ModelProto  # as exported
    calibration: numpy.ndarray  # uint8 [n, channels, height, width]
    device: torch.device

    def deployed(self) -> onnx.ModelProto:
        """Return the int8 ONNX model of the network as it is now.

        Tensors that the exported program does not name, those inside an operator that ONNX lacks, have ranges
        calibrated anew.
        """
        float32 = with_weights(onnx_ir.from_proto(self.graph), _numpy_state(self.fake_quantized.network))
        return quantize(float32, "qat", self.calibration, self.fake_quantized.trained_ranges())


def prepare(network: nn.Module, dataset: Dataset, calibration: numpy.ndarray, device: torch.device) -> Trainable:
    """Return the network, which is moved to the device, ready to be trained; its ranges calibrated on training images.

    calibration: uint8 [n, channels, height, width]. Raises UserError if the network cannot be exported, if nothing of
    it becomes int8, or if there is nothing to train.
    """
    check_trainable(network)
    graph, program = export_program(network, dataset)
    exported = onnx_ir.to_proto(graph)
    float32 = with_weights(graph, _numpy_state(network))
    places = qdq_places(quantize(float32, "qat", calibration))
    if device.type != "cpu":  # the program says where the constants of the forward pass lie
        program = move_to_device_pass(program, device)
    # Here, not under inference_mode: tensors that are moved there cannot be trained.
    prepared = FakeQuantizedNetwork(network, program, float32, places).to(device)
    return Trainable(prepared, exported, calibration, device)


def check_agreement(trainable: Trainable, dataset: Dataset, images: numpy.ndarray) -> onnx.ModelProto:
    """Return the int8 ONNX model if it computes what the network in PyTorch does; else raise UserError.

    images: uint8 [n, channels, height, width]. The network in PyTorch is compared with the float32 one too, with its
    rounding left out: with it int8 may well differ from float32, which is what training mends.
    """
    _check_folding(trainable, dataset, images)
    model = trainable.deployed()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"image": images})[0]
    network = nn.Sequential(Normalize(dataset).to(trainable.device), trainable.fake_quantized).eval()
    pixels = torch.from_numpy(images).to(trainable.device)
    expected = checked_logits(network, pixels, len(dataset.classes)).cpu().numpy()
    error = _relative_error(logits, expected)
    same = (logits.argmax(1) == expected.argmax(1)).mean()
    print(
        f"ONNX Runtime and PyTorch differ by {error:.2%} and agree on the class of {same:.2%} of {len(images)} images"
    )
    if not error <= AGREEMENT:
        raise UserError(
            f"the int8 ONNX file differs by {error:.0%} from the network that is trained for it, so training would "
            f"not help; use mode static instead of qat"
        )
    return model


@torch.inference_mode()
def _check_folding(trainable: Trainable, dataset: Dataset, images: numpy.ndarray) -> None:
    """Raise UserError unless the network that is trained computes, with nothing rounded, what the float32 one does."""
    prepared = trainable.fake_quantized.eval()
    pixels = Normalize(dataset).to(trainable.device)(torch.from_numpy(images).to(trainable.device))
    expected = prepared.network(pixels).cpu().numpy()
    error = _relative_error(prepared.without_fake_quantization(pixels).cpu().numpy(), expected)
    if not error <= FLOAT32_AGREEMENT:
        raise UserError(
            f"the network prepared for training differs by {error:.0%} from the float32 one before anything is "
            f"rounded, so its batch norm could not be folded; use mode static instead of qat"
        )


def _relative_error(values: numpy.ndarray, expected: numpy.ndarray) -> float:
    """Return the norm of the difference by that of what was expected; 0 if both are nothing but zeros."""
    difference, size = numpy.linalg.norm(values - expected), numpy.linalg.norm(expected)
    return float(difference / size) if difference else 0.0


def _numpy_state(network: nn.Module) -> dict[str, numpy.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}
