"""The checked configuration, the plan of the study, and what rules look up by wildcard."""

import atexit
import functools
import os
import sys
import time

from snakemake.dag import DAG
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

STARTED = time.time()
REPOSITORY = Path(workflow.basedir).parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

from elagage.ancient_inputs import respect_ancient, stand_in
from elagage.code_checksum import code_checksums
from elagage.configuration import configuration
from elagage.configuration_file import read_command_line, read_file
from elagage.configured_files import check_files, check_runtimes
from elagage.errors import UserError
from elagage.files import read_json, sha256
from elagage.geometry import COVER
from elagage.image_fingerprint import image_fingerprint
from elagage.job import failures
from elagage.plan import NAMES, PRUNED, STEM, Plan, graph
from elagage.record_outputs import record_outputs
from elagage.terminal import narrate


def exit_on_user_error(function, *arguments):
    """Return what the function returns, or end with only the message of its UserError.

    A WorkflowError would be shown with the lines of this file, which do not help the user.
    """
    try:
        return function(*arguments)
    except UserError as error:
        logger.error(str(error))
        sys.exit(1)


def at_the_end(show) -> None:
    """Show something as the last lines of all, after Snakemake's: by then it has left the folder of the study."""
    folder = os.getcwd()

    def in_the_folder() -> None:
        os.chdir(folder)
        show()

    atexit.register(in_the_folder)


def show_failures() -> None:
    """Show the messages of the jobs that failed in this run, each once, with the logs that have them."""
    for message, logs in failures("results/logs", STARTED).items():
        others = f" and {len(logs) - 1} more" if len(logs) > 1 else ""
        print(f"\nerror: {message}\n(log: {logs[0]}{others})", file=sys.stderr)


def made_the_answer(targets) -> bool:
    """Return whether the answer is there, and a run with these target jobs made it for its user."""
    return os.path.exists("results/answer.json") and any(
        job.rule.name in ("all", "certify", "deploy") for job in targets
    )


def show_answer() -> None:
    """Show which files to deploy, and the page to read on."""
    page = "results/report.html" if os.path.exists("results/report.html") else "results/answer.md"
    answer = read_json("results/answer.json")
    print(
        "",
        *answer["doubts"],
        *answer["sentences"],
        f"All of it, on a page to send to a colleague: {os.path.abspath(page)}",
        sep="\n",
    )


def read_configuration() -> dict:
    """Return the checked configuration: of the files given, else config/config.yaml, and of --config."""
    files = workflow.config_settings.configfiles or [Path("config/config.yaml")]
    stated = read_command_line(workflow.config_settings.config)
    notes = logger.warning if workflow.is_main_process else logger.debug
    return configuration([*map(read_file, files), stated], f"{workflow.basedir}/schemas/config.schema.yaml", notes)


@functools.cache
def code(script: str) -> str:
    """Return the names and checksums of scripts/<script>.py and of the modules that it imports."""
    return code_checksums(REPOSITORY / "scripts" / f"{script}.py", (REPOSITORY / "scripts",))


@functools.cache
def user_code(model: str) -> str | None:
    """Return the names and checksums of the user's files that define a model, None if it is built in."""
    return PLAN.user_code(model)


def times_attempt(first: int):
    """Return a resource that is `first` in the first attempt of a job and grows by as much with each retry."""
    return lambda wildcards, attempt: first * attempt


def megabytes(first: int, per_weight: float = 0, per_image: float = 0):
    """Return the memory of a job: that of a small one, and what it takes beside it, more with each retry.

    per_weight: times the bytes of the checkpoints and ONNX files that it reads; per_image: times those of a float32
    channel of an image.
    """

    def resource(wildcards, input, attempt):
        weights = sum(os.path.getsize(file) for file in input if file.endswith((".safetensors", ".onnx")))
        image = 4 * (config["dataset"]["image_size"] or 0) ** 2
        return attempt * round(first + (per_weight * weights + per_image * image) / 1e6)

    return resource


def image_checksum() -> str | None:
    """Return a checksum of the user's images, None in jobs of a cluster, which would read all of them again."""
    if config["dataset"]["name"] != "image_folder" or not workflow.is_main_process:
        return None
    return exit_on_user_error(image_fingerprint, config["dataset"]["path"], ".snakemake/image_checksums.json")


def data_file(name: str):
    """Return a function that looks up a file of the images as a job's model takes them."""
    return lambda wildcards: f"{PLAN.data(wildcards.model)}/{name}"


DATASET = data_file("dataset.json")


def split_arrays(split: str) -> dict:
    """Return the two arrays of a split as named inputs.

    They are `ancient` because dataset.json, always an input beside them, holds their checksums.
    """
    return {f"{split}_{kind}": ancient(data_file(f"{split}_{kind}.npy")) for kind in ("images", "labels")}


def architecture(wildcards) -> str:
    """Return the architecture of a job's model."""
    return config["models"][wildcards.model]["architecture"]


def trained_with(wildcards) -> dict:
    """Return what the weights of a job's model expect of images, and the order of its classes."""
    return PLAN.trained_with(wildcards.model)


def given_dense(wildcards) -> list[str]:
    """Return the dense checkpoint of a model whose weights are given, none for one that is trained."""
    return [f"results/models/{name}/dense.safetensors" for name in PLAN.given_seeds(wildcards.model)]


def graph_of(wildcards) -> str:
    """Return the graph of the shapes of a job's checkpoint."""
    return graph(wildcards.model, wildcards.seed, wildcards.checkpoint)


def pruned_checkpoint(wildcards) -> str:
    """Return the pruned checkpoint that a recovery that trains starts from."""
    return f"{PRUNED}/{PLAN.start(wildcards.recovery)}.safetensors".format(**wildcards)


def recovered_before(wildcards) -> str:
    """Return the checkpoint that iterative recovered at the rate before."""
    before = PLAN.recovered_before(wildcards.scope, float(wildcards.rate))
    return f"{STEM}.safetensors".format(**wildcards, **{"checkpoint": before})


def control_before(wildcards) -> str:
    """Return the checkpoint that a control trains on from: the dense one, or the control of the step before."""
    step = int(wildcards.step) - 1
    before = f"control/{'rewind' if step == 1 else 'iterative'}/{step}" if step else "dense"
    return f"{STEM}.safetensors".format(**wildcards, checkpoint=before)


def caption(figure: str) -> str:
    """Return the caption's file; those of the scopes share one."""
    return f"../report/{re.sub('^(local|global|channel)_pruning', 'pruning', figure)}.rst"


def labels(figure: str) -> dict[str, str]:
    """Return what the report lists a figure by: what it shows and, if it is of one scope, which."""
    scope, _, name = figure.rpartition("_pruning_")
    return {"figure": name.replace("_", " ")} | ({"scope": scope} if scope else {})


def one_of(names) -> str:
    """Return a wildcard's constraint: one of these names, which may be none."""
    return "|".join(map(re.escape, names)) or "(?!)"


if workflow.is_main_process and not (workflow.output_settings.dryrun or workflow.output_settings.verbose):
    narrate(logger)
config = exit_on_user_error(read_configuration)
if workflow.is_main_process:
    exit_on_user_error(check_files, config, logger.warning)
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        exit_on_user_error(check_runtimes, config)
PLAN = Plan(config)
respect_ancient(DAG)
# What trains waits for the check of its model, but does not run again when the check does: a study that asks for one
# more rate or mode trains nothing again.
CHECKED = ancient("results/check/{model}.json")
if workflow.is_main_process:
    for model in config["models"]:
        trained = [f"results/models/{model}/seed{seed}/dense.safetensors" for seed in PLAN.seeds(model)]
        stand_in(f"results/check/{model}.json", trained)
if workflow.remote_exec:
    record_outputs()


wildcard_constraints:
    objective=one_of(config["answer"]["objectives"]),
    model=one_of(config["models"]),
    seed=one_of(map(str, config["seeds"])),
    geometry=one_of(PLAN.other_geometries),
    scope="local|global|channel",
    rate=one_of(map(str, PLAN.rates)),
    recovery=one_of(PLAN.retraining_recoveries),
    step=r"\d+",
    checkpoint=rf"dense|control/[a-z]+/\d+|[a-z]+/({one_of(map(str, PLAN.rates))})/[a-z_]+",
