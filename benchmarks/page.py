"""Size of the page of a study of 1,000 files, and time to write it and to open it in a headless Chromium.

Its tables are those of a finished study, whose rows are repeated with other seeds and losses. Prints a Markdown table.
"""

import argparse
import csv
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

from report_page import report_page  # noqa: E402

DRAWN = "const done = arguments[0]; Promise.all(views).then(() => done(performance.now() / 1000));"


def repeat(results: pathlib.Path, files: int, summary: pathlib.Path) -> None:
    """Write the summary of a study with so many files."""
    with open(results / "summary.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["refused"]]
    repeated = list({row["file"]: row for row in rows}.values())
    for number in range(files - len(repeated)):
        row = dict(repeated[number % len(rows)])
        loss = float(row["loss_points"]) + random.gauss(0, 1)
        numbers = {"loss_points": loss, "loss_low": loss - 1, "loss_high": loss + 1, "seed": 1 + number // len(rows)}
        repeated.append(row | numbers | {"file": f"{row['file']}.{number}"})
    with open(summary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(repeated)


def opened(page: pathlib.Path) -> tuple[float, float]:
    """Return the seconds until all charts are drawn, and the CPU seconds of the page."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1280,1000"):
        options.add_argument(argument)
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        driver.get(page.as_uri())
        seconds = driver.execute_async_script(DRAWN)
        metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    finally:
        driver.quit()
    return seconds, next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=pathlib.Path, help="folder of the results of a finished study")
    results = parser.parse_args().results
    answer = results / "answer.json"
    model, seed = (json.loads(answer.read_text())["reference"][name] for name in ("model", "seed"))
    of_model = results / f"models/{model}/seed{seed}"
    names = {"histories": "history", "sensitivities": "sensitivity", "int8_sensitivities": "sensitivity_int8"}
    tables = {kind: [str(of_model / f"{name}.csv")] for kind, name in names.items()}
    configuration = {"dataset": {"name": "digits"}, "models": {model: {}}}
    print("| files | page (MB) | written (s) | opened (s) | CPU to open (s) |\n|---|---|---|---|---|")
    for files in (100, 1000):
        with tempfile.TemporaryDirectory() as folder:
            summary, page = pathlib.Path(folder, "summary.csv"), pathlib.Path(folder, "report.html")
            repeat(results, files, summary)
            start = time.perf_counter()
            report_page(
                summary,
                answer,
                **tables,
                choices=[],
                lost_images=results / "answer/lost_images.json",
                elsewhere=None,
                configuration=configuration,
                output=page,
            )
            written = time.perf_counter() - start
            seconds, cpu = opened(page)
            print(
                f"| {files} | {page.stat().st_size / 1e6:.1f} | {written:.1f} | {seconds:.1f} | {cpu:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
