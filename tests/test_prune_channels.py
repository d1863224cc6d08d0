"""The job that removes channels: what its checkpoint says, and that it loads, exports and can be pruned again."""

import onnx_ir
import pytest
from networks import DATASET, images, torch_logits

from elagage.errors import UserError
from elagage.kept_channels import KEY, kept_channels
from elagage.pytorch.checkpoints import load_checkpoint, load_network, save_checkpoint, save_dense
from elagage.pytorch.models import build_network
from elagage.pytorch.pruning import count_weights
from prune_channels import prune_channels
from quantize_export import quantize_export


@pytest.fixture
def place(tmp_path):
    """Return a folder with a dense resnet8."""
    save_dense(tmp_path / "dense", build_network("resnet8", 3, 3), DATASET, {"model": "m", "seed": 0})
    return tmp_path


def pruned(place, source: str, rate: float, target: str) -> dict:
    """Return the provenance of the checkpoint."""
    prune_channels(DATASET, place / source, "resnet8", rate=rate, checkpoint=place / target)
    return load_checkpoint(place / target)[1]


def test_the_checkpoint_says_what_is_gone_and_loads_as_any_other(place):
    provenance = pruned(place, "dense", 0.5, "pruned")
    network, loaded = load_network(place / "pruned", "resnet8", DATASET)
    assert loaded == provenance
    assert {name: len(kept) for name, kept in kept_channels(provenance).items()} == {
        name: len(tensor)
        for name, tensor in load_checkpoint(place / "pruned")[0].items()
        if tensor.dim() > 1 and len(tensor) < len(load_checkpoint(place / "dense")[0][name])
    }
    dense = load_checkpoint(place / "dense")[1]
    assert provenance == {
        **dense,
        KEY: provenance[KEY],
        **{"scope": "channel", "rate": 0.5, "recovery": "none", "zeros": 0},
        "weights": count_weights(network, DATASET).weights,
        "dense_weights": count_weights(build_network("resnet8", 3, 3), DATASET).weights,
    }
    assert torch_logits(network, images(2)).shape == (2, 3)


def test_the_same_checkpoint_gives_the_same_bytes(place):
    for name in ("first", "second"):
        pruned(place, "dense", 0.5, name)
    assert (place / "first").read_bytes() == (place / "second").read_bytes()


def test_pruning_what_is_pruned_counts_from_the_dense_weights(place):
    first = pruned(place, "dense", 0.3, "first")
    second = pruned(place, "first", 0.6, "second")
    assert second["dense_weights"] == first["dense_weights"]
    assert 1 - second["weights"] / second["dense_weights"] == pytest.approx(0.6, abs=0.05)
    before, after = load_checkpoint(place / "first")[0], load_checkpoint(place / "second")[0]
    assert all(a <= b for name in before for a, b in zip(after[name].shape, before[name].shape, strict=True))


def test_another_scope_with_other_shapes_is_still_an_error(place):
    pruned(place, "dense", 0.5, "pruned")
    state, provenance = load_checkpoint(place / "pruned")
    save_checkpoint(place / "wrong", state, provenance | {"scope": "global"})
    with pytest.raises(UserError, match="do not fit the network"):
        load_network(place / "wrong", "resnet8", DATASET)


def test_a_graph_is_exported_with_the_channels_of_its_checkpoint(place):
    pruned(place, "dense", 0.5, "pruned")
    quantize_export(DATASET, "resnet8", place / "pruned", place / "graph.onnx")
    state = load_checkpoint(place / "pruned")[0]
    graph = onnx_ir.load(place / "graph.onnx").graph
    assert tuple(graph.initializers["stage3.0.conv1.weight"].shape) == tuple(state["stage3.0.conv1.weight"].shape)
    assert graph.inputs[0].shape[0].value == "batch"


def test_the_architecture_is_named_in_what_is_refused(place):
    pruned(place, "dense", 0.5, "pruned")
    with pytest.raises(UserError, match=r"architecture 'resnet8': without channels at most"):
        pruned(place, "dense", 0.9999, "more")


def test_a_checkpoint_of_another_architecture_is_refused_by_name_and_nothing_is_written(place):
    out = place / "out"
    with pytest.raises(UserError, match=r"dense.*do not fit the network.*lacks stage1\.1\.conv1\.weight"):
        prune_channels(DATASET, place / "dense", "resnet20", rate=0.5, checkpoint=out / "pruned.safetensors")
    assert not list(out.glob("*"))
