"""{checkpoint}.safetensors -> {checkpoint}-{mode}.onnx, with the graph that all checkpoints of the same shapes share.

A job makes all modes of a checkpoint: starting a job takes longer than most of them.
"""

# Every variant is timed against the dense float32 model, whether or not the study asks for mode none.
ONNX_MODES = list(dict.fromkeys(["none", *MODES]))


rule quantize_export:
    input:
        unpack(with_channels_removed),
        dataset=DATASET,
        user_model=user_model,
    output:
        graph="results/models/{model}/{structure}graph.onnx",
    log:
        "results/logs/quantize_export/{model}/{structure}graph.log",
    wildcard_constraints:
        structure=r"(seed\d+/channel/[^/]+/(none|iterative_pruned)\.)?",
    conda:
        "../../envs/quantize_export.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        architecture=lambda wildcards: MODELS[wildcards.model]["architecture"],
        code=code("quantize_export"),
    message:
        "Export {output.graph}"
    script:
        "../../scripts/quantize_export.py"


rule quantize:
    input:
        **(split_arrays("train") if "static" in MODES else {}),
        dataset=DATASET,
        graph=graph,
        checkpoint="results/models/{model}/seed{seed}/{checkpoint}.safetensors",
    output:
        [f"results/models/{{model}}/seed{{seed}}/{{checkpoint}}-{mode}.onnx" for mode in ONNX_MODES],
    log:
        "results/logs/quantize/{model}/seed{seed}/{checkpoint}.log",
    conda:
        "../../envs/quantize.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(5),
    params:
        modes=ONNX_MODES,
        calibration_images=config["quantization"]["calibration_images"] if "static" in MODES else None,
        code=code("quantize"),
    message:
        "Quantize {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint}"
    script:
        "../../scripts/quantize.py"
