"""Which layers int8 harms, in words, from the rows of sensitivity_int8.csv."""

from collections.abc import Mapping, Sequence

MILLI = 1000  # divergences are shown in thousandths of a nat
SHOWN = 40  # layers, at most, in a figure: the most harmful
MEASURED = tuple(f"{kind}_{what}" for kind in ("alone", "without", "all") for what in ("divergence", "changed"))


def joined_layers(rows: Sequence[Mapping]) -> list[dict]:
    """Return a row for each layer of one model, with the means over its seeds; rows: with numbers where MEASURED."""
    layers: dict[str, list[Mapping]] = {}
    for row in rows:
        layers.setdefault(row["layer"], []).append(row)
    return [
        dict(of_layer[0]) | {name: sum(row[name] for row in of_layer) / len(of_layer) for name in MEASURED}
        for of_layer in layers.values()
    ]


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
    before, after = (MILLI * worst[f"{kind}_divergence"] for kind in ("all", "without"))
    return (
        f"{changed}. {name} ({worst['kind']}) harms most: {share:.0%} of what the layers do one by one; with it in "
        f"float32, the divergence is {after:.2g} instead of {before:.2g} thousandths of a nat."
    )
