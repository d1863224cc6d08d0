"""results/data -> dense.safetensors of each model and seed, by training or from the user's weights."""


rule train:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        dataset=DATASET,
        user_model=user_model,
    output:
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
        history="results/models/{model}/seed{seed}/history.csv",
    log:
        "results/logs/train/{model}/seed{seed}.log",
    benchmark:
        "results/benchmarks/train/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model="|".join(map(re.escape, TRAINED)) or "(?!)",
    conda:
        "../../envs/train.yaml"
    threads: 8
    resources:
        mem_mb=growing(8000),
        runtime=growing(720),
    params:
        architecture=lambda wildcards: MODELS[wildcards.model]["architecture"],
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
        weights=lambda wildcards: MODELS[wildcards.model]["weights"],
        user_model=user_model,
    output:
        checkpoint="results/models/{model}/seed{seed}/dense.safetensors",
    log:
        "results/logs/train_import/{model}/seed{seed}.log",
    wildcard_constraints:
        model="|".join(re.escape(model) for model in MODELS if model not in TRAINED) or "(?!)",
    conda:
        "../../envs/train_import.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        architecture=lambda wildcards: MODELS[wildcards.model]["architecture"],
        code=code("train_import"),
    message:
        "Take the weights of {wildcards.model} from {input.weights}"
    script:
        "../../scripts/train_import.py"
