"""What was found out about int8, in words: which layers it harms, how ranges were calibrated, what stays float32."""

import math
from collections.abc import Mapping, Sequence

MILLI = 1000  # divergences are shown in thousandths of a nat
SHOWN = 40  # layers, at most, in a figure, and measured in float32 among others in int8: the most harmful
NAMED = 3  # layers, at most, in a sentence
OPERATORS_IN_WORDS = {"all": "all operators", "weighted": "layers with weights and matrix products"}
MEASURED = tuple(f"{kind}_{what}" for kind in ("alone", "without", "all") for what in ("divergence", "changed"))
OF_ALL = "images", "all_divergence", "all_changed"  # columns that are the same for each layer of a seed


def joined_layers(rows: Sequence[Mapping]) -> list[dict]:
    """Return a row for each layer of one model, with the means over the seeds that round it and measured the number.

    rows: of sensitivity_int8.csv, with their seed and numbers where MEASURED and in `images`, NaN for none. What is of
    all layers together is the mean over all seeds, of which each may round others, for each chooses its calibration.
    """
    layers: dict[str, list[Mapping]] = {}
    for row in rows:
        layers.setdefault(row["layer"], []).append(row)
    of_seeds = list({row["seed"]: row for row in rows}.values())
    return [
        dict(of_layer[0])
        | {name: _mean(of_layer, name) for name in MEASURED}
        | {name: _mean(of_seeds, name) for name in OF_ALL}
        for of_layer in layers.values()
    ]


def _mean(rows: Sequence[Mapping], name: str) -> float:
    measured = [row[name] for row in rows if not math.isnan(row[name])]
    return sum(measured) / len(measured) if measured else math.nan


def in_words(layers: Sequence[Mapping]) -> str:
    """Return in a sentence how many answers int8 changes, and which layer harms most; layers: as joined_layers."""
    first, together = layers[0], sum(row["alone_divergence"] for row in layers)
    changed = (
        f"All in int8, {first['all_changed']:.4g} of {first['images']:.0f} validation images are classified otherwise"
    )
    if not together:
        return f"{changed}, and no layer alone changes anything."
    worst = max(layers, key=lambda row: row["alone_divergence"])
    name, share = worst["layer"].removesuffix(".weight"), worst["alone_divergence"] / together
    before, after = (f"{MILLI * worst[f'{kind}_divergence']:.2g}" for kind in ("all", "without"))
    # The layer after one without weights rounds what it returns to the same levels.
    becomes = f"stays {before}" if after == before else f"is {after} instead of {before}"
    return (
        f"{changed}. {name} ({worst['kind']}) harms most: {share:.0%} of what the layers do one by one; with only it "
        f"in float32, the divergence {becomes} thousandths of a nat."
    )


def calibration_in_words(choice: Mapping) -> str:
    """Return in a sentence what the rule calibrate chose; choice: its calibration.json."""
    divergences = choice["divergence"]
    usual = next(iter(divergences))
    found = divergences[choice["operators"]].get(choice["method"])
    if found is None:
        return "No calibration could be chosen, because the network rules int8 out."
    operators = OPERATORS_IN_WORDS[choice["operators"]]
    words = (
        f"Ranges follow from calibration images by {choice['method']}, for {operators}: on {choice['images']} "
        f"validation images the class probabilities of the dense network are {MILLI * found:.2g} thousandths of a nat "
        "from float32"
    )
    first = divergences[usual].get("minmax")
    if first is None or (choice["operators"], choice["method"]) == (usual, "minmax"):
        return f"{words}."
    what = "" if usual == choice["operators"] else f" for {OPERATORS_IN_WORDS[usual]}"
    return f"{words}; with minmax{what} it would be {MILLI * first:.2g}."


def mixed_in_words(mixed: Mapping) -> str:
    """Return in a sentence what mode mixed leaves in float32; mixed: its mixed.json."""
    reasons = [
        f"{_named(mixed[reason])} because {why}"
        for reason, why in (
            ("for_accuracy", "validation images would lose too much"),
            ("for_time", "int8 makes them slower on the machine of the study"),
        )
        if mixed[reason]
    ]
    if not reasons:
        return "Mode mixed leaves no layer in float32: int8 neither loses too much nor makes any kind clearly slower."
    return f"Mode mixed leaves in float32 {'; '.join(reasons)}."


def _named(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return ", ".join(name.removesuffix(".weight") for name in layers[:NAMED]) + more
