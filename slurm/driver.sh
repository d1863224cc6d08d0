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

study=$PWD
previous=
for word; do
    if [[ $previous == --directory || $previous == -d ]]; then study=$(realpath -m "$word"); fi
    previous=$word
done
name=elagage-$(printf %s "$study" | sha256sum | cut -c 1-16) # of the jobs of this study, and of no other

mkdir -p "$study/.snakemake"
exec 9> "$study/.snakemake/driver.lock"
flock --nonblock 9 || { echo "driver.sh: another driver runs in $study" >&2; exit 1; }

# What a killed driver left in the queue would write the same files as the jobs of this one. Training goes on from its
# last epoch.
jobs_left() {
    squeue --me --noheader --format "%i %j" | awk -v name="${name}_" 'index($2, name) == 1 {print $1}'
}
left=$(jobs_left)
if [[ $left ]]; then
    echo "driver.sh: cancelling jobs of an earlier driver:" $left
    scancel $left
    while [[ $(jobs_left) ]]; do sleep 1; done
fi
run=(snakemake --profile slurm --slurm-jobname-prefix "$name" "$@")
"${run[@]}" --unlock
exec "${run[@]}"
