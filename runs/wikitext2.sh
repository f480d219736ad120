#!/usr/bin/env bash
# WikiText-2 from scratch: a vocabulary of 4,096 entries of its own, config/wikitext2_small.py, and the perplexities of its test
# text, by token and by word, with windows side by side and with windows that overlap by half. 90 minutes on two CPU cores; started
# again, it goes on.
#   bash runs/wikitext2.sh [FOLDER_OF_WIKITEXT] [--key=value ...]
# The folder has train.txt, valid.txt and test.txt; without one, they come from the hub. Flags are train.py's.
set -euo pipefail
[[ ${1-} =~ ^(-h|--help)$ ]] && { sed -n '2,/^set/ s/^# \{0,1\}//p' "$0"; exit; }
text=--raw=False
[[ -n ${1-} && $1 != --* ]] && { text=--source=$(realpath "$1"); shift; }
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
$python wikitext.py "$text" --vocab_size=4096 --out_dir=data/wikitext2_4096
$python train.py config/wikitext2_small.py "$@"
for stride in 512 256; do
    $python evaluate.py --out_dir=out/wikitext2_small --tasks=wikitext2_gpt2 --protocol=plain --source=data/wikitext2_4096/test.txt \
        --stride=$stride --json=out/wikitext2_small/test_$stride.json
done
