"""The answer: its reference, the order on validation images, what each file loses, and what is certified."""

import json
import pathlib

import numpy
import pandas
import pytest

from certify import certify
from elagage.files import write_json, write_refusal
from elagage.losses import compared
from elagage.sentences import answer, described, other_model
from order import order

REPOSITORY = pathlib.Path(__file__).parent.parent
ANSWER = {"maximum_accuracy_loss": 1.0, "confidence": 0.95, "objectives": ["file_size", "time"], "reference": None}
CLASSES = ["a", "b", "c", "d"]
OUTPUTS = {"order": "order.json", "losses": "losses.csv", "json": "answer.json", "markdown": "answer.md"}
IMAGES = 2000
LABELS = numpy.arange(IMAGES) % len(CLASSES)
SETTING = {"cpu": "A CPU", "instruction_set": "avx2", "threads": 1, "onnxruntime": "1.32.0", "images": 10}
SETTING["operators"] = {"QLinearConv": 0.5, "Conv": 0.3, "Transpose": 0.2}


def wrong_on(images: slice, labels: numpy.ndarray = LABELS) -> numpy.ndarray:
    """Return predictions that are correct but for these images."""
    predicted = labels.copy()
    predicted[images] = (predicted[images] + 1) % len(CLASSES)
    return predicted.astype(numpy.int32)


def variant(folder, name: str, mistakes: int, size: int, speedup: float, **named) -> dict:
    """Write the measurements of a file that is wrong on the first images, and return its row of the plan."""
    row = {"model": "net", "seed": 0, "scope": "global", "rate": 0.5, "recovery": "none", "mode": "float32"} | named
    row |= {"file": f"{folder}/{name}.onnx", "control": ""}
    paths = {kind: f"{folder}/{name}.{kind}.json" for kind in ("accuracy", "size", "latency")}
    write_json(paths["accuracy"], {"images": IMAGES, "correct": IMAGES - mistakes})
    counts = dict.fromkeys(("weights", "zeros", "int8_weights", "operators", "int8_operators", "macs"), 4)
    sizes = dict.fromkeys(("xz_bytes", "entropy_bytes", "packed_weight_bytes", "weight_entropy_bytes"), 4)
    sizes |= {"bytes": size, "packed_bytes": size // 2, "provenance": {"torch": "2.14.1"}}
    write_json(paths["size"], sizes | counts)
    times = {
        key: {"wall_ns": [[ns] * 4] * 5, "cpu_ns": [[ns] * 4] * 5}
        for key, ns in (("dense", 4e6), ("variant", 4e6 / speedup))
    }
    write_json(paths["latency"], {**SETTING, **times, "machine_busy": 0.0, "batch_ns": {}})
    for kind in ("predictions", "validation_predictions"):
        paths[kind] = f"{folder}/{name}.{kind}.npy"
        numpy.save(paths[kind], wrong_on(slice(0, mistakes)))
    return row | paths


@pytest.fixture
def files(tmp_path) -> list[dict]:
    """A dense file of each of two seeds, a pruned one that is as good, one beyond the margin, and one refused."""
    dense = {"rate": 0.0, "scope": "", "recovery": ""}
    rows = [
        variant(tmp_path, "dense0", 105, 8000, 1.0, **dense),
        variant(tmp_path, "dense1", 90, 8000, 1.0, **dense, seed=1),
        variant(tmp_path, "good", 92, 2000, 2.0, seed=1),
        variant(tmp_path, "bad", 200, 1000, 4.0, seed=1, rate=0.9),
        variant(tmp_path, "refused", 0, 1, 9.0, seed=1, scope="channel"),
    ]
    for kind in ("accuracy", "size", "latency", "predictions", "validation_predictions"):
        write_refusal(rows[-1][kind], "no channels")
    return rows


def answered(files, folder, answer=ANSWER, seen=()) -> dict:
    """Return answer.json of these files, with the order in `order` and the losses in `losses`."""
    paths = {name: str(folder / file) for name, file in OUTPUTS.items()}
    order(files, LABELS, IMAGES, answer, list(seen), paths["order"])
    certify(paths["order"], files, files, LABELS, CLASSES, answer, paths)
    found = json.loads((folder / "answer.json").read_text())
    table = pandas.read_csv(paths["losses"], keep_default_na=False).set_index("file")
    return found | {"order": json.loads((folder / "order.json").read_text()), "losses": table}


@pytest.mark.parametrize("kept", [[], ["conv.weight"]])
def test_what_mixed_makes_as_static_does_is_no_candidate(kept, files, tmp_path):
    files += [
        variant(tmp_path, "static", 92, 1000, 3.0, seed=1, mode="static"),
        variant(tmp_path, "mixed", 92, 999, 3.5, seed=1, mode="mixed"),
    ]
    size = json.loads(pathlib.Path(files[-1]["size"]).read_text())
    size["provenance"] |= {"float32_layers": kept} if kept else {}
    write_json(files[-1]["size"], size)
    named = {answer["mode"] for answer in answered(files, tmp_path)["answers"].values()}
    assert named == ({"mixed"} if kept else {"static"})
    alone = answered([row for row in files if row["mode"] != "static"], tmp_path)["answers"]
    assert {answer["mode"] for answer in alone.values()} == {"mixed"}


def test_the_cheapest_certified_file_is_the_answer_and_the_best_dense_float32_file_the_reference(files, tmp_path):
    found = answered(files, tmp_path)
    assert found["reference"]["file"] == files[1]["file"]
    assert {name: row["file"] for name, row in found["answers"].items()} == dict.fromkeys(
        ANSWER["objectives"], files[2]["file"]
    )
    file_size = found["answers"]["file_size"]
    assert file_size["times_better"] == pytest.approx({"file_size": 4, "packed_size": 4, "time": 2})
    assert file_size["loss_points"] == pytest.approx(0.1)
    assert [row["passed"] for row in found["sequence"]][:1] == [True]
    markdown = (tmp_path / "answer.md").read_text()
    assert (
        "By file size and time, deploy results/best/file_size/model.onnx (net, seed 1, global pruning at 50%, as "
        "pruned, float32): the file takes 2,000 bytes instead of 8,000 bytes (4.00 times smaller) and an image takes "
        "2.000 ms instead of 4.000 ms (2.00 times as fast); on 2,000 test images it loses 0.10 points of accuracy, and "
        "with 95% confidence it loses less than 1 point."
    ) in markdown
    assert "results/best/time/model.onnx" in found["answers"]["time"]["sentence"]


def test_without_a_certified_file_the_answer_is_the_reference_and_says_so(files, tmp_path):
    found = answered([*files[:2], files[3]], tmp_path)
    assert all(row["is_reference"] for row in found["answers"].values())
    assert found["answers"]["time"]["times_better"]["time"] == 1
    assert all("no cheaper file is certified" in text for text in found["sentences"])


def test_a_reference_that_guesses_and_too_few_images_are_told_first(files, tmp_path):
    assert answered(files, tmp_path)["doubts"] == []
    labels = LABELS[:20]
    for row in files:
        if pathlib.Path(row["predictions"]).suffix == ".npy" and "refused" not in row["file"]:
            numpy.save(row["predictions"], (labels + 1).astype(numpy.int32) % len(CLASSES))
    paths = {name: str(tmp_path / file) for name, file in OUTPUTS.items()}
    order(files, LABELS, len(labels), ANSWER, [], paths["order"])
    certify(paths["order"], files, files, labels, CLASSES, ANSWER, paths)
    found = json.loads((tmp_path / "answer.json").read_text())
    guess, few = found["doubts"]
    assert "classifies 0.00% of the test images" in guess
    assert "no file can be certified" in few and "answer.maximum_accuracy_loss" in few
    assert (tmp_path / "answer.md").read_text().index(guess) < (tmp_path / "answer.md").read_text().index("By ")


@pytest.mark.parametrize(("model", "told"), [("small", True), ("net", False)])
def test_times_of_another_model_than_the_reference_are_told_to_be_less_certain(model, told):
    found = {"reference": {"model": "net"}, "answers": {"time": {"model": model}, "file_size": {"model": "small"}}}
    assert [text.startswith("By time, small is compared with net: ") for text in other_model(found)] == [True] * told
    assert not other_model(found | {"answers": {"file_size": {"model": "small"}}})


def test_a_stated_model_is_the_reference(files, tmp_path):
    other = variant(tmp_path, "other", 300, 500, 1.0, model="small", rate=0.0, scope="", recovery="")
    assert answered([*files, other], tmp_path)["reference"]["model"] == "net"
    assert answered([*files, other], tmp_path, ANSWER | {"reference": "small"})["reference"]["file"] == other["file"]


def test_the_order_knows_nothing_of_test_images(files, tmp_path):
    order(files, LABELS, IMAGES, ANSWER, [], str(tmp_path / "before.json"))
    for row in files:
        for path in (row["predictions"],):
            numpy.save(path, numpy.zeros(IMAGES, numpy.int32))
    order(files, LABELS, IMAGES, ANSWER, [], str(tmp_path / "after.json"))
    assert (tmp_path / "before.json").read_bytes() == (tmp_path / "after.json").read_bytes()


def test_weights_that_saw_the_validation_images_are_ordered_by_agreement(files, tmp_path):
    numpy.save(files[2]["validation_predictions"], wrong_on(slice(1000, 1090)))  # as accurate, but on other images
    counts = {}
    for seen in ([], ["net"]):
        rows = answered(files, tmp_path, seen=seen)["order"]["files"]
        counts[bool(seen)] = [(row["validation_lost"], row["validation_won"]) for row in rows if row["seed"] == 1]
    assert counts == {False: [(0, 0), (90, 90), (110, 0)], True: [(0, 0), (180, 0), (110, 0)]}


def test_verdicts_and_bounds_say_how_much_a_file_loses_and_how_many_images_would_tell(files, tmp_path):
    found = answered(files, tmp_path)["losses"]
    assert found.loc[files[2]["file"], "verdict"] == "within"
    bad = found.loc[files[3]["file"]]
    assert bad["verdict"] == "beyond"
    assert bad["loss_points"] == pytest.approx(5.5)
    assert bad["loss_low"] > 1
    assert (bad["became_wrong"], bad["became_right"], bad["images_to_tell"]) == (110, 0, "")
    dense = found.loc[files[0]["file"]]
    assert dense["verdict"] == "too few images to tell"
    assert float(dense["images_to_tell"]) > IMAGES
    assert (dense["loss_points"], dense["dense_loss_points"]) == (pytest.approx(0.75), 0)


def test_a_file_loses_nothing_against_itself_for_certain(files, tmp_path):
    found = answered(files, tmp_path)
    row = found["losses"].loc[found["reference"]["file"]]
    assert [row[f"loss_{name}"] for name in ("points", "low", "high")] == [0, 0, 0]
    assert row["verdict"] == "within"


def test_the_worst_class_is_the_one_that_loses_most():
    reference, predicted = wrong_on(slice(0, 0)), wrong_on(slice(0, 0))
    predicted[(LABELS == 2) & (numpy.arange(IMAGES) < 200)] = 0
    itself = compared(reference, reference, reference, None, LABELS, CLASSES, ANSWER)
    assert [itself[f"worst_class_loss_{name}"] for name in ("points", "low", "high")] == [0, 0, 0]
    found = compared(predicted, reference, reference, None, LABELS, CLASSES, ANSWER)
    assert found["worst_class"] == "c"
    assert found["worst_class_loss_points"] == pytest.approx(10)
    assert found["worst_class_loss_low"] < 10 < found["worst_class_loss_high"]
    assert found["macro_recall"] == pytest.approx(1 - 0.1 / 4)
    assert found["agreement"] == pytest.approx(1 - 50 / IMAGES)


def test_every_column_is_explained():
    right = wrong_on(slice(0, 0))
    page = (REPOSITORY / "results/README.md").read_text()
    for column in compared(right, right, right, right, LABELS, CLASSES, ANSWER):
        if not column.endswith(("_low", "_high")):
            assert f"`{column}`" in page, column


def test_seeds_of_the_same_recipe_stand_beside_the_answer(files, tmp_path):
    assert answered(files, tmp_path)["answers"]["time"]["recipe"] is None
    sibling = variant(tmp_path, "sibling", 106, 2000, 2.0, seed=0)
    found = answered([*files, sibling], tmp_path)["answers"]["time"]["recipe"]
    assert found["seeds"] == 2
    assert found["loss_points"] == pytest.approx((0.1 + 0.05) / 2)
    assert found["loss_low"] < found["loss_points"] < found["loss_high"]


def test_what_was_retrained_is_compared_with_its_control(files, tmp_path):
    control = variant(tmp_path, "control-float32", 86, 8000, 1.0, seed=1, rate=0.0, scope="", recovery="finetune")
    tuned = variant(tmp_path, "tuned", 88, 2000, 2.0, seed=1, recovery="finetune") | {"control": control["file"]}
    found = answered([*files, control, tuned], tmp_path)
    assert found["reference"]["file"] == files[1]["file"]  # not the control, which is better
    table = found["losses"]
    assert (table.loc[tuned["file"], "loss_points"], table.loc[tuned["file"], "control_loss_points"]) == (
        pytest.approx(-0.1),
        "0.1",
    )
    assert table.loc[files[2]["file"], "control_loss_points"] == ""
    chosen = found["answers"]["file_size"] | {"is_reference": False, "control_loss_points": 1.5}
    words = answer(["file_size"], chosen, found["reference"], found)
    assert " of accuracy (against the dense network trained as much longer it loses 1.50 points), and with" in words
    [told] = found["recoveries"]
    assert (told["recovery"], told["within_up_to"], told["longer"]["file"]) == ("finetune", 0.5, control["file"])
    assert told["longer"]["points"] == pytest.approx(-0.2)
    assert "By that training alone the dense network gains 0.20 points" in told["sentence"]


def test_dense_files_are_called_dense():
    row = {"model": "net", "seed": 3, "scope": "", "rate": 0.0, "recovery": "", "mode": "static"}
    assert described(row) == "net, seed 3, dense, static"
    assert described(row | {"recovery": "rewind"}) == "net, seed 3, dense trained longer (rewind), static"
