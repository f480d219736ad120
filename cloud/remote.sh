#!/usr/bin/env bash
# Trains on a machine that you reach by SSH.
#
#   cloud/remote.sh [OPTIONS] HOST GPUS [config.py ...] [--key=value ...]
#   cloud/remote.sh --stop HOST
#   cloud/remote.sh [OPTIONS] --bench HOST [--key=value ...]
#
#   cloud/remote.sh --prepare='python fineweb.py --out_dir=data/fineweb' gpubox 8 config/train_gpt2.py
#
# Copies the code (no data, no keys, nothing else), makes the environment there, starts torchrun in a session of its
# own, shows its log, and brings checkpoints, metrics and samples back to out/HOST. The run does not need this script:
# end it, lose the connection, close the lid; the same command again reattaches to the run, or starts it again from its
# last checkpoint if the machine went down, or fetches the results if it is done. GPUS is a number, all, or 0 for the CPU.
# What stands behind GPUS is train.py's. With --bench it runs `make gpu` instead: checks and measures everything on the GPU
# there, within nine minutes, and brings bench_results/ back; what stands behind HOST is bench/gpu.py's.
#
# OPTIONS
#   --prepare=COMMAND   run there before the training, in the same environment: makes the data. Ours all go on from
#                       what exists, and do nothing where all exists
#   --data=DIR          copies this folder to data/ there, under its own name
#   --docker            trains in the image of cloud/Dockerfile, built there, instead of a virtual environment
#   --python=PATH       uses this interpreter there, which has what requirements.txt lists
#   --gcp-key=FILE      copies this key file, for the duration of the run; GOOGLE_APPLICATION_CREDENTIALS names it there
#   --dir=DIR           the folder there, relative to the home (scratchgpt); each folder has one run
#   --fetch=SECONDS     how often checkpoints are brought back during the run (600)
#   --ssh-config=FILE   read this instead of ~/.ssh/config: user, port, key, jump host
#   --stop              lets the run there finish its step and save, and brings the checkpoints back
#   --bench             runs `make gpu` there
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
docker='' python='' prepare='' data='' gcp_key='' dir=scratchgpt fetch_every=600 stop=false bench=false ssh_config="$HOME/.ssh/config"
still_running=75
ssh_failed=255

main() {
    read_options "$@"
    shift "$n_options"
    if $stop; then
        [[ $# == 1 ]] || usage '--stop takes HOST alone'
    elif $bench; then
        [[ $# -ge 1 ]] || usage '--bench needs HOST'
        [[ -z $docker$prepare$data ]] || usage '--bench makes its environment and data; leave --docker, --prepare and --data out'
        set -- "$1" bench "--commit=$(git -C "$root" describe --always --dirty --abbrev=10 2>/dev/null || echo unknown)" "${@:2}"
        check_flags "${@:3}"
    else
        [[ $# -ge 2 ]] || usage 'HOST and GPUS are needed'
        check_arguments "${@:2}"
    fi
    host=$1
    local_dir=$root/out/$(basename "${host#*@}")
    log=$local_dir/$(basename "$dir").log
    mkdir -p "$local_dir"
    connect
    if $stop; then
        box stop
        fetch
        return
    fi
    start_or_reattach "$docker" "$python" "$prepare" "${@:2}"
    follow
}

usage() {
    echo "remote.sh: $1" >&2
    sed -n '4,7p' "$0" | cut -c3- >&2
    exit 2
}

say() {
    echo "remote.sh: $*" >&2
}

read_options() {
    n_options=0
    local option
    for option in "$@"; do
        case $option in
            --docker) docker=yes ;;
            --stop) stop=true ;;
            --bench) bench=true ;;
            --prepare=*) prepare=${option#*=} ;;
            --python=*) python=${option#*=} ;;
            --data=*) data=${option#*=} ;;
            --gcp-key=*) gcp_key=${option#*=} ;;
            --dir=*) dir=${option#*=} ;;
            --fetch=*) fetch_every=${option#*=} ;;
            --ssh-config=*) ssh_config=${option#*=} ;;
            -h | --help)
                sed -n '2,/^set /p' "$0" | grep '^#' | cut -c3-
                exit 0
                ;;
            -*) usage "unknown option $option" ;;
            *) break ;;
        esac
        n_options=$((n_options + 1))
    done
    [[ -z $data || -d $data ]] || usage "--data=$data is no folder"
    [[ -z $gcp_key || -f $gcp_key ]] || usage "--gcp-key=$gcp_key is no file"
    [[ -z $docker || -z $python ]] || usage '--docker brings its own Python; leave --python out'
    [[ $dir =~ ^[A-Za-z0-9_./-]+$ ]] || usage "--dir=$dir should have letters, digits and ._-/ alone"
    [[ $fetch_every =~ ^[1-9][0-9]*$ ]] || usage "--fetch=$fetch_every should be a number of seconds"
}

check_arguments() {
    [[ $1 =~ ^([0-9]+|all)$ ]] || usage "GPUS is $1; it should be a number, or all"
    local argument
    for argument in "${@:2}"; do
        case $argument in
            -*) ;;
            config/*.py) [[ -f $root/$argument ]] || usage "no config file $argument" ;;
            *) usage "$argument should be a flag, or a config file in config/, which is what gets copied" ;;
        esac
    done
}

check_flags() {
    local argument
    for argument in "$@"; do
        [[ $argument =~ ^--[a-z_]+=[A-Za-z0-9_./:,-]*$ ]] || usage "$argument should be --key=value, without spaces and quotes"
    done
}

# One connection for all that follows, so that a password or passphrase is asked for once. No agent goes along.
connect() {
    sockets=$(mktemp -d /tmp/scratchgpt.XXXXXX)
    trap hang_up EXIT
    cat >"$sockets/config" <<CONFIG
Host *
    ForwardAgent no
    ForwardX11 no
    ServerAliveInterval 15
    ServerAliveCountMax 4
    ConnectTimeout 20
    ControlMaster auto
    ControlPath $sockets/%C
    ControlPersist 60
    Include "$ssh_config"
    Include /etc/ssh/ssh_config
CONFIG
    ssh=(ssh -F "$sockets/config")
    local missing tools='bash rsync flock setsid'
    ! $bench || tools="$tools make"
    missing=$("${ssh[@]}" "$host" "for tool in $tools; do command -v \$tool >/dev/null || echo \$tool; done") ||
        { say "$host cannot be reached by ssh"; exit 1; }
    [[ -z $missing ]] || { say "$host lacks: ${missing//$'\n'/ }(apt install rsync util-linux make)"; exit 1; }
}

hang_up() {
    "${ssh[@]}" -O exit "$host" 2>/dev/null || true
    rm -rf "$sockets"
}

# Runs a command of box.sh in the folder there.
box() {
    "${ssh[@]}" "$host" "cd $(printf '%q' "$dir") && bash cloud/box.sh $(printf '%q ' "$@")" </dev/null
}

start_or_reattach() {
    local state=free there
    there=$("${ssh[@]}" "$host" "[ ! -e $(printf '%q' "$dir/cloud/box.sh") ] || echo yes")
    if [[ $there ]]; then
        state=$(box state "$@")
    fi
    case $state in
        running) say "reattached to the run on $host" ;;
        finished) say "the run on $host is done" ;;
        busy*)
            say "$host:$dir is busy with another run: ${state#busy }"
            say "cloud/remote.sh --stop ends it; --dir=ANOTHER starts this one beside it"
            exit 2
            ;;
        free)
            [[ $there ]] || : >"$log"
            copy
            box start "$@"
            say "started on $host; Ctrl-C here leaves it running, the same command comes back to it"
            ;;
    esac
}

# What runs, by name: whatever else lies in the folder, such as a key, stays here.
copy() {
    local folder code=() folders='runtime kernels inference scoring evals tasks config'
    if $bench; then
        folders="$folders bench"
        code=(--include=/Makefile --include=/requirements.txt --include=/requirements-dev.txt --include=/pyproject.toml --include=/tests/
            --include=/tests/conftest.py --include=/tests/test_kernels_gpu.py)
    fi
    for folder in $folders; do
        code+=(--include="/$folder/" --include="/$folder/*.py" --include="/$folder/*.html" --include="/$folder/*.txt"
            --include="/$folder/*.cpp")
    done
    "${ssh[@]}" "$host" "mkdir -p -m 700 $(printf '%q' "$dir/.job") $(printf '%q' "$dir/data")"
    rsync -rtz -e "${ssh[*]}" --include='/*.py' --include='/requirements.lock' --include='/.dockerignore' \
        "${code[@]}" \
        --include='/cloud/' --include='/cloud/*.sh' --include='/cloud/*.py' --include='/cloud/torch-cpu.lock' \
        --include='/cloud/Dockerfile' --exclude='*' "$root/" "$host:$dir/"
    if [[ $data ]]; then
        rsync -rt --partial --progress -e "${ssh[*]}" "${data%/}" "$host:$dir/data/"
    fi
    if [[ $gcp_key ]]; then
        "${ssh[@]}" "$host" "umask 077 && cat >$(printf '%q' "$dir/.job/gcp_key.json")" <"$gcp_key"
    fi
}

# Shows the log from where the last showing ended, and brings back what there is from time to time and at the end.
follow() {
    local code
    while true; do
        code=0
        box follow "$(wc -c <"$log" | tr -d ' ')" "$fetch_every" | tee -a "$log" || code=${PIPESTATUS[0]}
        case $code in
            "$ssh_failed")
                say 'connection lost; the run goes on. Trying again in 5 s; Ctrl-C leaves it running'
                sleep 5
                ;;
            "$still_running") fetch || true ;; # a lost connection is the next turn's
            *)
                fetch
                exit "$code"
                ;;
        esac
    done
}

# Brings back the run's folder. Nothing here is deleted, and nothing there decides where it goes to.
fetch() {
    local out_dir
    out_dir=$(box out_dir) || return
    [[ $out_dir ]] || return 0
    local name target
    name=$(basename "$out_dir" | tr -c 'A-Za-z0-9_.\n-' _)
    [[ $name != .* ]] || name=run
    target=$local_dir/$name
    ! $bench || target=$root/bench_results # where each GPU has a folder
    rsync -rt --partial --exclude='*.tmp' -e "${ssh[*]}" "$host:$(remote_path "$out_dir")/" "$target/" || return
    say "the results are in ${target#"$PWD/"}"
}

remote_path() {
    case $1 in
        /*) echo "$1" ;;
        *) echo "$dir/$1" ;;
    esac
}

main "$@"
