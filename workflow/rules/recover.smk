"""{scope}/{rate}/none.safetensors -> {scope}/{rate}/{recovery}.safetensors, with the same zeros.

For iterative, each rate is pruned from what recovered at the rate before it: a chain.
"""

# What each recovery takes from the table `retraining`: a change of the rest does not run it again.
RETRAINING_EPOCHS = {"epochs": config["retraining"]["epochs"]}
RETRAINING = {
    "finetune": RETRAINING_EPOCHS | {"learning_rate": low_learning_rate(config["retraining"]["learning_rate"])},
    "rewind": RETRAINING_EPOCHS,
    "iterative": RETRAINING_EPOCHS,
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
        retraining=lambda wildcards: RETRAINING[wildcards.recovery],
        # Not an output, because Snakemake deletes those of a killed job.
        state="results/models/{model}/seed{seed}/{scope}/{rate}/{recovery}.training_state.pt",
        code=code("recover"),
    message:
        "Recover {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}, {wildcards.recovery}"
    script:
        "../../scripts/recover.py"


rule recover_batchnorm:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        dataset=DATASET,
        pruned=f"{PRUNED}/none.safetensors",
        user_model=user_model,
    output:
        checkpoint=f"{PRUNED}/batchnorm.safetensors",
    log:
        "results/logs/recover_batchnorm/{model}/seed{seed}/{scope}/{rate}.log",
    conda:
        "../../envs/recover_batchnorm.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        architecture=lambda wildcards: MODELS[wildcards.model]["architecture"],
        batchnorm_images=config["retraining"]["batchnorm_images"],
        code=code("recover_batchnorm"),
    message:
        "Estimate batch norm of {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}, anew"
    script:
        "../../scripts/recover_batchnorm.py"
