"""All measurements -> summary.csv and summary.md, one row per variant."""


rule summarize:
    input:
        measurements=PLAN.measurements,
        losses="results/answer/losses.csv",
        eager=[f"results/models/{name}/dense.eager.json" for name in PLAN.model_seeds],
    output:
        csv=report(
            "results/summary.csv",
            caption="../report/summary.rst",
            category="Summary",
            labels={"table": "all measurements, one row per variant"},
        ),
        markdown="results/summary.md",
    log:
        "results/logs/summarize.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(2000),
        runtime=times_attempt(30),
    params:
        variants=PLAN.summary,
        strict=config["strict"],
        eager={name: f"results/models/{name}/dense.eager.json" for name in PLAN.model_seeds},
        code=code("summarize"),
    message:
        "Join the measurements in summary.csv and summary.md"
    script:
        "../../scripts/summarize.py"
