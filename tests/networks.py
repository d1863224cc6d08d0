"""Networks that several test files use, and how their logits are compared.

Their images are those of DATASET; those that a user's file gives are called with other numbers of classes and channels.
"""

import numpy
import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

from elagage.data import Dataset
from elagage.pytorch.models import Normalize, build_network

SIZE = 16
DATASET = Dataset("toy", ["a", "b", "c"], 3, SIZE, [0.5, 0.4, 0.3], [0.2, 0.25, 0.3], True, {}, {})


class ReusedBlock(nn.Module):
    """A block that is called three times, whose add is `x + y`, and one ReLU module used everywhere."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.relu(self.stem(x))
        for _ in range(3):
            x = self.relu(self.norm(self.conv(x)) + x)
        return self.linear(x.mean((2, 3)))


class SharedConvolution(ReusedBlock):
    """One convolution, called twice, each time with a batch norm of its own: nothing may be folded into it."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.norm2 = nn.BatchNorm2d(16)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(self.stem(x))))
        return self.linear(self.norm2(self.conv(x)).mean((2, 3)))


class NoLinear(nn.Module):
    """Convolutions alone: `dynamic` finds nothing to quantize."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class NoWeights(nn.Module):
    """No convolution and no linear layer at all."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.scale * functional.relu(x).mean((2, 3))


class BranchesOnData(ReusedBlock):
    def forward(self, x):
        logits = super().forward(x)
        return logits if x.sum() > 0 else -logits


class Narrow(nn.Module):
    """Channels that are all coupled: two calls of a block add to what the stem makes."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(2):
            x = x + self.block(x)
        return self.linear(x.mean((2, 3)))


class Grouped(ReusedBlock):
    """Grouped convolutions with a bias before their batch norm."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.conv = nn.Conv2d(16, 16, 3, padding=1, groups=4)


class Pooling(ReusedBlock):
    """Tensors that share a range, a linear layer over positions, a flattened map, a product with a bare parameter."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.positions = nn.Parameter(torch.linspace(-1, 1, 64).view(64, 1))

    def forward(self, x):
        x = functional.max_pool2d(functional.relu6(self.stem(x)), 2)
        x = functional.dropout(self.norm(self.conv(x)) + functional.avg_pool2d(x, 3, 1, 1), 0.5, self.training)
        x = self.linear(torch.sigmoid(x).flatten(2).transpose(1, 2))
        return (x.transpose(1, 2) @ self.positions).flatten(1)


class NoBatchNorm(ReusedBlock):
    """A convolution that is called three times, and no batch norm."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.norm = nn.Identity()


class WeightNorm(ReusedBlock):
    """Weights that are computed from parameters of other names."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.conv = nn.utils.parametrizations.weight_norm(self.conv)


class Tied(ReusedBlock):
    """One parameter in two modules, each with a batch norm of its own."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.other = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.other.weight = self.conv.weight
        self.norm2 = nn.BatchNorm2d(16)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(self.stem(x))))
        return self.linear(self.norm2(self.other(x)).mean((2, 3)))


class LinearBatchNorm(ReusedBlock):
    """A linear layer with batch norm, after a product and a sum with constants."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.hidden, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(16)

    def forward(self, x):
        x = self.relu(self.stem(x)) * torch.tensor(0.5)
        x = x + torch.arange(16.0, device=x.device).view(1, -1, 1, 1) / 16
        return self.linear(torch.relu(self.norm(self.hidden(x.mean((2, 3))))))


class Frozen(ReusedBlock):
    """Nothing in it may be trained."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.requires_grad_(False)


class Outlier(nn.Module):
    """A classifier that int8 loses: next to the weight of a feature that is always 1 all others round to zero."""

    def __init__(self, num_classes=3, in_channels=1):
        super().__init__()
        self.linear = nn.Linear(65, 3)
        with torch.no_grad():
            self.linear.weight.zero_()
            for label in range(3):
                self.linear.weight[label, 24 * label : 24 * label + 16] = 0.1
            self.linear.weight[:, 64] = 30

    def forward(self, x):
        return self.linear(functional.pad(x.flatten(1), (0, 1), value=1.0))


NETWORKS = {
    "resnet8": lambda: build_network("resnet8", 3, 3),
    "resnet20": lambda: build_network("resnet20", 3, 3),
    "torchvision_resnet18": lambda: build_network("resnet18", 3, 3),
    "reused_block": ReusedBlock,
}


def lively(network: nn.Module) -> nn.Module:
    """Return the network with batch norm statistics and weights as training leaves them: none is 0 or 1."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def tensors(network: nn.Module) -> dict[str, numpy.ndarray]:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def images(count: int, seed: int = 1) -> numpy.ndarray:
    """Return smooth random images: 4x4 pixels enlarged, because noise averages out to the same logits."""
    small = numpy.random.default_rng(seed).random((count, 3, 4, 4))
    return (small.repeat(SIZE // 4, 2).repeat(SIZE // 4, 3) * 255).astype(numpy.uint8)


def torch_logits(network: nn.Module, pixels: numpy.ndarray) -> numpy.ndarray:
    with torch.inference_mode():
        return network(Normalize(DATASET)(torch.from_numpy(pixels))).numpy()


def onnx_logits(model: onnx.ModelProto, pixels: numpy.ndarray) -> numpy.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # on a busy machine two threads wait for each other
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": pixels})[0]


def relative_error(got: numpy.ndarray, expected: numpy.ndarray) -> float:
    return float(numpy.linalg.norm(got - expected) / numpy.linalg.norm(expected))


class InPlace(nn.Module):
    """Changes the images that it is given, and what the backward pass of its ReLU needs."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        self.register_buffer("mean", torch.full((1, in_channels, 1, 1), 0.4))
        self.conv, self.linear = nn.Conv2d(in_channels, 16, 3, 2, 1), nn.Linear(16, num_classes)

    def forward(self, x):
        x.sub_(self.mean).div_(0.2)
        x = functional.relu(self.conv(x))
        x += 1
        return self.linear(x.mean((2, 3)))


class Variance(InPlace):
    """Divides by standard deviations over channels and over the image, as var and std compute them."""

    def forward(self, x):
        x = self.conv(x)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        return self.linear((x / (1 + x.std((2, 3), keepdim=True))).relu().mean((2, 3)))


class Auxiliary(ReusedBlock):
    """In training mode returns the logits of an auxiliary head too, as GoogLeNet and Inception do."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__(num_classes, in_channels)
        self.auxiliary = nn.Linear(16, num_classes)

    def forward(self, x):
        logits = super().forward(x)
        return (logits, self.auxiliary(self.stem(x).mean((2, 3))), None) if self.training else logits


class Lazy(nn.Module):
    """Layers that learn their sizes from the first images, one only in training, and a kept sum of one's weights."""

    def __init__(self, num_classes=3, in_channels=3):
        super().__init__()
        body = nn.LazyConv2d(8, 3, 2, 1), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes)
        self.body, self.auxiliary, self.kept = nn.Sequential(*body), nn.LazyLinear(num_classes), None

    def forward(self, x):
        logits = self.body(x)
        if self.kept is None:
            self.kept = self.body[0].bias.sum().detach()
        return (logits, self.auxiliary(x.flatten(1))) if self.training else logits + self.kept


class Chaotic(ReusedBlock):
    """Amplifies a level that flips until the logits have forgotten the image."""

    def forward(self, x):
        x = self.stem(x)
        for _ in range(8):
            x = torch.sin(6 * self.norm(self.conv(x)))
        return self.linear(x.mean((2, 3)))
