"""dense.safetensors -> sensitivity.csv: accuracy with one layer pruned at a time, for all layers and rates."""


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
