"""A checkpoint -> a checkpoint with the share {rate} of its weights pruned by magnitude."""

PRUNED = "results/models/{model}/seed{seed}/{scope}/{rate}"


rule prune:
    input:
        dataset=DATASET,
        source="results/models/{model}/seed{seed}/dense.safetensors",
        user_model=user_model,
    output:
        checkpoint=f"{PRUNED}/none.safetensors",
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


# A rule of its own, because its jobs wait for each other: on a cluster they cannot form a group.
use rule prune as prune_again with:
    input:
        dataset=DATASET,
        source=recovered_before,
        user_model=user_model,
    output:
        checkpoint=f"{PRUNED}/iterative_pruned.safetensors",
    log:
        "results/logs/prune_again/{model}/seed{seed}/{scope}/{rate}.log",
    message:
        "Prune {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}, after the rate before"
