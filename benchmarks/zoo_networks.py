"""Networks that people use, of torchvision and timm: `architecture: "benchmarks/zoo_networks.py:<name>"`."""

import functools

from torch import nn

TORCHVISION = {
    "alexnet": {},
    "vgg11_bn": {},
    "resnet18": {},
    "resnet50": {},
    "resnext50_32x4d": {},
    "wide_resnet50_2": {},
    "squeezenet1_1": {},
    "densenet121": {},
    "inception_v3": {"aux_logits": False, "init_weights": True},
    "googlenet": {"aux_logits": True, "init_weights": True},
    "shufflenet_v2_x0_5": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "mnasnet0_5": {},
    "efficientnet_b0": {},
    "efficientnet_v2_s": {},
    "regnet_y_400mf": {},
    "convnext_tiny": {},
    "swin_t": {},
    "swin_v2_t": {},
}
TRANSFORMERS = {
    "VisionTransformer": {
        **{"image_size": 64, "patch_size": 8, "num_layers": 4, "num_heads": 4, "hidden_dim": 128, "mlp_dim": 384}
    },
    "MaxVit": {
        **{"input_size": (64, 64), "stem_channels": 32, "partition_size": 4, "block_channels": [32, 64]},
        **{"block_layers": [1, 2], "head_dim": 16, "stochastic_depth_prob": 0.1},
    },
}
TIMM = {
    "resnet10t": {},
    "mobilenetv4_conv_small": {},
    "efficientnet_lite0": {},
    "convnextv2_atto": {},
    "repvgg_a0": {},
    "ghostnet_100": {},
    "hardcorenas_a": {},
    "tf_mobilenetv3_small_075": {},
    "mixnet_s": {},
    "res2net50_26w_4s": {},
    "resnest14d": {},
    "deit_tiny_patch16_224": {"img_size": 64},
    "mobilevit_xxs": {},
    "fastvit_t8": {},
    "lcnet_050": {},
    "dla34": {},
    "edgenext_xx_small": {},
    "levit_128s": {"img_size": 64},
    "tinynet_e": {},
    "nf_regnet_b0": {},
    "eca_nfnet_l0": {},
}
IMAGE_SIZES = {"inception_v3": 96}  # pixels per side, of those that 64 are too few for


def _torchvision(name: str, num_classes: int, in_channels: int, **options) -> nn.Module:
    import torchvision

    return getattr(torchvision.models, name)(num_classes=num_classes, **options)


def _timm(name: str, num_classes: int, in_channels: int, **options) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)


NETWORKS = {name: functools.partial(_torchvision, name, **options) for name, options in TORCHVISION.items()}
NETWORKS |= {name: functools.partial(_torchvision, name, **options) for name, options in TRANSFORMERS.items()}
NETWORKS |= {name: functools.partial(_timm, name, **options) for name, options in TIMM.items()}
globals().update(NETWORKS)  # the functions that an architecture names
