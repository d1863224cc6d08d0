"""summary.csv, training histories and sensitivities -> plots/*.png."""


rule plot:
    input:
        summary="results/summary.csv",
        histories=[f"results/models/{name}/history.csv" for name in PLAN.trained_seeds],
        sensitivities=[
            f"results/models/{name}/sensitivity.csv" for name in PLAN.model_seeds if PLAN.measures_sensitivity
        ],
        int8_sensitivities=[
            f"results/models/{name}/sensitivity_int8.csv"
            for name in PLAN.model_seeds
            if PLAN.measures_int8_sensitivity
        ],
    output:
        [
            report(f"results/plots/{name}.png", caption=caption(name), category="Figures", labels=labels(name))
            for name in PLAN.figures
        ],
    log:
        "results/logs/plot.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(2000),
        runtime=times_attempt(30),
    params:
        answer=config["answer"],
        code=code("plot"),
    message:
        "Draw the figures"
    script:
        "../../scripts/plot.py"
