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
import math
import re
from dataclasses import dataclass

import torch

from bpe import Tokenizer
from configurator import check_bounds, choice, configure, optional
from model import GPT
from runtime.errors import BadInput, one_line_errors
from runtime.process import Process
from runtime.tables import table
from runtime.words import plural
from scoring.likelihood import log_likelihoods, open_for_evaluation
from sources import hub_rows, read_rows

N_ENDINGS = 4
TEXT_FIELDS = 'activity_label', 'ctx', 'ctx_a', 'ctx_b'
METRICS = {  # {protocol: {metric: (what it divides by, from an ending's text and tokens; what that is)}}
    'harness': {
        'acc': (lambda text, ids: 1, 'harness text, log-probability'),
        'acc_norm': (lambda text, ids: len(text), 'harness text, per character'),
        'acc_bytes': (lambda text, ids: len(text.encode()), 'harness text, per byte')},
    'completion': {
        'completion_acc': (lambda text, ids: 1, 'text as published, log-probability'),
        'completion_acc_norm': (lambda text, ids: len(ids), 'text as published, per token (as training scripts report it)')},
}
BRACKETS = re.compile(r'\[[^\]\n]*(\]?)')
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
    examples = load(config['source'], config['limit'])
    model, tokenizer, process = open_for_evaluation(config)
    protocols = list(METRICS) if config['protocol'] == 'all' else [config['protocol']]
    questions = prepare(examples, tokenizer, model.config.block_size, protocols)
    process.print0(plural(len(examples), 'example'))
    results = accuracies(model, questions, process, batch_size=config['batch_size'], progress='HellaSwag')
    process.print0(accuracy_table(results))
    process.end()


# ---- examples ---------------------------------------------------------------------------------------


def load(source: str | None = None, limit: int | None = None) -> list[dict]:
    """Examples as published: dicts with activity_label, ctx, ctx_a, ctx_b, endings (4 str) and label (int).

    source: a .jsonl file, or None for the validation split on the hub. Raises BadInput that names the line at fault.
    """
    if limit is not None and limit < 1:
        raise BadInput(f'limit={limit} should be at least 1, or None for all examples')
    rows = read_rows(source) if source else hub_rows('Rowan/hellaswag', None, 'validation')
    examples = [check_example(place, row) for place, row in itertools.islice(rows, limit)]
    if not examples:
        raise BadInput(f'{source} has no examples; it should have one on each line')
    return examples


def check_example(place, row):
    """The example with its label as an int. Raises BadInput that names the place."""
    row = row if isinstance(row, dict) else {}
    texts, endings, label = [row.get(field) for field in TEXT_FIELDS], row.get('endings'), str(row.get('label'))
    are_endings = isinstance(endings, list) and len(endings) == N_ENDINGS and '' not in endings
    is_label = label in map(str, range(N_ENDINGS))  # the hub has labels as text
    if not (are_endings and is_label and all(isinstance(text, str) for text in texts + endings)):
        raise BadInput(f'{place} is not an example of HellaSwag: an object with {", ".join(TEXT_FIELDS)} (text), endings '
                       f'({N_ENDINGS} texts) and label (0 to {N_ENDINGS - 1})')
    return {**row, 'label': int(label)}


# ---- examples -> tokens -----------------------------------------------------------------------------


@dataclass
class Questions:
    """All examples as one protocol asks them."""
    pairs: list  # of N * 4 (context ids, ending ids)
    labels: torch.Tensor  # (N,)
    divisors: dict  # {metric: (N, 4) float64}, what it divides log-probabilities by


def prepare(examples: list[dict], tokenizer: Tokenizer, block_size: int, protocols=tuple(METRICS)) -> dict[str, Questions]:
    """{protocol: Questions}: everything that does not depend on the weights. Raises BadInput if an ending does not fit."""
    labels, questions = torch.tensor([example['label'] for example in examples]), {}
    for protocol in protocols:
        is_harness = protocol == 'harness'
        texts = [harness_text(example) if is_harness else (example['ctx'], example['endings']) for example in examples]
        pairs = encode_pairs(texts, tokenizer, joined=is_harness)
        for i, (context, ending) in enumerate(pairs):
            if len(ending) > block_size:
                raise BadInput(f'an ending of example {i // N_ENDINGS} has {len(ending)} tokens, which do not fit into a '
                               f'block_size of {block_size}')
            # A context that is too long loses its beginning. The last token of an ending is predicted, but not read.
            pairs[i] = context[-(block_size + 1 - len(ending)):], ending
        endings = [ending for _, endings in texts for ending in endings]
        divisors = {metric: torch.tensor([divisor(text, ids) for text, (_, ids) in zip(endings, pairs)], dtype=torch.float64)
                    .view(-1, N_ENDINGS) for metric, (divisor, _) in METRICS[protocol].items()}
        questions[protocol] = Questions(pairs, labels, divisors)
    return questions


def harness_text(example):
    """(context, endings) as lm-evaluation-harness's task `hellaswag` words them."""
    context = example['ctx_a'] + ' ' + example['ctx_b'].capitalize()
    return clean(f'{example["activity_label"]}: {context}'), [clean(ending) for ending in example['endings']]


def clean(text):
    """The harness's clean-up of WikiHow's markup, such as [title] and [step].

    Its pattern `\\[.*?\\]` takes quadratic time where brackets are not closed; here what follows one is read once.
    """
    text = text.strip().replace(' [title]', '. ')
    return BRACKETS.sub(lambda found: '' if found[1] else found[0], text).replace('  ', ' ')


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
    results, progress = {'scores': {}}, options.pop('progress', '')
    for protocol, asked in questions.items():
        options['progress'] = progress and f'{progress}, {protocol}, {N_ENDINGS} endings each'
        scores = log_likelihoods(model, asked.pairs, process, **options).view(-1, N_ENDINGS)
        results['scores'][protocol] = scores
        for metric, divisor in asked.divisors.items():
            chosen = (scores / divisor).numpy().argmax(axis=1)  # the first of equals, as the harness takes it
            right = chosen == asked.labels.numpy()
            share, n = float(right.mean()), len(right)
            results[metric] = share
            results[metric + '_stderr'] = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.nan
    return results


def accuracy_table(results):
    rows = [('metric', 'accuracy', 'standard error')]
    for metric, (_, description) in (METRICS['harness'] | METRICS['completion']).items():
        if metric in results:
            rows.append((f'{metric}: {description}', f'{results[metric]:.4f}', f'± {results[metric + "_stderr"]:.4f}'))
    return table(rows)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
