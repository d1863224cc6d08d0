"""The configuration: defaults from the schema, tables that replace, and a manual that agrees."""

import pathlib
import re
import runpy

import pytest
import yaml

from elagage.configuration import configuration
from elagage.errors import UserError

REPOSITORY = pathlib.Path(__file__).parent.parent
SCHEMA = REPOSITORY / "workflow/schemas/config.schema.yaml"
ON_OFFER = [REPOSITORY / "config/config.yaml", *sorted(REPOSITORY.glob("examples/*/study.yaml"))]


def leaves(schema: dict, prefix: str = ""):
    """Yield (key path, schema) of every setting."""
    for key, part in schema.get("properties", {}).items():
        if part.get("type") == "object" and "properties" in part:
            yield from leaves(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part
            if isinstance(part.get("additionalProperties"), dict):
                yield from leaves(part["additionalProperties"], f"{prefix}{key}.<name>.")


LEAVES = dict(leaves(yaml.safe_load(SCHEMA.read_text())))


MODEL = {  # what is left out
    "weights": None,
    "weights_key": None,
    "normalization": "dataset",
    "preprocessing": {"resize": None, "interpolation": "bilinear", "channels": "RGB", "range": 1},
    "classes": None,
    "validation": "unseen",
    "accuracy": None,
}


def test_an_empty_configuration_is_the_default_study():
    config = configuration([{}], SCHEMA)
    assert config["dataset"] == {"name": "digits", "path": "data", "image_size": None, "validation_fraction": 0.1}
    assert config["models"] == {"resnet8": MODEL | {"architecture": "resnet8"}}
    assert config["pruning"]["rates"] == [rate / 10 for rate in range(10)]


def test_three_lines_are_enough_and_replace_the_tables():
    stated = {"dataset": {"name": "cifar10"}, "models": {"big": {"architecture": "resnet56"}}, "seeds": [1, 2]}
    config = configuration(
        [{"models": {"resnet8": {"architecture": "resnet8"}}, "training": {"epochs": 3}}, stated], SCHEMA
    )
    assert config["models"] == {"big": MODEL | {"architecture": "resnet56"}}
    assert config["seeds"] == [1, 2]
    assert config["training"]["epochs"] == 3  # of the first part: the second does not state the table
    assert config["training"]["batch_size"] == 128


def test_a_table_takes_the_rest_from_the_defaults_and_not_from_another_file():
    parts = [{"dataset": {"name": "digits", "image_size": 16}}, {"dataset": {"name": "cifar10"}}]
    assert configuration(parts, SCHEMA)["dataset"]["image_size"] is None


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UserError) as error:
        configuration([{"seeds": [], "training": {"epochs": 0, "epoch": 3}}], SCHEMA)
    assert len(str(error.value).splitlines()) == 3
    assert "did you mean training.epochs?" in str(error.value)


def test_the_warmup_ends_within_training():
    assert configuration([{"training": {"epochs": 2, "warmup_epochs": 2}}], SCHEMA)["training"]["warmup_epochs"] == 2
    with pytest.raises(UserError, match=r"training\.warmup_epochs: 2\.5 epochs would not end .*is 2; lower .* to 2 or"):
        configuration([{"training": {"epochs": 2, "warmup_epochs": 2.5}}], SCHEMA)


@pytest.mark.parametrize("recovery", ["rewind", "iterative"])
def test_rewinding_goes_back_no_further_than_training_went(recovery):
    stated = {"pruning": {"recovery": [recovery]}, "training": {"epochs": 9}}
    assert configuration([stated, {"retraining": {"epochs": 9}}], SCHEMA)["retraining"]["epochs"] == 9
    with pytest.raises(UserError, match=rf"retraining\.epochs: {recovery} would go back 10 epochs.*9; lower"):
        configuration([stated, {"retraining": {"epochs": 10}}], SCHEMA)


def test_other_recoveries_may_take_longer_than_training():
    stated = {"pruning": {"recovery": ["finetune"]}, "training": {"epochs": 1}, "retraining": {"epochs": 20}}
    assert configuration([stated], SCHEMA)["retraining"]["epochs"] == 20


def test_retraining_takes_a_third_of_the_epochs_of_training_unless_it_is_stated():
    for trained, retrained in ((1, 1), (10, 4), (30, 10), (100, 34)):
        stated = {"pruning": {"recovery": ["rewind"]}, "training": {"epochs": trained}}
        assert configuration([stated], SCHEMA)["retraining"]["epochs"] == retrained


@pytest.mark.parametrize("file", ON_OFFER, ids=lambda file: file.parent.name)
def test_the_configurations_on_offer_are_valid(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert configuration([yaml.safe_load(file.read_text())], SCHEMA)["models"]


@pytest.mark.parametrize("key", LEAVES)
def test_the_manual_has_every_key_once_with_its_default(key):
    rows = re.findall(
        r"^\| `([^`]+)` \| (?:`([^`]*)`)? ?\|", (REPOSITORY / "config/README.md").read_text(), re.MULTILINE
    )
    defaults = [default for name, default in rows if name == key]
    assert len(defaults) == 1, f"{key} is documented {len(defaults)} times"
    if "default" in LEAVES[key]:
        assert yaml.safe_load(defaults[0]) == LEAVES[key]["default"]
    else:
        assert defaults[0] == ""


def test_the_manual_is_written_from_the_schema():
    documented = runpy.run_path(str(REPOSITORY / "workflow/schemas/document.py"))["documented"]
    manual = (REPOSITORY / "config/README.md").read_text()
    assert documented(manual, yaml.safe_load(SCHEMA.read_text())) == manual, "run 'make format'"


def test_the_manual_has_no_key_that_does_not_exist():
    rows = re.findall(r"^\| `([^`]+)` \|", (REPOSITORY / "config/README.md").read_text(), re.MULTILINE)
    assert set(rows) == set(LEAVES)


def test_mode_none_is_float32_and_the_user_is_told():
    notes = []
    stated = {"quantization": {"modes": ["static", "none"]}}
    assert configuration([stated], SCHEMA, notes.append)["quantization"]["modes"] == ["static", "float32"]
    assert stated == {"quantization": {"modes": ["static", "none"]}}
    (note,) = notes
    assert "none is now called float32" in note
    configuration([{"quantization": {"modes": ["float32"]}}], SCHEMA, notes.append)
    assert len(notes) == 1


@pytest.mark.parametrize("modes", [["none", "float32"], ["float32", "static", "none"]])
def test_both_names_of_float32_are_one_too_many(modes):
    with pytest.raises(UserError, match=r"quantization\.modes: .*names float32 twice.*remove none"):
        configuration([{"quantization": {"modes": modes}}], SCHEMA)


def test_trainings_that_start_from_a_trained_model_take_a_hundredth_of_its_learning_rate():
    config = configuration([{"training": {"learning_rate": 0.3}}], SCHEMA)
    assert config["retraining"]["learning_rate"] == pytest.approx(0.003)
    assert config["quantization"]["qat_learning_rate"] == pytest.approx(0.003)
    stated = {"retraining": {"learning_rate": 0.02}, "quantization": {"qat_learning_rate": 0.01}}
    config = configuration([stated], SCHEMA)
    assert (config["retraining"]["learning_rate"], config["quantization"]["qat_learning_rate"]) == (0.02, 0.01)
