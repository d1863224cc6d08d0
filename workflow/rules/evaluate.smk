"""{checkpoint}-{mode}.onnx -> .accuracy.json, .predictions.npy, .size.json, .latency.json, .openvino.json beside it.

A job measures all modes of a checkpoint: starting a job takes longer than most measurements.
"""


rule evaluate_accuracy:
    input:
        **split_arrays("test"),
        **split_arrays("validation"),
        dataset=DATASET,
        onnx_files=[f"{stem}.onnx" for stem in PLAN.mode_stems],
    output:
        accuracy=[f"{stem}.accuracy.json" for stem in PLAN.mode_stems],
        predictions=[f"{stem}.predictions.npy" for stem in PLAN.mode_stems],
        validation_predictions=[f"{stem}.validation_predictions.npy" for stem in PLAN.mode_stems],
    log:
        "results/logs/evaluate_accuracy/{model}/seed{seed}/{checkpoint}.log",
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000, per_weight=2, per_image=5000),
        runtime=times_attempt(10),
    params:
        code=code("evaluate_accuracy"),
    message:
        "Classify the images with {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint}"
    script:
        "../../scripts/evaluate_accuracy.py"


rule evaluate_size:
    input:
        onnx_files=[f"{stem}.onnx" for stem in PLAN.mode_stems],
        packed=[f"{stem}.onnx.packed" for stem in PLAN.mode_stems],
    output:
        size=[f"{stem}.size.json" for stem in PLAN.mode_stems],
    log:
        "results/logs/evaluate_size/{model}/seed{seed}/{checkpoint}.log",
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000, per_weight=6),
        runtime=times_attempt(10),
    params:
        code=code("evaluate_size"),
    message:
        "Count the bytes of {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint}"
    script:
        "../../scripts/evaluate_size.py"


rule evaluate_latency:
    input:
        **split_arrays("test"),
        dataset=DATASET,
        dense="results/models/{model}/seed{seed}/dense-float32.onnx",
        onnx_files=[f"{stem}.onnx" for stem in PLAN.mode_stems],
    output:
        latency=[f"{stem}.latency.json" for stem in PLAN.mode_stems],
    log:
        "results/logs/evaluate_latency/{model}/seed{seed}/{checkpoint}.log",
    conda:
        "../../envs/onnx.yaml"
    # All cores of the run, so that no other job of the workflow disturbs a timing.
    threads: workflow.cores or 1
    resources:
        mem_mb=times_attempt(2000),
        runtime=times_attempt(15 * (1 + len(config["evaluation"]["batch_sizes"]))),
    params:
        **config["evaluation"],
        code=code("evaluate_latency"),
    message:
        "Time {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint}, with nothing beside it"
    script:
        "../../scripts/evaluate_latency.py"


rule evaluate_openvino:
    input:
        **split_arrays("test"),
        dataset=DATASET,
        dense="results/models/{model}/seed{seed}/dense-float32.onnx",
        onnx_files=[f"{stem}.onnx" for stem in PLAN.mode_stems],
        predictions=[f"{stem}.predictions.npy" for stem in PLAN.mode_stems],
    output:
        openvino=[f"{stem}.openvino.json" for stem in PLAN.mode_stems],
    log:
        "results/logs/evaluate_openvino/{model}/seed{seed}/{checkpoint}.log",
    conda:
        "../../envs/openvino.yaml"
    threads: workflow.cores or 1
    resources:
        mem_mb=megabytes(2000, per_weight=4, per_image=5000),
        runtime=times_attempt(30),
    params:
        latency_images=config["evaluation"]["latency_images"],
        threads=config["evaluation"]["threads"],
        code=code("evaluate_openvino"),
    message:
        "Run {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint}, in OpenVINO, with nothing beside it"
    script:
        "../../scripts/evaluate_openvino.py"


rule evaluate_latency_eager:
    input:
        **split_arrays("test"),
        dataset=DATASET,
        dense="results/models/{model}/seed{seed}/dense.safetensors",
        dense_onnx="results/models/{model}/seed{seed}/dense-float32.onnx",
    output:
        eager="results/models/{model}/seed{seed}/dense.eager.json",
    log:
        "results/logs/evaluate_latency_eager/{model}/seed{seed}.log",
    conda:
        "../../envs/pytorch.yaml"
    threads: workflow.cores or 1
    resources:
        mem_mb=times_attempt(4000),
        runtime=times_attempt(15),
    params:
        latency_images=config["evaluation"]["latency_images"],
        threads=config["evaluation"]["threads"],
        architecture=architecture,
        trained_with=trained_with,
        user_code=lambda wildcards: user_code(wildcards.model),
        code=code("evaluate_latency_eager"),
    message:
        "Time {wildcards.model}, seed {wildcards.seed}, in eager PyTorch, with nothing beside it"
    script:
        "../../scripts/evaluate_latency_eager.py"
