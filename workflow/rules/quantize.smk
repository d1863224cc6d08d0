"""{checkpoint}.safetensors -> {checkpoint}-{mode}.onnx, with the graph that all checkpoints of a model share."""


rule quantize_export:
    input:
        dataset=DATASET,
        user_model=user_model,
        code=code("quantize_export"),
    output:
        graph="results/models/{model}/graph.onnx",
    log:
        "results/logs/quantize_export/{model}.log",
    conda:
        "../../envs/quantize_export.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        architecture=lambda wildcards: MODELS[wildcards.model]["architecture"],
    message:
        "Export the graph of {wildcards.model}"
    script:
        "../../scripts/quantize_export.py"


rule quantize:
    input:
        unpack(lambda wildcards: split_arrays("train") if wildcards.mode == "static" else {}),
        dataset=DATASET,
        graph="results/models/{model}/graph.onnx",
        checkpoint="results/models/{model}/seed{seed}/{checkpoint}.safetensors",
        code=code("quantize"),
    output:
        onnx="results/models/{model}/seed{seed}/{checkpoint}-{mode}.onnx",
    log:
        "results/logs/quantize/{model}/seed{seed}/{checkpoint}-{mode}.log",
    conda:
        "../../envs/quantize.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        calibration_images=lambda wildcards: (
            config["quantization"]["calibration_images"] if wildcards.mode == "static" else None
        ),
    message:
        "Quantize {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint}: {wildcards.mode}"
    script:
        "../../scripts/quantize.py"
