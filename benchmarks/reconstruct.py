"""Time and memory of the recovery `reconstruct` for a torchvision network and images of 224 pixels, on one core.

For example `python benchmarks/reconstruct.py resnet50`. Weights are random, images are coloured squares; 70 % of the
weights are removed. Prints the number of images that it takes, seconds of CPU time, and the peak of the process's
memory.
"""

import argparse
import pathlib
import resource
import sys
import time

import numpy
import torch
import torchvision

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))

from elagage.data import Dataset
from elagage.pytorch.models import copied
from elagage.pytorch.pruning import prunable
from elagage.pytorch.reconstruction import MEMORY, reconstruct

RATE = 0.7
IMAGES, SIZE, SQUARES = 1024, 224, 14
DATASET = Dataset("squares", [f"class {number}" for number in range(10)], 3, SIZE, [0.5] * 3, [0.25] * 3, False, {}, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="of torchvision.models, for example mobilenet_v2")
    name = parser.parse_args().network
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dense = torchvision.models.get_model(name, num_classes=len(DATASET.classes)).eval()
    network = copied(dense)
    weights = [getattr(module, tensor) for module, tensor in prunable(network, DATASET)]
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    threshold = sizes.kthvalue(int(RATE * len(sizes))).values
    with torch.no_grad():
        for weight in weights:
            weight.masked_fill_(weight.abs() <= threshold, 0)
    squares = numpy.random.default_rng(0).integers(0, 256, (IMAGES, 3, SQUARES, SQUARES), dtype=numpy.uint8)
    images = squares.repeat(SIZE // SQUARES, 2).repeat(SIZE // SQUARES, 3)
    start = time.process_time()
    found = reconstruct(network, dense, DATASET, images, {}, memory=MEMORY, label=name)
    seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name}: {found.images} images, {seconds:.0f} s of CPU time, {peak:.1f} GB at the peak; left: {found.left}")


if __name__ == "__main__":
    main()
