"""Measurements and predictions -> the answer: which file to deploy, what it costs, and how sure that is.

`order` sees no label and no prediction of a test image; `certify` tests on them what it put in order.
"""


rule order:
    input:
        validation_labels="results/data/validation_labels.npy",
        dataset="results/data/dataset.json",
        costs=[row[kind] for row in PLAN.files for kind in ("size", "latency")],
        predictions=[row["validation_predictions"] for row in PLAN.files],
    output:
        "results/answer/order.json",
    log:
        "results/logs/order.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(2000),
        runtime=times_attempt(30),
    params:
        files=PLAN.files,
        answer=config["answer"],
        seen=[name for name, model in config["models"].items() if model["validation"] == "seen"],
        code=code("order"),
    message:
        "Order the files by validation images, for the answer"
    script:
        "../../scripts/order.py"


rule certify:
    input:
        test_labels="results/data/test_labels.npy",
        dataset="results/data/dataset.json",
        order="results/answer/order.json",
        predictions=[row["predictions"] for row in PLAN.files],
    output:
        losses="results/answer/losses.csv",
        json="results/answer.json",
        markdown="results/answer.md",
    log:
        "results/logs/certify.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(2000),
        runtime=times_attempt(10),
    params:
        files=PLAN.files,
        variants=[{name: row[name] for name in (*NAMES, "file")} for row in PLAN.variants],
        answer=config["answer"],
        code=code("certify"),
    message:
        "Compare each file with the reference, image by image, and certify those that may be the answer"
    script:
        "../../scripts/certify.py"


rule lost_images:
    input:
        **{f"test_{kind}": f"results/data/test_{kind}.npy" for kind in ("images", "labels")},
        test_files="results/data/test_files.json",
        dataset="results/data/dataset.json",
        answer="results/answer.json",
        predictions=[row["predictions"] for row in PLAN.files],
    output:
        "results/answer/lost_images.json",
    log:
        "results/logs/lost_images.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(2000),
        runtime=times_attempt(10),
    params:
        files=PLAN.files,
        code=code("lost_images"),
    message:
        "Find the images that compression loses most often"
    script:
        "../../scripts/lost_images.py"
