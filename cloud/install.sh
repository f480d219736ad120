#!/usr/bin/env bash
# Installs what a lock file lists and nothing else: each file is checked against its hash, and none is built from source.
#
#   cloud/install.sh DEVICE LOCK PIP...       cloud/install.sh cuda requirements.lock .venv/bin/python -m pip
#
# DEVICE is cuda (torch with its CUDA libraries), cpu (a tenth of the size; torch comes from PyTorch's index), or
# cpu+triton, which adds Triton for its interpreter. PIP is the command that runs pip. No name is looked for in two
# indexes: whoever owns it in one could otherwise put a package in the place of the other's.
set -euo pipefail
cd "$(dirname "$0")/.."
cpu_wheels=https://download.pytorch.org/whl/cpu

main() {
    [[ $# -ge 3 ]] || die 'DEVICE, LOCK and PIP are needed'
    device=$1 lock=$2 pip=("${@:3}")
    [[ -f $lock ]] || die "no lock file $lock"
    case $device in
        cuda) install --requirement "$lock" ;;
        cpu) install_for_cpu 'torch==|triton==|cuda-|nvidia-' ;;
        cpu+triton) install_for_cpu 'torch==|cuda-|nvidia-' ;;
        *) die "DEVICE=$device should be cuda, cpu or cpu+triton" ;;
    esac
    "${pip[@]}" check
}

die() {
    echo "install.sh: $*" >&2
    exit 2
}

install() {
    "${pip[@]}" install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: "$@"
}

# Takes the lock without the packages of this pattern; an indented line goes with the one above it.
install_for_cpu() {
    install --no-deps --index-url "$cpu_wheels" --requirement cloud/torch-cpu.lock
    awk -v left_out="^($1)" '/^[^ ]/ { keep = $0 !~ left_out } keep' "$lock" | install --requirement /dev/stdin
}

main "$@"
