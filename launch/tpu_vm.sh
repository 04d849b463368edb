#!/usr/bin/env bash
# A training job on Cloud TPU slices, from a queued resource to its last step; started again when
# it is preempted. Needs gcloud, logged in, and a project with quota.
#
#   launch/tpu_vm.sh up --name=b16 --zone=us-east5-b --topology=v6e:8x8 --spot -- \
#       mmjax train --distributed --config=configs/clip_vit_b16.py --workdir=gs://BUCKET/b16
#   launch/tpu_vm.sh logs|status|stop --name=b16 --zone=us-east5-b --topology=v6e:8x8
#
# up        plan, create, install, run on all workers, follow the log of the first
#   --spot            preemptible capacity          --reserved        from a reservation
#   --no-plan         skip `mmjax plan`             --max-restarts=3  after errors of the run
#   --delete          give the slices back once the run has succeeded
# logs      follow the log of the first worker again (Ctrl-C leaves the job running)
# stop      delete the slices: nothing is paid for any more
# All take --project=ID and --dry-run, which prints what would be run.
set -euo pipefail
cd "$(dirname "$0")/.."

PREEMPTED=75 # the run was asked to end and has saved (mmjax.errors.Preempted)
USER_ERROR=2 # the same again would not help
POLL=${MMJAX_POLL:-30}
accelerator_type='' runtime='' slices=0 # of the topology

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit 2
}

die() {
    echo "tpu_vm.sh: $*" >&2
    exit 2
}

# Runs a command, or prints it so that it can be pasted.
run() {
    if $dry_run; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

tpus() { run gcloud compute tpus "$@" "--zone=$zone" ${project:+"--project=$project"}; }

# on NODE WORKERS COMMAND
on() { tpus tpu-vm ssh "$1" "--worker=$2" "--command=$3"; }

nodes() {
    if ((slices == 1)); then
        echo "$name"
    else
        seq --format="$name-%g" 0 $((slices - 1))
    fi
}

# What Cloud TPU says of the queued resource; empty if there is none.
state() {
    gcloud compute tpus queued-resources describe "$name" "--zone=$zone" \
        ${project:+"--project=$project"} '--format=value(state.state)' 2>/dev/null || true
}

create() {
    local what=(queued-resources create "$name" "--accelerator-type=$accelerator_type"
        "--runtime-version=$runtime")
    if ((slices == 1)); then
        what+=("--node-id=$name")
    else
        what+=("--node-count=$slices" "--node-prefix=$name")
    fi
    tpus "${what[@]}" ${capacity:+"$capacity"}
}

delete() { tpus queued-resources delete "$name" --force --quiet; }

# Returns when the slices are there; makes them where they are not, or are no more.
acquire() {
    if $dry_run; then
        create
        return
    fi
    local now
    while now=$(state) && [[ $now != ACTIVE ]]; do
        case $now in
            "") create ;;
            FAILED | SUSPENDED) delete ;;
        esac
        echo "$(date +%T) queued resource $name: ${now:-asked for}"
        sleep "$POLL"
    done
}

install() {
    local bundle node
    bundle=$(mktemp --suffix=.tgz)
    run git archive --format=tgz "--output=$bundle" HEAD
    for node in $(nodes); do
        tpus tpu-vm scp "$bundle" "$node:mmjax.tgz" --worker=all
        # The image's own Python is older than ours.
        on "$node" all "set -e; rm -rf mmjax && mkdir mmjax && tar -xzf mmjax.tgz -C mmjax
            python3 -m pip install --quiet --user uv; export PATH=\$HOME/.local/bin:\$PATH
            test -d env || uv venv --quiet --python=3.12 env
            VIRTUAL_ENV=\$HOME/env uv pip install --quiet --editable 'mmjax[tpu]'"
    done
    rm -f "$bundle"
}

# Starts the command on every host, and ends what a failed try has left; it goes on when this connection ends.
start() {
    local node quoted
    quoted=$(printf '%q ' "${command[@]}")
    for node in $(nodes); do
        on "$node" all "cd mmjax; export PATH=\$HOME/env/bin:\$PATH
            test ! -f ~/pid || kill -KILL -- -\$(cat ~/pid) 2> /dev/null; rm -f ~/status
            nohup setsid bash -c $(printf '%q' "$quoted; echo \$? > ~/status") \
                > ~/log 2>&1 < /dev/null & echo \$! > ~/pid"
    done
}

# Follows the log of the first worker until the run there ends or the slice is gone.
follow() {
    on "$(nodes | head -n 1)" 0 \
        "tail --lines=+1 --follow log & until test -f status; do sleep 2; done; sleep 3; kill %1"
}

up() {
    local restarts=0 status
    ((${#command[@]})) || die "give the command to run after --"
    "${PYTHON:-python3}" launch/check.py "--topology=$topology" ${no_plan:+--no-plan} \
        "$($dry_run && echo --dry-run || echo --)" "${command[@]}"
    while true; do
        acquire
        install
        start
        if $dry_run; then
            follow
            return
        fi
        until follow; do # a connection may drop while the run goes on
            [[ $(state) == ACTIVE ]] || break
            sleep "$POLL"
        done
        status=$(on "$(nodes | head -n 1)" 0 "cat status" 2>/dev/null) || status=$PREEMPTED
        case $status in
            0)
                echo "tpu_vm.sh: finished"
                if $delete_after; then delete; else
                    echo "tpu_vm.sh: $name still costs money; end it with: $0 stop --name=$name" \
                        "--zone=$zone --topology=$topology"
                fi
                return
                ;;
            "$PREEMPTED") echo "tpu_vm.sh: preempted; going on from the last checkpoint" ;;
            "$USER_ERROR") exit "$USER_ERROR" ;;
            *)
                ((++restarts <= max_restarts)) || exit "$status"
                echo "tpu_vm.sh: the run failed with status $status; restart $restarts"
                ;;
        esac
        sleep "$POLL"
    done
}

action=${1:-}
shift || usage
name='' zone='' topology='' project='' capacity='' no_plan='' max_restarts=3
dry_run=false delete_after=false command=()
while (($#)); do
    case $1 in
        --name=*) name=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --topology=*) topology=${1#*=} ;;
        --project=*) project=${1#*=} ;;
        --max-restarts=*) max_restarts=${1#*=} ;;
        --spot | --reserved) capacity=$1 ;;
        --no-plan) no_plan=yes ;;
        --delete) delete_after=true ;;
        --dry-run) dry_run=true ;;
        --)
            shift
            command=("$@")
            break
            ;;
        *) die "unknown option $1 (see the head of this file)" ;;
    esac
    shift
done
[[ -n $name && -n $zone && -n $topology ]] || die "give --name, --zone and --topology"
facts=$("${PYTHON:-python3}" -m mmjax.parallel.machines "$topology") || exit 2
eval "$facts" # accelerator_type, runtime, slices
[[ -n $accelerator_type ]] || die "$topology is no TPU"

case $action in
    up) up ;;
    logs) follow ;;
    status) tpus queued-resources describe "$name" ;;
    stop) delete ;;
    *) usage ;;
esac
