"""Join all measurements to one row per variant."""

from collections.abc import Mapping

import pandas

from elagage.errors import RefusedError, UserError
from elagage.files import whole_file
from elagage.job import job, say
from elagage.losses import read_losses
from elagage.measurements import COLUMNS, eager_measurements, measurements
from elagage.timing import BUSY, LOADS, timing_again

MARKDOWN_COLUMNS = {  # of summary.md -> how to write each
    "model": "{model}",
    "seed": "{seed}",
    "scope": "{scope}",
    "rate": "{rate:g}",
    "recovery": "{recovery}",
    "mode": "{mode}",
    "sparsity": "{sparsity:.1%}",
    "accuracy [95 % interval]": "{accuracy:.2%} [{accuracy_low:.2%}, {accuracy_high:.2%}]",
    "size / kB": "{kilobytes:.1f}",
    "packed / kB": "{packed_kilobytes:.1f}",
    "entropy / kB": "{entropy_kilobytes:.1f}",
    "MMACs": "{mmacs}",
    "int8 weights": "{int8_share:.1%}",
    "time / ms [95 % interval]": "{inference_time_ms:.3f} [{inference_time_low_ms:.3f}, {inference_time_high_ms:.3f}]",
    "CPU / ms": "{cpu_time_ms:.3f}",
    "dense in turn / ms": "{dense_time_ms:.3f}",
    "speed-up [95 % interval]": "{speedup:.2f} [{speedup_low:.2f}, {speedup_high:.2f}]",
}
OPENVINO_COLUMNS = {
    "OpenVINO / ms": "{openvino_time_ms:.3f}",
    "as fast as ONNX Runtime [95 % interval]": (
        "{onnxruntime_to_openvino:.2f} [{onnxruntime_to_openvino_low:.2f}, {onnxruntime_to_openvino_high:.2f}]"
    ),
    "accuracy in OpenVINO": "{openvino_accuracy:.2%}",
}
# Rule that times files -> column of what other programs took meanwhile.
TIMED = {
    "evaluate_latency": "machine_busy",
    "evaluate_latency_eager": "eager_machine_busy",
    "evaluate_openvino": "openvino_machine_busy",
}


def row(variant: Mapping, eager_path: str) -> dict:
    """Return a row of the summary: what names the variant, its measurements, and why it was refused, or None."""
    named = {column: value for column, value in variant.items() if column not in COLUMNS}
    try:
        measured = measurements({kind: variant[kind] for kind in COLUMNS if kind in variant})
    except RefusedError as error:
        return named | {"refused": str(error)}
    return named | measured | eager_measurements(eager_path) | {"refused": None}


def busy_line(summary: pandas.DataFrame) -> str:
    """Return in words how much of the machine's CPU time other programs took during the timings."""
    busy = summary["machine_busy"].dropna()
    if busy.empty:
        return "Other programs: what they took of the machine's CPU time is known on Linux only."
    disturbed = (busy > BUSY).sum()
    words = f"Other programs took {busy.median():.0%} of the machine's CPU time (median; at most {busy.max():.0%})"
    return f"{words} while models were timed; in {disturbed} of {len(busy)} rows more than {BUSY:.0%}."


def busy_note(summary: pandas.DataFrame) -> str | None:
    """Return what to do about timings that other programs disturbed, None if there are none."""
    busy = pandas.concat([column for name, column in summary.items() if name.endswith("machine_busy")]).dropna()
    if not (busy > BUSY).any():
        return None
    return (
        f"other programs took up to {busy.max():.0%} of this machine's CPU time while models were timed: times are "
        "longer than on an idle machine, and the intervals of speed-ups wider. To time again without them, end the "
        f"same command with {timing_again(*(rule for rule, column in TIMED.items() if column in summary))}"
    )


def table(rows: list[dict]) -> pandas.DataFrame:
    """Return the rows as a table; whole numbers stay whole where others of their column are missing."""
    columns = list(dict.fromkeys(column for row in sorted(rows, key=len, reverse=True) for column in row))
    whole = [name for name in columns if all(isinstance(row.get(name, 0), int | None) for row in rows)]
    joined = pandas.DataFrame(rows, columns=columns)
    return joined.astype({name: "Int64" for name in whole if joined[name].isna().any() and joined[name].notna().any()})


def refusals(summary: pandas.DataFrame) -> list[str]:
    """Return a sentence for each reason why variants have no measurements: which variants, and why."""
    refused = summary[summary["refused"].notna()]
    sentences = []
    for (model, reason), rows in refused.groupby(["model", "refused"], sort=False):
        scopes, recoveries, modes = ("/".join(rows[name].unique()) for name in ("scope", "recovery", "mode"))
        rates = ", ".join(f"{rate:g}" for rate in rows["rate"].unique())
        sentences.append(
            f"{model}: {scopes} pruning at {rates}, recovery {recoveries}, mode {modes} ({len(rows)} of {len(summary)} "
            f"variants): {reason}"
        )
    return sentences


def explanations(summary: pandas.DataFrame) -> list[str]:
    """Return what was measured with what, and what the columns of the table mean; refused rows are not in it."""
    lines = []
    for (model, seed), part in summary.groupby(["model", "seed"], sort=False):
        first = part.iloc[0]
        lines.append(
            f"- {model}, seed {seed}: the dense float32 model takes {first['eager_time_ms']:.3f} ms per image in eager "
            f"PyTorch, {first['eager_to_onnxruntime']:.2f} times [{first['eager_to_onnxruntime_low']:.2f}, "
            f"{first['eager_to_onnxruntime_high']:.2f}] as long as in ONNX Runtime. Beside busy programs this "
            "ratio is too large, because PyTorch suffers most."
        )
    for (cpu, instructions), part in summary.groupby(["cpu", "instruction_set"], sort=False):
        first = part.iloc[0]
        lines.append(
            f"- Times: median of {first['latency_images']} test images, one at a time, threads: {first['threads']}, "
            f"on {cpu} ({instructions}), ONNX Runtime {first['onnxruntime']}; {len(part)} of {len(summary)} rows."
        )
    lines.append(f"- {busy_line(summary)}")
    lines.append(
        f"- Speed-up: against the dense float32 model in ONNX Runtime, timed turn by turn with the variant: the median "
        f"of the ratios per image, which need not be the ratio of the times. Each model was loaded {LOADS} times, as "
        "loads of the same file differ in speed; all numbers of time are geometric means over the loads, and the "
        "intervals cover their differences. They are those of this machine."
    )
    lines.append(
        "- CPU: the CPU time of one image, of all threads (median). Where it is far below the time with one thread, "
        "the model waited for a core."
    )
    lines.append("- Size and time: of ONNX files, in which zeros are stored and multiplied like other weights.")
    saved = 1 - summary["packed_size_bytes"] / summary["xz_size_bytes"]
    lines.append(
        f"- Packed: scripts/elagage/packing/unpack.py gives the same file back. Against `xz -9e` of the ONNX file, it "
        f"saves {saved.median():.1%} (median; {saved.min():.1%} to {saved.max():.1%})."
    )
    lines.append(
        "- Entropy: the sum of the order-0 entropies of the file's tensors. The packed file may be larger, as it also "
        "holds the graph, or smaller, as LZMA also finds repetitions."
    )
    lines.append("- MMACs: millions of multiply-accumulates of one image, zeros included.")
    lines.append(
        "- Sparsity: share of the dense model's weights that are removed or zero, counted in the file, where rounding "
        "to int8 adds zeros."
    )
    lines.append(f"- Accuracy: on {summary['test_images'].iloc[0]} test images.")
    if "openvino" in summary:
        version = ", ".join(summary["openvino"].dropna().unique())
        lines.append(f"- OpenVINO {version}: the same files on the same images, timed in turn with ONNX Runtime.")
        for reason, part in summary.groupby("openvino_refused"):
            lines.append(f"- {len(part)} of {len(summary)} rows: {reason}")
    return lines


def markdown(summary: pandas.DataFrame) -> str:
    """Return the summary as Markdown: what it was measured with, then a table for people, then what was refused."""
    refused = ["", "## Refused", "", *(f"- {sentence}" for sentence in refusals(summary))]
    refused = refused if len(refused) > 4 else []
    summary = summary[summary["refused"].isna()]
    if summary.empty:
        return "\n".join(["# Summary", "", "Nothing could be measured.", *refused, ""])
    rows = summary.assign(
        kilobytes=summary["model_size_bytes"] / 1000,
        packed_kilobytes=summary["packed_size_bytes"] / 1000,
        entropy_kilobytes=summary["entropy_bytes"] / 1000,
        mmacs=["unknown" if pandas.isna(macs) else f"{macs / 1e6:.3g}" for macs in summary["macs"]],
        int8_share=summary["int8_weights"] / summary["weights"],
    )
    columns = MARKDOWN_COLUMNS | (OPENVINO_COLUMNS if "openvino_time_ms" in rows else {})
    columns |= {
        f"images/s in batches of {column.rpartition('_')[2]} [95 % interval]": (
            f"{{{column}:.0f}} [{{{column}_low:.0f}}, {{{column}_high:.0f}}]"
        )
        for column in summary.filter(regex=r"^throughput_batch_\d+$")
    }
    written = pandas.DataFrame(
        [{name: text.format(**row) for name, text in columns.items()} for row in rows.to_dict("records")]
    )
    if "openvino_time_ms" in rows:
        written.loc[rows["openvino_refused"].notna().to_numpy(), list(OPENVINO_COLUMNS)] = "refused"
    return "\n".join(
        [
            "# Summary",
            "",
            *explanations(summary),
            "",
            written.to_markdown(index=False, disable_numparse=True),
            *refused,
            "",
        ]
    )


def summarize(
    variants: list[dict],
    eager: dict[str, str],
    losses: str,
    csv_path: str,
    markdown_path: str,
    *,
    strict: bool = False,
) -> None:
    """Write summary.csv and summary.md.

    variants: for each row the columns that name it (model, seed, scope, rate, recovery, mode), its `file` and the paths
    of its `accuracy`, `size` and `latency`; eager: "<model>/seed<seed>" -> path; losses: that of the rule certify,
    whose columns are joined by file. Raises UserError for a refused row if strict.
    """
    rows = [row(variant, eager[f"{variant['model']}/seed{variant['seed']}"]) for variant in variants]
    summary = table(rows).join(read_losses(losses), on="file")
    sentences = refusals(summary)
    if strict and sentences:
        raise UserError("strict: true, but there are refused variants:\n" + "\n".join(sentences))
    for sentence in sentences:
        say(f"refused: {sentence}")
    if "machine_busy" in summary and (note := busy_note(summary)):
        say(note)
    with whole_file(csv_path) as temporary:
        summary.to_csv(temporary, index=False)
    with whole_file(markdown_path) as temporary:
        temporary.write_text(markdown(summary))


if "snakemake" in globals():
    with job(snakemake.log[0]):
        summarize(
            snakemake.params.variants,
            snakemake.params.eager,
            snakemake.input.losses,
            snakemake.output.csv,
            snakemake.output.markdown,
            strict=snakemake.params.strict,
        )
