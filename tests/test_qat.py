"""Quantization-aware training: what is trained is what the ONNX file computes, and pruned zeros stay."""

import copy
import dataclasses
import pathlib
import re
from collections.abc import Mapping

import numpy
import onnx
import onnx_ir
import pytest
import torch
from interruption import DiesAfter, Killed
from networks import (
    DATASET,
    NETWORKS,
    Chaotic,
    Grouped,
    InPlace,
    LinearBatchNorm,
    NoBatchNorm,
    NoLinear,
    Outlier,
    Pooling,
    ReusedBlock,
    SharedConvolution,
    Tied,
    Variance,
    WeightNorm,
    images,
    lively,
    onnx_logits,
    relative_error,
    tensors,
    torch_logits,
)
from torch import nn

from elagage.data import PreparedData, Split
from elagage.errors import RefusedError, UserError
from elagage.modes import MINMAX, OPERATORS, Calibration
from elagage.onnx.contents import count_contents
from elagage.onnx.deployed import description
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.pytorch import fake_quantization
from elagage.pytorch.channels import channel_prune
from elagage.pytorch.checkpoints import save_checkpoint
from elagage.pytorch.fake_quantization import fake_quantize_weight
from elagage.pytorch.models import Normalize, build_network
from elagage.pytorch.pruning import count_weights, magnitude_prune
from elagage.pytorch.qat import MAX_ERROR, Trainable, check_agreement, prepare, train_fake_quantized
from elagage.pytorch.training_state import TrainingState
from elagage.schedules import TrainingSettings
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
        InPlace,
        Variance,
    )
}


def rounded_logits(trainable, pixels: numpy.ndarray) -> numpy.ndarray:
    return torch_logits(trainable.fake_quantized.eval(), pixels)


def prepared(kind) -> Trainable:
    torch.manual_seed(0)
    return prepare(lively(kind()), DATASET, images(64, seed=2), CPU)


FAST = ("ReusedBlock", "Pooling", "LinearBatchNorm", "resnet8")
EACH = SMALL | {name: NETWORKS[name] for name in ("resnet8", "resnet20", "torchvision_resnet18")}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in EACH]
)
def each(request) -> tuple[str, Trainable]:
    """Return the name of a network and the network, prepared once for the tests that leave it as it is."""
    return request.param, prepared(EACH[request.param])


def test_the_network_computes_what_its_onnx_file_does_with_the_operators_of_static(each):
    name, trainable = each
    pixels = images(50)
    model = check_agreement(trainable, DATASET, pixels).model
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


def test_without_fake_quantization_the_network_is_the_float32_one(each):
    _, trainable = each
    rounding = trainable.fake_quantized.eval()
    pixels = Normalize(DATASET)(torch.from_numpy(images(20)))
    with torch.inference_mode():
        expected, found = rounding.network(pixels.clone()), rounding.without_fake_quantization(pixels)
        assert relative_error(found.numpy(), expected.numpy()) < 1e-5
        assert relative_error(rounding(pixels).numpy(), expected.numpy()) > 1e-4  # which rounding changes


def test_a_filter_that_was_pruned_whole_keeps_its_bias():
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
    float32 = with_weights(onnx_ir.from_proto(trainable.graph), tensors(network))
    for model in (trainable.deployed(), quantize(float32, "static", images(64, seed=2))):
        logits = onnx_logits(model, pixels)
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
    level = list(trainable.fake_quantized.ranges.values())[-1].scale_and_zero_point()[0].item()
    assert numpy.abs(difference).max() < 0.1 * level  # means of a map that agrees but for single levels


def wrongly_folded(weight, bias, scale, shift, mean, variance, epsilon):
    factor = (scale * torch.rsqrt(variance + epsilon)).view(-1, 1, 1, 1)
    return weight * factor, shift  # the mean is forgotten


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("fold_batchnorm", wrongly_folded, r"differs by \d+% from the float32 one.*use mode static"),
        ("WEIGHT_LEVELS", 2, r"int8 ONNX file differs by \d+%.*use mode static"),
        pytest.param(
            "fake_quantize_weight",
            lambda weight, axis: torch.zeros_like(weight),
            r"differs by \d+%.*use mode static",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "ACTIVATION_LEVELS", 15, r"int8 ONNX file differs by \d+%.*use mode static", marks=pytest.mark.slow
        ),
    ],
)
def test_a_network_that_computes_something_else_is_refused(monkeypatch, name, wrong, message):
    monkeypatch.setattr(fake_quantization, name, wrong)
    trainable = prepared(ReusedBlock)
    with pytest.raises(RefusedError, match=message):
        check_agreement(trainable, DATASET, images(50))


@pytest.fixture(scope="module")
def chaotic() -> Trainable:
    return prepared(Chaotic)


def test_a_network_that_amplifies_flipped_levels_may_differ_as_much_as_by_a_grey_level(chaotic, capsys):
    model, error, noise = check_agreement(chaotic, DATASET, images(50))
    found = relative_error(rounded_logits(chaotic, images(50)), onnx_logits(model, images(50)))
    assert MAX_ERROR < error == pytest.approx(found, rel=0.05)  # the network amplifies the order of sums, too
    assert error <= noise
    assert re.search(r"noise of one grey level moves the logits by \d\d\.\d+%", capsys.readouterr().out)


def test_a_network_that_amplifies_flipped_levels_has_to_agree_all_the_same(chaotic, monkeypatch):
    monkeypatch.setattr(fake_quantization, "WEIGHT_LEVELS", 2)
    with pytest.raises(RefusedError, match=r"int8 ONNX file differs by \d+%"):
        check_agreement(chaotic, DATASET, images(50))


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
def study(tmp_path, data, monkeypatch) -> PreparedData:
    """Work in a folder with my_model.py, which builds the networks of the tests; return the toy images."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("my_model.py").write_text("from networks import *\n")
    return data


def trained(
    data: PreparedData,
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
        channel_prune(network, data.dataset, rate, count_weights(network, data.dataset).weights)
    elif rate:
        magnitude_prune(network, data.dataset, scope, rate)
    save_checkpoint("checkpoint.safetensors", network.state_dict(), {"model": "mine", "scope": scope, "rate": rate})
    quantize_qat(
        data,
        "checkpoint.safetensors",
        architecture,
        dataclasses.replace(SETTINGS, **changes),
        seed=seed,
        calibration_images=16,
        calibration=MINMAX,
        state=state or TrainingState(pathlib.Path("state.pt"), {}),
        output=output,
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
    monkeypatch.setattr("elagage.pytorch.qat.mean_difference_interval", lambda before, after: (1.0, 0.5, 1.5))


@pytest.mark.parametrize(
    "name",
    [
        "ReusedBlock",
        "Tied",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet8", "SharedConvolution", "NoBatchNorm", "Grouped")
        ),
    ],
)
@pytest.mark.usefixtures("takes_what_was_trained")
def test_pruned_zeros_are_zeros_in_the_file_position_by_position(study, name):
    model, pruned = trained(study, name, rate=0.7, learning_rate=0.05, weight_decay=0.1)
    stored = int8_weights(model)
    layers = {
        f"{key}.weight": module.weight
        for key, module in pruned.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    assert stored.keys() <= layers.keys()
    assert count_contents(model)["int8_weights"] == sum(weight.numel() for weight in set(layers.values()))
    for key, array in stored.items():
        assert (array[(layers[key] == 0).numpy()] == 0).all(), key
        assert (layers[key] == 0).any()
    assert any((array != levels(layers[key])).any() for key, array in stored.items())  # it did learn


@pytest.mark.parametrize("name", ["InPlace", "Variance"])
@pytest.mark.usefixtures("takes_what_was_trained")
def test_networks_as_people_write_them_are_trained_for_int8(study, name):
    model, network = trained(study, name)
    assert any((array != levels(network.get_parameter(key))).any() for key, array in int8_weights(model).items())


def levels(weight: torch.Tensor) -> numpy.ndarray:
    """Return the weight as int8 stores it; a factor per channel, as batch norm has it, changes nothing."""
    largest = weight.detach().flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1))
    return (64 * weight.detach() / largest).nan_to_num().round().numpy()


@pytest.mark.parametrize("name", ["resnet8", pytest.param("ReusedBlock", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("takes_what_was_trained")
def test_a_network_without_channels_is_trained_and_stays_small(study, data, name):
    model, network = trained(study, name, rate=0.5, scope="channel")
    weights = int8_weights(model)
    assert all(array.shape == network.get_parameter(key).shape for key, array in weights.items())
    counts = count_contents(model)
    assert counts["int8_weights"] == counts["weights"] == count_weights(network, data.dataset).weights
    dense = build_network(name if name == "resnet8" else f"my_model.py:{name}", 3, 1)
    assert counts["weights"] < 0.7 * count_weights(dense, data.dataset).weights


@pytest.fixture(scope="module")
def deployed(data, tmp_path_factory) -> onnx.ModelProto:
    """Return what quantize_qat writes for a network that is not pruned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("deployed"))
        pathlib.Path("my_model.py").write_text("from networks import *\n")
        return trained(data, "ReusedBlock")[0]


def test_weights_have_seven_bits_and_a_scale_for_each_channel(deployed):
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in deployed.graph.initializer}
    weights = int8_weights(deployed)
    assert set(weights) == {"stem.weight", "conv.weight", "linear.weight"}
    for name, array in weights.items():
        assert (numpy.abs(array.astype(int)).reshape(len(array), -1).max(1) == 64).all()
        assert constants[f"{name}_scale"].shape == array.shape[:1]


def test_the_file_takes_any_number_of_images_and_says_where_it_comes_from(deployed, held_out):
    pixels = held_out.images
    together = onnx_logits(deployed, pixels)
    apart = numpy.concatenate([onnx_logits(deployed, image[None]) for image in pixels])
    numpy.testing.assert_array_equal(together, apart)
    said = description(deployed)
    assert said["classes"] == ["top", "middle", "bottom"]
    assert said["preprocessing"]["input"] == "uint8 [batch, 1, 8, 8], raw pixels"
    expected = {"model": "mine", "mode": "qat", "qat_epochs": 3, "qat_learning_rate": 0.01, "calibration_images": 16}
    assert said["provenance"].items() >= expected.items()
    assert said["provenance"]["qat_error"] < said["provenance"]["qat_noise"]
    assert b"/tests/" not in deployed.SerializeToString()


@pytest.mark.parametrize("kind", [ReusedBlock, NETWORKS["resnet8"]], ids=["ReusedBlock", "resnet8"])
@pytest.mark.parametrize("operators", OPERATORS)
def test_another_calibration_is_trained_and_deployed_alike(kind, operators):
    torch.manual_seed(0)
    calibration, pixels = Calibration("mse", operators), images(64, seed=2)
    trainable = prepare(lively(kind()), DATASET, pixels, CPU, calibration)
    deployed = check_agreement(trainable, DATASET, images(50)).model
    logits = onnx_logits(deployed, images(50))
    assert relative_error(rounded_logits(trainable, images(50)), logits) < 0.03
    float32 = with_weights(onnx_ir.from_proto(trainable.graph), tensors(trainable.fake_quantized.network))
    static = quantize(float32, "static", pixels, calibration=calibration)
    assert [node.op_type for node in deployed.graph.node] == [node.op_type for node in static.graph.node]


@pytest.fixture(scope="module")
def calibrated(data) -> Trainable:
    """Return a network for the toy images, prepared once for all trainings."""
    torch.manual_seed(0)
    return prepare(lively(ReusedBlock(3, 1)), data.dataset, data.train.images[:16], CPU)


@pytest.fixture
def fit_for_int8(calibrated, study):
    """Return a function that trains the network as calibrated; the end of the test undoes that.

    It takes the data, seed, state and settings, and returns the row of the epoch that is kept and the bytes learnt.
    """
    network, start = calibrated.fake_quantized, copy.deepcopy(calibrated.fake_quantized.state_dict())

    def train(data=study, seed=1, state=None, **changes) -> tuple[Mapping[str, float], list[bytes]]:
        network.load_state_dict(start)
        settings = dataclasses.replace(SETTINGS, **{"epochs": 6, "learning_rate": 0.02} | changes)
        state = state or TrainingState(pathlib.Path("state.pt"), {})
        best = train_fake_quantized(calibrated, data, settings, seed=seed, label="train", state=state)
        state.remove()
        return best, learnt(network)

    yield train
    network.load_state_dict(start)


def learnt(network: nn.Module) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in network.state_dict().values()]


@pytest.mark.usefixtures("takes_what_was_trained")
def test_a_seed_gives_the_same_bytes_and_another_seed_others(fit_for_int8):
    a, b, c = (fit_for_int8(seed=seed, epochs=2, flip=True)[1] for seed in (1, 1, 2))
    assert a == b
    assert a != c


def validation_losses(printed: str) -> dict[int, float]:
    """Return the loss of each epoch, the calibrated network being epoch 0, from what a training printed."""
    rows = re.findall(r"^epoch=(\d+) .*validation_loss=(\S+)", printed, re.MULTILINE)
    return {int(epoch): float(loss) for epoch, loss in rows}


@pytest.mark.usefixtures("takes_what_was_trained")
def test_the_epoch_of_the_lowest_validation_loss_is_kept(fit_for_int8, capsys):
    kept, _ = fit_for_int8(seed=1, learning_rate=0.2)
    losses = validation_losses(capsys.readouterr().out)
    assert list(losses) == list(range(7))
    best = min(losses, key=losses.get)
    assert 0 < best < 6
    assert kept["epoch"] == best


def test_a_gain_that_may_be_chance_is_none(fit_for_int8, calibrated, capsys):
    before = learnt(calibrated.fake_quantized)
    kept, after = fit_for_int8()
    printed = capsys.readouterr().out
    losses = validation_losses(printed)
    assert min(losses, key=losses.get) != 0
    assert re.search(r"changes the validation loss by -0\.\d+, 95 % interval -0\.\d+ to 0\.\d+\n", printed)
    assert re.search(r"\d+% of the images that changed .* interval \d+% to \d+%\nkept as calibrated\n", printed)
    assert kept["epoch"] == 0
    assert after == before


def test_more_images_that_are_correct_are_a_gain_though_the_loss_shows_none(fit_for_int8, monkeypatch):
    monkeypatch.setattr("elagage.pytorch.qat.share_became_correct", lambda before, after: (0.8, 0.51, 0.9))
    assert fit_for_int8()[0]["epoch"] != 0


def test_a_network_that_training_makes_no_better_is_kept_as_calibrated(study, fit_for_int8, calibrated, capsys):
    """Training and validation labels contradict each other."""
    train = Split(study.train.images, numpy.zeros_like(study.train.labels))
    validation = Split(study.validation.images, study.validation.labels % 2 + 1)
    data, before = PreparedData(study.dataset, train, validation), learnt(calibrated.fake_quantized)
    changes = {"data": data, "epochs": 2, "learning_rate": 0.05}
    kept, after = fit_for_int8(**changes)
    losses = validation_losses(capsys.readouterr().out)
    assert losses[0] < min(losses[1], losses[2])
    assert kept["epoch"] == 0
    assert after == before
    with pytest.raises(Killed):
        fit_for_int8(state=DiesAfter(pathlib.Path("state.pt"), {}, [None]), **changes)
    kept, after = fit_for_int8(**changes)
    assert "resumed after epoch 1 of 2" in capsys.readouterr().out
    assert kept["epoch"] == 0
    assert after == before


@pytest.mark.parametrize("epochs", [1, pytest.param(2, marks=pytest.mark.slow)])
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
        pytest.param("BranchesOnData", "other logits beside seven others than alone", marks=pytest.mark.slow),
        ("NoWeights", "qat changed nothing"),
        ("Frozen", "nothing to train; .*leave out mode qat"),
    ],
)
def test_a_network_that_cannot_be_trained_for_int8_is_named(study, name, message):
    with pytest.raises(UserError, match=f"^architecture 'my_model.py:{name}': .*{message}"):
        trained(study, name)
    assert not pathlib.Path("qat.onnx").exists()


def test_training_wins_back_the_accuracy_that_static_quantization_loses(study, held_out):
    pixels, labels = held_out.images, held_out.labels

    def accuracy(model: onnx.ModelProto) -> float:
        return float((onnx_logits(model, pixels).argmax(1) == labels).mean())

    network = Outlier().eval()
    assert (network(Normalize(study.dataset)(torch.from_numpy(pixels))).argmax(1).numpy() == labels).mean() == 1
    trainable = prepare(network, study.dataset, study.train.images[:16], CPU)
    assert accuracy(trainable.deployed()) < 0.5
    settings, state = dataclasses.replace(SETTINGS, epochs=20, learning_rate=0.02), TrainingState("state.pt", {})
    train_fake_quantized(trainable, study, settings, seed=0, label="train", state=state)
    assert accuracy(trainable.deployed()) > 0.9
