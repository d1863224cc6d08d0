"""Export and quantization: the ONNX files agree with PyTorch, keep zeros, and count what they hold."""

import functools
import pathlib
from collections.abc import Callable

import numpy
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from networks import (
    DATASET,
    NETWORKS,
    SIZE,
    BranchesOnData,
    NoLinear,
    NoWeights,
    ReusedBlock,
    SharedConvolution,
    Tied,
    images,
    lively,
    onnx_logits,
    relative_error,
    tensors,
    torch_logits,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from elagage.data import Split
from elagage.errors import RefusedError, UserError
from elagage.modes import MINMAX
from elagage.onnx.contents import check_zeros, count_contents, stored_weights
from elagage.onnx.deployed import describe, description, strip
from elagage.onnx.graph import with_weights
from elagage.onnx.macs import count_multiply_accumulates
from elagage.onnx.quantization import quantize
from elagage.pytorch.checkpoints import save_checkpoint
from elagage.pytorch.export import export_graph
from elagage.pytorch.pruning import count_weights, magnitude_prune
from quantize import quantize_checkpoint

SLOW = ("resnet20", "torchvision_resnet18")
EACH = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS]


@functools.cache
def exported(kind: Callable[[], nn.Module]) -> bytes:
    """Export a network once for all tests: that takes seconds."""
    return onnx_ir.to_proto(export_graph(kind(), DATASET)).SerializeToString()


def float_model(network: nn.Module, kind: Callable[[], nn.Module]) -> onnx.ModelProto:
    return with_weights(onnx_ir.from_proto(onnx.load_from_string(exported(kind))), tensors(network))


@pytest.mark.parametrize("name", EACH)
def test_the_graph_takes_the_weights_of_another_checkpoint(name):
    network = lively(NETWORKS[name]())
    magnitude_prune(network, DATASET, "global", 0.5)
    model = float_model(network, NETWORKS[name])
    assert relative_error(onnx_logits(model, images(5)), torch_logits(network, images(5))) < 1e-5
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("mode", ["dynamic_conv", "static"])
def test_all_weights_and_operators_become_int8(name, mode):
    network = lively(NETWORKS[name]())
    model = float_model(network, NETWORKS[name])
    quantized = quantize(model, mode, images(64, seed=2) if mode == "static" else None)
    before, after = count_contents(model), count_contents(quantized)
    assert before["int8_weights"] == before["int8_operators"] == 0
    assert after["int8_weights"] == after["weights"] == before["weights"]
    assert after["int8_operators"] == after["operators"] == before["operators"]
    # A broken graph is off by 0.8 or more; an untrained network of 20 layers under dynamic_conv by 0.13.
    limit = {"static": 0.1, "dynamic_conv": 0.3}[mode]
    assert relative_error(onnx_logits(quantized, images(50)), torch_logits(network, images(50))) < limit


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("mode", ["float32", "dynamic", "dynamic_conv", "static"])
def test_pruned_zeros_are_counted_in_the_file(scope, mode):
    network = lively(ReusedBlock())
    counts = magnitude_prune(network, DATASET, scope, 0.7)
    model = float_model(network, ReusedBlock)
    if mode != "float32":
        model = quantize(model, mode, images(64) if mode == "static" else None)
    contents = count_contents(model)
    assert contents["weights"] == counts.weights == count_weights(network, DATASET).weights
    if mode == "float32":
        assert contents["zeros"] == counts.zeros
    else:  # rounding to 8 bits adds zeros, and takes none away
        assert contents["zeros"] >= counts.zeros


def test_dynamic_covers_linear_layers_alone():
    network = lively(NETWORKS["resnet8"]())
    contents = count_contents(quantize(float_model(network, NETWORKS["resnet8"]), "dynamic"))
    assert contents["int8_weights"] == network.linear.weight.numel()
    assert contents["int8_weights"] / contents["weights"] < 0.01
    assert contents["int8_operators"] == 1


def test_dynamic_without_linear_layers_reports_no_coverage_instead_of_failing():
    contents = count_contents(quantize(float_model(NoLinear(), NoLinear), "dynamic"))
    assert contents["int8_weights"] == 0
    assert contents["weights"] == 81


@pytest.mark.parametrize("mode", ["static", "dynamic_conv"])
def test_a_mode_that_changes_nothing_fails(mode):
    with pytest.raises(UserError, match=f"{mode} changed nothing"):
        quantize(float_model(NoWeights(), NoWeights), mode, images(8) if mode == "static" else None)


def test_a_convolution_with_two_batch_norms_is_stored_once_and_right():
    network = lively(SharedConvolution())
    model = float_model(network, SharedConvolution)
    assert count_contents(model)["weights"] == count_weights(network, DATASET).weights
    assert relative_error(onnx_logits(model, images(5)), torch_logits(network, images(5))) < 1e-5


def test_weights_fit_into_seven_bits():
    quantized = quantize(float_model(lively(ReusedBlock()), ReusedBlock), "static", images(64))
    producers = {output: node for node in quantized.graph.node for output in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        dequantize = producers[node.input[1]]
        weight, scale = constants[dequantize.input[0]], constants[dequantize.input[1]]
        assert numpy.abs(weight.astype(int)).max() <= 64
        assert scale.shape == weight.shape[:1]  # per channel


def test_any_batch_size_gives_the_same_logits():
    model = float_model(lively(NETWORKS["resnet8"]()), NETWORKS["resnet8"])
    together = onnx_logits(model, images(7))
    apart = numpy.concatenate([onnx_logits(model, image[None]) for image in images(7)])
    numpy.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


def test_the_network_is_told_when_its_logits_have_the_wrong_shape():
    with pytest.raises(UserError, match=r"\(8, 5\).*\(8, 3\)"):
        export_graph(ReusedBlock(num_classes=5), DATASET)


class OnlyTwoImages(ReusedBlock):
    def forward(self, x):
        return super().forward(x).reshape(2, 3)


class Random(ReusedBlock):
    def forward(self, x):
        return super().forward(x) + torch.rand(())


class Raises(ReusedBlock):
    def forward(self, x):
        raise ValueError("too small")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (BranchesOnData, "cannot be exported to ONNX .*data-dependent"),
        (OnlyTwoImages, r"raised RuntimeError for 8 image.*invalid"),
        (Random, "gives other logits when it is called again .*randomness"),
        (Raises, "raised ValueError .*too small"),
    ],
)
def test_a_network_that_cannot_be_exported_gets_a_clear_error(network, message):
    with pytest.raises(UserError, match=message):
        export_graph(network(), DATASET)


class Autocast(nn.Module):
    """Computes in bfloat16, as training scripts do to save time."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, image):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.conv(image).mean((2, 3))
        return logits.float()


def test_a_graph_that_onnx_runtime_cannot_load_gets_a_clear_error():
    with pytest.raises(UserError, match=r"cannot load the exported network \(.*bfloat16.*without autocast"):
        export_graph(Autocast(), DATASET)


def test_nothing_of_this_machine_is_left_in_a_file():
    model = float_model(NETWORKS["resnet8"](), NETWORKS["resnet8"])
    describe(model, {"classes": DATASET.classes})
    assert b"/" not in b"".join(value.encode() for node in model.graph.node for value in (node.doc_string,))
    assert b"scripts" not in model.SerializeToString()
    assert description(model) == {"classes": ["a", "b", "c"]}


@pytest.mark.parametrize("name", [pytest.param("resnet20", marks=pytest.mark.slow), "resnet8", "reused_block"])
@pytest.mark.parametrize("mode", ["float32", "dynamic", "dynamic_conv", "static"])
def test_a_stripped_file_is_smaller_and_gives_the_same_logits(name, mode):
    network = lively(NETWORKS[name]())
    magnitude_prune(network, DATASET, "global", 0.5)
    model = float_model(network, NETWORKS[name])
    if mode != "float32":
        model = quantize(model, mode, images(64) if mode == "static" else None)
    logits, contents, size = onnx_logits(model, images(5)), count_contents(model), model.ByteSize()
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    assert (onnx_logits(model, images(5)) == logits).all()
    assert count_contents(model) == contents
    assert model.ByteSize() < size - 2000
    assert not model.graph.value_info
    assert not any(node.name or node.doc_string or node.metadata_props for node in model.graph.node)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "logits"]
    vectors = [
        (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        for tensor in model.graph.initializer
        if len(tensor.dims) < 2
    ]
    assert len(set(vectors)) == len(vectors)
    macs = count_multiply_accumulates(model)
    assert macs == multiply_accumulates(network)


def multiply_accumulates(network: nn.Module) -> int:
    """Count them in PyTorch: for each call of a layer, the size of a filter or row times the outputs of one image."""
    counted = []

    def count(module: nn.Module, _, output: torch.Tensor) -> None:
        counted.append(module.weight[0].numel() * output[0].numel())

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    network(torch.zeros(1, 3, SIZE, SIZE))
    for handle in handles:
        handle.remove()
    return sum(counted)


def test_multiply_accumulates_of_single_operators():
    def count(node: onnx.NodeProto, shape: list, *constants: numpy.ndarray) -> int | None:
        image = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", *shape])
        output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
        named = [onnx.numpy_helper.from_array(array, name) for name, array in zip("wv", constants, strict=False)]
        graph = onnx.helper.make_graph([node], "operator", [image], [output], named)
        return count_multiply_accumulates(onnx.helper.make_model(graph))

    make = onnx.helper.make_node
    floats = functools.partial(numpy.zeros, dtype=numpy.float32)
    assert count(make("Conv", ["x", "w"], ["y"], group=2), [4, 5, 5], floats((6, 2, 3, 3))) == 6 * 3 * 3 * 2 * 3 * 3
    assert count(make("ConvTranspose", ["x", "w"], ["y"]), [4, 5, 5], floats((4, 6, 2, 2))) == 4 * 5 * 5 * 6 * 2 * 2
    assert count(make("Gemm", ["x", "w"], ["y"], transB=1), [7], floats((3, 7))) == 21
    assert count(make("Gemm", ["w", "x"], ["y"], transA=1), [7], floats((1, 3))) == 3 * 7
    assert count(make("MatMul", ["x", "w"], ["y"]), [2, 5, 7], floats((7, 3))) == 2 * 5 * 7 * 3
    assert count(make("MatMul", ["x", "x"], ["y"]), [2, 5, 5]) == 2 * 5 * 5 * 5  # a product without weights
    assert count(make("Relu", ["x"], ["y"]), [7]) == 0
    assert count(make("MatMul", ["x", "w"], ["y"]), ["unknown", 7], floats((7, 3))) is None
    assert count(make("Einsum", ["x", "w"], ["y"], equation="bi,ij->bj"), [7], floats((7, 3))) == 7 * 3
    assert count(make("Einsum", ["x", "w"], ["y"], equation="...i, ij -> ...j"), [4, 7], floats((7, 3))) == 4 * 7 * 3
    recurrent = floats((2, 4 * 6, 7)), floats((2, 4 * 6, 6))  # both directions
    lstm = make("LSTM", ["x", "w", "v"], ["y"], hidden_size=6, direction="bidirectional", layout=0)
    assert count(lstm, [5, 7], *recurrent) == 5 * 2 * 24 * (7 + 6)
    assert count(make("MatMul", ["x", "w"], ["y"]), [99], floats((99, 50))) == 99 * 50  # more than a shape would take


def test_multiply_accumulates_are_those_that_pytorch_counts():
    """Of attention, of steps of an LSTM, and of sizes that shape inference does not find."""
    network = Recurrent()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, SIZE, SIZE))
    model = with_weights(export_graph(network, DATASET), tensors(network))
    steps = SIZE * sum(weight.numel() for name, weight in network.rows.named_parameters() if "weight" in name)
    attention = 2 * SIZE * SIZE * 8  # queries with keys, shares with values
    assert count_multiply_accumulates(model) == counter.get_total_flops() // 2 + steps + attention


class Recurrent(nn.Module):
    """An LSTM over rows, attention, an einsum, a product from the left."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.rows = nn.LSTM(in_channels * SIZE, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mixture, self.left = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(4, SIZE))
        self.linear = nn.Linear(20, num_classes)

    def forward(self, x):
        x = self.rows(x.permute(0, 2, 1, 3).flatten(2))[0]
        x = self.attention(x, x, x, need_weights=False)[0]
        x = self.left @ torch.einsum("bld,de->ble", x, self.mixture)
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("mode", ["float32", "dynamic_conv", "static"])
def test_all_weights_that_pruning_counts_are_counted_in_the_file(mode):
    network = Recurrent()
    counts = magnitude_prune(network, DATASET, "local", 0.7)
    model = with_weights(export_graph(network, DATASET), tensors(network))
    contents = count_contents(model if mode == "float32" else quantize(model, mode, images(64)))
    assert contents["weights"] == counts.weights == sum(p.numel() for p in network.parameters() if p.dim() > 1)
    assert contents["zeros"] >= counts.zeros
    if mode == "float32":
        assert contents["zeros"] == counts.zeros
        assert relative_error(onnx_logits(model, images(4)), torch_logits(network, images(4))) < 1e-5
    if mode == "dynamic_conv":  # not for recurrent layers
        assert contents["int8_weights"] < contents["weights"]


def test_a_weight_counts_through_what_moves_its_values():
    """Behind a scale and a transposition; halves of a reshaped tensor; dequantized with zero points."""
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weight = numpy.arange(24, dtype=numpy.float32).reshape(4, 6)  # one zero
    int8 = numpy.arange(24, dtype=numpy.int8).reshape(6, 4)  # four stand for zero
    constants = {
        "moved": weight,
        "split": weight,
        "int8": int8,
        "unused": weight,
        "half": numpy.float32(0.5),
        "scales": numpy.full(4, 0.1, numpy.float32),
        "zeros": numpy.int8([0, 5, 10, 15]),
        "shape": numpy.int64([4, 6]),
    }
    nodes = [
        make("Mul", ["moved", "half"], ["scaled"]),
        make("Transpose", ["scaled"], ["transposed"]),
        make("MatMul", ["x", "transposed"], ["a"]),
        make("Reshape", ["split", "shape"], ["reshaped"]),
        make("Split", ["reshaped"], ["left", "right"], axis=0, num_outputs=2),
        make("Gemm", ["x", "left"], ["b"], transB=1),
        make("Gemm", ["x", "right"], ["c"], transB=1),
        make("DequantizeLinear", ["int8", "scales", "zeros"], ["float"], axis=1),
        make("MatMul", ["x", "float"], ["d"]),
        make("Add", ["x", "unused"], ["e"]),
    ]
    outputs = [info(name, onnx.TensorProto.FLOAT, None) for name in "abcde"]
    named = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(nodes, "g", [info("x", onnx.TensorProto.FLOAT, ["n", 6])], outputs, named)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    found = {weight.name: weight for weight in stored_weights(model)}
    assert {name: (weight.size, weight.zeros, weight.int8) for name, weight in found.items()} == {
        "moved": (24, 1, False),
        "split": (24, 1, False),
        "int8": (24, int((int8 == [0, 5, 10, 15]).sum()), True),
    }
    contents = count_contents(model)
    assert (contents["weights"], contents["int8_weights"], contents["operators"]) == (72, 24, 4)


def test_layers_that_are_equal_are_counted_one_by_one_and_a_shared_weight_once():
    network = nn.Sequential(Tied(), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    for layer in network[1:]:
        nn.init.zeros_(layer.weight)
    magnitude_prune(network, DATASET, "global", 0.9)
    counts = count_weights(network, DATASET)
    contents = count_contents(with_weights(export_graph(network, DATASET), tensors(network)))
    assert (contents["weights"], contents["zeros"]) == (counts.weights, counts.zeros)


class Transposed(nn.Module):
    """A large weight that the network standardizes and transposes itself, and a small one that it spreads."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.weight, self.row = nn.Parameter(torch.randn(600, 768)), nn.Parameter(torch.randn(1, 600))
        self.linear = nn.Linear(600, num_classes)

    def forward(self, x):
        weight = (self.weight - self.weight.mean(1, keepdim=True)) / (self.weight.std(1, keepdim=True) + 1)
        return self.linear(x.flatten(1) @ weight.T + self.row.expand(600, 600).sum(0))


def test_a_weight_of_any_size_is_computed_once_and_the_file_does_not_grow():
    network = Transposed()
    model = with_weights(export_graph(network, DATASET), tensors(network))
    assert relative_error(onnx_logits(model, images(4)), torch_logits(network, images(4))) < 1e-5
    assert count_contents(model)["weights"] == 600 * 768 + 3 * 600
    assert not {"ReduceMean", "Sqrt", "Transpose"} & {node.op_type for node in model.graph.node}
    assert len(model.SerializeToString()) < 4 * 1.01 * sum(p.numel() for p in network.parameters())


def test_zeros_that_the_file_lacks_are_refused_with_the_names_of_the_weights():
    model = float_model(lively(ReusedBlock()), ReusedBlock)
    pruned = {"rate": 0.5, "zeros": 1392, "weights": 2784}
    with pytest.raises(RefusedError, match=r"0\.00% of the 2784 .* not 50\.00% .* reach conv\.weight \(2304\), stem"):
        check_zeros(model, pruned)
    check_zeros(model, {})  # dense
    check_zeros(model, pruned | {"zeros": 0})
    check_zeros(model, pruned | {"zeros": 1, "unpruned": {"layer": 10000}})


class SharedByTwoKinds(nn.Module):
    """A pointwise convolution and a linear layer with one weight."""

    def __init__(self):
        super().__init__()
        self.conv, self.classes = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 3)

    def forward(self, image):
        x = self.conv(image).relu().mean((2, 3))
        return self.classes(nn.functional.linear(x, self.conv.weight.flatten(1)).relu())


class SharedWithTransposed(nn.Module):
    """A convolution and a transposed one with one weight, as in autoencoders."""

    def __init__(self):
        super().__init__()
        self.down, self.up, self.classes = nn.Conv2d(3, 4, 2, 2), nn.ConvTranspose2d(4, 3, 2, 2), nn.Linear(3, 3)
        self.up.weight = self.down.weight

    def forward(self, image):
        return self.classes(self.up(self.down(image).relu()).relu().mean((2, 3)))


def test_a_shared_weight_that_the_file_has_in_two_shapes_is_as_pruned_which_is_said(capsys):
    network = lively(SharedByTwoKinds())
    with torch.no_grad():  # most zeros are in the other weight, so that their share of the file is smaller
        network.conv.weight.mul_(100)
        network.conv.weight[0, 0] = 0
    counts = magnitude_prune(network, DATASET, "global", 0.3)
    model = with_weights(export_graph(network, DATASET), tensors(network))
    contents = count_contents(model)
    assert contents["zeros"] / contents["weights"] < counts.zeros / counts.weights - 0.05
    check_zeros(model, {**counts._asdict(), "rate": 0.3})
    assert f"weights in the file are zero, not {counts.zeros / counts.weights:.2%}" in capsys.readouterr().out


def test_a_graph_that_the_quantizer_cannot_take_is_refused_in_words(monkeypatch):
    network = lively(SharedWithTransposed())
    model = with_weights(export_graph(network, DATASET), tensors(network))
    monkeypatch.setattr("elagage.onnx.quantization.unsupported", lambda _: [])  # which knows this one
    with pytest.raises(RefusedError, match=r"quantizing fails in mode static \("):
        quantize(model, "static", images(8))


def test_ranges_are_those_of_all_images_whatever_the_batch(monkeypatch):
    model, files = float_model(lively(NETWORKS["resnet8"]()), NETWORKS["resnet8"]), []
    for batch in (8, 64):
        monkeypatch.setattr("elagage.onnx.quantization.CALIBRATION_BATCH", batch)
        files.append(quantize(model, "static", images(100)).SerializeToString())
    assert files[0] == files[1]


def test_names_in_subgraphs_follow_and_an_input_is_never_joined():
    float_, bool_ = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL
    info = onnx.helper.make_tensor_value_info
    make = onnx.helper.make_node
    inner = onnx.helper.make_graph([make("Add", ["long/name", "second"], ["0"])], "a", [], [info("0", float_, [2])])
    other = onnx.helper.make_graph([make("Identity", ["long/name"], ["b"])], "b", [], [info("b", float_, [2])])
    nodes = [
        make("Neg", ["image"], ["long/name"]),
        make("If", ["yes"], ["logits"], then_branch=inner, else_branch=other),
    ]
    constants = [
        onnx.numpy_helper.from_array(numpy.float32([1, 2]), name) for name in ("replaceable", "first", "second")
    ]
    inputs = [info("image", float_, [2]), info("yes", bool_, []), info("replaceable", float_, [2])]
    graph = onnx.helper.make_graph(nodes, "main", inputs, [info("logits", float_, [2])], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    assert [tensor.name for tensor in model.graph.initializer] == ["replaceable", "first"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for yes, expected in ((True, [-2, 0]), (False, [-3, -2])):
        assert (
            session.run(["logits"], {"image": numpy.float32([3, 2]), "yes": numpy.array(yes)})[0].tolist() == expected
        )


def test_two_runs_write_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = lively(ReusedBlock())
    save_checkpoint("dense.safetensors", network.state_dict(), {"model": "toy", "seed": 0, "torch": "1"})
    pathlib.Path("graph.onnx").write_bytes(exported(ReusedBlock))
    training = Split(images(64), numpy.zeros(64, numpy.int64))
    for name in ("a", "b"):
        outputs = {"float32": f"{name}32.onnx", "static": f"{name}.onnx", "mixed": f"{name}-mixed.onnx"}
        quantize_checkpoint(
            DATASET,
            "graph.onnx",
            "dense.safetensors",
            training=training,
            calibration=MINMAX,
            mixed=None,
            outputs=outputs,
        )
    assert (tmp_path / "a32.onnx").read_bytes() == (tmp_path / "b32.onnx").read_bytes()
    assert "calibration_images" not in description(onnx.load("a32.onnx"))["provenance"]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert description(onnx.load("a-mixed.onnx"))["provenance"]["calibration"] == "minmax", "as usual without its own"
    model = onnx.load("a.onnx")
    assert description(model)["provenance"]["calibration_images"] == 64
    assert [value.name for value in model.graph.input] == ["image"]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [value.name for value in model.graph.output] == ["logits"]
