"""Export a network's graph to ONNX once; the variants of the same shapes differ in their weights alone."""

import onnx_ir
import torch

from elagage.checkpoints import load_network
from elagage.data import Dataset
from elagage.export import export_graph
from elagage.files import whole_file
from elagage.job import job
from elagage.models import build_network, naming


def quantize_export(dataset_path: str, architecture: str, checkpoint: str | None, graph: str) -> None:
    """Write the graph, with other weights in the places of those to come.

    It is that of the checkpoint's network, from which channels are removed, or that of the whole architecture.
    """
    torch.set_num_threads(1)
    dataset = Dataset.read(dataset_path)
    if checkpoint is None:
        network = build_network(architecture, len(dataset.classes), dataset.channels)
    else:
        network, _ = load_network(checkpoint, architecture, dataset)
    with naming(architecture):
        model = export_graph(network, dataset)
    with whole_file(graph) as temporary:
        onnx_ir.save(model, temporary)


if "snakemake" in globals():
    with job(snakemake.log[0]):
        quantize_export(
            snakemake.input.dataset,
            snakemake.params.architecture,
            snakemake.input.get("checkpoint"),
            snakemake.output.graph,
        )
