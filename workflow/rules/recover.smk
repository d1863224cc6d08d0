"""{scope}/{rate}/none.safetensors -> {scope}/{rate}/{recovery}.safetensors, with the same zeros.

For iterative, each rate is pruned from the checkpoint that was recovered at the rate before.
"""


rule recover:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        check=CHECKED,
        dataset=DATASET,
        dense="results/models/{model}/seed{seed}/dense.safetensors",
        pruned=pruned_checkpoint,
    output:
        checkpoint=f"{PRUNED}/{{recovery}}.safetensors",
    log:
        "results/logs/recover/{model}/seed{seed}/{scope}/{rate}/{recovery}.log",
    benchmark:
        "results/benchmarks/recover/{model}/seed{seed}/{scope}/{rate}/{recovery}.tsv"
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
        settings=config["training"],
        retraining=lambda wildcards: PLAN.retraining(wildcards.recovery),
        distillation=PLAN.distillation["retraining"],
        # Not an output, because Snakemake deletes those of a killed job.
        state=f"{PRUNED}/{{recovery}}.training_state.pt",
        code=code("recover"),
    message:
        "Recover {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}, {wildcards.recovery}"
    script:
        "../../scripts/recover.py"


# The dense network, trained as much longer: what a recovery gains is compared with it.
use rule recover as control with:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        check=CHECKED,
        dataset=DATASET,
        dense="results/models/{model}/seed{seed}/dense.safetensors",
        pruned=control_before,
    output:
        checkpoint="results/models/{model}/seed{seed}/control/{recovery}/{step}.safetensors",
    log:
        "results/logs/control/{model}/seed{seed}/{recovery}/{step}.log",
    benchmark:
        "results/benchmarks/control/{model}/seed{seed}/{recovery}/{step}.tsv"
    params:
        architecture=architecture,
        trained_with=trained_with,
        user_code=lambda wildcards: user_code(wildcards.model),
        settings=config["training"],
        retraining=lambda wildcards: PLAN.retraining(wildcards.recovery),
        distillation=PLAN.distillation["retraining"],
        state="results/models/{model}/seed{seed}/control/{recovery}/{step}.training_state.pt",
        code=code("recover"),
    message:
        "Train {wildcards.model}, seed {wildcards.seed}, on as {wildcards.recovery} does, as its control"


rule recover_batchnorm:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        dataset=DATASET,
        pruned=f"{PRUNED}/none.safetensors",
    output:
        checkpoint=f"{PRUNED}/batchnorm.safetensors",
    log:
        "results/logs/recover_batchnorm/{model}/seed{seed}/{scope}/{rate}.log",
    conda:
        "../../envs/pytorch.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(2000),
        runtime=times_attempt(10),
    params:
        architecture=architecture,
        trained_with=trained_with,
        user_code=lambda wildcards: user_code(wildcards.model),
        batchnorm_images=config["retraining"]["batchnorm_images"],
        code=code("recover_batchnorm"),
    message:
        "Estimate batch norm of {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}, again"
    script:
        "../../scripts/recover_batchnorm.py"


rule recover_reconstruct:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        check=CHECKED,
        dataset=DATASET,
        dense="results/models/{model}/seed{seed}/dense.safetensors",
        pruned=f"{PRUNED}/none.safetensors",
    output:
        checkpoint=f"{PRUNED}/reconstruct.safetensors",
    log:
        "results/logs/recover_reconstruct/{model}/seed{seed}/{scope}/{rate}.log",
    benchmark:
        "results/benchmarks/recover_reconstruct/{model}/seed{seed}/{scope}/{rate}.tsv"
    conda:
        "../../envs/pytorch.yaml"
    threads: 1  # so that several run beside each other, and weights do not depend on the number of cores
    resources:
        mem_mb=times_attempt(4000),
        runtime=times_attempt(60),
    params:
        architecture=architecture,
        trained_with=trained_with,
        user_code=lambda wildcards: user_code(wildcards.model),
        reconstruct_images=config["retraining"]["reconstruct_images"],
        code=code("recover_reconstruct"),
    message:
        "Fit {wildcards.model}, seed {wildcards.seed}, {wildcards.scope} {wildcards.rate}, to the dense network"
    script:
        "../../scripts/recover_reconstruct.py"
