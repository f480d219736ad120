"""evaluate.py beside lm-evaluation-harness on the same real rows: every log-probability and choice, and the time of both.

    python tests/compare_harness.py --model=DIR --source=DATA              # HellaSwag, LAMBADA, PIQA, Social IQA, WikiText-2
    python tests/compare_harness.py --model=DIR --source=DATA --server=http://127.0.0.1:8000    # the accuracies through a server of DIR

DIR is a folder that export.py wrote, DATA one with the tasks' files. Both programs are started anew for every task, with all
their loading. The seconds are of the clock, and in brackets of the processor, which others on the machine disturb less.
Needs `pip install lm-eval accelerate`.
"""
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import harness  # noqa: E402
from test_evals_harness import real_rows, wikitext_pages  # noqa: E402

from configurator import configure, optional  # noqa: E402
from runtime.tables import table  # noqa: E402

DEFAULTS = {
    'model': 'out/exported',  # a folder that export.py wrote
    'source': 'data',  # a folder with the tasks' files
    'tasks': 'hellaswag,lambada,piqa,siqa,wikitext2',  # which are compared
    'limit': 500,  # rows of a task
    'server': optional(str),  # where serve.py answers: the harness asks it through local-completions
    'batch_size': 'auto',  # the harness's
}


def main(config):
    rows = [('task', 'rows', 'largest difference, nats', 'other choices', 'acc here', 'acc there', 'here, s', 'harness, s', 'times')]
    for name in config['tasks'].split(','):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(name, config, pathlib.Path(folder)))
        print(table([rows[0], rows[-1]]), flush=True)
    print(table(rows))


def compare(name, config, folder):
    """A row of the table."""
    if name == 'wikitext2':
        source, data = wikitext_pages(pathlib.Path(config['source']), folder, config['limit'])
    else:
        data, source = real_rows(pathlib.Path(config['source']), name, config['limit'])
    ours, seconds = timed([sys.executable, ROOT / 'evaluate.py', f'--init_from={config["model"]}', f'--tasks={name}',
                           f'--source={source}', f'--limit={config["limit"]}', f'--json={folder / "ours.json"}'])
    ours = json.loads((folder / 'ours.json').read_text())['tasks'][name]
    task = harness.write_task(name, data, folder / 'task')
    model = ['--model', 'hf', '--model_args', f'pretrained={config["model"]},dtype=float32', '--device', 'cpu']
    if config['server']:
        model = ['--model', 'local-completions', '--model_args', f'base_url={config["server"]}/v1/completions,model=exported,'
                 f'tokenizer={config["model"]},num_concurrent=4,tokenized_requests=True,max_length={max_length(config["model"])}']
    _, theirs_seconds = timed([sys.executable, '-m', 'lm_eval', *model, '--include_path', folder / 'task', '--tasks', task, '--num_fewshot',
                               '0', '--batch_size', '16' if config['server'] else config['batch_size'], '--log_samples', '--output_path',
                               folder / 'theirs'])
    (path,) = (folder / 'theirs').rglob('samples_*.jsonl')
    samples = sorted(map(json.loads, path.read_text().splitlines()), key=lambda sample: sample['doc_id'])
    pairs = [(example['logprobs'], [sample['word_perplexity'][0]] if name == 'wikitext2' else harness.logprobs(sample))
             for example, sample in zip(ours['examples'], samples, strict=True)]
    difference = max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True))
    n_other = sum(a.index(max(a)) != b.index(max(b)) for a, b in pairs)
    metric = 'word_perplexity' if name == 'wikitext2' else 'acc'
    (path,) = (folder / 'theirs').rglob('results_*.json')
    there = json.loads(path.read_text())['results'][task][f'{metric},none']
    return (name, str(len(pairs)), f'{difference:.1e}', str(n_other), f'{ours[metric]:.6g}', f'{there:.6g}',
            *(f'{clock:.0f} ({processor:.0f})' for clock, processor in (seconds, theirs_seconds)),
            f'{theirs_seconds[0] / seconds[0]:.1f} ({theirs_seconds[1] / seconds[1]:.1f})')


def timed(command):
    """(what it printed, (seconds of the clock, seconds of the processor))."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, 'HF_HUB_OFFLINE': '1'})
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        sys.exit(f'{command}\n{ended.stdout}\n{ended.stderr}')
    return ended.stdout, (clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def max_length(folder):
    return json.loads((pathlib.Path(folder) / 'config.json').read_text())['n_positions']


if __name__ == '__main__':
    main(configure(DEFAULTS))
