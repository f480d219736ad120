#!/usr/bin/env bash
# Muon with 65% of the tokens against AdamW with all of them, three seeds each: the demo's model and data, both tuned
# (AdamW: rates of 1.5e-3 to 6e-3, warm-ups of 20 to 150 steps; Muon: rates of 0.01 to 0.04).
# About 12 minutes on two CPU cores. Prints a table and draws out/muon_vs_adamw/comparison.png.
# SEEDS='1 2' takes others; flags are passed on to train.py.
set -euo pipefail
[[ ${1-} =~ ^(-h|--help)$ ]] && { sed -n '2,/^set/ s/^# \{0,1\}//p' "$0"; exit; }
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
seeds=${SEEDS:-1 2 3}
out=out/muon_vs_adamw
$python corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib
for seed in $seeds; do
    common="config/demo.py --seed=$seed --sample_interval=0 --eval_interval=25 --checkpoint_interval=1000"
    $python train.py $common --out_dir=$out/adamw_$seed --optimizer=adamw --max_steps=500 --learning_rate=3e-3 --warmup_steps=150 "$@"
    $python train.py $common --out_dir=$out/muon_$seed --optimizer=muon --max_steps=325 "$@"
done
folders=$(for optimizer in adamw muon; do for seed in $seeds; do printf '%s,' "$out/${optimizer}_$seed"; done; done)
$python plot.py --out_dir="${folders%,}" --to=$out/comparison.png
