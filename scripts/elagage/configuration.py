"""The configuration: read, completed from the schema's defaults, and checked before any job starts."""

import difflib
import importlib.util
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping

import jsonschema
import yaml

from elagage.data import KNOWN_SIZES, OWN_SIZES, USUAL_IMAGES, check_classes
from elagage.errors import UserError
from elagage.image_folder import ImageFolder, scan_image_folder
from elagage.modes import CALIBRATED
from elagage.plan import Plan

MODEL_FILES = "architecture", "weights"
RECORDS = ".snakemake/metadata"  # where Snakemake keeps how each file was made, by which it finds what has changed
# Endings of files that hold models of other kinds, which cannot be trained in PyTorch.
OTHER_MODELS = {".onnx": "ONNX", ".h5": "Keras", ".keras": "Keras", ".tflite": "TensorFlow Lite", ".pb": "TensorFlow"}
# Trainings that start from a trained model take training.learning_rate divided by this. The papers go on at the last
# learning rate (Renda et al. 2020, section 3), a hundredth of the first in their step schedules. Ours ends at 0, where
# nothing learns.
LEARNING_RATE_DIVISOR = 100
EPOCHS_DIVISOR = 3  # of training.epochs, for a recovery that trains: docs/comparing.md has what more would buy


def _is_finite_number(checker, value) -> bool:
    is_number = jsonschema.Draft202012Validator.TYPE_CHECKER.is_type(value, "number")
    return is_number and (isinstance(value, int) or math.isfinite(value))  # isfinite takes no int of 400 digits


def _is_whole_number(checker, value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# Comparisons with .nan are all false, so minimum and maximum would let it pass; 1.0 is an integer to JSON Schema.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"number": _is_finite_number, "integer": _is_whole_number}
    ),
)


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is stated twice is a mistake: the parser would silently drop the first."""

    def construct_object(self, node, deep=False):
        """Name the line of a value that Python refuses, such as a date of month 13."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(problem=str(error), problem_mark=node.start_mark) from error

    def construct_mapping(self, node, deep=False):
        """Refuse keys that are stated twice, except the merge key `<<`."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_plain_int(self, node):
        """Refuse numbers that YAML 1.1 reads otherwise than people do: 010 as 8, 1:30 as 90."""
        value = self.construct_yaml_int(node)
        if ":" in node.value or re.match(r"[-+]?0[0-9_]", node.value):
            raise yaml.constructor.ConstructorError(
                problem=f"{node.value} means {value} in YAML; write {value}, or the number that is meant",
                problem_mark=node.start_mark,
            )
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_plain_int)


def read_file(path: str | os.PathLike) -> dict:
    """Return the content of a configuration file (YAML, or JSON, which is YAML too).

    Raises UserError with file and line if it is missing, is no YAML, states a key twice or is no table.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        content = yaml.load(text, _Loader)
    except FileNotFoundError as error:
        raise UserError(f"there is no {path} in {os.getcwd()}; name one with --configfile") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a configuration file with --configfile") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line}: not encoded in UTF-8; save the file as UTF-8") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise UserError(f"{path}: line {line}: a character of code {error.character:#x}; remove it") from error
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: {place}{error.problem}") from error
    except RecursionError as error:
        raise UserError(f"{path}: nests lists or tables too deep; write it flat") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {content!r}, not a table of keys and values such as seeds: [0]")
    return content


def read_command_line(value):
    """Return what `--config` gave, with numbers inside lists and tables as numbers: Snakemake passes them as text."""
    if isinstance(value, Mapping):
        return {key: read_command_line(part) for key, part in value.items()}
    if isinstance(value, list):
        return [read_command_line(part) for part in value]
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except (yaml.YAMLError, ValueError, RecursionError):
        return value


def complete(value, schema: Mapping):
    """Return `value`, and the tables inside it, with the schema's default for every key that they leave out."""
    if not isinstance(value, Mapping):
        return value
    known = schema.get("properties", {})
    completed = {
        key: complete(value[key] if key in value else part["default"], part)
        for key, part in known.items()
        if key in value or "default" in part
    }
    other = schema.get("additionalProperties") or {}
    return completed | {key: complete(part, other) for key, part in value.items() if key not in known}


def configuration(
    parts: Iterable[Mapping], schema_path: str | os.PathLike, note: Callable[[str], object] = print
) -> dict:
    """Return the configuration that `parts` give, completed and checked.

    Of several parts (files, then the command line) the last one that states a top-level key decides it whole:
    tables are replaced, never merged. `note` is called with what the user should know of old names and of what is
    replaced. Raises UserError with every mistake, one per line.
    """
    schema = yaml.safe_load(pathlib.Path(schema_path).read_text())
    stated: dict[str, object] = {}
    for part in parts:
        if not isinstance(part, Mapping):
            raise UserError(f"configuration: {part!r} is not a table of keys and values")
        for key in [key for key in part if stated.get(key) != part[key]]:
            _note_replaced(str(key), stated.get(key), part[key], note)
        stated |= part
    config = complete(stated, schema)
    _rename_mode_none(config, note)
    mistakes = sorted(_Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))
    if mistakes:
        raise UserError("\n".join(f"configuration: {_message(mistake, schema)}" for mistake in mistakes))
    if config["retraining"]["epochs"] is None:
        config["retraining"]["epochs"] = math.ceil(config["training"]["epochs"] / EPOCHS_DIVISOR)
    _check_epochs(config)
    _check_reference(config)
    _check_meant(stated, config)
    for table, key in (("retraining", "learning_rate"), ("quantization", "qat_learning_rate")):
        if config[table][key] is None:
            config[table][key] = config["training"]["learning_rate"] / LEARNING_RATE_DIVISOR
    return config


def _note_replaced(table: str, before: object, after: object, note: Callable[[str], object]) -> None:
    """Say which keys of a table are lost where a later part states the table again without them."""
    if (
        isinstance(before, Mapping)
        and isinstance(after, Mapping)
        and (lost := [key for key in before if key not in after])
    ):
        note(
            f"configuration: {table}: is stated twice, and the last one replaces the whole table, without "
            f"{', '.join(map(str, lost))}; state there what is to stay"
        )


def _check_meant(stated: Mapping, config: Mapping) -> None:
    """Raise UserError if a key that is stated would be ignored because the key that it belongs to is left out."""
    dataset = stated.get("dataset", {})
    if "path" in dataset and "name" not in dataset:
        raise UserError(
            f"configuration: dataset.path: {dataset['path']!r}, but dataset.name is left out, which means "
            f"{config['dataset']['name']}, without a path; state name: image_folder for images of your own"
        )
    for name, model in config["models"].items():
        for key in ("accuracy", "weights_key"):
            if model[key] is not None and model["weights"] is None:
                raise UserError(
                    f"configuration: models.{name}.{key}: {model[key]!r} is of given weights, and there are none; "
                    f"state models.{name}.weights, or remove {key}"
                )


def _rename_mode_none(config: Mapping, note: Callable[[str], object]) -> None:
    """Rename the mode `none` to float32, its present name; raise UserError if both are named."""
    quantization = config["quantization"]
    modes = quantization.get("modes") if isinstance(quantization, Mapping) else None
    if not isinstance(modes, list) or "none" not in modes:
        return
    if "float32" in modes:
        raise UserError(
            f"configuration: quantization.modes: {modes} names float32 twice: none is its former name; remove none"
        )
    note("configuration: quantization.modes: none is now called float32, and is read as that; rename it")
    quantization["modes"] = ["float32" if mode == "none" else mode for mode in modes]


def _check_epochs(config: Mapping) -> None:
    """Raise UserError if training would end in its warm-up, or a recovery go back further than training lasted."""
    rewinding = [name for name in Plan(config).all_recoveries if name in ("rewind", "iterative")]
    rewound, trained = config["retraining"]["epochs"], config["training"]["epochs"]
    if (warmup := config["training"]["warmup_epochs"]) > trained:
        raise UserError(
            f"configuration: training.warmup_epochs: {warmup} epochs would not end within training.epochs, which is "
            f"{trained}; lower training.warmup_epochs to {trained} or less"
        )
    if rewinding and rewound > trained:
        raise UserError(
            f"configuration: retraining.epochs: {rewinding[0]} would go back {rewound} epochs, but training.epochs is "
            f"{trained}; lower retraining.epochs to {trained} or less"
        )


def _check_reference(config: Mapping) -> None:
    """Raise UserError if the answer's reference is no model of the study."""
    name, models = config["answer"]["reference"], list(config["models"])
    if name is not None and name not in models:
        raise UserError(
            f"configuration: answer.reference: {name!r} is no model of the study; name one of {', '.join(models)}, or "
            f"say null"
        )


def _message(mistake: jsonschema.ValidationError, schema: Mapping) -> str:
    place = ""
    for part in mistake.absolute_path:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    prefix = f"{place}." if place else ""
    if mistake.validator == "additionalProperties":
        known = mistake.schema["properties"]
        unknown = [key for key in mistake.instance if key not in known]
        hints = {key: _nearest(str(key), prefix, known, schema) for key in unknown}
        return "; ".join(f"{prefix}{key}: unknown key{hints[key]} Allowed: {', '.join(known)}" for key in unknown)
    if mistake.validator == "required":
        key = mistake.message.split("'")[1]
        return f"{prefix}{key}: missing; state it. Allowed: {mistake.schema['properties'][key]['description']}"
    problem = f"{mistake.instance!r} does not fit" if mistake.validator == "pattern" else mistake.message
    text = f"{place or 'the whole'}: {problem}"
    if isinstance(mistake.instance, str) and mistake.validator == "type" and _reads_as_number(mistake.instance):
        number = float(mistake.instance)
        written = int(number) if "integer" in mistake.validator_value and number.is_integer() else number
        # Not Python's 1e-05, which YAML reads as text as well.
        text += f" (YAML reads {mistake.instance!r} as text: write {yaml.safe_dump(written).split()[0]})"
    kind = OTHER_MODELS.get(pathlib.Path(str(mistake.instance)).suffix.lower())
    if kind and place.startswith("models."):
        text += f": it is a model of {kind}; bring the PyTorch model, as architecture file.py:function and its weights"
    allowed = mistake.schema.get("description", "")
    if mistake.validator == "type" and "properties" in mistake.schema:
        allowed = f"a table of {', '.join(mistake.schema['properties'])}"
    return f"{text}. Allowed: {allowed}"


def _nearest(key: str, prefix: str, known: Iterable[str], schema: Mapping) -> str:
    """Return a hint at the key that was meant: a similar one in the same table, or the same name in another table."""
    if near := difflib.get_close_matches(key, known, 1):
        return f"; did you mean {prefix}{near[0]}?"
    tables = {f"{name}.": part.get("properties", {}) for name, part in schema["properties"].items()}
    places = [name + key for name, keys in ({"": schema["properties"]} | tables).items() if key in keys]
    return f"; did you mean {' or '.join(places)}?" if places else "."


def _reads_as_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check_runtimes(config: Mapping) -> None:
    """Raise UserError if a runtime that the configuration names is not installed."""
    for name in config["evaluation"]["runtimes"]:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"configuration: evaluation.runtimes: {name} is not installed; run `make {name}`, or let Snakemake "
                f"install it (--sdm conda), or remove it from the list"
            )


def check_files(config: Mapping, note: Callable[[str], object] = print) -> None:
    """Raise UserError if a file or folder that the configuration names is missing, or has too few images.

    `note` is called with what the user should know of how images are split, left out or fewer than usual, and if
    results are there without Snakemake's records of them.
    """
    if os.path.exists("results") and not os.path.isdir("results"):
        raise UserError(f"there is a file 'results' in {os.getcwd()}, where the study makes a folder; rename it")
    if os.path.exists("results/data/dataset.json") and not any(pathlib.Path(RECORDS).glob("*")):
        note(
            f"results: {os.getcwd()} has no {RECORDS}, which says how they were made, so what has changed since goes "
            f"unnoticed; if anything may have, delete results/data and results/models, and run again"
        )
    dataset = config["dataset"]
    for key, path in (
        ("dataset.path", dataset["path"]),
        *((f"models.{name}.{key}", model[key]) for name, model in config["models"].items() for key in MODEL_FILES),
    ):
        if (path or "").startswith("~"):
            raise UserError(f"configuration: {key}: {path!r}: ~ is not expanded; write {os.path.expanduser(path)!r}")
    if dataset["name"] == "image_folder" and dataset["image_size"] is None:
        raise UserError("configuration: dataset.image_size: an image_folder needs a size in pixels, such as 32")
    for name, model in config["models"].items():
        resize, size = model["preprocessing"]["resize"], dataset["image_size"] or OWN_SIZES[dataset["name"]]
        if isinstance(resize, int) and resize < size:
            raise UserError(
                f"configuration: models.{name}.preprocessing.resize: {resize} is less than the {size} pixels of "
                f"dataset.image_size, to which images are cropped after it; state {size} or more"
            )
        file, _, function = model["architecture"].rpartition(":")
        if function and file and not os.path.isfile(file):
            raise UserError(f"configuration: models.{name}.architecture: there is no file {file!r} in {os.getcwd()}")
        if model["weights"] is None:
            continue
        if pathlib.Path(os.path.realpath(model["weights"])).is_relative_to(os.path.realpath(f"results/models/{name}")):
            raise UserError(
                f"configuration: models.{name}.weights: {model['weights']!r} is where the study writes this model; "
                f"move the file out of results/"
            )
        if not os.path.isfile(model["weights"]):
            raise UserError(
                f"configuration: models.{name}.weights: there is no file {model['weights']!r} in {os.getcwd()}"
            )
    folder = scan_image_folder(dataset["path"]) if dataset["name"] == "image_folder" else None
    if folder:
        for name, model in config["models"].items():
            if model["classes"] is not None:
                check_classes(model["classes"], folder.classes, f"configuration: models.{name}.classes")
    _check_counts(config, folder, note)


def _image_counts(dataset: Mapping, folder: ImageFolder | None) -> tuple[dict[str, int], list[str]]:
    """Return the images of each split before any is decoded, and what is to be known of them."""
    if folder is None:
        (train, test), given, notes = KNOWN_SIZES[dataset["name"]], None, []
    else:
        sizes = {split: len(files) for split, files in folder.splits.items()}
        train, test, given, notes = sizes["train"], sizes["test"], sizes.get("validation"), folder.notes
    validation = math.ceil(train * dataset["validation_fraction"]) if given is None else given
    return {"train": train - (validation if given is None else 0), "validation": validation, "test": test}, notes


def _check_counts(config: Mapping, folder: ImageFolder | None, note: Callable[[str], object]) -> None:
    """Raise UserError if more images are stated than there will be; note where fewer than usual are there."""
    counts, notes = _image_counts(config["dataset"], folder)
    calibrated = {*CALIBRATED, "qat"} & set(config["quantization"]["modes"])
    recoveries = Plan(config).all_recoveries
    uses = {  # key -> split that it takes images of
        "quantization.calibration_images": "train" if calibrated else None,
        "retraining.batchnorm_images": "train" if "batchnorm" in recoveries else None,
        "retraining.reconstruct_images": "train" if "reconstruct" in recoveries else None,
        "sensitivity.images": "validation",
        "evaluation.latency_images": "test",
    }
    mistakes = []
    for key, split in uses.items():
        table, _, name = key.partition(".")
        asked, there = config[table][name], counts[split] if split else None
        if there is not None and asked is not None and asked > there:
            mistakes.append(
                f"configuration: {key}: {asked} images asked for, but there are only {there} {split} images; lower it"
            )
        elif there is not None and asked is None and there < USUAL_IMAGES[key] and key != "sensitivity.images":
            notes.append(f"{key}: all {there} {split} images are taken, fewer than the usual {USUAL_IMAGES[key]}")
    if mistakes:
        raise UserError("\n".join(mistakes))
    for text in notes:
        note(text)
