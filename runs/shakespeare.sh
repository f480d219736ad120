#!/usr/bin/env bash
# Shakespeare's plays, a character a token, in about 3, 6 and 25 minutes on two CPU cores, three seeds each; with nanoGPT's path
# also the command that its README has for a CPU, and the same for as long. About two hours; started again, it goes on.
#   bash runs/shakespeare.sh input.txt [PATH_OF_NANOGPT]
# Prints the validation losses over all of the held-out tenth and the minutes that they took, and writes them to
# out/shakespeare/results.md.
# SEEDS=1,2 takes other seeds.
set -euo pipefail
[[ ${1-} =~ ^(-h|--help)$ ]] && { sed -n '2,/^set/ s/^# \{0,1\}//p' "$0"; exit; }
[ -f "${1-}" ] || { echo 'usage: bash runs/shakespeare.sh input.txt [PATH_OF_NANOGPT]' >&2; exit 2; }
source=$(realpath "$1") peer=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
out=$PWD/out/shakespeare
mkdir -p "$out"
$python corpus.py --source="$source" --vocab_size=257 --hold_out=end --val_fraction=0.1 --out_dir=data/shakespeare
: > "$out/results.md"
for run in 'shakespeare_char --max_steps=700' 'shakespeare_char --max_steps=1400' shakespeare_char_best; do
    config=${run%% *} flags=${run#"$config"}
    $python -m runs.sweep "config/$config.py" $flags --seed="${SEEDS:-1,2,3}" --sweep_dir="$out/$config${flags#*=}"
    { echo "config/$config.py$flags"; cat "$out/$config${flags#*=}/sweep.md"; echo; } >> "$out/results.md"
done

if [ -n "$peer" ]; then
    cp "$source" "$peer/data/shakespeare_char/input.txt"
    (cd "$peer/data/shakespeare_char" && $python prepare.py)
    # The first is its README's command; the others are the same with as many steps as 3 and 6 minutes have here.
    for steps in 2000 ${PEER_STEPS:-}; do
        begun=$(date +%s)
        (cd "$peer" && $python train.py config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=100 \
            --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters="$steps" --lr_decay_iters="$steps" \
            --dropout=0.0 --out_dir="$out/nanogpt_$steps") | tee "$out/nanogpt_$steps.log"
        seconds=$(($(date +%s) - begun))
        loss=$(grep 'val loss' "$out/nanogpt_$steps.log" | tail -1 | sed 's/.*val loss //')
        echo "nanoGPT, its README's command for a CPU, $steps steps: $loss (its estimate, 20 batches) in $seconds s" >> "$out/results.md"
    done
fi
cat "$out/results.md"
