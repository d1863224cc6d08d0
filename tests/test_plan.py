"""The plan of a study: which variants, figures and checkpoints a configuration asks for, and where they lie."""

import itertools
import pathlib

import pytest

from elagage.configuration import configuration
from elagage.plan import FIGURES_OF_SCOPE, MEASUREMENTS, Plan, graph, pruned_for

SCHEMA = pathlib.Path(__file__).parent.parent / "workflow/schemas/config.schema.yaml"
TWO_MODELS = {"a": {"architecture": "resnet8"}, "b": {"architecture": "resnet20", "weights": "b.pt"}}


def plan(**stated) -> Plan:
    return Plan(configuration([stated], SCHEMA))


def pruning(**stated) -> dict:
    return {"scopes": ["local", "global"], "rates": [0.5, 0.0, 0.8], "recovery": ["none", "finetune"]} | stated


def test_the_variants_are_every_combination_once_with_the_paths_of_their_measurements():
    of = plan(models=TWO_MODELS, seeds=[3, 4], pruning=pruning(), quantization={"modes": ["float32", "static"]})
    names = ("model", "seed", "scope", "rate", "recovery", "mode")
    found = [tuple(row[name] for name in names) for row in of.variants]
    choices = ["local", "global"], [0.0, 0.5, 0.8], ["none", "finetune"], ["float32", "static"]
    assert found == [key + rest for key in (("a", 3), ("a", 4), ("b", 3)) for rest in itertools.product(*choices)]
    row = of.variants[found.index(("a", 4, "global", 0.8, "finetune", "static"))]
    for kind in MEASUREMENTS:
        assert row[kind] == f"results/models/a/seed4/global/0.8/finetune-static.{kind}.json"


def test_rate_0_is_the_dense_model_for_every_scope_and_measured_once():
    of = plan(pruning=pruning(recovery=["none", "batchnorm"]))
    dense = [row for row in of.variants if row["rate"] == 0]
    assert len(dense) == 2 * 2 * 3
    assert {row["size"] for row in dense} == {
        f"results/models/resnet8/seed0/dense-{mode}.size.json" for mode in ("float32", "dynamic", "static")
    }
    assert len(of.measurements) == len(set(of.measurements))
    assert set(of.measurements) == {row[kind] for row in of.variants for kind in MEASUREMENTS}


def test_rate_0_of_a_recovery_that_trains_is_its_control():
    of = plan(pruning=pruning(recovery=["none", "finetune", "rewind", "iterative"]))
    for scope in of.scopes:
        recovered = {name: of.checkpoint(scope, 0, name) for name in of.all_recoveries}
        assert recovered == {
            "none": "dense",
            "finetune": "control/finetune/1",
            "rewind": "control/rewind/1",
            "iterative": "control/iterative/2",
        }
    assert [of.control(rate, "iterative") for rate in (0.5, 0.8)] == ["control/rewind/1", "control/iterative/2"]
    assert {of.control(rate, "finetune") for rate in of.rates} == {"control/finetune/1"}
    rows = {row["file"]: row for row in of.files}
    stem = "results/models/resnet8/seed0"
    assert rows[f"{stem}/global/0.8/iterative-static.onnx"]["control"] == f"{stem}/control/iterative/2-static.onnx"
    assert all(row["control"] in rows for row in rows.values() if row["control"])
    assert not any(row["control"] for row in rows.values() if row["rate"] == 0 or row["recovery"] == "none")


def test_controls_and_dense_float32_files_are_measured_whatever_the_rates_and_modes():
    of = plan(pruning=pruning(rates=[0.5], recovery=["finetune"]), quantization={"modes": ["static"]})
    names = {row["file"].removeprefix("results/models/resnet8/seed0/") for row in of.files}
    assert {"dense-float32.onnx", "control/finetune/1-static.onnx"} <= names
    assert {row["mode"] for row in of.variants} == {"static"}


@pytest.mark.parametrize("rates", [[0.8, 0.5, 0.7], [0.0, 0.8, 0.5, 0.7]])
def test_iterative_goes_from_each_rate_to_the_next_and_starts_as_rewind(rates):
    of = plan(pruning=pruning(rates=rates, recovery=["iterative"]))
    assert of.rates == sorted(rates)
    steps = [of.checkpoint("global", rate, "iterative") for rate in (0.5, 0.7, 0.8)]
    assert steps == ["global/0.5/rewind", "global/0.7/iterative", "global/0.8/iterative"]
    before = [of.recovered_before("global", rate) for rate in (0.5, 0.7, 0.8)]
    assert before == ["dense", *steps[:2]]
    assert of.checkpoint("global", 0.5, "finetune") == "global/0.5/finetune"


def test_a_model_with_weights_has_the_first_seed_and_is_not_trained():
    of = plan(models=TWO_MODELS, seeds=[3, 4])
    assert (of.seeds("a"), of.seeds("b")) == ([3, 4], [3])
    assert of.trained == ["a"]
    assert of.model_seeds == ["a/seed3", "a/seed4", "b/seed3"]
    assert of.trained_seeds == ["a/seed3", "a/seed4"]


@pytest.mark.parametrize(
    ("modes", "made"),
    [
        (["float32", "static"], ["float32", "static"]),
        (["static", "qat"], ["float32", "static"]),  # each variant is timed against the dense float32 model
        (["qat"], ["float32"]),
        (["static4"], ["float32", "static4"]),
    ],
)
def test_float32_is_made_in_every_study_and_qat_by_another_rule(modes, made):
    of = plan(quantization={"modes": modes})
    assert of.quantize_modes == made
    assert of.modes == modes
    # Measured, too, because the answer's reference is a dense float32 file.
    assert {stem.rpartition("-")[2] for stem in of.mode_stems} == {"float32", *modes}
    assert of.calibrates == (len(made) > 1)


SENSITIVITIES = ("sensitivity", "sensitivity_int8")


@pytest.mark.parametrize(
    ("stated", "there"),
    [
        ({"pruning": pruning()}, {"scopes_accuracy", "recovery_comparison", "training_history", *SENSITIVITIES}),
        ({"pruning": pruning(scopes=["local"])}, {"recovery_comparison", "training_history", *SENSITIVITIES}),
        ({"pruning": pruning(recovery=["none"])}, {"scopes_accuracy", "training_history", *SENSITIVITIES}),
        (
            {"pruning": pruning(rates=[0.0])},
            {"scopes_accuracy", "recovery_comparison", "training_history", SENSITIVITIES[1]},
        ),
        (
            {"pruning": pruning(), "sensitivity": {"images": 0}},
            {"scopes_accuracy", "recovery_comparison", "training_history"},
        ),
        (
            {"pruning": pruning(rates=[0.0]), "quantization": {"modes": ["float32", "qat"]}},
            {"scopes_accuracy", "recovery_comparison", "training_history"},
        ),
        (
            {"pruning": pruning(), "models": {"b": TWO_MODELS["b"]}},
            {"scopes_accuracy", "recovery_comparison", *SENSITIVITIES},
        ),
    ],
    ids=["all", "one scope", "one recovery", "dense alone", "no sensitivity", "nothing calibrated", "nothing trained"],
)
def test_a_figure_is_drawn_where_the_study_has_data_for_it(stated, there):
    of = plan(**stated)
    of_scopes = {f"{scope}_pruning_{metric}" for scope in of.scopes for metric in FIGURES_OF_SCOPE}
    assert len(of.figures) == len(set(of.figures))
    assert set(of.figures) == of_scopes | {"quantization_comparison", "pareto"} | there


def test_a_recovery_depends_on_the_settings_that_it_uses_alone():
    retraining = {"epochs": 7, "learning_rate": 0.003, "batchnorm_images": 99}
    of = plan(retraining=retraining)
    assert of.retraining("finetune") == {"epochs": 7, "learning_rate": 0.003}
    assert of.retraining("rewind") == of.retraining("iterative") == {"epochs": 7}


def test_qat_trains_like_training_but_for_its_own_epochs_and_learning_rate_and_without_warm_up():
    training = {"epochs": 20, "learning_rate": 0.2, "batch_size": 32, "warmup_epochs": 2}
    of = plan(training=training, quantization={"modes": ["qat"], "qat_epochs": 3, "qat_learning_rate": 0.004})
    own = {"epochs": 3, "learning_rate": 0.004, "warmup_epochs": 0}
    assert of.qat_training == of.config["training"] | own
    assert of.qat_training["batch_size"] == 32


@pytest.mark.parametrize("recovery", ["none", "batchnorm", "finetune", "rewind"])
def test_a_recovery_starts_from_the_pruned_checkpoint_and_keeps_its_channels(recovery):
    assert pruned_for(recovery) == "none"
    assert graph("m", "0", f"channel/0.5/{recovery}") == "results/models/m/seed0/channel/0.5/none.graph.onnx"


def test_a_recovery_that_trains_may_start_from_the_fitted_checkpoint():
    of, other = plan(), plan(retraining={"start": "reconstruct"})
    assert [of.start(recovery) for recovery in ("finetune", "rewind", "iterative")] == [
        *("none", "none", "iterative_pruned")
    ]
    assert [other.start(recovery) for recovery in ("finetune", "rewind", "iterative")] == [
        *("reconstruct", "reconstruct", "iterative_pruned")
    ]


def test_given_weights_are_fitted_to_the_dense_network_where_no_recovery_is_stated():
    of = plan(models=TWO_MODELS, quantization={"modes": ["float32"]})
    assert {(row["model"], row["recovery"]) for row in of.variants} == {("a", "none"), ("b", "reconstruct")}
    assert (of.asked("a")["recoveries"], of.asked("b")["recoveries"]) == (["none"], ["reconstruct"])
    assert "recovery_comparison" not in of.figures
    stated = plan(models=TWO_MODELS, pruning={"recovery": ["none", "batchnorm"]})
    assert {stated.recoveries(model)[1] for model in "ab"} == {"batchnorm"}
    assert "recovery_comparison" in stated.figures


def test_iterative_prunes_again_so_its_graph_is_another():
    assert pruned_for("iterative") == "iterative_pruned"
    place = "results/models/m/seed2/channel/0.5"
    assert graph("m", "2", "channel/0.5/iterative") == f"{place}/iterative_pruned.graph.onnx"


@pytest.mark.parametrize("checkpoint", ["dense", "local/0.5/none", "global/0.9/iterative"])
def test_what_keeps_all_channels_has_the_graph_of_its_model(checkpoint):
    assert graph("m", "0", checkpoint) == "results/models/m/graph.onnx"


def test_the_code_of_a_model_is_that_of_the_users_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def build(num_classes, in_channels):\n    pass\n")
    models = {"mine": {"architecture": "net.py:build"}, "built_in": {"architecture": "resnet8"}}
    of = plan(models=models)
    assert of.user_code("mine").startswith("net.py:")
    assert of.user_code("built_in") is None


def test_models_of_another_geometry_have_images_of_their_own_and_those_of_the_same_share_them():
    same = {"architecture": "resnet8", "preprocessing": {"channels": "BGR", "range": 255}}
    other = {"architecture": "resnet8", "preprocessing": {"resize": 40, "interpolation": "bicubic"}}
    of = plan(models={"a": {"architecture": "resnet8"}, "b": same, "c": other, "d": other})
    folders = [of.data(model) for model in "abcd"]
    assert folders == ["results/data", "results/data", "results/data/40-bicubic", "results/data/40-bicubic"]
    assert {name: str(geometry) for name, geometry in of.other_geometries.items()} == {"40-bicubic": "40-bicubic"}
    expected = {"model": "b", "normalization": "dataset", "channels": "BGR", "full_scale": 255, "classes": None}
    assert of.trained_with("b") == expected


@pytest.mark.parametrize(("size", "alone"), [(None, True), (16, True), (224, False)])
def test_training_takes_a_single_thread_for_small_batches_only(size, alone):
    of = plan(dataset={"name": "digits", "image_size": size}, training={"batch_size": 32})
    assert (of.training_threads == 1) is alone
