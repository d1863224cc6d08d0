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
        calibration=config["quantization"]["calibration"],
        calibration_images=config["quantization"]["calibration_images"],
        code=code("calibrate"),
    message:
        "Choose how {wildcards.model}, seed {wildcards.seed}, is calibrated for int8"
    script:
        "../../scripts/calibrate.py"


rule time_layers:
    input:
        **split_arrays("train"),
        dataset=DATASET,
        choice=rules.calibrate.output.choice,
        graph="results/models/{model}/graph.onnx",
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
    output:
        times="results/models/{model}/seed{seed}/layer_times.json",
    log:
        "results/logs/time_layers/{model}/seed{seed}.log",
    conda:
        "../../envs/onnx.yaml"
    # All cores of the run, so that no other job of the workflow disturbs a timing.
    threads: workflow.cores or 1
    resources:
        mem_mb=megabytes(2000, per_weight=8, per_image=10000),
        runtime=times_attempt(60),
    params:
        calibration_images=config["quantization"]["calibration_images"],
        threads=config["evaluation"]["threads"],
        code=code("time_layers"),
    message:
        "Time the layers of {wildcards.model}, seed {wildcards.seed}, in int8 and float32, with nothing beside it"
    script:
        "../../scripts/time_layers.py"


rule mix:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        dataset=DATASET,
        choice=rules.calibrate.output.choice,
        graph="results/models/{model}/graph.onnx",
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
        sensitivity="results/models/{model}/seed{seed}/sensitivity_int8.csv",
        times=rules.time_layers.output.times,
    output:
        choice="results/models/{model}/seed{seed}/mixed.json",
    log:
        "results/logs/mix/{model}/seed{seed}.log",
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000, per_weight=8, per_image=10000),
        runtime=times_attempt(60),
    params:
        calibration_images=config["quantization"]["calibration_images"],
        trained_with=trained_with,
        margin=config["answer"]["maximum_accuracy_loss"],
        code=code("mix"),
    message:
        "Choose the layers of {wildcards.model}, seed {wildcards.seed}, that stay float32 in mode mixed"
    script:
        "../../scripts/mix.py"


MIXED = {"mixed": rules.mix.output.choice} if "mixed" in PLAN.modes else {}


rule quantize:
    input:
        **(split_arrays("train") | {"choice": rules.calibrate.output.choice} | MIXED if PLAN.calibrates else {}),
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
        check=CHECKED,
        dataset=DATASET,
        choice=rules.calibrate.output.choice,
        dense="results/models/{model}/seed{seed}/dense.safetensors",
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
        calibration_images=config["quantization"]["calibration_images"],
        distillation=PLAN.distillation["qat"],
        # Not an output, because Snakemake deletes those of a killed job.
        state=f"{STEM}-qat.training_state.pt",
        code=code("quantize_qat"),
    message:
        "Train {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint} for int8"
    script:
        "../../scripts/quantize_qat.py"
