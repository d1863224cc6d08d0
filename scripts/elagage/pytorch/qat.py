"""Quantization-aware training: a network that computes in PyTorch what its int8 ONNX file will compute.

ONNX Runtime's static quantizer decides which tensors become int8, so that what is trained is what is deployed, by the
same operators as in mode `static`.

Not exported from what torchao's convert_pt2e makes: its quantizer leaves additions in float32, so that the file of a
ResNet-20 (32x32, 1 thread) took 1.04 ms per image where static takes 0.34 and float32 0.82, and was a quarter larger.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy
import onnx
import onnx_ir
import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from elagage.data import Dataset, PreparedData
from elagage.errors import RefusedError, UserError
from elagage.modes import MINMAX, Calibration
from elagage.onnx.graph import INPUT, with_weights
from elagage.onnx.qdq import qdq_places
from elagage.onnx.quantization import quantize
from elagage.onnx.runtime import session
from elagage.pytorch.evaluation import evaluate_images
from elagage.pytorch.export import export_program
from elagage.pytorch.fake_quantization import FakeQuantizedNetwork
from elagage.pytorch.independence import SHARE_OF_NOISE, with_noise
from elagage.pytorch.models import Normalize, checked_logits, copied
from elagage.pytorch.pruning import hold_zeros, prunable
from elagage.pytorch.training import fit
from elagage.pytorch.training_loss import TrainingLoss, of_labels
from elagage.pytorch.training_state import TrainingState
from elagage.pytorch.trial_step import check_trainable, check_training
from elagage.schedules import TrainingSettings, warmup_and_cosine
from elagage.statistics import mean_difference_interval, share_became_correct

# Relative error of logits between PyTorch and ONNX Runtime. Sums in another order round some values to the next level:
# 0.001 to 0.02 in most networks, 0.08 in an untrained ResNet-18. A block that is called several times and rounded
# wrongly makes 0.8. Networks that amplify flipped levels may differ by as much as their int8 logits move when each
# pixel changes by a grey level at most: it is 0.5 to 0.9 times that in untrained ShuffleNetV2, EfficientNet and
# others.
MAX_ERROR = 0.25
# The same between the prepared network without rounding and the float32 one: folding makes 1e-6.
MAX_FLOAT32_ERROR = 1e-3


class Trainable(NamedTuple):
    """A network prepared for quantization-aware training, and what makes its ONNX file."""

    fake_quantized: FakeQuantizedNetwork
    graph: onnx.ModelProto  # as exported
    images: numpy.ndarray  # uint8 [n, channels, height, width]
    calibration: Calibration
    device: torch.device

    def deployed(self) -> onnx.ModelProto:
        """Return the int8 ONNX model of the network as it is now.

        Tensors that the exported program does not name, those inside an operator that ONNX lacks, have ranges
        calibrated again.
        """
        float32 = with_weights(onnx_ir.from_proto(self.graph), _numpy_state(self.fake_quantized.network))
        return quantize(float32, "qat", self.images, self.fake_quantized.trained_ranges(), self.calibration)


def prepare(
    network: nn.Module,
    dataset: Dataset,
    images: numpy.ndarray,
    device: torch.device,
    calibration: Calibration = MINMAX,
) -> Trainable:
    """Return the network, which is moved to the device, ready to be trained; its ranges calibrated on training images.

    images: uint8 [n, channels, height, width]. Raises UserError if the network cannot be exported, if nothing of
    it becomes int8, or if there is nothing to train.
    """
    check_trainable(network)
    graph, program = export_program(network, dataset)
    exported = onnx_ir.to_proto(graph)
    float32 = with_weights(graph, _numpy_state(network))
    places = qdq_places(quantize(float32, "qat", images, calibration=calibration))
    if device.type != "cpu":  # the program says where the constants of the forward pass lie
        program = move_to_device_pass(program, device)
    # Here, not under inference_mode: tensors that are moved there cannot be trained.
    prepared = FakeQuantizedNetwork(network, program, float32, places).to(device)
    return Trainable(prepared, exported, images, calibration, device)


class Agreement(NamedTuple):
    """The int8 ONNX model of a network, and relative differences of logits."""

    model: onnx.ModelProto
    error: float  # between the model and the network in PyTorch that is trained for it
    noise: float  # between the model's logits of images and of the same with a grey level of noise


def check_agreement(trainable: Trainable, dataset: Dataset, images: numpy.ndarray) -> Agreement:
    """Return the int8 ONNX model if it computes what the network in PyTorch does, and can be trained.

    images: uint8 [n, channels, height, width]. The network in PyTorch without its rounding is compared with the
    float32 one, too; with rounding, int8 may well differ from float32, which is what training corrects. Raises
    RefusedError if the networks differ, or if the one to be trained has no backward pass.
    """
    _check_backward_pass(trainable, dataset, images)
    _check_folding(trainable, dataset, images)
    model = trainable.deployed()
    deployable = session(model.SerializeToString(), torch.get_num_threads())
    logits, moved = (deployable.run(None, {INPUT: pixels})[0] for pixels in (images, with_noise(images)))
    noise = _relative_error(moved, logits)
    network = nn.Sequential(Normalize(dataset).to(trainable.device), trainable.fake_quantized).eval()
    pixels = torch.from_numpy(images).to(trainable.device)
    expected = checked_logits(network, pixels, len(dataset.classes)).cpu().numpy()
    error = _relative_error(logits, expected)
    same = (logits.argmax(1) == expected.argmax(1)).mean()
    print(
        f"ONNX Runtime and PyTorch differ by {error:.2%} and agree on the class of {same:.2%} of {len(images)} images; "
        f"noise of one grey level moves the logits by {noise:.2%}"
    )
    if not error <= max(MAX_ERROR, noise):
        raise RefusedError(
            f"the int8 ONNX file differs by {error:.0%} from the network that is trained for it, so training would "
            f"not help; use mode static instead of qat"
        )
    return Agreement(model, error, noise)


def train_fake_quantized(
    trainable: Trainable,
    data: PreparedData,
    settings: TrainingSettings,
    *,
    seed: int,
    label: str,
    state: TrainingState,
    loss: TrainingLoss = of_labels,
) -> Mapping[str, float]:
    """Train the network, leave it as in its best epoch; return that epoch's number, validation loss and accuracy.

    The best epoch has the lowest validation loss: where int8 costs a few images, accuracy is too coarse. Epoch 0, the
    network as calibrated, is kept unless the best epoch's loss is lower, or its classes are correct for more images, by
    more than the 95 % interval: what int8 did not harm, training changes at random. (There are two tests, and the epoch
    is chosen on the same images. Chance therefore passes for a gain in some 10 % of such trainings, not in 2.5 %.)
    """
    network, device = trainable.fake_quantized, trainable.device
    normalize, calibrated = Normalize(data.dataset).to(device), copy.deepcopy(network.state_dict())
    weights = prunable(network.network, data.dataset)
    losses, correct = evaluate_images(network, normalize, data.validation, device)
    start = {"epoch": 0, "validation_loss": losses.mean().item(), "validation_accuracy": correct.double().mean().item()}
    print(" ".join(f"{key}={value:.6g}" for key, value in start.items()))
    best, _ = fit(
        network,
        data,
        settings,
        dataclasses.replace(warmup_and_cosine(settings), key="quantization.qat_learning_rate"),
        seed=seed,
        label=label,
        state=state,
        device=device,
        constrain=lambda _, optimizer: hold_zeros(weights, optimizer),
        score=lambda row: -row["validation_loss"],
        loss=loss,
    )
    best_losses, best_correct = evaluate_images(network, normalize, data.validation, device)
    gain, low, high = mean_difference_interval(losses.numpy(), best_losses.numpy())
    share, lowest, highest = share_became_correct(correct.numpy(), best_correct.numpy())
    print(f"epoch {best['epoch']} changes the validation loss by {-gain:.3g}, 95 % interval {-high:.3g} to {-low:.3g}")
    print(
        f"{share:.0%} of the images that changed between correct and wrong became correct, "
        f"95 % interval {lowest:.0%} to {highest:.0%}"
    )
    if low > 0 or lowest > 0.5:
        return best
    print("kept as calibrated")
    network.load_state_dict(calibrated)
    return start


def _check_backward_pass(trainable: Trainable, dataset: Dataset, images: numpy.ndarray) -> None:
    """Raise RefusedError unless the network that is trained has a backward pass."""
    try:
        check_training(trainable.fake_quantized, Normalize(dataset).to(trainable.device), images)
    except UserError as error:
        raise RefusedError(f"prepared for int8, {error}; use mode static instead of qat") from error


@torch.inference_mode()
def _check_folding(trainable: Trainable, dataset: Dataset, images: numpy.ndarray) -> None:
    """Raise RefusedError unless the network that is trained computes, but for rounding, what the float32 one does."""
    prepared = trainable.fake_quantized.eval()
    normalize = Normalize(dataset).to(trainable.device)
    # A copy may keep what it computes from weights that training changes.
    network = copied(prepared.network)
    expected, moved = (
        network(normalize(torch.from_numpy(each).to(trainable.device))).cpu().numpy()
        for each in (images, with_noise(images))
    )
    found = prepared.without_fake_quantization(normalize(torch.from_numpy(images).to(trainable.device))).cpu().numpy()
    error = _relative_error(found, expected)
    if not error <= max(MAX_FLOAT32_ERROR, SHARE_OF_NOISE * _relative_error(moved, expected)):
        raise RefusedError(
            f"the network prepared for training differs by {error:.0%} from the float32 one before anything is "
            f"rounded, so its batch norm could not be folded; use mode static instead of qat"
        )


def _relative_error(values: numpy.ndarray, expected: numpy.ndarray) -> float:
    """Return the norm of the difference divided by that of the expected values; 0 if they are equal."""
    difference, size = numpy.linalg.norm(values - expected), numpy.linalg.norm(expected)
    return float(difference / size) if difference else 0.0


def _numpy_state(network: nn.Module) -> dict[str, numpy.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}
