"""dense.safetensors -> sensitivity.csv: accuracy with one layer pruned at a time, for all layers and rates.

And sensitivity_int8.csv: how the answers change with one layer in int8, or in float32, at a time.
"""


rule sensitivity:
    input:
        **split_arrays("validation"),
        dataset=DATASET,
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
    output:
        csv="results/models/{model}/seed{seed}/sensitivity.csv",
    log:
        "results/logs/sensitivity/{model}/seed{seed}.log",
    conda:
        "../../envs/pytorch.yaml"
    threads: 8
    resources:
        mem_mb=times_attempt(8000),
        runtime=times_attempt(120),
    params:
        architecture=architecture,
        trained_with=trained_with,
        user_code=lambda wildcards: user_code(wildcards.model),
        images=config["sensitivity"]["images"],
        rates=list(filter(None, PLAN.rates)),
        code=code("sensitivity"),
    message:
        "Prune one layer of {wildcards.model}, seed {wildcards.seed}, at a time"
    script:
        "../../scripts/sensitivity.py"


rule sensitivity_int8:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        dataset=DATASET,
        choice=rules.calibrate.output.choice,
        graph="results/models/{model}/graph.onnx",
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
    output:
        csv="results/models/{model}/seed{seed}/sensitivity_int8.csv",
    log:
        "results/logs/sensitivity_int8/{model}/seed{seed}.log",
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000, per_weight=8, per_image=10000),
        runtime=times_attempt(60),
    params:
        calibration_images=config["quantization"]["calibration_images"],
        images=config["sensitivity"]["images"],
        code=code("sensitivity_int8"),
    message:
        "Round one layer of {wildcards.model}, seed {wildcards.seed}, at a time"
    script:
        "../../scripts/sensitivity_int8.py"
