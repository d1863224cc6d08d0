"""The data set -> results/data: uint8 arrays of each split, and dataset.json that describes them."""


rule prepare_data:
    output:
        dataset=DATASET,
        train_images="results/data/train_images.npy",
        train_labels="results/data/train_labels.npy",
        validation_images="results/data/validation_images.npy",
        validation_labels="results/data/validation_labels.npy",
        test_images="results/data/test_images.npy",
        test_labels="results/data/test_labels.npy",
    log:
        "results/logs/prepare_data.log",
    conda:
        "../../envs/data.yaml"
    threads: 2
    resources:
        mem_mb=times_attempt(4000),
        runtime=times_attempt(30),
    params:
        **config["dataset"],
        # Not read by the script: an image that is added, removed or changed makes the job run again.
        images=image_checksum(),
        code=code("prepare_data"),
    message:
        "Decode the data set"
    script:
        "../../scripts/prepare_data.py"
