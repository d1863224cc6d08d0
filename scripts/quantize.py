"""Turn a checkpoint into the ONNX files that are measured and deployed: float32, and int8 in each of the modes."""

import copy
import json
from collections.abc import Mapping

import numpy
import onnx
import onnx_ir
import onnxruntime
import safetensors

from elagage.data import Dataset, Split
from elagage.errors import RefusedError
from elagage.files import reading
from elagage.job import job, say
from elagage.onnx.contents import Weight, count_contents, stored_weights
from elagage.onnx.deployed import write_deployed
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.refusals import refusing

TOLERANCE = 0.002  # between the shares of zeros in checkpoint and file: folding lets a few tiny weights become 0
MENTIONED = 0.1  # share of the weights that stay float32, above which the user is told
SHOWN = 5  # tensors in a message


def read_numpy(checkpoint: str) -> tuple[dict[str, numpy.ndarray], dict]:
    """Return a checkpoint's tensors and provenance without PyTorch."""
    with reading(checkpoint), safetensors.safe_open(checkpoint, "numpy") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["elagage"])


def quantize_checkpoint(
    dataset: Dataset, graph: str, checkpoint: str, *, calibration: Split | None, outputs: Mapping[str, str]
) -> None:
    """Write an ONNX file for each mode (mode -> path), or why there is none; calibration: images for mode static."""
    state, provenance = read_numpy(checkpoint)
    with reading(graph):
        float32 = with_weights(onnx_ir.load(graph), state)
    check_zeros(float32, provenance)
    for mode, output in outputs.items():
        images = calibration.images if mode == "static" else None
        with refusing(output):
            model = copy.deepcopy(float32) if mode == "float32" else quantize(float32, mode, images)
            print(mode, json.dumps(count_contents(model)))
            if mode != "float32":
                _say_what_stays_float32(model, mode)
            record = {"mode": mode, "onnxruntime": onnxruntime.__version__}
            record |= {} if images is None else {"calibration_images": len(images)}
            write_deployed(output, model, dataset, provenance | record)


def check_zeros(model: onnx.ModelProto, provenance: Mapping) -> None:
    """Raise RefusedError if the file has a smaller share of zeros than was counted when the checkpoint was pruned."""
    if "zeros" not in provenance:
        return
    counted = provenance["weights"] + sum(provenance.get("unpruned", {}).values())
    share, contents = provenance["zeros"] / counted, count_contents(model)
    stored = contents["zeros"] / contents["weights"]
    if share - stored > TOLERANCE:  # more there may be: batch norm scales of 0 make filters of zeros
        left = sorted((weight for weight in stored_weights(model) if not weight.zeros), key=lambda weight: -weight.size)
        raise RefusedError(
            f"{stored:.2%} of the {contents['weights']} weights in the file are zero, not {share:.2%} as in the "
            f"checkpoint pruned at rate {provenance['rate']}: pruning does not reach {_listed(left)}"
        )


def _say_what_stays_float32(model: onnx.ModelProto, mode: str) -> None:
    """Print the weights of an int8 model that are float32, and tell the user if they are a large part."""
    weights = stored_weights(model)
    left = sorted((weight for weight in weights if not weight.int8), key=lambda weight: -weight.size)
    share = sum(weight.size for weight in left) / max(1, sum(weight.size for weight in weights))
    if left:
        note = f"mode {mode}: {share:.1%} of the weights stay float32: {_listed(left)}"
        (say if share > MENTIONED and mode != "dynamic" else print)(note)


def _listed(weights: list[Weight]) -> str:
    more = f" and {len(weights) - SHOWN} more" if len(weights) > SHOWN else ""
    return ", ".join(f"{weight.name} ({weight.size})" for weight in weights[:SHOWN]) + more


if "snakemake" in globals():
    with job(snakemake.log[0]), refusing(snakemake.output):
        calibration = None
        if "static" in snakemake.params.modes:
            split = Split.read(snakemake.input.train_images, snakemake.input.train_labels)
            calibration = split.first(snakemake.params.calibration_images, "quantization.calibration_images")
        quantize_checkpoint(
            Dataset.read(snakemake.input.dataset, snakemake.params.trained_with),
            snakemake.input.graph,
            snakemake.input.checkpoint,
            calibration=calibration,
            outputs=dict(zip(snakemake.params.modes, snakemake.output, strict=True)),
        )
