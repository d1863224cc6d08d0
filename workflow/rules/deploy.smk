"""The answer by each objective -> results/best/{objective}: what a colleague needs to use the file.

Which file that is stands in results/answer.json, so all files of the study are inputs and the plan stays static.
"""

DEPLOYED = {
    "model": "model.onnx",
    "packed": "model.onnx.packed",
    "predict": "predict.py",
    "unpack": "unpack.py",
    "card": "README.md",
}
DATASETS = {model: f"{PLAN.data(model)}/dataset.json" for model in config["models"]}


rule deploy:
    input:
        test_labels="results/data/test_labels.npy",
        datasets=list(dict.fromkeys(DATASETS.values())),
        answer="results/answer.json",
        onnx_files=[row["file"] for row in PLAN.files],
        packed=[f"{row['file']}.packed" for row in PLAN.files],
        predictions=[row["predictions"] for row in PLAN.files],
        latency=[row["latency"] for row in PLAN.files],
    output:
        **{
            name: expand("results/best/{objective}/{file}", objective=config["answer"]["objectives"], file=file)
            for name, file in DEPLOYED.items()
        },
    log:
        "results/logs/deploy.log",
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(1000),
        runtime=times_attempt(10),
    params:
        objectives=config["answer"]["objectives"],
        files=PLAN.files,
        datasets=DATASETS,
        # All of it, because the model card quotes it.
        configuration=config,
        code=code("deploy"),
    message:
        "Put the answer by {params.objectives} into results/best/"
    script:
        "../../scripts/deploy.py"
