"""{scope}/{rate}/none.safetensors -> {scope}/{rate}/{recovery}.safetensors, with the same zeros.

For iterative, each rate is pruned from what recovered at the rate before it: a chain.
"""

# What each recovery takes from the table `retraining`: a change of the rest does not run it again.
RETRAINING = {
    "batchnorm": ["batchnorm_images"],
    "finetune": ["epochs", "learning_rate"],
    "rewind": ["epochs"],
    "iterative": ["epochs"],
}


rule recover:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        dataset=DATASET,
        pruned=to_recover,
        user_model=user_model,
    output:
        checkpoint="results/models/{model}/seed{seed}/{scope}/{rate}/{recovery}.safetensors",
    log:
        "results/logs/recover/{model}/seed{seed}/{scope}/{rate}/{recovery}.log",
    benchmark:
        "results/benchmarks/recover/{model}/seed{seed}/{scope}/{rate}/{recovery}.tsv"
    conda:
        "../../envs/recover.yaml"
    threads: 8
    resources:
        mem_mb=growing(8000),
        runtime=growing(720),
    params:
        architecture=lambda wildcards: MODELS[wildcards.model]["architecture"],
        settings=config["training"],
        retraining=lambda wildcards: {key: config["retraining"][key] for key in RETRAINING[wildcards.recovery]},
        # Not an output, because Snakemake deletes those of a killed job.
        state="results/models/{model}/seed{seed}/{scope}/{rate}/{recovery}.training_state.pt",
        code=code("recover"),
    message:
        "Recover {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}, {wildcards.recovery}"
    script:
        "../../scripts/recover.py"
