"""{checkpoint}-{mode}.onnx -> {checkpoint}-{mode}.onnx.packed, which scripts/elagage/packing/unpack.py turns back.

A job packs all modes of a checkpoint: starting a job takes longer than that.
"""

STEM = "results/models/{model}/seed{seed}/{checkpoint}"
MODE_STEMS = [f"{STEM}-{mode}" for mode in MODES]


rule pack:
    input:
        variants=[f"{stem}.onnx" for stem in MODE_STEMS],
    output:
        packed=[f"{stem}.onnx.packed" for stem in MODE_STEMS],
    log:
        "results/logs/pack/{model}/seed{seed}/{checkpoint}.log",
    conda:
        "../../envs/pack.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(5),
    params:
        code=code("pack"),
    message:
        "Pack {wildcards.model}, seed {wildcards.seed}, {wildcards.checkpoint}"
    script:
        "../../scripts/pack.py"
