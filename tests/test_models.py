"""Networks: their sizes, their shapes, and the user's own file, right and wrong."""

import sys
import threading

import pytest
import torch
from networks import DATASET, InPlace
from runners import python
from torch import nn

from elagage.errors import UserError
from elagage.pytorch.architectures import ARCHITECTURES
from elagage.pytorch.export import export_graph
from elagage.pytorch.models import build_network, checked_logits, copied, naming

CIFAR = {"resnet8": 1, "resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}  # blocks a stage
# A user's file with a network that is one linear layer, to which a forward pass may be added.
LINEAR = """\
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.linear = nn.Linear(in_channels, num_classes)
"""
TORCHVISION = ["resnet18", "resnet34", "resnet50"]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def cifar_resnet_parameters(blocks: int, classes: int, channels: int) -> int:
    """Count by hand: 3x3 convolutions without bias, each with 2 numbers a channel of batch norm, 1x1 shortcuts."""
    total = 9 * channels * 16 + 2 * 16
    before = 16
    for width in (16, 32, 64):
        convolutions = 2 * blocks
        total += 9 * before * width + (convolutions - 1) * 9 * width * width + convolutions * 2 * width
        if width != before:
            total += before * width + 2 * width
        before = width
    return total + 64 * classes + classes


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a user's Python file into the working directory; the end undoes its import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield lambda name, text: (tmp_path / name).write_text(text)
    for name in [name for name in sys.modules if name.startswith(("own", "user_model_own"))]:
        del sys.modules[name]


def test_resnet20_has_272474_parameters():
    assert parameters(build_network("resnet20", 10, 3)) == 272_474


@pytest.mark.parametrize("classes, channels", [(10, 3), (100, 3), (10, 1)])
@pytest.mark.parametrize("name", CIFAR)
def test_cifar_resnets_have_the_parameters_counted_by_hand(name, classes, channels):
    assert parameters(build_network(name, classes, channels)) == cifar_resnet_parameters(CIFAR[name], classes, channels)


@pytest.mark.parametrize("name", CIFAR)
def test_the_depth_of_a_cifar_resnet_counts_its_layers_on_the_longest_path(name):
    layers = [m for m in build_network(name, 10, 3).modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert sum(isinstance(m, nn.Linear) or m.kernel_size == (3, 3) for m in layers) == int(name.removeprefix("resnet"))


@pytest.mark.parametrize("size, left", [(32, 8), (28, 7), (8, 2)])
def test_a_cifar_resnet_halves_the_image_twice(size, left):
    network = build_network("resnet8", 10, 3).eval()
    seen = []
    network.stage3.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    assert seen == [(1, 64, left, left)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, count",
    # As https://github.com/kuangliu/pytorch-cifar, which has the same stem, counts them.
    [("resnet18", 11_173_962), ("resnet34", 21_282_122), ("resnet50", 23_520_842)],
)
def test_torchvision_resnets_with_the_small_stem_have_the_known_number_of_parameters(name, count):
    assert parameters(build_network(name, 10, 3)) == count


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_the_small_stem_leaves_all_pixels_of_a_small_image_to_the_first_stage(name):
    network = build_network(name, 10, 3).eval()
    seen = []
    network.layer1.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 32, 32))
    assert seen == [(1, 64, 32, 32)]


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize(
    "name, size",
    [
        *((name, 32) for name in CIFAR),
        *((name, size) for name in ("resnet8",) for size in (8, 9, 28, 64)),
        *(pytest.param(name, 32, marks=pytest.mark.slow) for name in TORCHVISION),
    ],
)
def test_every_image_gives_one_row_of_finite_logits(name, size, channels):
    network = build_network(name, 7, channels).eval()
    with torch.inference_mode():
        logits = network(torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet8", "resnet20", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_a_seed_decides_all_weights(name):
    first = build_network(name, 10, 3, seed=3)
    torch.rand(5)  # whatever was drawn between
    assert same(first, build_network(name, 10, 3, seed=3))
    assert not same(first, build_network(name, 10, 3, seed=4))


def test_convolutions_of_one_shape_start_from_different_weights():
    network = build_network("resnet8", 10, 3)
    assert not torch.equal(network.stage1[0].conv1.weight, network.stage1[0].conv2.weight)


def test_the_architectures_are_those_promised():
    assert set(ARCHITECTURES) == {*CIFAR, *TORCHVISION}


GOOD = """
from networks import DATASET, InPlace
from torch import nn
def build(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(16 * in_channels, num_classes))
"""


def test_a_users_function_is_called_with_the_numbers_of_classes_and_channels(write):
    write("own.py", GOOD)
    network = build_network("own.py:build", 5, 3)
    assert network(torch.zeros(2, 3, 4, 4)).shape == (2, 5)


def test_a_users_network_draws_its_weights_from_the_seed(write):
    write("own.py", GOOD)
    assert same(build_network("own.py:build", 5, 3, seed=3), build_network("own.py:build", 5, 3, seed=3))
    assert not same(build_network("own.py:build", 5, 3, seed=3), build_network("own.py:build", 5, 3, seed=4))


def test_a_users_class_may_stand_for_the_function(write):
    write("own.py", LINEAR)
    assert build_network("own.py:Net", 5, 3).linear.weight.shape == (5, 3)


def test_a_users_network_of_other_precision_becomes_float32(write):
    write("own.py", GOOD + "    \ndef double(**sizes):\n    return build(**sizes).double()\n")
    assert {p.dtype for p in build_network("own.py:double", 5, 3).parameters()} == {torch.float32}


LAZY = "from networks import Lazy\n"


def test_lazy_layers_get_their_sizes_from_the_images_and_their_weights_from_the_seed(write):
    write("own.py", LAZY)
    first, again, other = (build_network("own.py:Lazy", 5, 3, seed, image_size=8) for seed in (3, 3, 4))
    assert first.body[4].in_features == 8 * 4 * 4
    assert first.auxiliary.in_features == 3 * 8 * 8
    assert same(first, again)
    assert not same(first, other)
    assert first.training
    assert first.kept is None
    assert not first.body[1].running_mean.any()  # images that only show sizes are no statistics
    assert copied(first).eval()(torch.rand(2, 3, 8, 8)).shape == (2, 5)


def test_a_lazy_layer_that_is_never_called_is_named(write):
    write("own.py", LAZY + "class Unused(Lazy):\n    def forward(self, x):\n        return self.body(x)\n")
    with pytest.raises(UserError, match=r"own\.py:Unused.*lazy layers \['auxiliary'\]"):
        build_network("own.py:Unused", 5, 3, image_size=8)


def test_a_network_may_change_the_images_that_it_is_given():
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    network = InPlace(5).eval()
    assert torch.equal(checked_logits(network, images, 5), checked_logits(network, images, 5))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("torch.jit.script(linear)", r"0 is a TorchScript module"),
        ("torch.ao.quantization.quantize_dynamic(linear)", r"0\.1\._packed_params.* no float32 tensor"),
    ],
)
def test_a_layer_that_cannot_be_followed_is_named(write, layer, words):
    text = f"""
import torch
from torch import nn

def build(num_classes, in_channels):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16 * in_channels, num_classes))
    return nn.Sequential({layer}, nn.Linear(num_classes, num_classes))
"""
    write("own.py", text)
    with pytest.raises(UserError, match=words):
        build_network("own.py:build", 5, 3)


def test_of_an_error_in_a_forward_pass_the_first_line_is_told():
    class Fails(nn.Module):
        def forward(self, image):
            raise ValueError("first\n\nsecond")

    with pytest.raises(UserError, match=r"raised ValueError for 2 image.*: first$"):
        checked_logits(Fails(), torch.zeros(2, 3, 4, 4), 5)


def test_a_branch_on_values_is_named_with_its_line(write):
    write(
        "own.py",
        LINEAR + "    def forward(self, x):\n"
        "        logits = self.linear(x.mean((2, 3)))\n"
        "        return logits if logits.sum() > 0 else -logits\n",
    )
    network = build_network("own.py:Net", 3, 3)
    with pytest.raises(UserError, match=r"cannot be exported.*\(own\.py, line 8\)$"), naming("own.py:Net"):
        export_graph(network, DATASET)


@pytest.mark.parametrize("place", ["", "models of mine/"], ids=["beside", "in a folder"])
def test_a_users_file_imports_its_neighbour(write, tmp_path, place):
    (tmp_path / place).mkdir(exist_ok=True)
    write(f"{place}own_layers.py", "WIDTH = 6\n")
    write(
        f"{place}own.py",
        "from torch import nn\n"
        "from own_layers import WIDTH\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Linear(WIDTH, num_classes)\n",
    )
    assert build_network(f"{place}own.py:build", 5, 3).weight.shape == (5, 6)


def test_a_users_file_is_found_from_an_absolute_path(write, tmp_path):
    write("own.py", GOOD)
    assert isinstance(build_network(f"{tmp_path}/own.py:build", 5, 3), nn.Module)


def test_a_users_file_may_define_a_dataclass_under_postponed_annotations(write):
    write(
        "own.py",
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "from torch import nn\n"
        "@dataclasses.dataclass\n"
        "class Widths:\n"
        "    hidden: int = 6\n"
        "def build(num_classes, in_channels):\n"
        "    return nn.Linear(Widths().hidden, num_classes)\n",
    )
    assert build_network("own.py:build", 5, 3).weight.shape == (5, 6)


BAD = {  # the user's file -> what the error says beside file and function
    "no such function": ("def built(): pass\n", ["defines no function 'build'"]),
    "not a function": ("build = 3\n", ["defines no function 'build'"]),
    "syntax error": ("import os\ndef build(:\n", ["SyntaxError", "line 2"]),
    "missing package": ("import no_such_package\n", ["ModuleNotFoundError", "no_such_package", "own.py, line 1"]),
    "raises on import": ("x = 1\nraise ValueError('the reason')\n", ["ValueError", "the reason", "own.py, line 2"]),
    "exits on import": ("import sys\nsys.exit(0)\n", ["SystemExit"]),
    "raises": (
        "def build(**sizes):\n    raise ValueError('the reason')\n",
        ["ValueError: the reason", "own.py, line 2"],
    ),
    "raises inside torch": (
        "from torch import nn\ndef build(**sizes):\n    return nn.Linear(-1, 2)\n",
        ["own.py, line 3"],
    ),
    "exits": ("import sys\ndef build(**sizes):\n    sys.exit('usage')\n", ["SystemExit"]),
    "takes nothing": ("def build(): pass\n", ["num_classes=5", "in_channels=3", "TypeError"]),
    "returns nothing": ("def build(**sizes): pass\n", ["NoneType", "torch.nn.Module"]),
    "returns a class": ("from torch import nn\ndef build(**sizes):\n    return nn.Linear\n", ["torch.nn.Module"]),
}


@pytest.mark.parametrize("text, words", BAD.values(), ids=BAD.keys())
def test_a_mistake_in_a_users_file_names_file_function_and_place(write, text, words):
    write("own.py", text)
    with pytest.raises(UserError) as error:
        build_network("own.py:build", 5, 3)
    message = str(error.value)
    for word in ["own.py:build", *words]:
        assert word in message
    # No place in Python or in the workflow, where the user cannot mend it.
    assert "frozen" not in message
    assert "models.py" not in message


def test_a_mistake_in_a_neighbour_names_the_neighbour_too(write):
    write("own_broken.py", "x = 1\ny = x / 0\n")
    write("own.py", "import own_broken\n")
    with pytest.raises(UserError, match=r"own\.py:build.*ZeroDivisionError.*own_broken\.py, line 2"):
        build_network("own.py:build", 5, 3)


@pytest.mark.parametrize("architecture", ["absent.py:build", "folder.py:build", "nowhere/own.py:build"])
def test_a_users_file_that_is_missing_is_named_with_the_folder_where_it_was_sought(write, tmp_path, architecture):
    (tmp_path / "folder.py").mkdir()
    path = architecture.removesuffix(":build")
    with pytest.raises(UserError) as error:
        build_network(architecture, 5, 3)
    for word in (architecture, f"there is no file {path!r}", str(tmp_path)):
        assert word in str(error.value)


# Builds the user's network twice and prints its width and that of its output, and whether our modules are as before.
BUILT = """
import sys
import threading
import elagage.data, elagage.errors
from elagage.pytorch.models import build_network
ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "elagage"}
for _ in range(2):
    network = build_network("my_model.py:build", 5, 3)
    print(network.out_features, network(__import__("torch").zeros(1, 4)).shape[1])
print({name: sys.modules.get(name) for name in ours} == ours)
"""


def test_modules_with_names_of_ours_are_the_users_on_import_in_build_and_in_forward_and_ours_stay(tmp_path):
    files = {
        "train.py": "WIDTH = 6\n",
        "elagage/__init__.py": "",
        "elagage/data.py": "WIDTH = 7\n",
        "prune.py": "WIDTH = 8\n",
        "my_model.py": (
            "from torch import nn\n"
            "from train import WIDTH\n"
            "from elagage.data import WIDTH as OTHER\n"
            "class Net(nn.Linear):\n"
            "    def forward(self, x):\n"
            "        import prune\n"
            "        return super().forward(x)[:, :prune.WIDTH]\n"
            "def build(num_classes, in_channels):\n"
            "    import elagage.data\n"
            "    return Net(4, WIDTH + OTHER + elagage.data.WIDTH)\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    run = python(BUILT, tmp_path, "-P")
    assert run.stdout.splitlines() == ["20 8", "20 8", "True"], run.stderr


def test_what_cannot_be_copied_is_named():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    network[1].lock = threading.Lock()
    with pytest.raises(UserError, match=r"cannot be copied .*: leave 1\.lock out of it"):
        copied(network)
