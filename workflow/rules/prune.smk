"""dense.safetensors -> {scope}/{rate}/none.safetensors, pruned by magnitude."""


rule prune:
    input:
        dataset=DATASET,
        dense="results/models/{model}/seed{seed}/dense.safetensors",
        user_model=user_model,
    output:
        checkpoint="results/models/{model}/seed{seed}/{scope}/{rate}/none.safetensors",
    log:
        "results/logs/prune/{model}/seed{seed}/{scope}/{rate}.log",
    conda:
        "../../envs/prune.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(5),
    params:
        architecture=lambda wildcards: MODELS[wildcards.model]["architecture"],
        code=code("prune"),
    message:
        "Prune {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}"
    script:
        "../../scripts/prune.py"
