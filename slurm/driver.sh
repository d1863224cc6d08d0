#!/usr/bin/env bash
# Starts a study on a cluster, or goes on with one whose driver was killed. Every argument is passed to Snakemake:
#   slurm/driver.sh all           on a login node
#   sbatch slurm/driver.sh all    where a driver may run only inside an allocation
# It runs from the folder of the repository. When its time is up, start it again. For sbatch, partition, time and, with
# one # less, account; site:
#SBATCH --partition=medium
#SBATCH --time=3-00:00:00
##SBATCH --account=mine
#SBATCH --job-name=elagage-driver
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=elagage-driver.log
set -euo pipefail
PATH=$PWD/.venv/bin:$PATH

study=.
previous=
for word; do
    case $previous in -d | --directory) study=$word ;; esac
    case $word in --directory=*) study=${word#*=} ;; esac
    previous=$word
done
study=$(realpath -m "$study")
name=elagage-$(printf %s "$study" | sha256sum | cut -c 1-16) # of the jobs of this study, and of no other

lock=$study/.snakemake/driver.lock
mkdir -p "$study/.snakemake"
[[ -e $lock ]] && unlock=yes || unlock=no # locks of a run that no driver.sh started stay
exec 9> "$lock"
flock --wait 10 --conflict-exit-code 75 9 && status=0 || status=$?
if [[ $status == 75 ]]; then
    echo "driver.sh: another driver runs in $study" >&2
    exit 1
elif [[ $status != 0 ]]; then
    echo "driver.sh: $lock cannot be locked on this file system; make sure that no other driver runs" >&2
fi

# What a killed driver left in the queue would write the same files as the jobs of this one. Training goes on from its
# last epoch.
jobs_left() {
    squeue --me --noheader --format "%i %j" | awk -v name="${name}_" 'index($2, name) == 1 {print $1}'
}
left=$(jobs_left)
if [[ $left ]]; then
    echo "driver.sh: cancelling jobs of an earlier driver:" $left
    scancel $left
    while left=$(jobs_left) || left=unknown; [[ $left ]]; do sleep 1; done
fi
run=(snakemake --profile slurm --slurm-jobname-prefix "$name" "$@")
if [[ $unlock == yes ]]; then "${run[@]}" --unlock; fi
exec "${run[@]}"
