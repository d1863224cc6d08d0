"""summary.csv, answer.json, lost images, training histories and sensitivities -> report.html, the page of the study."""


rule report_page:
    input:
        summary="results/summary.csv",
        answer="results/answer.json",
        lost_images="results/answer/lost_images.json",
        histories=[f"results/models/{name}/history.csv" for name in PLAN.trained_seeds],
        sensitivities=[
            f"results/models/{name}/sensitivity.csv" for name in PLAN.model_seeds if PLAN.measures_sensitivity
        ],
        int8_sensitivities=[
            f"results/models/{name}/sensitivity_int8.csv"
            for name in PLAN.model_seeds
            if PLAN.measures_int8_sensitivity
        ],
        calibrations=[f"results/models/{name}/calibration.json" for name in PLAN.model_seeds if PLAN.calibrates],
        mixtures=[f"results/models/{name}/mixed.json" for name in PLAN.model_seeds if MIXED],
        elsewhere=rules.read_elsewhere.output.json if ELSEWHERE else [],
    output:
        report(
            "results/report.html",
            caption="../report/report_page.rst",
            category="Answer",
            labels={"page": "the answer, with its charts and tables"},
        ),
    log:
        "results/logs/report_page.log",
    conda:
        "../../envs/page.yaml"
    threads: 1
    resources:
        mem_mb=times_attempt(2000),
        runtime=times_attempt(30),
    params:
        configuration=config,
        # The template, the style and the behaviour of the page are no Python.
        looks=[sha256(REPOSITORY / f"scripts/elagage/page/page.{ending}") for ending in ("html", "css", "js")],
        code=code("report_page"),
    message:
        "Write the page of the study"
    script:
        "../../scripts/report_page.py"
