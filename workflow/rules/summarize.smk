"""All measurements -> summary.csv and summary.md, one row a variant."""


rule summarize:
    input:
        measurements=sorted({row[kind] for row in VARIANTS for kind in ("accuracy", "size", "latency")}),
        eager=[f"results/models/{name}/dense.eager.json" for name in MODEL_SEEDS],
    output:
        csv=report("results/summary.csv", caption="../report/summary.rst", category="Summary"),
        markdown="results/summary.md",
    log:
        "results/logs/summarize.log",
    conda:
        "../../envs/summarize.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        variants=VARIANTS,
        eager={name: f"results/models/{name}/dense.eager.json" for name in MODEL_SEEDS},
        code=code("summarize"),
    message:
        "Join the measurements in summary.csv and summary.md"
    script:
        "../../scripts/summarize.py"
