"""Bad input as users produce it: one clear error, before any job if possible, and nothing left behind."""

import os
import pathlib
import re

import numpy
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from elagage.configuration import configuration
from elagage.configuration_file import read_command_line, read_file
from elagage.configured_files import check_files
from elagage.errors import UserError
from elagage.image_fingerprint import image_fingerprint
from elagage.image_folder import scan_image_folder
from elagage.pytorch.checkpoints import save_dense
from elagage.pytorch.models import ModelSpec, build_network
from elagage.pytorch.training_state import TrainingState
from elagage.pytorch.weights import load_weights, read_states
from elagage.schedules import TrainingSettings
from prune import prune
from train import train
from train_import import train_import

REPOSITORY = pathlib.Path(__file__).parent.parent
SCHEMA = REPOSITORY / "workflow/schemas/config.schema.yaml"
MODEL = ModelSpec("m", "resnet8", 0)
DENSE = "results/models/m/seed0/dense.safetensors"


def configured(text: str, *more: str) -> dict:
    """Return the configuration of one or more YAML texts, as files and --config give it."""
    config = configuration(map(yaml.safe_load, (text, *more)), SCHEMA)
    check_files(config)
    return config


def refused(text: str, *words: str) -> str:
    """Assert that the configuration is refused in lines that hold each of the words; return the message."""
    with pytest.raises(UserError) as error:
        configured(text)
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"
    return str(error.value)


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty folder for a study, where every test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- the configuration: YAML -> words that the message has to hold


MISTAKES = {
    "unknown table": ("trainings: {epochs: 3}", "trainings", "unknown", "did you mean training?"),
    "setting at top level": ("epochs: 3", "epochs", "unknown", "training"),
    "number as table": ("1: 3", "1: unknown"),
    "unknown nested": ("training: {epoch: 3}", "training.epoch", "unknown", "did you mean training.epochs?"),
    "unknown in a model": ("models: {m: {architecture: resnet8, weight: a.pt}}", "models.m.weight", "weights"),
    "yaml anchor table": ("x: &x {epochs: 3}\ntraining: *x", "x: unknown key"),
    "no architecture": ("models: {m: {}}", "models.m", "architecture"),
    "null architecture": ("models: {m: {architecture: }}", "models.m.architecture", "resnet20"),
    "architecture": ("models: {m: {architecture: vgg16}}", "models.m.architecture", "'vgg16'", "resnet20"),
    "file alone": ("models: {m: {architecture: my.py}}", "models.m.architecture", "'my.py'", "file.py:function"),
    "called": ('models: {m: {architecture: "my.py:build()"}}', "models.m.architecture", "my.py:build()"),
    "no such file": ('models: {m: {architecture: "my.py:build"}}', "models.m.architecture", "'my.py'"),
    "weights of another kind": ("models: {m: {architecture: resnet8, weights: w.onnx}}", "models.m.weights", "PyTorch"),
    "no such weights": ("models: {m: {architecture: resnet8, weights: w.pt}}", "models.m.weights", "'w.pt'"),
    "list of weights": ("models: {m: {architecture: resnet8, weights: [w.pt]}}", "models.m.weights", ".pt"),
    "number as class": ("models: {m: {architecture: resnet8, classes: [1]}}", "models.m.classes[0]", "quotes"),
    "resize below the crop": (
        "dataset: {image_size: 16}\nmodels: {m: {architecture: resnet8, preprocessing: {resize: 15}}}",
        "models.m.preprocessing.resize",
        "16 or more",
    ),
    "other channels": ("models: {m: {architecture: resnet8, preprocessing: {channels: HSV}}}", "channels", "BGR"),
    "no model": ("models: {}", "models"),
    "no such data set": ("dataset: {name: mnist}", "dataset.name", "'mnist'", "fashion_mnist"),
    "no image size": ("dataset: {name: image_folder}", "dataset.image_size"),
    "small images": ("dataset: {image_size: 7}", "dataset.image_size", "7", "8 to 1024"),
    "large images": ("dataset: {image_size: 2000}", "dataset.image_size", "2000", "8 to 1024"),
    "oblong images": ("dataset: {image_size: [32, 32]}", "dataset.image_size", "[32, 32]"),
    "number as path": ("dataset: {path: 5}", "dataset.path", "5"),
    "path of no data set": ("dataset: {path: photos, image_size: 32}", "dataset.path: 'photos'", "name: image_folder"),
    "accuracy of no weights": ("models: {m: {architecture: resnet8, accuracy: 0.9}}", "models.m.accuracy", "weights"),
    "key of no weights": ("models: {m: {architecture: resnet8, weights_key: ema}}", "models.m.weights_key", "weights"),
    "braces in a path": ("dataset: {path: 'my {x} pictures'}", "dataset.path", "'my {x} pictures'", "'{'"),
    "braces in weights": ("models: {m: {architecture: resnet8, weights: 'w{x}.pt'}}", "models.m.weights", "'w{x}.pt'"),
    "braces in a file": ("models: {m: {architecture: 'my{x}.py:build'}}", "models.m.architecture", "'my{x}.py"),
    "empty path": ("dataset: {path: ''}", "dataset.path", "''"),
    "no validation": ("dataset: {validation_fraction: 0}", "dataset.validation_fraction", "0", "above 0"),
    "only validation": ("dataset: {validation_fraction: 1}", "dataset.validation_fraction", "1", "below 1"),
    "no seed": ("seeds: []", "seeds", "one or more"),
    "null seeds": ("seeds:", "seeds"),
    "one seed": ("seeds: 3", "seeds", "3"),
    "negative seed": ("seeds: [-1]", "seeds[0]", "-1", "0 to 4294967295"),
    "large seed": ("seeds: [4294967296]", "seeds[0]", "4294967296"),
    "bool seed": ("seeds: [true]", "seeds[0]", "True"),
    "float seed": ("seeds: [0.5]", "seeds[0]", "0.5"),
    "same seed": ("seeds: [1, 1]", "seeds", "[1, 1]", "different"),
    "same octal seed": ("seeds: [010, 8]", "seeds", "[8, 8]"),
    "no scope": ("pruning: {scopes: []}", "pruning.scopes", "local"),
    "scope": ("pruning: {scopes: [layer]}", "pruning.scopes[0]", "'layer'", "local, global or channel"),
    "scope alone": ("pruning: {scopes: local}", "pruning.scopes", "'local'"),
    "no rate": ("pruning: {rates: []}", "pruning.rates", "one or more"),
    "rate alone": ("pruning: {rates: 0.5}", "pruning.rates", "0.5"),
    "negative rate": ("pruning: {rates: [-0.1]}", "pruning.rates[0]", "-0.1", "0 to below 1"),
    "rate 1": ("pruning: {rates: [0, 1]}", "pruning.rates[1]", "1", "0 to below 1"),
    "rate that rounds to 1": ("pruning: {rates: [0.99999999999999999]}", "pruning.rates[0]", "0 to below 1"),
    "percents": ("pruning: {rates: [50]}", "pruning.rates[0]", "50", "0 to below 1"),
    "percent sign": ("pruning: {rates: [50%]}", "pruning.rates[0]", "'50%'", "0 to below 1"),
    "decimal comma": ("pruning: {rates: [0,5]}", "pruning.rates[1]", "5", "0 to below 1"),
    "nan": ("pruning: {rates: [.nan]}", "pruning.rates[0]", "nan", "0 to below 1"),
    "inf": ("pruning: {rates: [.inf]}", "pruning.rates[0]", "inf", "0 to below 1"),
    "quoted inf": ("pruning: {rates: ['.inf']}", "pruning.rates[0]", "'.inf'", "0 to below 1"),
    "bool rate": ("pruning: {rates: [false]}", "pruning.rates[0]", "False"),
    "1e-3": ("pruning: {rates: [1e-3]}", "pruning.rates[0]", "'1e-3'", "write 0.001"),
    "same rate": ("pruning: {rates: [0.5, 0.5]}", "pruning.rates", "[0.5, 0.5]", "different"),
    "0.1 and 0.10": ("pruning: {rates: [0.1, 0.10]}", "pruning.rates", "different"),
    "0 and 0.0": ("pruning: {rates: [0, 0.0]}", "pruning.rates", "different"),
    "0.0 and -0.0": ("pruning: {rates: [0.0, -0.0]}", "pruning.rates", "different"),
    "recovery": ("pruning: {recovery: [retrain]}", "pruning.recovery[0]", "'retrain'", "rewind or iterative"),
    "no mode": ("quantization: {modes: []}", "quantization.modes", "static"),
    "mode": ("quantization: {modes: [int8]}", "quantization.modes[0]", "'int8'", "dynamic_conv"),
    "mode in capitals": ("quantization: {modes: [Float32]}", "quantization.modes[0]", "'Float32'", "float32"),
    "null mode": ("quantization: {modes: [~]}", "quantization.modes[0]", "float32"),
    "same mode": ("quantization: {modes: [float32, float32]}", "quantization.modes", "['float32', 'float32']"),
    "former mode too": ("quantization: {modes: [float32, none]}", "quantization.modes", "float32 twice", "remove none"),
    "no calibration": ("quantization: {calibration_images: 0}", "quantization.calibration_images", "0", "1 or more"),
    "much calibration": ("quantization: {calibration_images: 718}", "quantization.calibration_images", "718", "717"),
    "much batch norm": (
        "pruning: {recovery: [batchnorm]}\nretraining: {batchnorm_images: 718}",
        "retraining.batchnorm_images",
        "718",
        "717",
    ),
    "much sensitivity": ("sensitivity: {images: 81}", "sensitivity.images", "81", "80"),
    "no timings": ("evaluation: {latency_images: 0}", "evaluation.latency_images", "0", "1 or more"),
    "many timings": ("evaluation: {latency_images: 1001}", "evaluation.latency_images", "1001", "1000"),
    "no thread": ("evaluation: {threads: 0}", "evaluation.threads", "0", "1 or more"),
    "threads in words": ("evaluation: {threads: auto}", "evaluation.threads", "'auto'", "1 or more"),
    "threads of a supercomputer": ("evaluation: {threads: 100000}", "evaluation.threads", "100000"),
    "timed batch of 1": ("evaluation: {batch_sizes: [1]}", "evaluation.batch_sizes[0]", "1", "2 to 1024"),
    "same batch size": ("evaluation: {batch_sizes: [8, 8]}", "evaluation.batch_sizes", "[8, 8]", "different"),
    "one batch size": ("evaluation: {batch_sizes: 8}", "evaluation.batch_sizes", "8", "2 to 1024"),
    "no epoch": ("training: {epochs: 0}", "training.epochs", "0", "1 or more"),
    "part of an epoch": ("training: {epochs: 1.5}", "training.epochs", "1.5"),
    "batch of 1": ("training: {batch_size: 1}", "training.batch_size", "1", "2 or more"),
    "learning rate 0": ("training: {learning_rate: 0}", "training.learning_rate", "0", "above 0"),
    "learning rate 1e-1": ("training: {learning_rate: 1e-1}", "training.learning_rate", "'1e-1'", "write 0.1"),
    "learning rate that no float32 holds": ("training: {learning_rate: 1.0e+300}", "training.learning_rate", "1e+300"),
    "weight decay that no float holds": (f"training: {{weight_decay: 1{400 * '0'}}}", "training.weight_decay"),
    "infinite learning rate": ("training: {learning_rate: .inf}", "training.learning_rate", "inf"),
    "momentum 1": ("training: {momentum: 1}", "training.momentum", "1", "below 1"),
    "negative warm-up": ("training: {warmup_epochs: -1}", "training.warmup_epochs", "-1", "0 or above"),
    "flip": ("training: {flip: maybe}", "training.flip", "'maybe'", "true or false"),
    "precision": ("training: {precision: float16}", "training.precision", "'float16'", "float32 or bfloat16"),
}


@pytest.mark.parametrize("text, words", [(text, words) for text, *words in MISTAKES.values()], ids=MISTAKES)
def test_a_mistake_names_key_and_value_and_what_is_allowed(text, words):
    refused(text, *words)


@pytest.mark.parametrize("file", ["net.onnx", "net.h5", "Net.KERAS", "net.tflite"])
@pytest.mark.parametrize("text", ["architecture: {file}", "architecture: resnet8, weights: {file}"])
def test_a_model_of_another_kind_is_named_with_what_to_bring(file, text):
    refused(f"models: {{m: {{{text.format(file=file)}}}}}", "models.m", file, "bring the PyTorch model")


def test_weights_that_are_a_link_to_itself_are_refused(study):
    (study / "w.pt").symlink_to("w.pt")
    refused("models: {m: {architecture: resnet8, weights: w.pt}}", "models.m.weights", "'w.pt'")


@pytest.mark.parametrize("place", ["pictures", "pictures/train", "pictures/train/cat", "pictures/train/cat/x.png"])
def test_a_link_to_itself_is_refused_by_name(study, place):
    image_folder(study / "pictures", {"cat": 20, "dog": 20}, {"cat": 20, "dog": 20})
    link = study / place
    if link.exists():
        link.rename(study / "moved")
    link.symlink_to(link)
    with pytest.raises(UserError, match=rf"dataset\.path: {place}: .*links; remove or replace it"):
        image_fingerprint("pictures", "known.json")


def test_a_pipe_named_like_an_image_is_refused_and_not_waited_for(study):
    image_folder(study / "pictures", {"cat": 20, "dog": 20}, {"cat": 20, "dog": 20})
    os.mkfifo(study / "pictures/train/cat/x.png")
    with pytest.raises(UserError, match=r"pictures/train/cat/x\.png: is no file"):
        image_fingerprint("pictures", "known.json")


def test_images_beside_the_class_folders_are_left_out_and_said(study):
    image_folder(study / "pictures", {"cat": 20, "dog": 20}, {"cat": 20, "dog": 20})
    (study / "pictures/train/cat/0.png").rename(study / "pictures/train/lost.png")
    assert scan_image_folder("pictures").notes == [
        "dataset.path: pictures/train: left out 1 images that lie in no class folder"
    ]


@pytest.mark.parametrize("table", ["dataset", "training", "pruning", "quantization", "evaluation"])
@pytest.mark.parametrize("value", ["digits", "[1]", "3", "null"])
def test_a_table_of_another_type_is_told_the_keys_it_may_have(table, value):
    keys = yaml.safe_load(SCHEMA.read_text())["properties"][table]["properties"]
    refused(f"{table}: {value}", table, *keys)


@pytest.mark.parametrize(
    "text", ["models: [resnet8]", "models: resnet8", "models: ", "models: {m: resnet8}", "models: {m: }"]
)
def test_models_of_another_type_are_told_what_a_model_needs(text):
    refused(text, "models", "architecture")


@pytest.mark.parametrize("part", [["seeds"], "seeds", 3, None])
def test_a_configuration_that_is_no_table_is_refused(part):
    with pytest.raises(UserError, match="configuration"):
        configuration([part], SCHEMA)


BAD_NAMES = ["a/b", "..", ".hidden", "my net", "-x", "", "a:b", "é", "{a}", "a ", "a\n", "a\\b", "*", "long" * 75]


@pytest.mark.parametrize("name", BAD_NAMES, ids=[ascii(name)[:12] for name in BAD_NAMES])
def test_a_model_name_that_is_no_folder_name_is_told_what_it_may_be(name):
    refused(yaml.safe_dump({"models": {name: {"architecture": "resnet8"}}}), repr(name), "letters, digits")


@pytest.mark.parametrize("name", ["1", "1.5", "true", "~", "2024-01-01"])
def test_a_model_name_that_yaml_reads_as_no_string_is_refused(name):
    refused(f"models: {{{name}: {{architecture: resnet8}}}}", "models")


@pytest.mark.parametrize("text", ["architecture: resnet8", "architecture: resnet8, weights: w.pt"])
def test_a_line_break_after_a_name_is_refused(study, text):
    (study / "w.pt\n").touch()
    key, _, value = text.rpartition(": ")
    refused(f'models: {{m: {{{key}: "{value}\\n"}}}}', "models.m")


@pytest.mark.parametrize(
    "key",
    [
        "dataset.image_size",
        "training.epochs",
        "training.batch_size",
        "quantization.calibration_images",
        "sensitivity.images",
        "evaluation.latency_images",
        "evaluation.threads",
    ],
)
def test_a_whole_number_with_a_point_is_refused(key):
    """In a job, range(1, 2.0) fails; the JSON schema's own integers include 2.0."""
    table, _, name = key.partition(".")
    refused(f"{table}: {{{name}: 32.0}}", key, "32.0")


def test_weights_that_the_study_itself_makes_are_refused(study):
    """The job that imports them would wait for itself."""
    (study / DENSE).parent.mkdir(parents=True)
    (study / DENSE).touch()
    refused(f"models: {{m: {{architecture: resnet8, weights: {DENSE}}}}}", "models.m.weights", DENSE)


@pytest.mark.parametrize("seeds", ["[1.0]", "[1, 2.0]", "[1.0e+3]"])
def test_a_seed_with_a_point_is_refused(seeds):
    refused(f"seeds: {seeds}", "seeds[")


@pytest.mark.parametrize("text", ["seeds: ['32']", "dataset: {image_size: '32'}", "training: {epochs: '32'}"])
def test_the_number_to_write_instead_of_a_string_is_one_that_is_taken(text):
    assert "write 32)" in refused(text, "'32'")
    configured(text.replace("'", ""))


@pytest.mark.parametrize("text", ["training: {learning_rate: 1e-5}", "pruning: {rates: [0, 5e-7]}", "seeds: [1e3]"])
def test_what_to_write_instead_of_an_exponent_without_point_is_a_number(text):
    wrong, right = re.search(r"YAML reads '(\S+)' as text: write (\S+)\)", refused(text)).groups()
    configured(text.replace(wrong, right))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("epochs: 5", "epochs: unknown key; did you mean training.epochs or retraining.epochs? Allowed: dataset"),
        ("quantization: {qat_epoch: 5}", "did you mean quantization.qat_epochs? Allowed: modes"),
        (
            "training: {modes: [float32]}",
            "training.modes: unknown key; did you mean quantization.modes? Allowed: epochs",
        ),
        ("training: {seeds: [0]}", "training.seeds: unknown key; did you mean seeds? Allowed: epochs"),
        ("training: {zebra: 1}", "training.zebra: unknown key. Allowed: epochs"),
        ("models: {a: {}}", "models.a.architecture: missing; state it. Allowed: resnet8, "),
        ("models: {a: {architecture: resnet10}}", "models.a.architecture: 'resnet10' does not fit. Allowed: resnet8, "),
    ],
)
def test_an_error_says_what_was_probably_meant(text, hint):
    assert hint in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "dataset: {name: image_folder, path: ~/images, image_size: 32}",
        "models: {m: {architecture: '~/model.py:build'}}",
        "models: {m: {architecture: resnet8, weights: ~/weights.pt}}",
    ],
)
def test_a_path_from_the_home_folder_has_to_be_written_whole(text):
    with pytest.raises(UserError, match=rf"'~/.*: ~ is not expanded; write '{pathlib.Path.home()}/"):
        check_files(configured(text))


def test_several_mistakes_are_told_at_once():
    message = refused("seed: [0]\ntraining: {epochs: 0}\npruning: {rates: [2]}", "seed", "training.epochs", "rates[0]")
    assert len(message.splitlines()) == 3


def test_all_counts_of_images_that_are_too_high_are_told_at_once():
    message = refused("quantization: {calibration_images: 5000}\nevaluation: {latency_images: 9000}", "5000", "9000")
    assert len(message.splitlines()) == 2


def test_a_rate_is_its_number_however_it_is_written():
    assert configured("pruning: {rates: [0, 0.10, 1.0e-3]}")["pruning"]["rates"] == [0, 0.1, 0.001]


def test_the_last_part_that_states_a_table_replaces_it():
    config = configured(
        "models: {a: {architecture: resnet8}}\ntraining: {epochs: 3}\nseeds: [5]",
        "models: {b: {architecture: resnet20}}\ntraining: {batch_size: 64}",
    )
    assert list(config["models"]) == ["b"]
    assert config["training"]["epochs"] == 30
    assert config["training"]["batch_size"] == 64
    assert config["seeds"] == [5]


def test_keys_that_a_later_part_takes_away_are_told():
    notes = []
    tables = "training: {epochs: 3, batch_size: 64}\nseeds: [1]", "training: {epochs: 2}\nseeds: [2]"
    configuration(map(yaml.safe_load, tables), SCHEMA, notes.append)
    assert len(notes) == 1
    assert "training" in notes[0] and "without batch_size;" in notes[0]


def test_a_mistake_that_a_later_part_replaces_does_not_matter():
    assert configured("models: 3", "models: {b: {architecture: resnet8}}")["models"].keys() == {"b"}


def test_results_without_a_record_of_how_they_were_made_are_told(study):
    (study / "results/data").mkdir(parents=True)
    (study / "results/data/dataset.json").touch()
    notes = []
    check_files(configuration([{}], SCHEMA), notes.append)
    assert ".snakemake/metadata" in notes[0]
    (study / ".snakemake/metadata").mkdir(parents=True)
    (study / ".snakemake/metadata/cmVzdWx0cw==").touch()
    check_files(configuration([{}], SCHEMA), notes.append)
    assert len(notes) == 1


# --- files and --config


FILES = {
    "empty": ("", ["table"]),
    "comments": ("# nothing\n", ["table"]),
    "list": ("- seeds\n", ["['seeds']", "table"]),
    "text": ("seeds\n", ["'seeds'", "table"]),
    "syntax error": ("dataset: {name: digits}\nmodels: [\n", ["line 3"]),
    "tab": ("dataset:\n\tname: digits\n", ["line 2"]),
    "unknown anchor": ("seeds: *all\n", ["line 1", "'all'"]),
    "python object": ("seeds: !!python/object/apply:os.mkdir [executed]\n", ["line 1"]),
    "two documents": ("seeds: [0]\n---\nseeds: [1]\n", ["line 2"]),
    "key twice": ("seeds: [0]\ntraining: {epochs: 1}\nseeds: [1]\n", ["'seeds'", "line 3"]),
    "model twice": ("models:\n  a: {architecture: resnet8}\n  a: {architecture: resnet20}\n", ["'a'", "line 3"]),
    "JSON key twice": ('{"seeds": [0], "seeds": [1]}', ["'seeds'", "line 1"]),
    "list as key": ("[seeds]: 1\n", ["line 1"]),
    "zero byte": ("seeds: [0]\n#\0\n", ["line 2", "character"]),
    "latin-1": ('seeds: [0]\ndataset: {path: "café"}\n'.encode("latin-1"), ["line 2", "UTF-8"]),
    "percent sign": ("seeds: [0]\n%dataset\n", ["line 3"]),
    "impossible date": ("seeds: [0]\nmodels: 2024-13-45\n", ["line 2", "month"]),
    "thousands of brackets": ("[" * 5000, ["too deep"]),
    "octal": ("seeds: [0]\ntraining: {epochs: 010}\n", ["line 2", "010 means 8"]),
    "minutes": ("training:\n  epochs: 1:30\n", ["line 2", "1:30 means 90"]),
    "UTF-16": ("seeds: [0]\n".encode("utf-16"), ["UTF-8"]),
}


@pytest.mark.parametrize("content, words", FILES.values(), ids=FILES)
def test_a_file_that_is_no_configuration_is_named_with_the_line(study, content, words):
    (study / "study.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_file("study.yaml")
    for word in ["study.yaml", *words]:
        assert word in str(error.value)
    assert not (study / "executed").exists()


def test_a_folder_or_nothing_in_place_of_a_file_is_refused_by_name(study):
    (study / "folder.yaml").mkdir()
    (study / "loop.yaml").symlink_to("loop.yaml")
    for name in ("folder.yaml", "absent.yaml", "loop.yaml"):
        with pytest.raises(UserError, match=rf"{name}.*--configfile"):
            read_file(name)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffseeds: [3]\n",
        "seeds: [3]\r\n",
        '{"seeds": [3]}',
        "models:\n  a: &a {architecture: resnet8}\n  b:\n    <<: *a\nseeds: [3]\n",
    ],
    ids=["byte order mark", "lines of Windows", "JSON", "merged keys"],
)
def test_unusual_files_are_read(study, text):
    (study / "study.yaml").write_bytes(text.encode())
    assert read_file("study.yaml")["seeds"] == [3]


def test_numbers_in_lists_and_tables_of_the_command_line_are_numbers():
    """Snakemake hands over {"seeds": ["0", "1"]} for --config 'seeds=[0,1]'."""
    given = {
        "seeds": ["0", "1"],
        "pruning": {"rates": ["0.25"], "scopes": ["local"]},
        "dataset": {"image_size": "null"},
    }
    assert read_command_line(given) == {
        "seeds": [0, 1],
        "pruning": {"rates": [0.25], "scopes": ["local"]},
        "dataset": {"image_size": None},
    }


@pytest.mark.parametrize(
    "text", ["[1", "{", "a: b: c", "*x", "%", "@x", "'", "!!python/name:os.system", "2024-13-45", "[" * 5000]
)
def test_garbage_on_the_command_line_is_refused_as_it_is(text):
    with pytest.raises(UserError, match="seeds"):
        configuration([read_command_line({"seeds": text})], SCHEMA)


# --- image folders


def image_folder(path: pathlib.Path, train: dict[str, int], test: dict[str, int], size: int = 8) -> None:
    """Write an image folder with so many images per class."""
    random = numpy.random.default_rng(0)
    for split, classes in (("train", train), ("test", test)):
        for name, count in classes.items():
            (path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 255, (size, size, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(path / split / name / f"{index}.png")


FOLDER = """
dataset: {name: image_folder, path: pictures, image_size: 16}
training: {batch_size: 2}
quantization: {modes: [float32]}
evaluation: {latency_images: 20}
"""


@pytest.mark.parametrize(
    "train, test, words",
    [
        ({}, {}, ["'pictures'", "<path>/train/<class>"]),
        ({}, {"cat": 2, "dog": 2}, ["'test'", "<path>/train/<class>"]),
        ({"cat": 2, "dog": 2, "emu": 2}, {"cat": 20, "dog": 20}, ["'emu'", "pictures/train only"]),
        ({"cat": 2, "dog": 2}, {"cat": 20, "dog": 20, "emu": 2}, ["'emu'", "pictures/test only"]),
        ({"cat": 2, "dog": 0}, {"cat": 20, "dog": 20}, ["pictures/train/dog", "no image"]),
        ({"cat": 2, "dog": 2}, {"cat": 20, "dog": 0}, ["pictures/test/dog", "no image"]),
        ({"cat": 2}, {"cat": 20}, ["pictures/train", "1 class", "2 are needed"]),
        ({"cat": 20, "dog": 20}, {"cat": 2, "dog": 2}, ["evaluation.latency_images", "20", "4 test images"]),
    ],
    ids=["missing", "no train", "train only", "test only", "empty train", "empty test", "one class", "few to time"],
)
def test_an_image_folder_with_a_fault_is_refused_before_any_job(study, train, test, words):
    image_folder(study / "pictures", train, test)
    refused(FOLDER, "dataset.path" if "evaluation" not in words[0] else "evaluation", *words)


def test_names_of_classes_that_the_folder_lacks_are_refused_before_any_job(study):
    image_folder(study / "pictures", {"cat": 20, "dog": 20}, {"cat": 20, "dog": 20})
    model = "models: {m: {architecture: resnet8, classes: [dgo, cat]}}\n"
    refused(FOLDER + model, "configuration: models.m.classes", "'dgo'", "did you mean 'dog'?")
    configured(FOLDER + model.replace("dgo", "dog"))


def test_of_a_small_image_folder_all_images_are_taken_which_is_said_unless_more_are_stated(study):
    image_folder(study / "pictures", {"cat": 20, "dog": 20}, {"cat": 6, "dog": 6})
    text, notes = FOLDER.replace("quantization: {modes: [float32]}", "").replace("{latency_images: 20}", "{}"), []
    check_files(configuration([yaml.safe_load(text)], SCHEMA), notes.append)
    assert notes == [
        "quantization.calibration_images: all 36 train images are taken, fewer than the usual 512",
        "evaluation.latency_images: all 12 test images are taken, fewer than the usual 1000",
    ]
    refused(text + "quantization: {modes: [qat], calibration_images: 37}", "calibration_images: 37", "36 train images")


def test_names_that_are_not_utf8_are_refused_or_read(study):
    image_folder(study / "pictures", {"cat": 1, "dog": 1}, {"cat": 1, "dog": 1})
    try:
        (study / "pictures/train/cat/0.png").rename(str(study / "pictures/train/cat/\udcff.png"))
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    try:
        image_fingerprint("pictures", "known.json")
    except UserError as error:
        assert "pictures/train/cat" in str(error)


# --- weights


def taken(data, model: ModelSpec, checkpoint) -> None:
    """Take the weights w.pt."""
    train_import(data.dataset, model, "w.pt", checkpoint=checkpoint)


def save_weights(change, path: str = "w.pt") -> None:
    torch.save({name: change(tensor) for name, tensor in build_network("resnet8", 3, 1).state_dict().items()}, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor * float("nan") if tensor.is_floating_point() else tensor,
        lambda tensor: tensor * float("inf") if tensor.is_floating_point() else tensor,
        lambda tensor: tensor.to(torch.int64),
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: tensor.to_sparse() if tensor.dim() else tensor,
        lambda tensor: tensor.to("meta"),
    ],
    ids=["nan", "infinite", "integers", "complex", "sparse", "without data"],
)
def test_weights_that_no_network_could_use_are_refused_by_tensor(data, study, change):
    save_weights(change)
    with pytest.raises(UserError, match=r"w\.pt.*conv1\.weight"):
        taken(data, MODEL, study / "out/dense.safetensors")
    assert not list(study.glob("out/**/*"))


def test_weights_of_half_precision_are_taken(data, study):
    save_weights(lambda tensor: tensor.half() if tensor.is_floating_point() else tensor)
    taken(data, MODEL, study / "out/dense.safetensors")


def test_tensors_that_the_network_lacks_are_named_beside_those_that_the_file_lacks():
    state = build_network("resnet8", 3, 1).state_dict()
    state["stem.weight"] = state.pop("conv1.weight")
    torch.save(state, "w.pt")
    with pytest.raises(UserError, match=r"(?s)lacks conv1\.weight.*has stem\.weight"):
        load_weights(build_network("resnet8", 3, 1), "w.pt", None, "w.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "save",
    [
        lambda: torch.save(nn.Linear(2, 2), "w.pt"),
        lambda: torch.save({"model": {}, "epoch": numpy.float64(3)}, "w.pt"),
        lambda: torch.jit.script(nn.Linear(2, 2)).save("w.pt"),
    ],
    ids=["network", "numpy number", "TorchScript"],
)
def test_code_in_weights_is_refused_without_advice_to_run_it(save):
    save()
    with pytest.raises(UserError, match=r"w\.pt.*state_dict\(\)") as error:
        read_states("w.pt")
    for advice in ("weights_only", "trust", "\x1b"):
        assert advice not in str(error.value)


# --- a user's own network


OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.linear = nn.Linear(64 * channels, classes)

    def forward(self, x):
        return {forward}


def build(num_classes, in_channels):
    return {network}
"""
NETWORKS = {
    "raises": ("self.no_such_layer(x)", "Net(num_classes, in_channels)", r"no_such_layer.*\(own\.py, line 12\)"),
    "other shape": ("self.linear(x)", "Net(num_classes, in_channels)", r"shape.*\(own\.py, line 12\)"),
    "fewer classes": ("self.linear(x.flatten(1))", "Net(num_classes - 1, in_channels)", r"\(8, 2\).*\(8, 3\)"),
    "more classes": ("self.linear(x.flatten(1))", "Net(num_classes + 5, in_channels)", r"\(8, 8\).*\(8, 3\)"),
    "two results": ("self.linear(x.flatten(1)), x", "Net(num_classes, in_channels)", "tuple"),
    "a dictionary": ('{"logits": self.linear(x.flatten(1))}', "Net(num_classes, in_channels)", "dict"),
    "classes": ("self.linear(x.flatten(1)).argmax(1)", "Net(num_classes, in_channels)", r"\(8,\)"),
    "whole numbers": ("self.linear(x.flatten(1)).long()", "Net(num_classes, in_channels)", "int64"),
    "nothing to train": ("x", "nn.Flatten()", "parameter"),
    "all frozen": ("self.linear(x.flatten(1))", "Net(num_classes, in_channels).requires_grad_(False)", "requires_grad"),
}


@pytest.mark.parametrize("forward, network, words", NETWORKS.values(), ids=NETWORKS)
def test_a_network_that_cannot_learn_is_refused_before_training(data, study, forward, network, words):
    (study / "own.py").write_text(OWN.replace("{forward}", forward).replace("{network}", network))
    settings, state = TrainingSettings(1, 8, 0.1, 0.9, 0, 0, False), TrainingState(study / "out/state.pt", {})
    out = {"checkpoint": study / "out/dense.safetensors", "history": study / "out/history.csv"}
    with pytest.raises(UserError, match=words) as error:
        train(data, ModelSpec("m", "own.py:build", 0), settings, state=state, **out)
    assert "own.py:build" in str(error.value)
    assert not list(study.glob("out/**/*"))


def test_a_network_without_a_layer_to_prune_is_named(data, study):
    text = OWN.replace("{forward}", "x").replace("{network}", "nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))")
    (study / "own.py").write_text(text)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
    save_dense("dense.safetensors", network, data.dataset, {"architecture": "own.py:build"})
    pruned = {"scope": "local", "rate": 0.5, "checkpoint": study / "out/pruned.safetensors"}
    with pytest.raises(UserError, match=r"own\.py:build.*no convolution, no linear layer"):
        prune("dense.safetensors", **pruned)
    assert not list(study.glob("out/**/*"))
