#!/usr/bin/env bash
# Muon with 45% of the tokens against AdamW with all of them, ten seeds each, on two texts and with 4 and 8 layers: the settings of
# config/demo.py, and AdamW's own rate and warm-up. How both were tuned: docs/performance.md.
#   bash runs/muon_vs_adamw.sh [FOLDER_OF_WIKITEXT]
# Two and a half hours on two CPU cores; started again, it goes on. Without a folder, WikiText-2 comes from the hub.
# SEEDS=1,2,3 takes others. The tables are in out/muon_vs_adamw/results.txt.
set -euo pipefail
[[ ${1-} =~ ^(-h|--help)$ ]] && { sed -n '2,/^set/ s/^# \{0,1\}//p' "$0"; exit; }
wikitext=${1:+--source=$(realpath "$1")}
wikitext=${wikitext:---raw=False}
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
seeds=${SEEDS:-1,2,3,4,5,6,7,8,9,10}
out=out/muon_vs_adamw
mkdir -p $out
$python corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib
$python wikitext.py "$wikitext" --vocab_size=4096 --out_dir=data/wikitext2_4096
: > $out/results.txt
for layers in 4 8; do
    for data in stdlib wikitext2_4096; do
        common=(config/demo.py --data_dir=data/$data --n_layer=$layers --seed="$seeds" --sample_interval=0 --eval_interval=0
                --checkpoint_interval=0)
        adamw=$out/adamw_${data}_$layers muon=$out/muon_${data}_$layers
        $python -m runs.sweep "${common[@]}" --optimizer=adamw --learning_rate=3e-3 --warmup_steps=150 --beta2=0.95 \
            --max_steps=500 --sweep_dir=$adamw
        $python -m runs.sweep "${common[@]}" --max_steps=225 --sweep_dir=$muon
        { echo "$data, $layers layers"; $python -m runs.paired $adamw $muon; echo; } >> $out/results.txt
    done
done
cat $out/results.txt
