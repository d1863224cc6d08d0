"""{checkpoint}.safetensors -> {checkpoint}-{mode}.onnx, with the graph that all checkpoints of the same shapes share.

A job makes all modes of a checkpoint but qat, which trains: starting a job takes longer than most of them.
"""


rule quantize_export:
    input:
        dataset=DATASET,
    output:
        graph="results/models/{model}/graph.onnx",
    log:
        "results/logs/quantize_export/{model}.log",
    conda:
        "../../envs/pytorch.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(4000),
        runtime=times_attempt(10),
    params:
        architecture=architecture,
        trained_with=trained_with,
        user_code=lambda wildcards: user_code(wildcards.model),
        code=code("quantize_export"),
    message:
        "Export {output.graph}"
    script:
        "../../scripts/quantize_export.py"


use rule quantize_export as quantize_export_channel with:
    input:
        dataset=DATASET,
        checkpoint="results/models/{model}/seed{seed}/channel/{rate}/{pruned}.safetensors",
    output:
        graph="results/models/{model}/seed{seed}/channel/{rate}/{pruned}.graph.onnx",
    log:
        "results/logs/quantize_export_channel/{model}/seed{seed}/{rate}/{pruned}.log",
    wildcard_constraints:
        pruned="none|iterative_pruned",


rule calibrate:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        dataset=DATASET,
        graph="results/models/{model}/graph.onnx",
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
    output:
        choice="results/models/{model}/seed{seed}/calibration.json",
    log:
        "results/logs/calibrate/{model}/seed{seed}.log",
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000, per_weight=8, per_image=10000),
        runtime=times_attempt(60),
    params:
        calibration_images=config["quantization"]["calibration_images"],
        code=code("calibrate"),
    message:
        "Choose how {wildcards.model}, seed {wildcards.seed}, is calibrated for int8"
    script:
        "../../scripts/calibrate.py"


# Beside its inputs, what a job that calibrates takes.
CHOICE = {} if config["quantization"]["calibration"] else {"choice": rules.calibrate.output.choice}


rule quantize:
    input:
        **(split_arrays("train") | CHOICE if PLAN.calibrates else {}),
        dataset=DATASET,
        graph=graph_of,
        checkpoint=f"{STEM}.safetensors",
    output:
        [f"{STEM}-{mode}.onnx" for mode in PLAN.quantize_modes],
    log:
        "results/logs/quantize/{model}/seed{seed}/{checkpoint}.log",
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000, per_weight=4, per_image=10000),
        runtime=times_attempt(5),
    params:
        trained_with=trained_with,
        modes=PLAN.quantize_modes,
        calibration=config["quantization"]["calibration"] if PLAN.calibrates else None,
        calibration_images=config["quantization"]["calibration_images"] if PLAN.calibrates else None,
        code=code("quantize"),
    message:
        "Quantize {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint}"
    script:
        "../../scripts/quantize.py"


rule quantize_qat:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        **CHOICE,
        check=CHECKED,
        dataset=DATASET,
        checkpoint=f"{STEM}.safetensors",
    output:
        onnx=f"{STEM}-qat.onnx",
    log:
        "results/logs/quantize_qat/{model}/seed{seed}/{checkpoint}.log",
    benchmark:
        "results/benchmarks/quantize_qat/{model}/seed{seed}/{checkpoint}.tsv"
    conda:
        "../../envs/pytorch.yaml"
    threads: PLAN.training_threads
    resources:
        mem_mb=times_attempt(8000),
        runtime=times_attempt(720),
    params:
        architecture=architecture,
        trained_with=trained_with,
        user_code=lambda wildcards: user_code(wildcards.model),
        settings=PLAN.qat_training,
        calibration=config["quantization"]["calibration"],
        calibration_images=config["quantization"]["calibration_images"],
        # Not an output, because Snakemake deletes those of a killed job.
        state=f"{STEM}-qat.training_state.pt",
        code=code("quantize_qat"),
    message:
        "Train {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint} for int8"
    script:
        "../../scripts/quantize_qat.py"
