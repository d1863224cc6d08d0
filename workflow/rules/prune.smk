"""dense.safetensors -> {scope}/{rate}/none.safetensors, pruned by magnitude."""


def to_prune(wildcards) -> str:
    """Return the checkpoint that is pruned: the dense one or, in a chain, what iterative made of the rate before."""
    scope, rate = wildcards.scope, float(wildcards.rate)
    lower = [0, *(other for other in RATES if other < rate)] if wildcards.pruned == "iterative_pruned" else [0]
    return f"results/models/{{model}}/seed{{seed}}/{checkpoint(scope, lower[-1], 'iterative')}.safetensors".format(
        **wildcards
    )


rule prune:
    input:
        dataset=DATASET,
        source=to_prune,
        user_model=user_model,
    output:
        checkpoint="results/models/{model}/seed{seed}/{scope}/{rate}/{pruned}.safetensors",
    log:
        "results/logs/prune/{model}/seed{seed}/{scope}/{rate}/{pruned}.log",
    wildcard_constraints:
        pruned="none|iterative_pruned",
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
