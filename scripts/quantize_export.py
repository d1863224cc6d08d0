"""Export a model's graph to ONNX once; its variants differ in their weights alone."""

import onnx_ir
import torch

from elagage.data import Dataset
from elagage.export import export_graph
from elagage.files import whole_file
from elagage.job import job
from elagage.models import build_network, naming


def quantize_export(dataset_path: str, architecture: str, graph: str) -> None:
    """Write the graph, with the weights of a new network in the places of those to come."""
    torch.set_num_threads(1)
    dataset = Dataset.read(dataset_path)
    network = build_network(architecture, len(dataset.classes), dataset.channels)
    with naming(architecture):
        model = export_graph(network, dataset)
    with whole_file(graph) as temporary:
        onnx_ir.save(model, temporary)


if "snakemake" in globals():
    with job(snakemake.log[0]):
        quantize_export(snakemake.input.dataset, snakemake.params.architecture, snakemake.output.graph)
