"""Evaluation: every image is predicted, every model is timed, intervals are those of textbooks."""

import functools
import itertools
import lzma
import math
import pathlib
from types import SimpleNamespace

import numpy
import onnx
import psutil
import pytest
import torch
from runners import SCRIPTS, python
from torch import nn

from elagage.data import SPLITS, Dataset, PreparedData, Split
from elagage.errors import UserError
from elagage.files import read_json
from elagage.modes import MINMAX
from elagage.onnx.deployed import describe
from elagage.onnx.runtime import load, machine, predictions
from elagage.pytorch.checkpoints import load_network, save_checkpoint
from elagage.pytorch.models import Normalize, build_network
from elagage.statistics import loads_interval, mean_difference_interval, share_became_correct, wilson_interval
from elagage.timing import LOADS
from evaluate_accuracy import evaluate_accuracy
from evaluate_latency import evaluate_latency
from evaluate_latency_eager import evaluate_latency_eager
from evaluate_size import evaluate_size
from pack import pack_file
from quantize import quantize_checkpoint
from quantize_export import quantize_export

CHANNELS = Dataset("toy", ["red", "green", "blue"], 3, 8, [0.5] * 3, [0.25] * 3, False, {}, {})


@pytest.fixture
def brightest(tmp_path) -> str:
    """An ONNX file whose logits are the three channels' means: the class is the brightest channel."""
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 3, 8, 8])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ReduceMean", ["float", "axes"], ["logits"], keepdims=0),
    ]
    axes = onnx.numpy_helper.from_array(numpy.array([2, 3]), "axes")
    graph = onnx.helper.make_graph(nodes, "brightest", [image], [logits], [axes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    describe(model, {"classes": CHANNELS.classes, "provenance": {"model": "brightest"}})
    onnx.save(model, tmp_path / "brightest.onnx")
    return str(tmp_path / "brightest.onnx")


def bright_images(labels: numpy.ndarray) -> numpy.ndarray:
    images = numpy.random.default_rng(0).integers(0, 100, (len(labels), 3, 8, 8), dtype=numpy.uint8)
    images[numpy.arange(len(labels)), labels] += 100
    return images


@pytest.mark.parametrize("count", [1, 249, 250, 251, 777])
def test_every_image_is_predicted_in_order(brightest, tmp_path, count):
    labels = numpy.random.default_rng(1).integers(0, 3, count)
    wrong = numpy.where(numpy.arange(count) < 100, (labels + 1) % 3, labels)  # the first 100 labels are wrong
    split = Split(bright_images(labels), wrong)
    validation = Split(split.images[::-1], wrong)
    outputs = {
        "accuracy": tmp_path / "a.json",
        "predicted": tmp_path / "p.npy",
        "validation_predicted": tmp_path / "v.npy",
    }
    evaluate_accuracy(CHANNELS, split, validation, brightest, threads=1, **outputs)
    predicted = numpy.load(tmp_path / "p.npy")
    assert numpy.load(tmp_path / "v.npy").tolist() == labels[::-1].tolist()
    assert predicted.dtype == numpy.int32
    assert predicted.tolist() == labels.tolist()
    assert read_json(tmp_path / "a.json") == {"images": count, "correct": max(0, count - 100)}


def test_predictions_number_the_classes_as_the_data_set_does_whatever_the_order_of_the_outputs(
    dataset, data, held_out, dense, tmp_path
):
    order = [2, 0, 1]
    other = data.dataset.as_trained(classes=[data.dataset.classes[label] for label in order])
    network, provenance = load_network(dense, "resnet8", data.dataset)
    with torch.no_grad():  # so that every class is predicted
        logits = nn.Sequential(Normalize(data.dataset), network).eval()(torch.from_numpy(held_out.images))
        network.linear.bias -= logits.mean(0)
    state = network.state_dict()
    save_checkpoint(dense, state, provenance)
    last = {f"linear.{name}": state[f"linear.{name}"][order] for name in ("weight", "bias")}
    save_checkpoint(tmp_path / "other.safetensors", state | last, provenance)
    quantize_export(data.dataset, "resnet8", None, tmp_path / "graph.onnx")
    predicted = {}
    for name, described in (("dense", data.dataset), ("other", other)):
        outputs = {mode: tmp_path / f"{name}-{mode}.onnx" for mode in ("float32", "static")}
        checkpoint = tmp_path / f"{name}.safetensors"
        quantize_checkpoint(
            described,
            tmp_path / "graph.onnx",
            checkpoint,
            training=data.train,
            calibration=MINMAX,
            mixed=None,
            outputs=outputs,
        )
        for mode, file in outputs.items():
            results = {"accuracy": tmp_path / f"{name}-{mode}.json", "predicted": tmp_path / f"{name}-{mode}.npy"}
            results["validation_predicted"] = tmp_path / "validation.npy"
            evaluate_accuracy(data.dataset, held_out, data.validation, str(file), threads=1, **results)
            predicted[name, mode] = numpy.load(results["predicted"])
    for mode in ("float32", "static"):
        assert (predicted["dense", mode] == predicted["other", mode]).all()
        assert len(set(predicted["dense", mode])) > 1
        assert (tmp_path / f"dense-{mode}.json").read_text() == (tmp_path / f"other-{mode}.json").read_text()
    # What trains and what measures in PyTorch gets labels in the order of the model's outputs.
    files = SimpleNamespace(
        dataset=dataset / "dataset.json",
        **{f"{split}_{kind}": dataset / f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels")},
    )
    read = PreparedData.read(files, {"classes": other.classes})
    for split, same in ((read.train, data.train), (read.validation, data.validation)):
        names = [
            [of.classes[label] for label in labels]
            for of, labels in ((other, split.labels), (data.dataset, same.labels))
        ]
        assert names[0] == names[1]
        assert split.labels.dtype == numpy.int64


def test_fewer_large_images_are_predicted_at_once():
    sizes = []

    def model(batch: numpy.ndarray) -> numpy.ndarray:
        sizes.append(len(batch))
        return numpy.tile([0.0, 1.0], (len(batch), 1))

    for size, most in ((64, 64), (224, 5), (1024, 1)):
        sizes.clear()
        count = 260 if size == 64 else 25
        split = Split(numpy.zeros((count, 1, size, size), numpy.uint8), numpy.zeros(count, int))
        assert predictions(model, split).tolist() == [1] * count
        assert max(sizes) == most


def relative_to_the_batch(images: numpy.ndarray) -> numpy.ndarray:
    """Return logits [n, 2] whose second is larger in images that are as bright as the brightest of the batch."""
    means = images.mean((1, 2, 3), dtype=numpy.float32)
    return numpy.stack([numpy.full_like(means, 0.9), means / means.max()], 1)


def test_images_are_predicted_alone_where_a_batch_gives_other_logits():
    images = bright_images(numpy.zeros(300, int)) // numpy.arange(1, 301, dtype=numpy.uint16)[:, None, None, None]
    split = Split(images.astype(numpy.uint8) + 1, numpy.zeros(300, int))
    sizes = []

    def model(batch: numpy.ndarray) -> numpy.ndarray:
        sizes.append(len(batch))
        return relative_to_the_batch(batch)

    assert predictions(model, split).tolist() == [1] * 300
    assert relative_to_the_batch(split.images).argmax(1).sum() < 300
    assert sizes[-300:] == [1] * 300


def test_images_are_predicted_in_batches_where_that_changes_nothing(brightest):
    sizes, loaded = [], load(brightest, 1)

    def model(batch: numpy.ndarray) -> numpy.ndarray:
        sizes.append(len(batch))
        return loaded(batch)

    predictions(model, Split(bright_images(numpy.zeros(600, int)), numpy.zeros(600, int)))
    assert sizes[-3:] == [64, 64, 24]


def test_a_file_is_counted_as_it_is_stored(brightest, tmp_path):
    packed = tmp_path / "brightest.onnx.packed"
    pack_file(brightest, packed)
    evaluate_size(brightest, packed, tmp_path / "size.json")
    size = read_json(tmp_path / "size.json")
    for key, file in (("bytes", pathlib.Path(brightest)), ("packed_bytes", packed)):
        assert size[key] == len(file.read_bytes())
    assert size["xz_bytes"] == len(lzma.compress(pathlib.Path(brightest).read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    assert size["macs"] == size["packed_weight_bytes"] == size["weight_entropy_bytes"] == 0
    assert size["entropy_bytes"] == 2 / 8  # the axes 2 and 3: one bit each
    assert size["weights"] == size["operators"] == 0
    assert size["provenance"] == {"model": "brightest"}


def test_the_variants_share_one_timing_of_the_dense_model(brightest, tmp_path):
    variants = {brightest: str(tmp_path / "v.json")}
    evaluate_latency(brightest, variants, bright_images(numpy.zeros(30, int)), threads=1)
    latency = read_json(tmp_path / "v.json")
    for model, clock in itertools.product(("variant", "dense"), ("wall_ns", "cpu_ns")):
        assert numpy.shape(latency[model][clock]) == (LOADS, 30 // LOADS)
    assert (latency["threads"], latency["images"], latency["batch_ns"]) == (1, 30, {})
    assert latency["machine_busy"] is None or 0 <= latency["machine_busy"] <= 1
    assert latency["cpu"] and latency["instruction_set"]


def test_batches_are_timed_beside_single_images(brightest, tmp_path):
    variants = {brightest: str(tmp_path / "v.json")}
    evaluate_latency(brightest, variants, bright_images(numpy.zeros(30, int)), threads=1, batch_sizes=[2, 16])
    batches = read_json(tmp_path / "v.json")["batch_ns"]
    assert {size: numpy.shape(ns) for size, ns in batches.items()} == {"2": (LOADS, 2), "16": (LOADS, 2)}
    assert numpy.min([*batches.values()]) > 0


def _quantized(dataset: Dataset, folder: pathlib.Path) -> None:
    """Make dense.onnx of graph.onnx and the checkpoint `dense`."""
    outputs = {"float32": str(folder / "dense.onnx")}
    graph, dense = str(folder / "graph.onnx"), str(folder / "dense")
    quantize_checkpoint(dataset, graph, dense, training=None, calibration=MINMAX, mixed=None, outputs=outputs)


def test_eager_pytorch_is_timed_beside_the_file(tmp_path):
    dataset = Dataset("toy", ["a", "b", "c"], 3, 8, [0.5] * 3, [0.25] * 3, False, {}, {})
    quantize_export(dataset, "resnet8", None, str(tmp_path / "graph.onnx"))
    for name, seed in (("dense", 0), ("other", 1)):
        save_checkpoint(tmp_path / name, build_network("resnet8", 3, 3, seed=seed).state_dict(), {})
    _quantized(dataset, tmp_path)
    images = numpy.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=numpy.uint8)
    timed = {"images": images, "threads": 1, "dense_onnx": tmp_path / "dense.onnx", "output": tmp_path / "eager.json"}
    with pytest.raises(UserError, match=r"gives other logits than PyTorch: .*register it as a buffer"):
        evaluate_latency_eager(dataset, tmp_path / "other", "resnet8", **timed)
    evaluate_latency_eager(dataset, tmp_path / "dense", "resnet8", **timed)
    eager = read_json(tmp_path / "eager.json")
    assert numpy.shape(eager["eager"]["wall_ns"]) == numpy.shape(eager["dense"]["wall_ns"]) == (LOADS, 30 // LOADS)
    assert (eager["threads"], eager["torch"]) == (1, torch.__version__)


def test_more_images_than_there_are_is_an_error():
    split = Split(numpy.zeros((5, 1, 2, 2), numpy.uint8), numpy.zeros(5, numpy.int64))
    assert len(split.first(5, "evaluation.latency_images")) == 5
    with pytest.raises(UserError, match=r"evaluation\.latency_images: 6 images asked for, .* only 5"):
        split.first(6, "evaluation.latency_images")


def test_a_model_runs_on_the_threads_it_is_given(brightest):
    process = psutil.Process()
    before, kept = process.num_threads(), []
    for threads, more in ((1, 0), (2, 1)):  # the caller's thread is one of them
        kept.append(load(brightest, threads))
        assert process.num_threads() == before + more
    with pytest.raises(UserError, match=r"evaluation\.threads: 1000000 asked for"):
        load(brightest, 1_000_000)


def test_the_machine_is_read_from_the_kernel(tmp_path):
    (tmp_path / "x86").write_text("model name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni other\nmodel name\t: Second\n")
    assert machine(tmp_path / "x86") == {"cpu": "A CPU", "instruction_set": "avx2 avx512_vnni"}
    (tmp_path / "arm").write_text("Features\t: fp asimd asimddp\n")
    assert machine(tmp_path / "arm")["instruction_set"] == "asimd asimddp"
    assert all(machine(tmp_path / "missing").values())


def test_wilson_interval_is_that_of_the_formula():
    # Newcombe 1998, table I: 81 of 263.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20)[0] == 0
    assert wilson_interval(20, 20)[1] == 1


def test_loads_interval_covers_the_geometric_mean_as_often_as_it_says():
    generator = numpy.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        mean, low, high = loads_interval(3 * generator.lognormal(sigma=0.1, size=10))
        assert low < mean < high
        covered += low <= 3 <= high
    assert 0.935 <= covered / 2000 <= 0.965
    assert loads_interval(numpy.full(5, 3.0)) == pytest.approx((3, 3, 3))
    values = generator.lognormal(size=10)
    inverse = [1 / end for end in loads_interval(1 / values)]
    assert loads_interval(values) == pytest.approx((inverse[0], inverse[2], inverse[1]))  # how ever the ratio is taken


def test_mean_difference_interval_covers_the_difference_of_pairs_as_often_as_it_says():
    generator = numpy.random.default_rng(0)
    covered = 0
    for _ in range(400):
        before = generator.normal(5, 3, 30)
        mean, low, high = mean_difference_interval(before, before - generator.normal(0.2, 1, 30))
        assert low < mean < high
        covered += low <= 0.2 <= high
    assert 0.93 <= covered / 400 <= 0.97
    assert mean_difference_interval(before, before) == (0, pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


def test_share_became_correct_is_above_a_half_where_the_exact_test_of_mcnemar_sees_a_gain():
    for right, wrong in itertools.product(range(16), range(16)):
        before = numpy.repeat([False, True, True, False], [right, wrong, 30, 20])
        after = numpy.repeat([True, False, True, False], [right, wrong, 30, 20])
        share, low, high = share_became_correct(before, after)
        assert low <= share <= high
        chance = sum(math.comb(right + wrong, more) for more in range(right, right + wrong + 1)) / 2 ** (right + wrong)
        assert (low > 0.5) == (chance < 0.025), (right, wrong)


@pytest.mark.parametrize(
    ("script", "forbidden"),
    [
        ("evaluate_accuracy", {"torch", "torchvision", "onnx", "pandas", "scipy"}),
        ("evaluate_latency", {"torch", "torchvision", "onnx", "pandas", "scipy"}),
        ("evaluate_size", {"torch", "torchvision", "pandas", "scipy"}),
        ("pack", {"torch", "torchvision", "onnxruntime", "pandas", "scipy"}),
        ("quantize", {"torch", "torchvision"}),
        ("summarize", {"torch", "torchvision", "onnxruntime", "onnx"}),
        ("plot", {"torch", "torchvision", "onnxruntime", "onnx", "scipy"}),
    ],
)
def test_a_script_imports_only_what_it_needs(script, forbidden):
    assert not forbidden & imported_by(script)


def test_training_is_seen_to_import_torch():
    """The control of the test above."""
    assert "torch" in imported_by("train")
    assert "torchvision" not in imported_by("train")  # which takes 3 s; only its own architectures import it


@functools.cache
def imported_by(script: str) -> set[str]:
    run = python(f"import {script}", SCRIPTS, "-X", "importtime")
    assert run.returncode == 0, run.stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
