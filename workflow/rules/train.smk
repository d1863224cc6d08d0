"""results/data -> dense.safetensors of each model and seed, by training or from the user's weights."""


rule train:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        check=CHECKED,
        dataset=DATASET,
    output:
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
        history="results/models/{model}/seed{seed}/history.csv",
    log:
        "results/logs/train/{model}/seed{seed}.log",
    benchmark:
        "results/benchmarks/train/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=one_of(PLAN.trained),
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
        # Not an output, because Snakemake deletes those of a killed job.
        state="results/models/{model}/seed{seed}/dense.training_state.pt",
        code=code("train"),
    message:
        "Train {wildcards.model}, seed {wildcards.seed}"
    script:
        "../../scripts/train.py"


rule train_import:
    input:
        dataset=DATASET,
        weights=lambda wildcards: config["models"][wildcards.model]["weights"],
    output:
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
    log:
        "results/logs/train_import/{model}/seed{seed}.log",
    wildcard_constraints:
        model=one_of(model for model in config["models"] if model not in PLAN.trained),
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
        weights_key=lambda wildcards: config["models"][wildcards.model]["weights_key"],
        code=code("train_import"),
    message:
        "Take the weights of {wildcards.model} from {input.weights}"
    script:
        "../../scripts/train_import.py"
