"""The graph of Elagage with nothing on it: the same jobs and files, without parameters, resources, logs and checks."""

MODES = ["none", "static"]
SCOPES = ["local", "global"]
SEEDS = range(config["seeds"])
RATES = [f"{rate / 100}" for rate in range(1, config["rates"])]
CHECKPOINTS = ["dense", *expand("{scope}/{rate}/none", scope=SCOPES, rate=RATES)]
STEM = "results/models/resnet8/seed{seed}/{checkpoint}"
ARRAYS = expand("results/data/{split}_{kind}.npy", split=["train", "validation", "test"], kind=["images", "labels"])
FIGURES = [f"{scope}_pruning_{metric}" for scope in SCOPES for metric in ("accuracy", "model_size", "inference_time")]
FIGURES += ["quantization_comparison", "pareto", "scopes_accuracy", "training_history", "sensitivity"]


wildcard_constraints:
    seed=r"\d+",
    checkpoint="dense|(local|global)/[0-9.]+/none",
    scope="local|global",
    rate="[0-9.]+",


rule all:
    input:
        "results/summary.csv",
        "results/summary.md",
        expand("results/plots/{figure}.png", figure=FIGURES),


rule prepare_data:
    output:
        "results/data/dataset.json",
        *ARRAYS,
    shell:
        "touch {output}"


rule train:
    input:
        "results/data/dataset.json",
        *ARRAYS[:4],
    output:
        "results/models/resnet8/seed{seed}/dense.safetensors",
        "results/models/resnet8/seed{seed}/history.csv",
    shell:
        "touch {output}"


rule sensitivity:
    input:
        "results/data/dataset.json",
        *ARRAYS[2:4],
        "results/models/resnet8/seed{seed}/dense.safetensors",
    output:
        "results/models/resnet8/seed{seed}/sensitivity.csv",
    shell:
        "touch {output}"


rule prune:
    input:
        "results/data/dataset.json",
        "results/models/resnet8/seed{seed}/dense.safetensors",
    output:
        "results/models/resnet8/seed{seed}/{scope}/{rate}/none.safetensors",
    shell:
        "touch {output}"


rule quantize_export:
    input:
        "results/data/dataset.json",
    output:
        "results/models/resnet8/graph.onnx",
    shell:
        "touch {output}"


rule quantize:
    input:
        *ARRAYS[:2],
        "results/data/dataset.json",
        "results/models/resnet8/graph.onnx",
        STEM + ".safetensors",
    output:
        [f"{STEM}-{mode}.onnx" for mode in MODES],
    shell:
        "touch {output}"


rule pack:
    input:
        [f"{STEM}-{mode}.onnx" for mode in MODES],
    output:
        [f"{STEM}-{mode}.onnx.packed" for mode in MODES],
    shell:
        "touch {output}"


rule evaluate_accuracy:
    input:
        *ARRAYS[4:],
        "results/data/dataset.json",
        [f"{STEM}-{mode}.onnx" for mode in MODES],
    output:
        [f"{STEM}-{mode}.{kind}" for kind in ("accuracy.json", "predictions.npy") for mode in MODES],
    shell:
        "touch {output}"


rule evaluate_size:
    input:
        [f"{STEM}-{mode}.{kind}" for kind in ("onnx", "onnx.packed") for mode in MODES],
    output:
        [f"{STEM}-{mode}.size.json" for mode in MODES],
    shell:
        "touch {output}"


rule evaluate_latency:
    input:
        *ARRAYS[4:],
        "results/data/dataset.json",
        "results/models/resnet8/seed{seed}/dense-none.onnx",
        [f"{STEM}-{mode}.onnx" for mode in MODES],
    output:
        [f"{STEM}-{mode}.latency.json" for mode in MODES],
    shell:
        "touch {output}"


rule evaluate_latency_eager:
    input:
        *ARRAYS[4:],
        "results/data/dataset.json",
        "results/models/resnet8/seed{seed}/dense.safetensors",
        "results/models/resnet8/seed{seed}/dense-none.onnx",
    output:
        "results/models/resnet8/seed{seed}/dense.eager.json",
    shell:
        "touch {output}"


rule summarize:
    input:
        expand(
            STEM + "-{mode}.{kind}.json",
            seed=SEEDS,
            checkpoint=CHECKPOINTS,
            mode=MODES,
            kind=["accuracy", "size", "latency"],
        ),
        expand("results/models/resnet8/seed{seed}/dense.eager.json", seed=SEEDS),
    output:
        "results/summary.csv",
        "results/summary.md",
    shell:
        "touch {output}"


rule plot:
    input:
        "results/summary.csv",
        expand("results/models/resnet8/seed{seed}/history.csv", seed=SEEDS),
        expand("results/models/resnet8/seed{seed}/sensitivity.csv", seed=SEEDS),
    output:
        expand("results/plots/{figure}.png", figure=FIGURES),
    shell:
        "touch {output}"
