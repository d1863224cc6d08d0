"""A checkpoint -> a checkpoint with the share {rate} of its weights set to zero, or with channels removed."""

WEIGHTS = one_of(scope for scope in PLAN.scopes if scope != "channel")


rule prune:
    input:
        source="results/models/{model}/seed{seed}/dense.safetensors",
    output:
        checkpoint=f"{PRUNED}/none.safetensors",
    log:
        "results/logs/prune/{model}/seed{seed}/{scope}/{rate}.log",
    wildcard_constraints:
        scope=WEIGHTS,
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(500, per_weight=9),
        runtime=times_attempt(5),
    params:
        code=code("prune"),
    message:
        "Prune {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}"
    script:
        "../../scripts/prune.py"


# A rule of its own, because its jobs wait for each other: on a cluster they cannot form a group.
use rule prune as prune_again with:
    input:
        source=recovered_before,
    output:
        checkpoint=f"{PRUNED}/iterative_pruned.safetensors",
    log:
        "results/logs/prune_again/{model}/seed{seed}/{scope}/{rate}.log",
    message:
        "Prune {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}, after the rate before"


rule prune_channels:
    input:
        dataset=DATASET,
        source="results/models/{model}/seed{seed}/dense.safetensors",
    output:
        checkpoint="results/models/{model}/seed{seed}/{scope}/{rate}/none.safetensors",
    log:
        "results/logs/prune_channels/{model}/seed{seed}/{scope}/{rate}.log",
    wildcard_constraints:
        scope="channel",
    conda:
        "../../envs/pytorch.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1500, per_weight=9),
        runtime=times_attempt(5),
    params:
        architecture=architecture,
        trained_with=trained_with,
        user_code=lambda wildcards: user_code(wildcards.model),
        code=code("prune_channels"),
    message:
        "Remove channels of {wildcards.model}, seed {wildcards.seed}, {wildcards.rate}"
    script:
        "../../scripts/prune_channels.py"


use rule prune_channels as prune_channels_again with:
    input:
        dataset=DATASET,
        source=recovered_before,
    output:
        checkpoint=f"{PRUNED}/iterative_pruned.safetensors",
    log:
        "results/logs/prune_channels_again/{model}/seed{seed}/{scope}/{rate}.log",
    message:
        "Remove channels of {wildcards.model}, seed {wildcards.seed}, {wildcards.rate}, after the rate before"
