"""summary.csv and the training histories -> plots/*.png."""


rule plot:
    input:
        summary="results/summary.csv",
        histories=[f"results/models/{name}/history.csv" for name in MODEL_SEEDS if name.rpartition("/")[0] in TRAINED],
        code=code("plot"),
    output:
        [report(f"results/plots/{name}.png", caption=caption(name), category="Figures") for name in figures()],
    log:
        "results/logs/plot.log",
    conda:
        "../../envs/plot.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    message:
        "Draw the figures"
    script:
        "../../scripts/plot.py"
