"""Measure what pruning one layer at a time costs in accuracy (Li et al. 2017, section 3.2; Han et al. 2015, fig. 6)."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import nn

from elagage.data import Dataset, Split
from elagage.errors import UserError
from elagage.files import write_csv
from elagage.job import job
from elagage.progress import progress
from elagage.pruning import zero_smallest
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.device import compute_reproducibly, default_device
from elagage.pytorch.evaluation import evaluate
from elagage.pytorch.models import Normalize, copied, naming
from elagage.pytorch.pruning import prunable
from elagage.refusals import refusing


def layers(network: nn.Module, dataset: Dataset) -> dict[str, nn.Parameter]:
    """Return each prunable weight under its name in the state dict, a shared one once."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    weights = [getattr(module, name) for module, name in prunable(network, dataset)]
    return {names[id(weight)]: weight for weight in weights}


def global_shares(weights: Mapping[str, nn.Parameter], rate: float) -> dict[str, float]:
    """Return the share of each layer's weights that global pruning at this rate zeroes; the weights are unchanged."""
    pruned = {name: weight.detach().cpu().numpy().copy() for name, weight in weights.items()}
    zero_smallest(list(pruned.values()), rate)
    return {name: float((weight == 0).mean()) for name, weight in pruned.items()}


def prune_each_layer(weights: Mapping[str, nn.Parameter], rates: Iterable[float]) -> Iterator[tuple[str, float]]:
    """Yield (layer, rate) while only that layer is pruned by magnitude; the weights end as they were."""
    for name, weight in weights.items():
        dense = weight.detach().clone()
        for rate in rates:
            pruned = dense.cpu().numpy().copy()
            zero_smallest([pruned], rate)
            weight.data.copy_(torch.from_numpy(pruned))
            yield name, rate
        weight.data.copy_(dense)


def measure(
    network: nn.Module,
    weights: Mapping[str, nn.Parameter],
    normalize: Normalize,
    split: Split,
    rates: list[float],
    device: torch.device,
    advance: Callable[[int], None] = lambda accuracies: None,
) -> list[dict]:
    """Return a row for each layer and rate, accuracies in float32 on all images of the split.

    weights: of the network, as `layers` returns them. Of each row,
    layer: name in the state dict; weights: of the layer; rate; correct: images, with only this layer pruned;
    dense_correct: images, with none pruned; images; accuracy: correct / images; global_share: share of the layer's
    weights that is zero after global pruning at this rate. `advance(1)` is called after each accuracy.
    """
    network.to(device)
    # Copies are evaluated, which may keep what they compute from weights that pruning changes.
    images = len(split)
    shares = {rate: global_shares(weights, rate) for rate in rates}
    dense_correct = round(evaluate(copied(network), normalize, split, device)[1] * images)
    advance(1)
    rows = []
    for layer, rate in prune_each_layer(weights, rates):
        correct = round(evaluate(copied(network), normalize, split, device)[1] * images)
        row = {"layer": layer, "weights": weights[layer].numel(), "rate": rate, "correct": correct}
        row |= {"dense_correct": dense_correct, "images": images, "accuracy": correct / images}
        rows.append(row | {"global_share": shares[rate][layer]})
        advance(1)
    return rows


def sensitivity(
    dataset: Dataset,
    validation: Split,
    checkpoint: str,
    architecture: str,
    *,
    images: int | None,
    rates: list[float],
    label: str,
    output: str,
) -> None:
    """Write the rows of `measure`, on the first `images` of the split (None: as many as usual), as CSV.

    Raises UserError if there is no rate.
    """
    if not rates:
        raise UserError("pruning.rates: 0.0 prunes nothing, so there is no sensitivity to measure; add a rate")
    device = default_device()
    network, _ = load_network(checkpoint, architecture, dataset)
    split = validation.first(images, "sensitivity.images")
    with naming(architecture):
        weights = layers(network, dataset)
        accuracies = 1 + len(rates) * len(weights)
        with progress(accuracies, " accuracies", label) as advance:
            rows = measure(network, weights, Normalize(dataset).to(device), split, rates, device, advance)
    write_csv(output, rows)


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        compute_reproducibly(snakemake.threads)
        dataset = Dataset.read(snakemake.input.dataset, snakemake.params.trained_with)
        sensitivity(
            dataset,
            dataset.split(snakemake.input, "validation"),
            snakemake.input.checkpoint,
            snakemake.params.architecture,
            images=snakemake.params.images,
            rates=snakemake.params.rates,
            label=f"sensitivity of {snakemake.wildcards.model} seed {snakemake.wildcards.seed}",
            output=snakemake.output.csv,
        )
