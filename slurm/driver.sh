#!/usr/bin/env bash
# Starts a study on a cluster, or goes on with one whose driver was killed. Every word is handed on to Snakemake:
#   slurm/driver.sh all           on a login node
#   sbatch slurm/driver.sh all    where a driver may run only inside an allocation; the lines below are for sbatch, site
#SBATCH --job-name=elagage-driver
#SBATCH --partition=medium
#SBATCH --time=3-00:00:00
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=elagage-driver.log
set -euo pipefail
PATH=$PWD/.venv/bin:$PATH

mkdir -p .snakemake
exec 9> .snakemake/driver.lock
flock --nonblock 9 || { echo "driver.sh: another driver runs in $PWD" >&2; exit 1; }

# What a killed driver left in the queue would write the same files as the jobs of this one. Training goes on from its
# last epoch.
jobs_left() {
    squeue --me --noheader --format "%i %j %Z" | awk -v folder="$PWD" '$2 ~ /^elagage_/ && $3 == folder {print $1}'
}
if left=$(jobs_left) && [[ $left ]]; then
    echo "driver.sh: cancelling jobs of an earlier driver:" $left
    scancel $left
    while [[ $(jobs_left) ]]; do sleep 1; done
fi
snakemake --profile slurm "$@" --unlock
exec snakemake --profile slurm "$@"
