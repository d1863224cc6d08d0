"""The configuration, the variants it asks for, and the paths that rules share."""

import ast
import functools
import sys

from snakemake.logging import logger
from snakemake.persistence import PersistenceBase
from snakemake_interface_executor_plugins.settings import ExecMode

REPOSITORY = Path(workflow.basedir).parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

from elagage.configuration import check_files, configuration, read_command_line, read_file
from elagage.errors import UserError
from elagage.files import sha256
from elagage.image_folder import image_fingerprint


def read_configuration() -> dict:
    """Return the checked configuration: of the files given, else config/config.yaml, and of --config."""
    files = workflow.config_settings.configfiles or [Path("config/config.yaml")]
    stated = read_command_line(workflow.config_settings.config)
    return configuration([*map(read_file, files), stated], f"{workflow.basedir}/schemas/config.schema.yaml")


def or_exit(function, *arguments):
    """Return what the function returns, or end with the message of its UserError alone.

    A WorkflowError would be shown with the lines of this file, which are no help to whom the message is for.
    """
    try:
        return function(*arguments)
    except UserError as error:
        logger.error(str(error))
        sys.exit(1)


def record_outputs() -> None:
    """Let a job of a cluster record how its outputs were made.

    Snakemake leaves that to the process that submitted the job. If that is killed, the outputs have no record, or an
    older one, and a later run takes them as current whatever has changed since.
    """
    finished = PersistenceBase.finished

    async def finished_in_the_main_process(persistence, job) -> None:
        settings = persistence.dag.workflow.workflow_settings
        settings.exec_mode = ExecMode.DEFAULT
        try:
            await finished(persistence, job)
        finally:
            settings.exec_mode = ExecMode.REMOTE

    PersistenceBase.finished = finished_in_the_main_process


@functools.cache
def imported_files(file: Path, folder: Path) -> frozenset[Path]:
    """Return the Python files below the folder that a file imports."""
    if not file.is_file():
        return frozenset()
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # the job that imports a user's file says what is wrong with it
        return frozenset()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    paths = {folder / f"{name.replace('.', '/')}.py" for name in names}
    return frozenset(path for path in paths if path.is_file())


@functools.cache
def with_imports(file: Path, folder: Path) -> list[Path]:
    """Return a Python file and those below the folder that it imports, directly or not."""
    found, waiting = set(), {file}
    while waiting:
        found |= waiting
        waiting = frozenset().union(*(imported_files(path, folder) for path in waiting)) - found
    return sorted(found)


@functools.cache
def code(script: str) -> str:
    """Return the names and checksums of scripts/<script>.py and of the modules that it imports, directly or not.

    As a parameter of a rule it makes an edit rerun the rules that use the edited module, and only those. Not as input
    files, because those have times, which a new clone changes, and paths, which change when a study moves.
    """
    scripts = REPOSITORY / "scripts"
    return " ".join(f"{file.stem}:{sha256(file)[:16]}" for file in with_imports(scripts / f"{script}.py", scripts))


def growing(first: int):
    """Return a resource that is `first` at the first attempt of a job and grows by as much with each retry."""
    return lambda wildcards, attempt: first * attempt


def images() -> str | None:
    """Return a checksum of the user's images; jobs of a cluster, which would read all of them again, go without."""
    if config["dataset"]["name"] != "image_folder" or not workflow.is_main_process:
        return None
    return or_exit(image_fingerprint, config["dataset"]["path"], ".snakemake/image_checksums.json")


def split_arrays(split: str) -> dict[str, str]:
    """Return the two arrays of a split as named inputs.

    They are `ancient` because dataset.json, always an input beside them, holds their checksums.
    """
    return {f"{split}_{kind}": ancient(f"results/data/{split}_{kind}.npy") for kind in ("images", "labels")}


def seeds(model: str) -> list[int]:
    """Return the seeds of a model: one whose weights are given has the first, for its retraining if there is any."""
    return config["seeds"] if MODELS[model]["weights"] is None else config["seeds"][:1]


def user_model(wildcards) -> list[str]:
    """Return the user's file that defines a model and those beside it that it imports, as inputs of a rule."""
    file = MODELS[wildcards.model]["architecture"].rpartition(":")[0]
    return list(map(str, with_imports(Path(file), Path(file).parent))) if file else []


def checkpoint(scope: str, rate: float, recovery: str) -> str:
    """Return the path of a checkpoint below its model and seed, without its ending.

    No content is computed twice: nothing is pruned at rate 0, so every scope and recovery shares the dense model
    there, and the first step of `iterative` is `rewind`.
    """
    if rate == 0:
        return "dense"
    first = next(filter(None, RATES))
    return f"{scope}/{rate}/{'rewind' if recovery == 'iterative' and rate == first else recovery}"


def low_learning_rate(stated: float | None) -> float:
    """Return the learning rate stated for a training that starts from a trained model, else a hundredth of the first.

    The papers go on at the last one (Renda et al. 2020, section 3), which is a hundredth of the first in their step
    schedules. Ours ends at zero, at which nothing learns.
    """
    return config["training"]["learning_rate"] / 100 if stated is None else stated


def with_channels_removed(wildcards) -> dict[str, str]:
    """Return the checkpoint that decides the shapes of a graph, as a named input; none for the whole model's graph."""
    folder = f"results/models/{wildcards.model}"
    return {"checkpoint": f"{folder}/{wildcards.structure}safetensors"} if wildcards.structure else {}


def graph(wildcards) -> str:
    """Return the graph of a checkpoint's shapes: the model's, or that of what was pruned by channels.

    Retraining keeps the shapes; a chain prunes anew at each rate.
    """
    folder = f"results/models/{wildcards.model}"
    scope, *rest = wildcards.checkpoint.split("/")
    if scope != "channel":
        return f"{folder}/graph.onnx"
    rate, recovery = rest
    pruned = "iterative_pruned" if recovery == "iterative" else "none"
    return f"{folder}/seed{wildcards.seed}/channel/{rate}/{pruned}.graph.onnx"


def recovered_before(wildcards) -> str:
    """Return what iterative made of the rate before, or the dense checkpoint if there is none."""
    before = max([rate for rate in RATES if rate < float(wildcards.rate)], default=0)
    path = f"results/models/{{model}}/seed{{seed}}/{checkpoint(wildcards.scope, before, 'iterative')}.safetensors"
    return path.format(**wildcards)


def to_recover(wildcards) -> str:
    """Return the pruned checkpoint that a recovery starts from."""
    pruned = "iterative_pruned" if wildcards.recovery == "iterative" else "none"
    return f"results/models/{{model}}/seed{{seed}}/{{scope}}/{{rate}}/{pruned}.safetensors".format(**wildcards)


def variants() -> list[dict]:
    """Return one row a variant, as in the summary, with the paths of its measurements."""
    rows = []
    for model in MODELS:
        for seed, scope, rate, recovery, mode in itertools.product(
            seeds(model), SCOPES, RATES, config["pruning"]["recovery"], MODES
        ):
            stem = f"results/models/{model}/seed{seed}/{checkpoint(scope, rate, recovery)}-{mode}"
            named = {"model": model, "seed": seed, "scope": scope, "rate": rate, "recovery": recovery, "mode": mode}
            rows.append(named | {kind: f"{stem}.{kind}.json" for kind in ("accuracy", "size", "latency")})
    return rows


def figures() -> list[str]:
    """Return the names of the figures that the study has data for."""
    names = [f"{scope}_pruning_{metric}" for scope in SCOPES for metric in ("accuracy", "model_size", "inference_time")]
    names += ["quantization_comparison", "pareto"]
    names += ["scopes_accuracy"] if len(SCOPES) > 1 else []
    names += ["recovery_comparison"] if len(config["pruning"]["recovery"]) > 1 else []
    names += ["training_history"] if TRAINED else []
    names += ["sensitivity"] if SENSITIVITY else []
    return names


def caption(figure: str) -> str:
    """Return the caption's file; those of the scopes share one."""
    return f"../report/{re.sub('^(local|global|channel)_pruning', 'pruning', figure)}.rst"


config = or_exit(read_configuration)
if workflow.is_main_process:
    or_exit(check_files, config)
if workflow.remote_exec:
    record_outputs()
MODELS = config["models"]
TRAINED = [model for model in MODELS if MODELS[model]["weights"] is None]
SCOPES = config["pruning"]["scopes"]
RATES = sorted(map(float, config["pruning"]["rates"]))
MODES = config["quantization"]["modes"]
SENSITIVITY = config["sensitivity"]["images"] != 0 and any(RATES)
VARIANTS = variants()
MODEL_SEEDS = [f"{model}/seed{seed}" for model in MODELS for seed in seeds(model)]
DATASET = "results/data/dataset.json"


wildcard_constraints:
    model="|".join(map(re.escape, MODELS)),
    seed="|".join(map(str, config["seeds"])),
    scope="local|global|channel",
    rate="|".join(re.escape(str(rate)) for rate in RATES),
    recovery="finetune|rewind|iterative",
    checkpoint=f"dense|[a-z]+/({'|'.join(re.escape(str(rate)) for rate in RATES)})/[a-z]+",
