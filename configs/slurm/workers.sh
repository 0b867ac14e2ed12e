#!/usr/bin/env bash
# One study on a SLURM cluster: a worker on each GPU of the job.
#
#   export VRAM_SEARCH_DATABASE=postgresql://me@server/searches
#   sbatch --export=ALL,STUDY=$PWD/td-010.yaml,NAME=td-010 workers.sh
#
# NAME is the study's name. Study file, rows and local models have the same paths on all nodes. A job that is submitted
# again continues the study; one that is submitted beside another (RUN=0) adds its GPUs to it.
#SBATCH --job-name=vram-search
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=10:00:00
#SBATCH --signal=TERM@180
#SBATCH --output=vram-search-%j.log

set -euo pipefail
export STUDY=${STUDY:?the study file} NAME=${NAME:?the name of the study}
export VRAM_SEARCH_DATABASE=${VRAM_SEARCH_DATABASE:?the URL of a PostgreSQL database}
export HOURS=${HOURS:-9.8} RUN=${RUN:-1} # a trial that would end later is not started

srun --kill-on-bad-exit=0 bash -c '
    if [ "$RUN" = 1 ] && [ "$SLURM_PROCID" = 0 ]; then
        exec vram-search run "$STUDY" --hours "$HOURS"
    fi
    for _ in {1..60}; do # exit code 2: task 0 has not recorded the study yet
        code=0
        vram-search worker --study "$NAME" --hours "$HOURS" || code=$?
        [ "$code" = 2 ] || exit "$code"
        sleep 10
    done
'
