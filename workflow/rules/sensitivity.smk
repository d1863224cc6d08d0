"""dense.safetensors -> sensitivity.csv: accuracy with a single layer pruned, for all layers and rates."""


rule sensitivity:
    input:
        **split_arrays("validation"),
        dataset=DATASET,
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
        user_model=user_model,
    output:
        csv="results/models/{model}/seed{seed}/sensitivity.csv",
    log:
        "results/logs/sensitivity/{model}/seed{seed}.log",
    conda:
        "../../envs/sensitivity.yaml"
    threads: 8
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        architecture=lambda wildcards: MODELS[wildcards.model]["architecture"],
        images=config["sensitivity"]["images"],
        rates=list(filter(None, RATES)),
        code=code("sensitivity"),
    message:
        "Prune each layer of {wildcards.model}, seed {wildcards.seed}, alone"
    script:
        "../../scripts/sensitivity.py"
