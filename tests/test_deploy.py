"""The model card beside a deployed file; test_workflow.py and test_predict.py try the folder itself."""

import json
import re

import numpy
import pytest
import yaml

from deploy import as_json, per_class, verdict

ANSWER = {"margin_points": 1.0, "margin": "1 point", "confidence": 0.95, "test_images": 2000}
FOUND = {"is_reference": False, "loss_points": 0.25, "loss_low": -0.5, "loss_high": 0.75, "recipe": None}


def test_recall_and_loss_of_each_class_are_counted_on_its_own_images():
    labels = numpy.repeat([0, 1], [4, 10])
    right, correct = labels >= 0, numpy.ones(14, bool)
    right[0] = False  # so class 0 wins an image
    correct[[4, 5, 6]] = False
    lines = per_class(correct, right, labels, ["cat", "dog"])
    assert lines[2:] == [
        "| cat | 4 | 100.0% | 75.0% | -25.00 | 0 | 1 |",
        "| dog | 10 | 70.0% | 100.0% | 30.00 | 3 | 0 |",
    ]


def test_yaml_reads_the_numbers_of_a_configuration_in_the_card():
    configuration = {"decay": 5e-05, "rates": [1e-06, 0.5, 2.5e-07], "large": 1e20, "name": "1e-05", "seeds": [0]}
    block = "\n".join(as_json(configuration)).removeprefix("```json").removesuffix("```")
    assert yaml.safe_load(block) == json.loads(block) == configuration


@pytest.mark.parametrize("name", ["a|b", "<script>", "*.jpg", "[x](y)", "two\nlines"])
def test_names_of_classes_cannot_change_the_table(name):
    labels = numpy.array([0])
    row = per_class(labels == 0, labels == 0, labels, [name])[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    assert not re.search(r"(?<!\\)[*<>\[]|\n", row)


def test_the_verdict_has_the_numbers_of_the_answer():
    text = "\n".join(verdict(FOUND, ANSWER, "packed_size"))
    for words in ("loses 0.25 points", "2,000 test images", "above -0.50 and below 0.75", "less than 1 point"):
        assert words in text
    assert "seeds" not in text
    recipe = {"seeds": 3, "loss_points": 0.4, "loss_low": 0.1, "loss_high": 0.7}
    assert "with 3 seeds, each against its own dense network: 0.40 on average (95% interval 0.10 to 0.70)" in "\n".join(
        verdict(FOUND | {"recipe": recipe}, ANSWER, "time")
    )


def test_a_reference_is_not_called_certified():
    (line,) = verdict(FOUND | {"is_reference": True}, ANSWER, "file_size")
    assert "the reference itself" in line
    assert "With 95% confidence" not in line
