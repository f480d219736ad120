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

Their metrics differ in what an ending's log-probability is divided by before endings are compared: see METRICS. This
module knows nothing about training; train.py calls `prepare` once and `accuracies` at intervals.
"""
import itertools
import json
import math
import re
from dataclasses import dataclass

import torch

from bpe import Tokenizer
from configurator import choice, configure, optional
from model import GPT
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write, read_text
from runtime.process import Process
from runtime.tables import table
from scoring.likelihood import log_likelihoods, open_for_evaluation
from sources import ask_hub

N_ENDINGS = 4
METRICS = {  # {protocol: {metric: (what it divides by, from an ending's text and tokens; what that is)}}
    'harness': {
        'acc': (lambda text, ids: 1, 'harness text, log-probability'),
        'acc_norm': (lambda text, ids: len(text), 'harness text, per character'),
        'acc_bytes': (lambda text, ids: len(text.encode()), 'harness text, per byte')},
    'completion': {
        'completion_acc': (lambda text, ids: 1, 'text as published, log-probability'),
        'completion_acc_norm': (lambda text, ids: len(ids), 'text as published, per token (as training scripts report it)')},
}
DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead: a checkpoint file, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    # data
    'source': optional(str),  # a .jsonl file as published; None: the validation split of Rowan/hellaswag on the hub
    'limit': optional(int),  # only the first so many examples
    'protocol': choice('all', *METRICS),  # which figures to measure
    'details': optional(str),  # write each example's log-probabilities and choices to this .jsonl file
    # machine
    'batch_size': 16,  # examples in a forward pass
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('float32', 'auto', 'bfloat16', 'float16'),  # of matrix products; published figures are float32's
    'compile': False,  # torch.compile
}


def main(config):
    examples = load(config['source'], config['limit'])
    model, tokenizer, process, compiled = open_for_evaluation(config)
    protocols = list(METRICS) if config['protocol'] == 'all' else [config['protocol']]
    questions = prepare(examples, tokenizer, model.config.block_size, protocols)
    process.print0(f'{len(examples):,} examples')
    results = accuracies(model, questions, process, batch_size=config['batch_size'], progress='HellaSwag', compiled=compiled)
    process.print0(accuracy_table(results))
    if config['details'] and process.is_first:
        write_details(config['details'], examples, questions, results['scores'])
    process.end()


# ---- examples ---------------------------------------------------------------------------------------


def load(source: str | None = None, limit: int | None = None) -> list[dict]:
    """Examples as published: dicts with activity_label, ctx, ctx_a, ctx_b, endings (4 str) and label (int).

    source: a .jsonl file, or None for the validation split on the hub. Raises BadInput that names the line at fault.
    """
    if limit is not None and limit < 1:
        raise BadInput(f'limit={limit} should be at least 1, or None for all examples')
    rows = read_jsonl(source) if source else read_hub()
    examples = [check_example(row, where) for where, row in itertools.islice(rows, limit)]
    if not examples:
        raise BadInput(f'{source} has no examples')
    return examples


def read_jsonl(path):
    """Yields (place, value) of every line that is not blank."""
    for number, line in enumerate(''.join(read_text(path)).split('\n'), 1):
        if line.strip():
            try:
                yield f'{path}, line {number}', json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                raise BadInput(f'{path}, line {number} is not JSON; --source is a .jsonl file of HellaSwag') from None


def read_hub():
    import datasets
    ask_hub('Rowan/hellaswag')
    try:
        rows = datasets.load_dataset('Rowan/hellaswag', split='validation')
    except Exception as error:  # the hub, the network and the library's readers raise dozens of kinds
        raise BadInput(f'HellaSwag could not be fetched from the hub ({type(error).__name__}); check the network, or give '
                       f'--source=hellaswag_val.jsonl') from error
    return ((f'Rowan/hellaswag, example {i}', row) for i, row in enumerate(rows))


def check_example(row, where):
    """The example with its label as an int. Raises BadInput."""
    if not isinstance(row, dict):
        raise BadInput(f'{where} is not a JSON object')
    for field in ('activity_label', 'ctx', 'ctx_a', 'ctx_b', 'endings', 'label'):
        if field not in row:
            raise BadInput(f'{where} lacks the field {field!r}')
        if field not in ('endings', 'label') and not isinstance(row[field], str):
            raise BadInput(f'{where}: {field} should be text, not {row[field]!r}')
    endings, label = row['endings'], row['label']
    if not isinstance(endings, list) or len(endings) != N_ENDINGS or not all(isinstance(e, str) and e for e in endings):
        raise BadInput(f'{where}: endings should be {N_ENDINGS} texts')
    if isinstance(label, str) and label.isdecimal():  # as the hub has it
        label = int(label)
    if type(label) is not int or not 0 <= label < N_ENDINGS:
        raise BadInput(f'{where}: label {row["label"]!r} should be 0 to {N_ENDINGS - 1}')
    return {**row, 'label': label}


# ---- examples -> tokens -----------------------------------------------------------------------------


@dataclass
class Questions:
    """All examples as one protocol asks them."""
    pairs: list  # of N * 4 (context ids, ending ids)
    labels: torch.Tensor  # (N,)
    divisors: dict  # {metric: (N, 4) float64}, what it divides log-probabilities by


def prepare(examples: list[dict], tokenizer: Tokenizer, block_size: int, protocols=tuple(METRICS)) -> dict[str, Questions]:
    """{protocol: Questions}: everything that does not depend on the weights."""
    return {protocol: prepare_protocol(examples, tokenizer, block_size, protocol) for protocol in protocols}


def prepare_protocol(examples, tokenizer, block_size, protocol):
    is_harness = protocol == 'harness'
    texts = [harness_text(example) if is_harness else (example['ctx'], example['endings']) for example in examples]
    pairs = encode_pairs(texts, tokenizer, joined=is_harness)
    for i, (_, ending) in enumerate(pairs):
        if len(ending) > block_size:
            raise BadInput(f'an ending of example {i // N_ENDINGS} has {len(ending)} tokens, which do not fit into a '
                           f'block_size of {block_size}')
    endings = [ending for _, endings in texts for ending in endings]
    divisors = {metric: torch.tensor([divisor(text, ids) for text, (_, ids) in zip(endings, pairs)], dtype=torch.float64)
                for metric, (divisor, _) in METRICS[protocol].items()}
    # A context that is too long loses its beginning. The last token of an ending is predicted, but not read.
    return Questions([(context[-(block_size + 1 - len(ending)):], ending) for context, ending in pairs],
                     torch.tensor([example['label'] for example in examples]),
                     {metric: divisor.view(-1, N_ENDINGS) for metric, divisor in divisors.items()})


def harness_text(example):
    """(context, endings) as lm-evaluation-harness's task `hellaswag` words them."""
    context = example['ctx_a'] + ' ' + example['ctx_b'].capitalize()
    return clean(f'{example["activity_label"]}: {context}'), [clean(ending) for ending in example['endings']]


def clean(text):
    """The harness's clean-up of WikiHow's markup, such as [title] and [step]."""
    text = text.strip().replace(' [title]', '. ')
    return re.sub(r'\[.*?\]', '', text).replace('  ', ' ')


def encode_pairs(texts, tokenizer, joined):
    """[(context ids, ending ids)] of every ending, with the space between context and ending in the ending.

    joined: as the harness cuts, an ending's tokens are those of context and ending together that come after the
    context's; otherwise, as GPT-2 training scripts cut, those of a space and the ending by themselves.
    """
    contexts = tokenizer.encode_batch([context.rstrip() if joined else context for context, _ in texts])
    endings = iter(tokenizer.encode_batch([f'{context if joined else ""} {ending}'
                                           for context, endings in texts for ending in endings]))
    return [(context or [tokenizer.eot], next(endings)[len(context) if joined else 0:])
            for context in contexts for _ in range(N_ENDINGS)]


# ---- scores -----------------------------------------------------------------------------------------


def accuracies(model: GPT, questions: dict[str, Questions], process: Process, **options) -> dict:
    """{metric: share of right choices, metric + '_stderr': its standard error, 'scores': {protocol: (N, 4) float64}}.

    scores: the log-probability of every ending in nats. questions: from `prepare`. options: of `log_likelihoods`, such as
    batch_size and check_stop. Every process must call this, takes its share of the work, and gets the same result.
    """
    results = {'scores': {}}
    for protocol, asked in questions.items():
        scores = log_likelihoods(model, asked.pairs, process, **options).view(-1, N_ENDINGS)
        results['scores'][protocol] = scores
        for metric, divisor in asked.divisors.items():
            right = choose_endings(scores, divisor) == asked.labels.numpy()
            share, n = float(right.mean()), len(right)
            results[metric] = share
            results[metric + '_stderr'] = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.nan
    return results


def choose_endings(scores, divisor):
    """(N, 4), (N, 4) -> (N,) the likeliest ending of each example; the first of equals, as the harness takes it."""
    return (scores / divisor).numpy().argmax(axis=1)


def accuracy_table(results):
    rows = [('metric', 'accuracy', 'standard error')]
    for metric, (_, description) in (METRICS['harness'] | METRICS['completion']).items():
        if metric in results:
            error = results[metric + '_stderr']  # one example has none
            rows.append((f'{metric}: {description}', f'{results[metric]:.4f}', '' if math.isnan(error) else f'± {error:.4f}'))
    return table(rows)


def write_details(path, examples, questions, scores):
    """A line for each example: its label, and for each protocol the log-probabilities and what each metric chooses."""
    choices = {metric: choose_endings(scores[protocol], divisor)
               for protocol, asked in questions.items() for metric, divisor in asked.divisors.items()}
    with atomic_write(path) as file:
        for i, example in enumerate(examples):
            line = {'example': i, 'label': example['label']}
            for protocol, asked in questions.items():
                line[protocol] = {'log_probabilities': scores[protocol][i].tolist(),
                                  **{metric: int(choices[metric][i]) for metric in asked.divisors}}
            file.write((json.dumps(line) + '\n').encode())


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
