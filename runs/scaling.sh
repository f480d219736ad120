#!/usr/bin/env bash
# How the loss falls with size and tokens: six sizes of 0.2 to 6.6 million parameters, each on four numbers of tokens of PyTorch's
# own source text, the law that fits the losses, and its forecast of the largest run. About 50 minutes on two CPU cores; started
# again, it goes on. Flags are passed on to `python -m runs.scaling`, whose --help says the rest.
set -euo pipefail
[[ ${1-} =~ ^(-h|--help)$ ]] && { sed -n '2,/^set/ s/^# \{0,1\}//p' "$0"; exit; }
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
if [ ! -f data/torch/meta.json ]; then
    torch=$($python -c 'import os, torch; print(os.path.dirname(torch.__file__))')
    $python corpus.py --source="$torch/**/*.py" --vocab_size=1024 --out_dir=data/torch
fi
$python -m runs.scaling --data_dir=data/torch "$@"
