"""The answer by each objective -> results/best/{objective}: what a colleague needs to use the file.

Which file that is stands in results/answer.json, so all files of the study are inputs and the plan stays static.
"""


rule deploy:
    input:
        **{f"test_{kind}": f"results/data/test_{kind}.npy" for kind in ("images", "labels")},
        dataset="results/data/dataset.json",
        answer="results/answer.json",
        onnx_files=[row["file"] for row in PLAN.files],
        packed=[f"{row['file']}.packed" for row in PLAN.files],
        predictions=[row["predictions"] for row in PLAN.files],
        latency=[row["latency"] for row in PLAN.files],
    output:
        model="results/best/{objective}/model.onnx",
        packed="results/best/{objective}/model.onnx.packed",
        predict="results/best/{objective}/predict.py",
        unpack="results/best/{objective}/unpack.py",
        card="results/best/{objective}/README.md",
    log:
        "results/logs/deploy/{objective}.log",
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(1000),
        runtime=times_attempt(10),
    params:
        files=PLAN.files,
        # All of it, because the model card quotes it.
        configuration=config,
        code=code("deploy"),
    message:
        "Put the answer by {wildcards.objective} into results/best/{wildcards.objective}"
    script:
        "../../scripts/deploy.py"
