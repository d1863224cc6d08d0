"""Quantization-aware training: what is trained is what the ONNX file computes, and pruned zeros stay."""

import dataclasses
import pathlib
import re

import numpy
import onnx
import onnx_ir
import pytest
import torch
from conftest import DiesAfter, Killed
from test_quantize import (
    DATASET,
    NETWORKS,
    BranchesOnData,  # noqa: F401 - my_model.py has it from here
    NoLinear,
    NoWeights,  # noqa: F401
    ReusedBlock,
    SharedConvolution,
    images,
    lively,
    onnx_logits,
    relative_error,
    tensors,
    torch_logits,
)
from torch import nn

from elagage import fake_quantization
from elagage.data import Dataset, Split
from elagage.errors import UserError
from elagage.onnx.contents import count_contents, description
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.pytorch.channels import channel_prune
from elagage.pytorch.checkpoints import save_checkpoint
from elagage.pytorch.fake_quantization import fake_quantize_weight
from elagage.pytorch.models import Normalize, build_network
from elagage.pytorch.pruning import LAYERS, count_weights, magnitude_prune
from elagage.pytorch.qat import check_agreement, prepare
from elagage.pytorch.training import TrainingSettings
from elagage.pytorch.training_state import TrainingState
from quantize_qat import quantize_qat

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(
    epochs=3, batch_size=8, learning_rate=0.01, momentum=0.9, weight_decay=0.0005, warmup_epochs=0, flip=None
)


SMALL = {
    kind.__name__: kind
    for kind in (
        ReusedBlock,
        SharedConvolution,
        NoLinear,
        Grouped,
        Pooling,
        NoBatchNorm,
        WeightNorm,
        Tied,
        LinearBatchNorm,
    )
}


def rounded_logits(trainable, pixels: numpy.ndarray) -> numpy.ndarray:
    return torch_logits(trainable.fake_quantized.eval(), pixels)


def prepared(kind, count: int = 64):
    return prepare(lively(kind()), DATASET, images(count, seed=2), CPU)


@pytest.mark.parametrize("name", SMALL | NETWORKS)
def test_the_network_computes_what_its_onnx_file_does_with_the_operators_of_static(name):
    trainable = prepared((SMALL | NETWORKS)[name])
    pixels = images(50)
    model = check_agreement(trainable, DATASET, pixels)
    logits = onnx_logits(model, pixels)
    # Levels that flip by sums in another order; the untrained ResNet-18 amplifies them.
    limit = 0.1 if name == "torchvision_resnet18" else 0.03
    assert relative_error(rounded_logits(trainable, pixels), logits) < limit
    float32 = torch_logits(trainable.fake_quantized.network, pixels)
    assert relative_error(rounded_logits(trainable, pixels), logits) < relative_error(float32, logits)
    float32 = with_weights(onnx_ir.from_proto(trainable.graph), tensors(trainable.fake_quantized.network))
    static = quantize(float32, "static", images(64, seed=2))
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in static.graph.node]
    assert count_contents(model) == count_contents(static)


@pytest.mark.parametrize("name", SMALL | NETWORKS)
def test_without_fake_quantization_the_network_is_the_float32_one(name):
    trainable = prepared((SMALL | NETWORKS)[name])
    rounding = trainable.fake_quantized.eval()
    pixels = Normalize(DATASET)(torch.from_numpy(images(20)))
    with torch.inference_mode():
        expected, found = rounding.network(pixels), rounding.without_fake_quantization(pixels)
        assert relative_error(found.numpy(), expected.numpy()) < 1e-5
        assert relative_error(rounding(pixels).numpy(), expected.numpy()) > 1e-4  # which rounding changes


@pytest.mark.parametrize("mode", ["static", "qat"])
def test_a_filter_that_was_pruned_whole_keeps_its_bias(mode):
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
    network = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        network[0].weight *= 30  # levels of its outputs, and of biases by the scale 1, far apart
        network[2].weight /= 30
        network[2].weight[:12] = 0
        network[2].bias[:12] = torch.linspace(0, 0.3, 12)
    trainable = prepare(network, DATASET, images(64, seed=2), CPU)
    pixels = images(50)
    if mode == "qat":
        logits = onnx_logits(trainable.deployed(), pixels)
    else:
        float32 = with_weights(onnx_ir.from_proto(trainable.graph), tensors(network))
        logits = onnx_logits(quantize(float32, "static", images(64, seed=2)), pixels)
    assert relative_error(logits, torch_logits(network, pixels)) < 0.03
    assert relative_error(logits, rounded_logits(trainable, pixels)) < 0.01


def test_the_network_is_prepared_on_the_device():
    """On a GPU, for which meta stands here, and where gradients are on: tensors that are moved without cannot learn."""
    network = prepare(lively(LinearBatchNorm()), DATASET, images(16, seed=2), torch.device("meta")).fake_quantized
    state = [*network.parameters(), *network.buffers()]
    assert {(tensor.device.type, tensor.is_inference()) for tensor in state} == {("meta", False)}
    devices = {str(node.kwargs["device"]) for node in network.graph.nodes if "device" in node.kwargs}
    assert devices == {"meta"}


def test_a_network_of_one_layer_agrees_to_a_level():
    trainable = prepared(NoLinear)
    for part in trainable.fake_quantized.ranges.values():
        part.high *= 0.9  # not the range of static any more
    difference = rounded_logits(trainable, images(50)) - onnx_logits(trainable.deployed(), images(50))
    level = list(trainable.fake_quantized.ranges.values())[-1].parameters_of_uint8()[0].item()
    assert numpy.abs(difference).max() < 0.1 * level  # means of a map that agrees but for single levels


def wrongly_folded(weight, bias, scale, shift, mean, variance, epsilon):
    factor = (scale * torch.rsqrt(variance + epsilon)).view(-1, 1, 1, 1)
    return weight * factor, shift  # the mean is forgotten


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("fold_batchnorm", wrongly_folded, r"differs by \d+% from the float32 one.*use mode static"),
        ("fake_quantize_weight", lambda weight, axis: torch.zeros_like(weight), r"differs by \d+%.*use mode static"),
        ("WEIGHT_LEVELS", 2, r"int8 ONNX file differs by \d+%.*use mode static"),
        ("ACTIVATION_LEVELS", 15, r"int8 ONNX file differs by \d+%.*use mode static"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(monkeypatch, name, wrong, message):
    check_agreement(prepared(ReusedBlock), DATASET, images(50))
    monkeypatch.setattr(fake_quantization, name, wrong)
    trainable = prepared(ReusedBlock)
    with pytest.raises(UserError, match=message):
        check_agreement(trainable, DATASET, images(50))


def test_a_range_follows_the_batches_in_training_alone_and_always_holds_zero():
    part = fake_quantization.FakeQuantize(0.01, 0)  # 0 to 2.55
    part.eval()(torch.tensor([-5.0, 9.0]))
    assert (part.low.item(), part.high.item()) == pytest.approx((0, 2.55))
    for _ in range(1000):
        part.train()(torch.tensor([1.0, 9.0]))
    assert (part.low.item(), part.high.item()) == pytest.approx((0, 9), rel=1e-3)
    for _ in range(1000):
        part(torch.tensor([-5.0, -1.0]))
    assert (part.low.item(), part.high.item()) == pytest.approx((-5, 0), abs=1e-3)


def test_what_an_activation_is_rounded_to_is_a_level_and_what_is_clipped_has_no_gradient():
    part = fake_quantization.FakeQuantize(0.5, 10).eval()  # -5 to 122.5
    values = torch.tensor([-6.0, -5.0, 0.2, 0.3, 122.4, 130], requires_grad=True)
    rounded = part(values)
    assert rounded.tolist() == [-5, -5, 0, 0.5, 122.5, 122.5]
    rounded.sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_weight_is_rounded_to_129_levels_a_channel_and_zero_stays_zero(axis):
    weight = torch.randn(5, 7, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    weight[:, 3] = 0
    rounded = fake_quantize_weight(weight, axis)
    channels = [weight] if axis is None else weight.unbind(axis)
    for channel, got in zip(channels, [rounded] if axis is None else rounded.unbind(axis), strict=True):
        level = channel.abs().max() / 64
        torch.testing.assert_close(got, torch.round(channel / level) * level if level else channel)
    assert (rounded[weight == 0] == 0).all()


@pytest.fixture
def study(tmp_path, dataset, monkeypatch) -> pathlib.Path:
    """Work in a folder with my_model.py, which builds the networks of the tests; return that of the toy images."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("my_model.py").write_text("from test_qat import *\n")
    return dataset


def split(dataset: pathlib.Path, name: str) -> Split:
    return Split.read(dataset / f"{name}_images.npy", dataset / f"{name}_labels.npy")


def trained(
    dataset: pathlib.Path,
    name: str,
    seed=0,
    rate=0.0,
    scope="global",
    output="qat.onnx",
    state=None,
    **changes,
):
    """Train the network with weights as after training, pruned, and return the file and the network."""
    architecture = name if name.startswith("resnet") else f"my_model.py:{name}"
    network = lively(build_network(architecture, 3, 1))
    if scope == "channel":
        channel_prune(network, Dataset.read(dataset / "dataset.json"), rate, count_weights(network)[1])
    elif rate:
        magnitude_prune(network, scope, rate)
    save_checkpoint("checkpoint.safetensors", network.state_dict(), {"model": "mine", "scope": scope, "rate": rate})
    quantize_qat(
        dataset / "dataset.json",
        split(dataset, "train"),
        split(dataset, "validation"),
        "checkpoint.safetensors",
        architecture,
        seed,
        dataclasses.replace(SETTINGS, **changes),
        16,
        1,
        state or TrainingState(pathlib.Path("state.pt"), {}),
        output,
    )
    return onnx.load(output), network


def int8_weights(model: onnx.ModelProto) -> dict[str, numpy.ndarray]:
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        name.removesuffix("_quantized"): array
        for name, array in constants.items()
        if array.dtype == numpy.int8 and array.ndim > 1
    }


@pytest.fixture
def takes_what_was_trained(monkeypatch):
    """Let training count as a gain, which the nine validation images are too few to show."""
    monkeypatch.setattr("quantize_qat.mean_difference_interval", lambda before, after: (1.0, 0.5, 1.5))


@pytest.mark.parametrize("name", ["resnet8", "ReusedBlock", "SharedConvolution", "NoBatchNorm", "Grouped", "Tied"])
@pytest.mark.usefixtures("takes_what_was_trained")
def test_pruned_zeros_are_zeros_in_the_file_position_by_position(study, name):
    model, pruned = trained(study, name, rate=0.7, learning_rate=0.05, weight_decay=0.1)
    dense, _ = trained(study, name, rate=0.7, epochs=1, learning_rate=1e-9, output="untrained.onnx")
    stored = int8_weights(model)
    layers = {f"{key}.weight": module.weight for key, module in pruned.named_modules() if isinstance(module, LAYERS)}
    assert stored.keys() <= layers.keys()
    assert count_contents(model)["int8_weights"] == sum(weight.numel() for weight in set(layers.values()))
    for key, array in stored.items():
        assert (array[(layers[key] == 0).numpy()] == 0).all(), key
        assert (layers[key] == 0).any()
    assert any((array != int8_weights(dense)[key]).any() for key, array in stored.items())  # it did learn


@pytest.mark.parametrize("name", ["resnet8", "ReusedBlock"])
@pytest.mark.usefixtures("takes_what_was_trained")
def test_a_network_without_channels_is_trained_and_stays_small(study, name):
    model, network = trained(study, name, rate=0.5, scope="channel")
    weights = int8_weights(model)
    assert all(array.shape == network.get_parameter(key).shape for key, array in weights.items())
    counts = count_contents(model)
    assert counts["int8_weights"] == counts["weights"] == count_weights(network)[1]
    dense = build_network(name if name == "resnet8" else f"my_model.py:{name}", 3, 1)
    assert counts["weights"] < 0.7 * count_weights(dense)[1]


def test_weights_have_seven_bits_and_a_scale_for_each_channel(study):
    model, _ = trained(study, "ReusedBlock")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = int8_weights(model)
    assert set(weights) == {"stem.weight", "conv.weight", "linear.weight"}
    for name, array in weights.items():
        assert (numpy.abs(array.astype(int)).reshape(len(array), -1).max(1) == 64).all()
        assert constants[f"{name}_scale"].shape == array.shape[:1]


def test_the_file_takes_any_number_of_images_and_says_where_it_comes_from(study):
    model, _ = trained(study, "ReusedBlock")
    pixels = split(study, "test").images
    together = onnx_logits(model, pixels)
    apart = numpy.concatenate([onnx_logits(model, image[None]) for image in pixels])
    numpy.testing.assert_array_equal(together, apart)
    said = description(model)
    assert said["classes"] == ["top", "middle", "bottom"]
    assert said["preprocessing"]["input"] == "uint8 [batch, 1, 8, 8], raw pixels"
    expected = {"model": "mine", "mode": "qat", "qat_epochs": 3, "qat_learning_rate": 0.01, "calibration_images": 16}
    assert said["provenance"].items() >= expected.items()
    assert b"/tests/" not in model.SerializeToString()


@pytest.mark.usefixtures("takes_what_was_trained")
def test_a_seed_gives_the_same_bytes_and_another_seed_others(study):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trained(study, "SharedConvolution", seed=seed, output=f"{name}.onnx", flip=True)
    a, b, c = (pathlib.Path(f"{name}.onnx").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def validation_losses(printed: str) -> dict[int, float]:
    """Return the loss of each epoch, the calibrated network being epoch 0, from what a training printed."""
    rows = re.findall(r"^epoch=(\d+) .*validation_loss=(\S+)", printed, re.MULTILINE)
    return {int(epoch): float(loss) for epoch, loss in rows}


@pytest.mark.usefixtures("takes_what_was_trained")
def test_the_epoch_of_the_lowest_validation_loss_is_kept(study, capsys):
    model, _ = trained(study, "ReusedBlock", seed=1, epochs=6, learning_rate=0.02)
    losses = validation_losses(capsys.readouterr().out)
    assert list(losses) == list(range(7))
    best = min(losses, key=losses.get)
    assert 0 < best < 6
    assert description(model)["provenance"]["qat_epoch"] == best


def test_a_gain_that_may_be_chance_is_none(study, capsys):
    model, _ = trained(study, "ReusedBlock", seed=1, epochs=6, learning_rate=0.02)
    printed = capsys.readouterr().out
    losses = validation_losses(printed)
    assert min(losses, key=losses.get) != 0
    assert re.search(r"changes the validation loss by -0\.\d+, 95 % interval -0\.\d+ to 0\.\d+\n", printed)
    assert re.search(r"\d+% of images that became right .* interval \d+% to \d+%\nkept as calibrated\n", printed)
    assert description(model)["provenance"]["qat_epoch"] == 0


def test_more_images_that_are_right_are_a_gain_though_the_loss_shows_none(study, monkeypatch):
    monkeypatch.setattr("quantize_qat.share_became_correct", lambda before, after: (0.8, 0.51, 0.9))
    model, _ = trained(study, "ReusedBlock", seed=1, epochs=6, learning_rate=0.02)
    assert description(model)["provenance"]["qat_epoch"] != 0


def test_a_network_that_training_makes_no_better_is_kept_as_calibrated(study, capsys):
    """Training and validation labels contradict each other."""
    for part in ("train", "validation"):
        labels = split(study, part).labels
        numpy.save(study / f"{part}_labels.npy", numpy.zeros_like(labels) if part == "train" else labels % 2 + 1)
    model, network = trained(study, "ReusedBlock", epochs=2, learning_rate=0.05)
    losses = validation_losses(capsys.readouterr().out)
    assert losses[0] < min(losses[1], losses[2])
    assert description(model)["provenance"]["qat_epoch"] == 0
    dataset = Dataset.read(study / "dataset.json")
    calibrated = prepare(network, dataset, split(study, "train").images[:16], torch.device("cpu")).deployed()
    pixels = split(study, "test").images
    numpy.testing.assert_array_equal(onnx_logits(model, pixels), onnx_logits(calibrated, pixels))
    with pytest.raises(Killed):
        trained(
            study, "ReusedBlock", epochs=2, learning_rate=0.05, state=DiesAfter(pathlib.Path("state.pt"), {}, [None])
        )
    trained(study, "ReusedBlock", epochs=2, learning_rate=0.05, output="resumed.onnx")
    assert pathlib.Path("resumed.onnx").read_bytes() == pathlib.Path("qat.onnx").read_bytes()


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.usefixtures("takes_what_was_trained")
def test_a_run_killed_after_an_epoch_ends_with_the_same_bytes(study, epochs):
    trained(study, "SharedConvolution", rate=0.5, output="undisturbed.onnx")
    path = pathlib.Path("state.pt")
    with pytest.raises(Killed):
        trained(study, "SharedConvolution", rate=0.5, state=DiesAfter(path, {}, [None] * epochs))
    assert path.exists()
    assert not pathlib.Path("qat.onnx").exists()
    trained(study, "SharedConvolution", rate=0.5)
    assert pathlib.Path("qat.onnx").read_bytes() == pathlib.Path("undisturbed.onnx").read_bytes()
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BranchesOnData", "cannot be exported to ONNX .*data-dependent"),
        ("NoWeights", "qat changed nothing.*remove qat"),
        ("Frozen", "nothing to train; .*leave out mode qat"),
    ],
)
def test_a_network_that_cannot_be_trained_for_int8_is_named(study, name, message):
    with pytest.raises(UserError, match=f"^architecture 'my_model.py:{name}': .*{message}"):
        trained(study, name)
    assert not pathlib.Path("qat.onnx").exists()


def test_training_wins_back_the_accuracy_that_static_quantization_loses(study):
    test = split(study, "test")

    def accuracy(model: onnx.ModelProto) -> float:
        return float((onnx_logits(model, test.images).argmax(1) == test.labels).mean())

    untrained, float32 = trained(study, "Outlier", epochs=1, learning_rate=1e-9)
    normalized = Normalize(Dataset.read(study / "dataset.json"))(torch.from_numpy(test.images))
    assert (float32(normalized).argmax(1).numpy() == test.labels).mean() == 1
    assert accuracy(untrained) < 0.5  # as static: ranges and weights are those of calibration
    model, _ = trained(study, "Outlier", epochs=20, learning_rate=0.02)
    assert accuracy(model) > 0.9
