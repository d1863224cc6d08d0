"""Weights as people have them: which state dict of a file is taken, under which prefix, and what is never executed."""

import argparse
import collections
import pathlib

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from elagage.errors import UserError
from elagage.pytorch.weights import load_weights, read_states


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


def network(seed: int = 0) -> nn.Module:
    """Return a small network whose batch norm has statistics of its own."""
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 3))
    made.train()(torch.randn(16, 3, 3, 3))
    return made.eval()


STATE = network(seed=1).state_dict()
STATE["3.weight"][:, ::2] = 0


def prefixed(prefix: str, state=None) -> collections.OrderedDict:
    return collections.OrderedDict((prefix + name, tensor) for name, tensor in (state or STATE).items())


def shifted(by: float) -> dict:
    return {name: tensor + by if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}


def masked(state: dict) -> dict:
    """Return a state dict as torch.nn.utils.prune keeps it: with a mask of the last layer, and what that hides."""
    kept = {name: tensor for name, tensor in state.items() if name != "3.weight"}
    hidden = {"3.weight_orig": torch.where(state["3.weight"] == 0, 1.0, state["3.weight"])}
    return kept | hidden | {"3.weight_mask": (state["3.weight"] != 0).float()}


CHECKPOINTS = {  # content -> key and prefix that are taken
    "state dict": (STATE, "", ""),
    "Lightning": (
        {
            "epoch": 4,
            "state_dict": prefixed("model.") | {"criterion.weight": torch.ones(3)},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(8, 3, 3, 3)}}, "param_groups": [{"lr": 0.1}]}],
            "callbacks": {"best": {"score": torch.tensor(0.9)}},
            "hyper_parameters": {"lr": 0.1},
        },
        "state_dict",
        "model.",
    ),
    "compiled": (prefixed("_orig_mod."), "", "_orig_mod."),
    "compiled and parallel": (prefixed("module._orig_mod."), "", "module._orig_mod."),
    "parallel and compiled": (prefixed("_orig_mod.module."), "", "_orig_mod.module."),
    "under net": (prefixed("net."), "", "net."),
    "key model": ({"model": STATE, "optimizer": {}, "epoch": 3}, "model", ""),
    "key model_state_dict": ({"model_state_dict": STATE, "loss": 0.3}, "model_state_dict", ""),
    "keys in keys": ({"checkpoint": {"model": STATE}}, "checkpoint.model", ""),
    "a number beside": (STATE | {"epoch": 3}, "", ""),
    "profiled": (STATE | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}, "", ""),
    "a part compiled": ({name.replace("3.", "3._orig_mod."): tensor for name, tensor in STATE.items()}, "", ""),
    "pruned by masks": (masked(STATE), "", ""),
    "no counter": ({name: tensor for name, tensor in STATE.items() if "num_batches" not in name}, "", ""),
    "a class beside": ({"state_dict": STATE, "args": argparse.Namespace(lr=0.1)}, "state_dict", ""),
    "a NumPy scalar beside": ({"state_dict": STATE, "best": numpy.float64(0.9)}, "state_dict", ""),
}


def loaded(tmp_path: pathlib.Path, content, name: str = "weights.pt", key: str | None = None) -> tuple[dict, dict]:
    """Load a file of this content; return the network's state dict and what is said of it."""
    torch.save(content, tmp_path / name)
    made = network()
    said = load_weights(made, tmp_path / name, key, "models.m.weights")
    return made.state_dict(), said


def same(state: dict, expected: dict) -> bool:
    return all(torch.equal(state[name], tensor) for name, tensor in expected.items() if "num_batches" not in name)


@pytest.mark.parametrize(("content", "key", "prefix"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_of_any_training_script_is_loaded(tmp_path, content, key, prefix):
    state, said = loaded(tmp_path, content)
    assert same(state, STATE)
    assert (said["weights_key"], said["weights_prefix"]) == (key, prefix)


@pytest.mark.parametrize("name", ["Upper.PTH", "weights.pth.tar", "pytorch_model.bin", "last.ckpt", "w.safetensors"])
def test_the_ending_does_not_matter(tmp_path, name):
    assert same(loaded(tmp_path, STATE, name)[0], STATE)


@pytest.mark.parametrize("name", ["W.SafeTensors", "weights.pth"])
def test_safetensors_are_loaded_whatever_their_ending(tmp_path, name):
    save_file(dict(prefixed("module.")), tmp_path / name)
    made = network()
    load_weights(made, tmp_path / name, None, "models.m.weights")
    assert same(made.state_dict(), STATE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b'{"weight_map": {}}', "index of several files"),
        (b"", "not a readable file"),
    ],
)
def test_a_file_that_stands_for_weights_is_refused_by_what_it_is(tmp_path, content, said):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_states(tmp_path / "weights.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_other_types_become_those_of_the_network(tmp_path, dtype):
    content = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}
    state, _ = loaded(tmp_path, content)
    assert all(tensor.dtype == STATE[name].dtype for name, tensor in state.items())
    assert all(torch.equal(state[name], content[name].to(STATE[name].dtype)) for name in STATE)


def test_of_several_state_dicts_the_plain_one_is_taken_which_is_said_and_a_key_chooses(tmp_path):
    content = {"state_dict_ema": shifted(1), "state_dict": STATE}
    state, said = loaded(tmp_path, content)
    assert same(state, STATE)
    assert "'state_dict'" in said["weights_notes"][0]
    assert "'state_dict_ema' would fit as well" in said["weights_notes"][0]
    state, said = loaded(tmp_path, content, key="state_dict_ema")
    assert same(state, shifted(1))
    assert said["weights_notes"] == []


def test_of_several_prefixes_one_is_taken_which_is_said_and_a_key_chooses(tmp_path):
    content = {"state_dict": prefixed("model_ema.", shifted(1)) | prefixed("model.")}
    state, said = loaded(tmp_path, content)
    assert same(state, STATE)
    assert ["'model_ema.*' would fit as well" in note for note in said["weights_notes"]] == [True]
    for key in ("model_ema", "model_ema.", "state_dict.model_ema"):
        assert same(loaded(tmp_path, content, key=key)[0], shifted(1))


def test_what_is_no_part_of_the_network_is_named(tmp_path):
    _, said = loaded(tmp_path, CHECKPOINTS["Lightning"][0])
    assert said["weights_notes"] == ["models.m.weights: left out, as no part of the network: 'criterion.weight'"]


def test_an_unknown_prefix_is_named_with_the_tensors_that_would_fit_and_a_key_takes_it(tmp_path):
    content = prefixed("student.backbone.") | prefixed("teacher.backbone.", shifted(1))
    with pytest.raises(UserError, match=r"'student\.backbone\.' or .* 9 of 9 would; .*_key: student\.backbone or t"):
        loaded(tmp_path, content)
    assert same(loaded(tmp_path, content, key="teacher.backbone")[0], shifted(1))


def test_a_key_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"no state dict 'ema' in it.*'state_dict'"):
        loaded(tmp_path, {"state_dict": STATE}, key="ema")


def test_a_shared_tensor_may_be_saved_once(tmp_path):
    made, other = Tied(), Tied()
    state = {name: tensor for name, tensor in other.state_dict().items() if name != "second.weight"}
    torch.save(state, tmp_path / "tied.pt")
    load_weights(made, tmp_path / "tied.pt", None, "models.m.weights")
    assert torch.equal(made.second.weight, other.first.weight)


def test_versions_of_modules_are_those_of_the_file_else_of_the_network(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    build = torchvision.models.mnasnet0_5
    expected = build(num_classes=3).state_dict()
    for content in (expected, dict(expected)):  # the second has lost the version
        torch.save(content, tmp_path / "mnasnet.pt")
        made = build(num_classes=3)
        load_weights(made, tmp_path / "mnasnet.pt", None, "models.m.weights")
        assert all(torch.equal(tensor, expected[name]) for name, tensor in made.state_dict().items())


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_beside_tensors_is_not_executed(tmp_path):
    state, _ = loaded(tmp_path, {"state_dict": STATE, "trap": Trap(tmp_path / "executed")})
    assert same(state, STATE)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], {"epoch": 3}, {0: torch.ones(3)}, nn.Linear(2, 2)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights.pt'.*save it again"):
        read_states(tmp_path / "weights.pt")
