"""{checkpoint}-{mode}.onnx -> {checkpoint}-{mode}.onnx.packed, which scripts/elagage/packing/unpack.py unpacks.

A job packs all modes of a checkpoint: starting a job takes longer than that.
"""


rule pack:
    input:
        onnx_files=[f"{stem}.onnx" for stem in PLAN.mode_stems],
    output:
        packed=[f"{stem}.onnx.packed" for stem in PLAN.mode_stems],
    log:
        "results/logs/pack/{model}/seed{seed}/{checkpoint}.log",
    conda:
        "../../envs/packing.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(500, per_weight=6),
        runtime=times_attempt(5),
    params:
        code=code("pack"),
    message:
        "Pack {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint}"
    script:
        "../../scripts/pack.py"
