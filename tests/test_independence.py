"""Whether an image's logits depend on it only, and whether the exported graph computes what the network does."""

import weakref

import onnx_ir
import pytest
import torch
from networks import DATASET, ReusedBlock, images, onnx_logits, relative_error, tensors, torch_logits
from torch import nn
from torch.nn import functional

from elagage.errors import UserError
from elagage.onnx.graph import with_weights
from elagage.pytorch.export import export_graph
from elagage.pytorch.independence import check_built_anew, check_copies, check_independence, check_rebuilt
from elagage.pytorch.models import copied, with_other_weights
from quantize_export import quantize_export


class Small(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

    def features(self, x):
        return self.conv(x).relu().mean((2, 3))

    def forward(self, x):
        return self.linear(self.features(x))


class BatchStatistics(Small):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def features(self, x):
        return self.norm(super().features(x))


class Softmax(Small):
    def features(self, x):
        return super().features(x).softmax(0)


class Roll(Small):
    def features(self, x):
        return super().features(x) + super().features(x.roll(1, 0))


class Nested(nn.Module):
    """The layer at fault lies deeper, and what comes after it starts with zeros."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 3, 1), Roll()
        nn.init.zeros_(self.body.linear.weight)

    def forward(self, x):
        return self.body(self.stem(x))


class AgainstTheFirst(Small):
    def features(self, x):
        return super().features(x - x[:1] / 2)


class Dropout(Small):
    def features(self, x):
        return functional.dropout(super().features(x), 0.5, training=True)


class Counting(Small):
    calls = 0

    def features(self, x):
        self.calls += 1
        return super().features(x) * self.calls


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (BatchStatistics, r"beside seven others .*without running statistics in 'norm' \(BatchNorm1d\)"),
        (Softmax, r"beside seven others .*before 'linear' \(Linear\)"),
        (Nested, r"beside seven others .*before 'body\.conv' \(Conv2d\)"),
        (AgainstTheFirst, r"beside seven others .*before 'conv' \(Conv2d\)"),
        (Dropout, "called again with the same images: .*randomness"),
        (Counting, "called again with the same images: .*earlier calls"),
    ],
)
def test_what_looks_at_more_than_the_image_is_refused_with_its_place(network, message):
    with pytest.raises(UserError, match=message):
        check_independence(network(), DATASET)


def test_a_network_is_checked_without_being_changed():
    network = ReusedBlock().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    check_independence(network, DATASET)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Names(Small):
    """Tensors and modules with the names of the graph's inputs, values and operators."""

    TENSORS = ("mean", "std", "image", "logits", "conv2d", "linear_1", "sub", "div", "relu", "val_0")

    def __init__(self):
        super().__init__()
        for name in self.TENSORS:
            self.register_buffer(name, torch.rand(1, 3, 1, 1))
        self.network, self.elagage_preprocess = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.elagage_preprocess.register_buffer("mean", torch.rand(1, 3, 1, 1))

    def forward(self, x):
        x = self.elagage_preprocess(self.network(x)) - self.elagage_preprocess.mean
        for name in self.TENSORS:
            x = x * getattr(self, name) + getattr(self, name)
        return super().forward(x)


class Cached(Small):
    """In evaluation mode keeps what it computed from its weights, in a dictionary and in an attribute."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8))
        self.scales, self.shifts = {}, None

    def features(self, x):
        if self.training:
            return super().features(x) * self.scale.exp() + self.shift.exp()
        if self.shifts is None:
            self.shifts = self.shift.exp()
        return super().features(x) * self.scales.setdefault("scale", self.scale.exp()) + self.shifts


class OldWeightNorm(Small):
    """Keeps a weight with gradients, which copy.deepcopy does not copy."""

    def __init__(self):
        super().__init__()
        nn.utils.weight_norm(self.conv)


class InPlace(Small):
    def forward(self, x):
        x.sub_(0.5).div_(2)
        return super().forward(x)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", [Names, Cached, OldWeightNorm, InPlace])
def test_the_graph_gives_the_logits_of_other_weights(kind):
    network = kind()
    graph = export_graph(network, DATASET)
    other = with_other_weights(network).eval()
    model = with_weights(graph, tensors(other))
    expected = torch_logits(other, images(5))
    assert relative_error(onnx_logits(model, images(5)), expected) < 1e-5
    assert relative_error(torch_logits(copied(network).eval(), images(5)), expected) > 1e-3


def test_names_that_are_free_stay_those_of_the_state_dict():
    network = Names()
    assert export_graph(network, DATASET).graph.initializers.keys() >= {"mean", "std", "conv2d", "network.weight"}


class FixedWhenTraced(Small):
    """Is traced with what it computed from its weights when it was built."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.auxiliary = nn.Linear(8, 3)
        self.fixed = self.scale.detach().exp()

    def features(self, x):
        return super().features(x) * (self.fixed if torch.compiler.is_compiling() else self.scale.exp())


def test_constants_that_were_computed_from_weights_are_refused_with_the_weights():
    with pytest.raises(UserError, match=r"with other weights .* it computed from scale;"):
        export_graph(FixedWhenTraced(), DATASET)


class DrawsWhenBuilt(Small):
    def __init__(self):
        super().__init__()
        self.directions = torch.randn(8, 8)

    def features(self, x):
        return super().features(x) @ self.directions


class KeepsFromBuilding(Cached):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.scale)
        self.eval()(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("kind", [DrawsWhenBuilt, KeepsFromBuilding])
def test_what_building_leaves_outside_the_state_dict_is_refused(kind):
    check_rebuilt(Small(), Small(), DATASET)
    with pytest.raises(UserError, match=r"built twice, .*register it as a buffer"):
        check_rebuilt(kind(), kind(), DATASET)


class OfAClosure(Small):
    """As people write an activation with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))
        self.activation = lambda x: x * self.gain

    def features(self, x):
        return self.activation(super().features(x))


class OfAWeakReference(Small):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))
        self.whole = weakref.ref(self)

    def features(self, x):
        return super().features(x) * self.whole().gain


@pytest.mark.parametrize("kind", [OfAClosure, OfAWeakReference])
def test_networks_whose_copies_compute_with_the_first_ones_tensors_are_refused(kind):
    network = kind()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match=r"a copy of the network .*write it as a method"):
        check_copies(network, DATASET)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


class OfADefaultArgument(Small):
    def __init__(self, activation=nn.PReLU()):  # noqa: B008
        super().__init__()
        self.activation = activation


def test_networks_that_share_parameters_with_the_one_built_before_are_refused():
    network = Small()
    with pytest.raises(UserError, match=r"built twice, the network is the same object"):
        check_built_anew(network, network)
    with pytest.raises(UserError, match=r"parameters of the first one \(activation\.weight\)"):
        check_built_anew(OfADefaultArgument(), OfADefaultArgument())
    check_built_anew(Small(), Small())


def test_what_is_drawn_when_a_neighbour_of_the_file_is_imported_is_refused(tmp_path):
    (tmp_path / "drawn_helper.py").write_text("import torch\nDRAWN = torch.randn(192, 8)\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "from drawn_helper import DRAWN\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(8, classes)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x[..., ::2, ::2].flatten(1) @ DRAWN)\n"
        "def build(num_classes, in_channels):\n"
        "    return Net(num_classes)\n"
    )
    with pytest.raises(UserError, match=r"built twice, the network gives other logits"):
        quantize_export(DATASET, f"{tmp_path}/net.py:build", None, str(tmp_path / "graph.onnx"))


def test_exporting_leaves_no_trace_in_the_network():
    network = Cached()
    first = onnx_ir.to_proto(export_graph(network, DATASET)).SerializeToString()
    assert network.scales == {} and network.shifts is None
    assert onnx_ir.to_proto(export_graph(network, DATASET)).SerializeToString() == first
