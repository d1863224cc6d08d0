"""Networks that are built in: ResNets for CIFAR, and torchvision's with a stem for small images."""

import functools

import torch
from torch import nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes.

    He et al. 2016, "Deep Residual Learning for Image Recognition", option B: a projection, unlike zero padding, can
    follow the removal of channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """The ResNet of He et al. 2016, section 4.2, for images of about 32x32 pixels.

    `depth` is 6n + 2: one convolution, three stages of n blocks with 16, 32 and 64 channels, one linear layer.
    `image` is float32 [batch, in_channels, height, width], the result float32 [batch, num_classes].
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.stage1 = self._stage(16, 16, blocks, stride=1)
        self.stage2 = self._stage(16, 32, blocks, stride=2)
        self.stage3 = self._stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(image)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _torchvision_resnet(name: str, num_classes: int, in_channels: int) -> nn.Module:
    # torchvision takes 3 s to import, which only these networks should pay.
    import torchvision

    network = getattr(torchvision.models, name)(weights=None, num_classes=num_classes)
    # The stem for 224x224 images (7x7, stride 2, and a pooling of stride 2) leaves 2x2 pixels of a 64x64 image.
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


ARCHITECTURES = {
    **{f"resnet{depth}": functools.partial(CifarResNet, depth) for depth in (8, 20, 32, 44, 56)},
    **{name: functools.partial(_torchvision_resnet, name) for name in ("resnet18", "resnet34", "resnet50")},
}
