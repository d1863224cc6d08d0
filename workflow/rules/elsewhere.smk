"""Files of the study on other machines: results/elsewhere.pyz times them there; elsewhere/*.csv are what it wrote."""

ELSEWHERE = sorted(map(str, Path("elsewhere").glob("*.csv")))


rule bundle_elsewhere:
    input:
        answer="results/answer.json",
        dataset="results/data/dataset.json",
        test_images=list(dict.fromkeys(f"{PLAN.data(model)}/test_images.npy" for model in config["models"])),
        onnx_files=[row["file"] for row in PLAN.files],
        predictions=[row["predictions"] for row in PLAN.files],
    output:
        program="results/elsewhere.pyz",
    log:
        "results/logs/bundle_elsewhere.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(2000),
        runtime=times_attempt(10),
    params:
        files=PLAN.files,
        images={model: f"{PLAN.data(model)}/test_images.npy" for model in config["models"]},
        program=sha256(REPOSITORY / "scripts/time_elsewhere.py"),
        code=code("bundle_elsewhere"),
    message:
        "Put the answer into a program that times it on another machine"
    script:
        "../../scripts/bundle_elsewhere.py"


rule read_elsewhere:
    input:
        tables=ELSEWHERE,
        onnx_files=[row["file"] for row in PLAN.files],
    output:
        json="results/elsewhere.json",
    log:
        "results/logs/read_elsewhere.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(1000),
        runtime=times_attempt(10),
    params:
        code=code("read_elsewhere"),
    message:
        "Join the times of other machines"
    script:
        "../../scripts/read_elsewhere.py"
