#!/usr/bin/env bash
# Submits a training job to SLURM: one process a node, all its GPUs, requeued when preempted.
#
#   launch/slurm/submit.sh --topology=h100:4x8 --time=24:00:00 --partition=PARTITION -- \
#       mmjax train --distributed --config=configs/clip_vit_b16.py --workdir=/shared/runs/b16
#
#   --topology=GPU:NODESxGPUS   as for mmjax plan (required); any GPU with --no-plan
#   --container=IMAGE           a .sif file (Apptainer), or an image of Pyxis
#   --no-plan                   skip `mmjax plan`
#   --dry-run                   print what would be run
# Every other option before -- goes to sbatch.
set -euo pipefail
cd "$(dirname "$0")/../.."

topology='' container='' no_plan='' dry_run=false options=()
while (($#)); do
    case $1 in
        --topology=*) topology=${1#*=} ;;
        --container=*) container=${1#*=} ;;
        --no-plan) no_plan=yes ;;
        --dry-run) dry_run=true ;;
        --)
            shift
            break
            ;;
        *) options+=("$1") ;;
    esac
    shift
done
if [[ -z $topology ]]; then
    echo "submit.sh: give --topology=GPU:NODESxGPUS, like h100:4x8" >&2
    exit 2
fi
accelerator_type='' hosts=0 chips=0
if [[ -n $no_plan && $topology =~ ^([^:]*:)?([0-9]+)x([0-9]+)$ ]] &&
    ! "${PYTHON:-python3}" -m mmjax.parallel.machines "$topology" >/dev/null 2>&1; then
    # GPUs that mmjax plan knows nothing of can be trained on all the same.
    hosts=${BASH_REMATCH[2]} chips=${BASH_REMATCH[3]}
else
    facts=$("${PYTHON:-python3}" -m mmjax.parallel.machines "$topology") || exit 2
    eval "$facts"
fi
if [[ -n $accelerator_type ]]; then
    echo "submit.sh: $topology is a TPU; see launch/README.md" >&2
    exit 2
fi
"${PYTHON:-python3}" launch/check.py "--topology=$topology" ${no_plan:+--no-plan} \
    "$($dry_run && echo --dry-run || echo --)" "$@"

submit=(sbatch "--nodes=$hosts" "--gpus-per-node=$chips"
    ${container:+"--export=ALL,MMJAX_CONTAINER=$container"} ${options[@]+"${options[@]}"}
    launch/slurm/train.sbatch "$@")
if $dry_run; then
    printf '%q ' "${submit[@]}"
    echo
else
    "${submit[@]}"
fi
