"""The data set -> results/data: uint8 arrays of each split, and dataset.json that describes them.

For models that were trained on images of another geometry, the same images once more in results/data/{geometry}.
"""


rule prepare_data:
    output:
        dataset="results/data/dataset.json",
        train_images="results/data/train_images.npy",
        train_labels="results/data/train_labels.npy",
        validation_images="results/data/validation_images.npy",
        validation_labels="results/data/validation_labels.npy",
        test_images="results/data/test_images.npy",
        test_labels="results/data/test_labels.npy",
        test_files="results/data/test_files.json",
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
        geometry=COVER,
        # Not read by the script: an image that is added, removed or changed makes the job run again.
        images=image_checksum(),
        code=code("prepare_data"),
    message:
        "Decode the data set"
    script:
        "../../scripts/prepare_data.py"


use rule prepare_data as prepare_data_as_trained with:
    output:
        dataset="results/data/{geometry}/dataset.json",
        train_images="results/data/{geometry}/train_images.npy",
        train_labels="results/data/{geometry}/train_labels.npy",
        validation_images="results/data/{geometry}/validation_images.npy",
        validation_labels="results/data/{geometry}/validation_labels.npy",
        test_images="results/data/{geometry}/test_images.npy",
        test_labels="results/data/{geometry}/test_labels.npy",
        test_files="results/data/{geometry}/test_files.json",
    log:
        "results/logs/prepare_data_as_trained/{geometry}.log",
    params:
        **config["dataset"],
        geometry=lambda wildcards: PLAN.other_geometries[wildcards.geometry],
        images=image_checksum(),
        code=code("prepare_data"),
    message:
        "Decode the data set, {wildcards.geometry}"
