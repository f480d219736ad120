#!/usr/bin/env bash
# The half of remote.sh that runs on the box, in the folder that the code was copied into. One run a folder; what is
# known of it is in .job: command, pid, log, out_dir, and exit once it has ended (0, another code, or "stopped").
#
#   cloud/box.sh state ARGUMENTS...      running, finished (this very command, successfully), busy (another), or free
#   cloud/box.sh start ARGUMENTS...      starts the run in a session of its own, so that it outlives the connection
#   cloud/box.sh follow BYTES SECONDS    the log from that byte on; ends with the run's exit code, or with 75 if it goes on
#   cloud/box.sh out_dir                 where the run puts its checkpoints; nothing while there is no such folder
#   cloud/box.sh stop                    lets the run finish its step and save
#
# ARGUMENTS: DOCKER PYTHON PREPARE GPUS [train.py's arguments ...]; the first three may be empty. With `bench` as GPUS, it runs
# `make gpu`, whose arguments follow; that is never finished, as it is run again for new figures.
set -euo pipefail
cd "$(dirname "$0")/.."
job=.job
still_running=75
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 # torchrun would kill a worker that takes longer than 30 s to save

main() {
    mkdir -p "$job"
    chmod 700 "$job"
    case $1 in
        state) shift && state "$@" ;;
        start) shift && start "$@" ;;
        follow) follow "$2" "$3" ;;
        out_dir) out_dir ;;
        stop) stop ;;
        run) shift && run "$@" ;;
        *) die "unknown word $1" ;;
    esac
}

die() {
    echo "box.sh: $*" >&2
    exit 2
}

# The run holds a lock as long as any process of it lives: unlike a pid, it is never another's, not even after a reboot.
running() {
    [[ -e $job/lock ]] && ! flock --nonblock "$job/lock" true
}

state() {
    local same=false
    [[ -e $job/command && $(printf '%q ' "$@") == "$(cat "$job/command")" ]] && same=true
    if running; then
        $same && echo running || echo "busy $(cat "$job/command")"
    elif $same && [[ $4 != bench && $(cat "$job/exit" 2>/dev/null) == 0 ]]; then
        echo finished
    else
        echo free
    fi
}

start() {
    running && die 'a run is going on here already'
    rm -f "$job/exit" "$job/out_dir"
    printf '%q ' "$@" >"$job/command"
    setsid nohup bash cloud/box.sh run "$@" </dev/null >>"$job/log" 2>&1 &
    echo $! >"$job/pid"
    until running || [[ -e $job/exit ]] || ! kill -0 "$(cat "$job/pid")" 2>/dev/null; do sleep 0.1; done
}

follow() {
    local from=$1 size
    size=$(wc -c <"$job/log")
    [[ $from -le $size ]] || from=0
    timeout "$2" tail --bytes=+$((from + 1)) --follow --sleep-interval=0.5 --pid="$(cat "$job/pid")" "$job/log" || true
    running && exit $still_running
    [[ -e $job/exit ]] || die 'the run was killed; the same command starts it again from its last checkpoint'
    local code
    code=$(cat "$job/exit")
    case $code in
        stopped) exit 0 ;;
        "$still_running" | 255) exit 1 ;; # what means something else to remote.sh
        *) exit "$code" ;;
    esac
}

out_dir() {
    [[ -e $job/out_dir && -d $(cat "$job/out_dir") ]] && cat "$job/out_dir"
    return 0
}

stop() {
    running || die 'no run is going on here'
    kill -TERM "$(cat "$job/pid")"
    while running; do sleep 0.5; done
}

# --- the run itself

run() {
    exec 9>"$job/lock"
    flock --timeout 5 9 || die 'a run is going on here already' # who looks whether one runs holds it for a moment, too
    docker=$1 python=$2 prepare=$3 gpus=$4
    shift 4
    child='' stopped=false code=0
    trap 'finish $?' EXIT
    trap terminate TERM INT
    trap '' HUP
    unset SSH_CLIENT SSH2_CLIENT # with these, bash would read ~/.bashrc, which may put another Python first
    if [[ $gpus == bench ]]; then
        echo "--- $(date '+%F %T') on $(hostname): make gpu $*"
        echo bench_results >"$job/out_dir"
        attend make gpu PYTHON="${python:-python3}" ARGS="$*"
        return
    fi
    echo "--- $(date '+%F %T') on $(hostname): train.py $*"
    if [[ $gpus == all ]]; then
        gpus=$(nvidia-smi --list-gpus | wc -l)
    fi
    if [[ $gpus == 0 ]]; then
        set -- "$@" --device=cpu
    fi
    if [[ -e $job/gcp_key.json ]]; then
        export GOOGLE_APPLICATION_CREDENTIALS=$PWD/$job/gcp_key.json
    fi
    if [[ $docker ]]; then
        build_image
    else
        make_environment
    fi
    if [[ $prepare ]]; then
        attend inside bash -c "$prepare"
    fi
    # Checks the arguments, too, before anything is written.
    attend inside python -c "$out_dir_of" "$@" >"$job/out_dir.new"
    mv "$job/out_dir.new" "$job/out_dir"
    # A process that dies, of a GPU's error for example, starts all again from the last checkpoint, three times at most.
    attend inside python -m torch.distributed.run --standalone --nproc_per_node="$((gpus > 0 ? gpus : 1))" --max-restarts=3 \
        train.py "$@"
}

out_dir_of='
import sys
sys.argv[0] = "train.py"
import train
print(train.configure(train.DEFAULTS)["out_dir"])
'

build_image() {
    local device=cuda
    [[ $gpus != 0 ]] || device=cpu
    mkdir -p data out
    attend docker build --file cloud/Dockerfile --build-arg DEVICE="$device" --tag "scratchgpt:$device" .
    container=(docker run --rm --ipc=host --user "$(id -u):$(id -g)" --volume "$PWD/data:/app/data"
        --volume "$PWD/out:/app/out" --env TORCH_ELASTIC_SHUTDOWN_TIMEOUT)
    if [[ $gpus != 0 ]]; then
        container+=(--gpus "$gpus")
    fi
    if [[ -e $job/gcp_key.json ]]; then
        container+=(--volume "$GOOGLE_APPLICATION_CREDENTIALS:/run/secrets/gcp_key.json:ro"
            --env GOOGLE_APPLICATION_CREDENTIALS=/run/secrets/gcp_key.json)
    fi
    container+=("scratchgpt:$device")
}

# A virtual environment with what requirements.lock lists, unless an interpreter that has it was named.
make_environment() {
    if [[ $python ]]; then
        "$python" -c 'import torch' || die "--python=$python cannot import torch"
        return
    fi
    python=$PWD/.venv/bin/python
    if ! cmp --silent requirements.lock .venv/installed; then
        local base supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'
        for base in python3.12 python3.11 python3.10 python3 ''; do
            [[ $base ]] || die 'no Python 3.10 to 3.12 here; install one, or name one with --python=PATH'
            "$base" -c "$supported" 2>/dev/null && break
        done
        "$base" -m venv .venv || die 'no virtual environment could be made; on Debian and Ubuntu: apt install python3-venv'
        attend bash cloud/install.sh cuda requirements.lock "$python" -m pip
        cp requirements.lock .venv/installed
    fi
}

# Runs a command in the container, or with the environment's Python first in the path.
inside() {
    if [[ $docker ]]; then
        exec "${container[@]}" "$@"
    elif [[ $1 == python ]]; then
        exec "$python" "${@:2}"
    else
        PATH=$(dirname "$python"):$PATH exec "$@"
    fi
}

# Runs a command so that this shell can still hear signals, and ends the run if it fails or was stopped.
attend() {
    "$@" &
    child=$!
    if $stopped; then
        terminate
    fi
    code=0
    wait "$child" || code=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ended the waiting, not the command
        code=0
        wait "$child" || code=$?
    done
    child=''
    if $stopped || [[ $code != 0 ]]; then
        exit "$code"
    fi
}

# The training processes are told themselves: torchrun, told to stop, would report a failure. Docker passes the signal on.
terminate() {
    stopped=true
    local children=''
    if [[ $child && ! $docker ]]; then
        children=$(cat "/proc/$child/task"/*/children 2>/dev/null || true)
    fi
    # shellcheck disable=SC2086 # several numbers
    [[ -z $child ]] || kill -TERM ${children:-$child}
}

finish() {
    rm -f "$job/gcp_key.json" "$job/out_dir.new"
    if $stopped; then
        echo stopped >"$job/exit"
    else
        echo "$1" >"$job/exit"
    fi
}

main "$@"
