"""Export a network's graph to ONNX once; the variants of the same shapes differ only in their weights."""

import contextlib

import onnx_ir

from elagage.data import Dataset
from elagage.files import whole_file
from elagage.job import job
from elagage.pytorch.checkpoints import load_network
from elagage.pytorch.device import compute_reproducibly
from elagage.pytorch.export import export_graph
from elagage.pytorch.folding import fold
from elagage.pytorch.independence import check_built_anew, check_copies, check_rebuilt
from elagage.pytorch.models import build_network, naming
from elagage.refusals import refusing, ruled_out
from elagage.user_code import imports_forgotten


def quantize_export(dataset: Dataset, architecture: str, checkpoint: str | None, graph: str) -> None:
    """Write the graph; its weights are placeholders.

    The graph is that of the checkpoint's network, which has lost channels, or, without a checkpoint, that of the whole
    architecture. Raises UserError if the network cannot be exported.
    """
    if checkpoint is None:
        sizes = (len(dataset.classes), dataset.channels)
        with imports_forgotten(architecture.rpartition(":")[0]):  # files may draw when they are imported
            rebuilt, again = (
                build_network(architecture, *sizes, seed=1, image_size=dataset.image_size) for _ in range(2)
            )
        network = build_network(architecture, *sizes, seed=0, image_size=dataset.image_size)
        with naming(architecture):
            check_built_anew(rebuilt, again)
            check_copies(network, dataset)
            check_rebuilt(network, rebuilt, dataset)
            fold(network, dataset)
    else:
        network, _ = load_network(checkpoint, architecture, dataset)
    # The whole network could be exported, if this one has lost channels.
    with contextlib.nullcontext() if checkpoint is None else ruled_out(), naming(architecture):
        model = export_graph(network, dataset)
    with whole_file(graph) as temporary:
        onnx_ir.save(model, temporary)


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        compute_reproducibly(snakemake.threads)
        quantize_export(
            Dataset.read(snakemake.input.dataset, snakemake.params.trained_with),
            snakemake.params.architecture,
            snakemake.input.get("checkpoint"),
            snakemake.output.graph,
        )
