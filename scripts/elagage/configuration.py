"""The configuration: read, completed from the schema's defaults, and checked before any job starts."""

import difflib
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping

import jsonschema
import yaml

from elagage.errors import UserError
from elagage.plan import Plan

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
