#!/usr/bin/env bash
# What a container runs:
#
#   train [config.py ...] [--key=value ...]   train.py on all GPUs of this machine, or on its CPU
#   serve [--key=value ...]                   serve.py on port 8080; without a model named, the one in MODEL_DIR
#   anything else                             is run as it stands: torchrun ..., python sample.py ..., bash
set -euo pipefail
cd "$(dirname "$0")/.."
served_port=${TMPDIR:-/tmp}/scratchgpt_port # what healthcheck.py reads
model_dir=${MODEL_DIR:-/opt/ml/model}       # where SageMaker unpacks model.tar.gz
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600} # torchrun would kill after 30 s who still saves

rm -f "$served_port"
case ${1:-serve} in
    train)
        shift
        gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
        if [[ $gpus -gt 1 ]]; then
            exec torchrun --standalone --nproc_per_node="$gpus" train.py "$@"
        fi
        exec python train.py "$@"
        ;;
    serve)
        shift || true
        port=8080
        model=(--init_from="$model_dir")
        for argument in "$@"; do
            case $argument in
                --port=*) port=${argument#*=} ;;
                --out_dir=* | --init_from=*) model=() ;;
            esac
        done
        echo "$port" >"$served_port"
        exec python serve.py --host=0.0.0.0 --port="$port" "${model[@]}" "$@"
        ;;
    *) exec "$@" ;;
esac
