"""What the answer says in words, of the numbers that stand beside it in answer.json."""

from collections.abc import Mapping

from elagage.objectives import OBJECTIVES


def described(row: Mapping) -> str:
    """Return which file a row is of."""
    if row["rate"] == 0:
        longer = f" trained longer ({row['recovery']})" if row["recovery"] else ""
        return f"{row['model']}, seed {row['seed']}, dense{longer}, {row['mode']}"
    pruned = f"{row['scope']} pruning at {percent(row['rate'])}"
    return f"{row['model']}, seed {row['seed']}, {pruned}, {recovered(row['recovery'])}, {row['mode']}"


def percent(share: float) -> str:
    """Return a share as it was stated: 99.9% is not 100%."""
    return f"{100 * share:.10g}%"


def recovered(recovery: str) -> str:
    """Return what followed pruning."""
    return "as pruned" if recovery == "none" else recovery


def in_points(margin: float) -> str:
    """Return a margin."""
    return "1 point" if margin == 1 else f"{margin:g} points"


def changes(points: float) -> str:
    """Return a loss, in points, as what a file does."""
    return f"{'gains' if points < 0 else 'loses'} {abs(points):.2f} points"


def answer(objectives: list[str], chosen: Mapping, reference: Mapping, found: Mapping) -> str:
    """Return what to deploy by these objectives, whose answer is the same file, what it costs and what it loses.

    chosen: of the first of them; found: the whole answer.
    """
    named = joined([name.replace("_", " ") for name in objectives])
    asked = [OBJECTIVES[name] for name in objectives]
    costs = [by.written.format(chosen["costs"][name][1]) for name, by in zip(objectives, asked, strict=True)]
    if chosen["is_reference"]:
        takes = joined([f"{by.what} takes {cost}" for by, cost in zip(asked, costs, strict=True)])
        return (
            f"By {named}, no cheaper file is certified to lose less than {found['margin']}; deploy the reference "
            f"{chosen['best']} ({chosen['described']}; {takes})."
        )
    before = [by.written.format(reference["costs"][name][1]) for name, by in zip(objectives, asked, strict=True)]
    ratios = [by.times_better(chosen["times_better"][name]) for name, by in zip(objectives, asked, strict=True)]
    takes = joined(
        [
            f"{by.what} takes {cost} instead of {was} ({ratio})"
            for by, cost, was, ratio in zip(asked, costs, before, ratios, strict=True)
        ]
    )
    control = chosen["control_loss_points"]
    longer = "" if control is None else f" (against the dense network trained as much longer it {changes(control)})"
    return (
        f"By {named}, deploy {chosen['best']} ({chosen['described']}): {takes}; on {found['test_images']:,} test "
        f"images it {changes(chosen['loss_points'])} of accuracy{longer}, and with {percent(found['confidence'])} "
        f"confidence it loses less than {found['margin']}."
    )


def objectives_by_file(found: Mapping) -> list[list[str]]:
    """Return the objectives of the answer, together where the same file is best by several."""
    by_file: dict[str, list[str]] = {}
    for objective, chosen in found["answers"].items():
        by_file.setdefault(chosen["file"], []).append(objective)
    return list(by_file.values())


def answers(found: Mapping) -> list[str]:
    """Return a sentence for each file that is the answer by one objective or several."""
    return [
        answer(objectives, found["answers"][objectives[0]], found["reference"], found)
        for objectives in objectives_by_file(found)
    ]


def doubt(accuracy: float, low: float, most_frequent: float, margin: float) -> str | None:
    """Return a warning if the reference is so bad that nothing can lose much against it.

    accuracy, low: of the reference on test images, and the lower bound; most_frequent: the share of the images that are
    of the most frequent class; all are shares. margin: in points.
    """
    if low > most_frequent and 100 * accuracy > margin:
        return None
    return (
        f"Beware: the reference classifies {accuracy:.2%} of the test images correctly, where the most frequent class "
        f"alone is {most_frequent:.2%} of them. A network that has learned little has little to lose; train it for "
        f"longer, or compare how its images are made with those of its training."
    )


def other_model(found: Mapping) -> list[str]:
    """Return a warning if the fastest file is of another model than the reference, else nothing."""
    fastest, reference = found["answers"].get("time"), found["reference"]
    if fastest is None or fastest["model"] == reference["model"]:
        return []
    return [
        f"By time, {fastest['model']} is compared with {reference['model']}: files of different models were not timed "
        f"in turns, so that a ratio near 1 may be noise between jobs, which no interval has."
    ]


def joined(parts: list[str]) -> str:
    """Return parts as a list in a sentence."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def reach(knee: Mapping, margin: str) -> str:
    """Return up to which rate a curve loses less than the margin, and from which on more."""
    within, beyond = (
        "at no rate" if rate is None else f"{side} {percent(rate)}{on}"
        for rate, side, on in ((knee["within_up_to"], "up to", ""), (knee["beyond_from"], "from", " on"))
    )
    return f"shown to lose less than {margin} {within}, and more than that {beyond}"


def knee(row: Mapping, margin: str) -> str:
    """Return how far pruning goes along a curve."""
    return f"{row['scope']}, {recovered(row['recovery'])}, {row['mode']}: {reach(row, margin)}."


def recovery(row: Mapping, margin: str) -> str:
    """Return what a recovery that trains keeps against its control, and what the control gained by itself."""
    longer = row["longer"]
    # Of a gain the bounds are gains, too.
    low, high = sorted((-1 if longer["points"] < 0 else 1) * longer[bound] for bound in ("low", "high"))
    change = f"{changes(longer['points'])} [{low:.2f}, {high:.2f}]"
    return (
        f"{row['scope']}, {row['recovery']}, {row['mode']}, against the dense network trained as much longer: "
        f"{reach(row, margin)}. By that training alone the dense network {change}."
    )


def scopes(row: Mapping) -> str:
    """Return at which rates local or global pruning loses less than the other."""
    seeds = ", ".join(map(str, row["seeds"]))
    whose = f"file against file, seed {seeds}" if len(row["seeds"]) == 1 else f"mean of seeds {seeds}"
    parts = []
    for scope in ("global", "local"):
        rates = [rate for rate in row["rates"] if rate["fewer"] == scope]
        if rates:
            most = max(rates, key=lambda rate: abs(rate["points"]))
            at = ", ".join(percent(rate["rate"]) for rate in rates)
            up_to = f"{abs(most['points']):.2f} points" + (f" at {percent(most['rate'])}" if len(rates) > 1 else "")
            parts.append(f"{scope} pruning loses less at {at} ({'up to ' if len(rates) > 1 else ''}{up_to})")
    undecided = len(row["rates"]) - sum(rate["fewer"] is not None for rate in row["rates"])
    if not parts:
        parts.append("at no rate is a difference between local and global pruning shown")
    elif undecided:
        parts.append("at the other rates no difference is shown")
    return f"{recovered(row['recovery'])}, {row['mode']} ({whose}): {'; '.join(parts)}."
