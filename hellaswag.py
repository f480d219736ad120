"""HellaSwag (Zellers et al. 2019, "HellaSwag: Can a Machine Really Finish Your Sentence?"): how often a model finds
the right one of four endings.

    python hellaswag.py --init_from=gpt2                                  # the validation set, from the hub
    python hellaswag.py --out_dir=out/demo --limit=1000                   # the newest checkpoint of a run
    python hellaswag.py --init_from=DIR --source=hellaswag_val.jsonl      # a file
    torchrun --nproc_per_node=8 hellaswag.py --init_from=gpt2-xl

The model chooses the ending that is the likeliest after the context. Two protocols are in use, and figures of one do not
compare with those of the other:

    harness     lm-evaluation-harness's: the activity stands before the context, WikiHow's markup is cleaned out
    completion  the public GPT-2 training scripts': context and ending as published

They are the tasks hellaswag and hellaswag_completion of evaluate.py, which has many more.
"""
import runtime.waiting  # noqa: F401  before torch

# isort: split
from configurator import check_bounds, choice, configure, optional
from evals.measure import prepare, read_tasks, run
from evals.tasks import choose_tasks
from runtime.errors import one_line_errors
from runtime.tables import table
from runtime.words import plural
from scoring.likelihood import open_for_evaluation

METRICS = {  # {protocol: (task, {metric there: (name, what is compared)})}
    'harness': ('hellaswag', {
        'acc': ('acc', 'harness text, log-probability'), 'acc_norm': ('acc_norm', 'harness text, per character'),
        'acc_bytes': ('acc_bytes', 'harness text, per byte')}),
    'completion': ('hellaswag_completion', {
        'acc': ('completion_acc', 'text as published, log-probability'),
        'acc_token': ('completion_acc_norm', 'text as published, per token (as training scripts report it)')}),
}
DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead: a checkpoint file, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    # data
    'source': optional(str),  # a .jsonl file as published; None: the validation split of Rowan/hellaswag on the hub
    'limit': optional(int),  # only the first so many examples
    'protocol': choice('all', *METRICS),  # which figures to measure
    # machine
    'batch_size': 16,  # examples in a forward pass
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('float32', 'auto', 'bfloat16', 'float16'),  # of matrix products; published figures are float32's
}


def main(config):
    check_bounds(config, 'limit', 'batch_size', at_least=1)
    protocols = list(METRICS) if config['protocol'] == 'all' else [config['protocol']]
    chosen = choose_tasks(','.join(METRICS[protocol][0] for protocol in protocols))
    asked = read_tasks(chosen, config['source'], config['limit'])
    model, tokenizer, process, _ = open_for_evaluation(config)
    tasks = prepare(asked, tokenizer, model.config.block_size)
    process.print0(plural(len(asked[0].rows), 'example'))
    rows = [('metric', 'accuracy', 'standard error')]
    for protocol, task in zip(protocols, tasks):
        scores = run(task, model, process, batch_size=config['batch_size'], bar=True)
        for metric, (name, what) in METRICS[protocol][1].items():
            rows.append((f'{name}: {what}', f'{scores[metric]:.4f}', f'± {scores[f"{metric}_stderr"]:.4f}'))
    process.print0(table(rows))
    process.end()


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
