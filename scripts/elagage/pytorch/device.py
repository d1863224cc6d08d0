"""Where and how PyTorch computes: on a GPU or CPU, in which precision, reproducibly."""

import os

import torch
from torch import nn

VOLUMES = 5  # dimensions of the weight of a three-dimensional convolution, which PyTorch cannot lay out as images


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_channels_last(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device, in the layout in which convolutions are fastest, and return it."""
    volumes = any(tensor.dim() == VOLUMES for tensor in network.state_dict().values())
    return network.to(device) if volumes else network.to(device, memory_format=torch.channels_last)


def in_precision(precision: str | None, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass in mixed precision, which does nothing for "float32".

    None, for which GPUs alone take bfloat16: a ResNet-20 trained 1.8 times as fast with it on an AMD EPYC with
    avx512_bf16, but 0.74 times on a Xeon.
    """
    bfloat16 = device.type == "cuda" if precision is None else precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


def compute_reproducibly(threads: int) -> None:
    """Let this process use so many threads, at most one per core, and give the same bytes for the same seed.

    In float32, on the same kind of machine (https://docs.pytorch.org/docs/stable/notes/randomness.html). To be called
    before anything is computed.
    """
    torch.set_num_threads(min(threads, os.cpu_count() or 1))
    torch.compiler.set_stance("force_eager")  # each copy of a network that calls torch.compile would compile again
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # which cuBLAS reads in the first CUDA call
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # rounds what convolutions of GPUs read to 10 bits; the ONNX file does not
