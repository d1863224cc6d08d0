"""Each model, tried in small with what the study asks for, before anything is trained -> results/check.md."""


rule check_model:
    input:
        **split_arrays("train"),
        **split_arrays("validation"),
        **split_arrays("test"),
        dataset=DATASET,
        graph="results/models/{model}/graph.onnx",
        # Of given weights. Those of training wait for this check.
        weights=given_dense,
    output:
        report="results/check/{model}.json",
    log:
        "results/logs/check_model/{model}.log",
    conda:
        "../../envs/pytorch.yaml"
    threads: PLAN.training_threads
    resources:
        mem_mb=times_attempt(8000),
        runtime=times_attempt(60),
    params:
        stated=lambda wildcards: config["models"][wildcards.model],
        trained_with=trained_with,
        user_code=lambda wildcards: user_code(wildcards.model),
        seed=config["seeds"][0],
        settings=PLAN.trial_training,
        asked=lambda wildcards: PLAN.asked(wildcards.model),
        trains=lambda wildcards: PLAN.work(wildcards.model)["training_passes"] > 0,
        strict=config["strict"],
        code=code("check_model"),
    message:
        "Check {wildcards.model} against what the study asks for"
    script:
        "../../scripts/check_model.py"


rule check:
    input:
        dataset="results/data/dataset.json",
        reports=expand("results/check/{model}.json", model=config["models"]),
    output:
        "results/check.md",
    log:
        "results/logs/check.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(1000),
        runtime=times_attempt(5),
    params:
        work={model: PLAN.work(model) for model in config["models"]},
        answer=config["answer"],
        code=code("check"),
    message:
        "Say what the study can do"
    script:
        "../../scripts/check.py"
