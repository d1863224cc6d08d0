"""What the workflow's scripts share: one module per subject, each importable without Snakemake."""
