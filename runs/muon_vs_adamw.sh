#!/usr/bin/env bash
# Muon with 65% of the tokens against AdamW with all of them, three seeds each: the demo's model and data, both tuned
# (AdamW: rates of 1.5e-3 to 6e-3, warm-ups of 20 to 150 steps; Muon: rates of 0.01 to 0.04).
# About 12 minutes on two CPU cores. Prints a table and draws out/muon_vs_adamw/comparison.png.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=out/muon_vs_adamw
$python corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib
for seed in 1 2 3; do
    common="config/demo.py --seed=$seed --sample_interval=0 --eval_interval=25 --checkpoint_interval=1000"
    $python train.py $common --out_dir=$out/adamw_$seed --optimizer=adamw --max_steps=500 --learning_rate=3e-3 --warmup_steps=150
    $python train.py $common --out_dir=$out/muon_$seed --optimizer=muon --max_steps=325
done
$python plot.py --out_dir=$out/adamw_1,$out/adamw_2,$out/adamw_3,$out/muon_1,$out/muon_2,$out/muon_3 --to=$out/comparison.png
