"""What the workflow's scripts share: one module a subject, each importable without Snakemake."""
