#!/usr/bin/env bash
# Preferences from nothing: a small model learns to answer from rows of instruction, input and output, and then to prefer
# their chosen answer to the rejected one; both hold out the same instructions. Three seeds of the second part.
#   bash runs/preferences.sh instruction-data-with-preference.json
# About 6 minutes on two CPU cores. Prints a table of accuracy on held-out pairs, before and after. SEEDS='1 2' takes others.
set -euo pipefail
[[ ${1-} =~ ^(-h|--help)$ ]] && { sed -n '2,/^set/ s/^# \{0,1\}//p' "$0"; exit; }
[ -f "${1-}" ] || { echo 'usage: bash runs/preferences.sh FILE, of rows with instruction, input, chosen and rejected' >&2; exit 2; }
source=$(realpath "$1")
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
seeds=${SEEDS:-1 2 3}
out=out/preferences
$python -m tasks.chat --source="$source" --vocab_size=1024 --val_fraction=0.2 --out_dir=data/preferences
$python train.py config/demo.py --data_dir=data/preferences --out_dir=$out/start --max_steps=60 --eval_interval=20 \
    --sample_interval=0
for seed in $seeds; do
    $python -m tasks.dpo --init_from=$out/start --source="$source" --out_dir=$out/seed_$seed --seed=$seed --val_fraction=0.2 \
        --learning_rate=1e-3 --max_steps=40 --eval_interval=10
done
folders=$(for seed in $seeds; do printf '%s,' "$out/seed_$seed"; done)
$python plot.py --out_dir="${folders%,}" --to=$out/comparison.png
