"""summary.csv, training histories and sensitivities -> plots/*.png."""


rule plot:
    input:
        summary="results/summary.csv",
        histories=[f"results/models/{name}/history.csv" for name in MODEL_SEEDS if name.rpartition("/")[0] in TRAINED],
        sensitivities=[f"results/models/{name}/sensitivity.csv" for name in MODEL_SEEDS if SENSITIVITY],
    output:
        [report(f"results/plots/{name}.png", caption=caption(name), category="Figures") for name in figures()],
    log:
        "results/logs/plot.log",
    conda:
        "../../envs/plot.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("plot"),
    message:
        "Draw the figures"
    script:
        "../../scripts/plot.py"
