"""HellaSwag (Zellers et al. 2019, "HellaSwag: Can a Machine Really Finish Your Sentence?"): how often a model finds
the right one of four endings.

    python hellaswag.py --init_from=gpt2                                  # the validation set, from the hub
    python hellaswag.py --out_dir=out/demo --limit=1000                   # the newest checkpoint of a run
    python hellaswag.py --init_from=DIR --source=hellaswag_val.jsonl      # a file
    torchrun --nproc_per_node=8 hellaswag.py --init_from=gpt2-xl

Two protocols are in use, and their figures do not compare, so each is named for what it is:

    acc, acc_norm, acc_bytes            the lm-evaluation-harness's: its clean-up of the text, the activity before the
                                        context; the likeliest ending by its log-probability as it is, per character
                                        of the ending, per UTF-8 byte of it
    completion_acc, completion_acc_norm the public GPT-2 training scripts': the context as published; the likeliest
                                        ending by its log-probability as it is, and per token

A context is computed once for its four endings: they stand one after the other in the same row, each at the positions
after the context, and an attention mask keeps each from seeing the others. This module knows nothing about training;
train.py calls `prepare` once and `evaluate` at intervals.
"""
import json
import math
import re
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from tqdm import tqdm

import pretrained
from runtime import hardware
from configurator import choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from sources import ask_hub
from runtime.files import atomic_write
from runtime.process import Process

DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    # data
    'source': optional(str),  # a .jsonl file as published; None: the validation split of Rowan/hellaswag on the hub
    'limit': optional(int),  # only the first so many examples
    'protocol': choice('all', 'harness', 'completion'),  # which figures to measure
    'details': optional(str),  # write each example's log-probabilities and choices to this .jsonl file
    # machine
    'batch_size': 16,  # examples in a forward pass
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('float32', 'auto', 'bfloat16', 'float16'),  # of matrix products; published figures are float32's
    'compile': False,  # torch.compile
}
N_ENDINGS = 4
COMPILED_UNIT = 64  # rows and lists of targets are filled up to multiples of it, so that few shapes are compiled
METRICS = {'harness': ('acc', 'acc_norm', 'acc_bytes'), 'completion': ('completion_acc', 'completion_acc_norm')}


def main(config):
    if config['batch_size'] < 1:
        raise BadInput(f'batch_size={config["batch_size"]} should be at least 1')
    examples = load(config['source'], config['limit'])
    process = Process(config, float32_precision='highest')
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'],
                                                     kernels='torch', attention='auto', dropout=0.0)
    model.to(process.device)
    protocols = list(METRICS) if config['protocol'] == 'all' else [config['protocol']]
    questions = prepare(examples, tokenizer, model.config.block_size, protocols)
    reason = hardware.why_no_compile(process.device) if config['compile'] else None
    if reason:
        process.print0(f'not compiled: {reason}')
    process.print0(f'{source}: {model.n_params():,} parameters, {hardware.describe(process.device)}, '
                f'{str(process.dtype).removeprefix("torch.")}, {len(examples):,} examples')
    compiled = config['compile'] and not reason
    results = evaluate(model, questions, process, config['batch_size'], progress=True, compiled=compiled)
    report(results, process)
    if config['details'] and process.is_first:
        write_details(config['details'], examples, questions, results['scores'])
    process.end()


# ---- examples ---------------------------------------------------------------------------------------


def load(source=None, limit=None):
    """Examples as published: dicts with activity_label, ctx, ctx_a, ctx_b, endings (4 str) and label (int).

    source: a .jsonl file, or None for the validation split on the hub. Raises BadInput naming the line at fault.
    """
    if limit is not None and limit < 1:
        raise BadInput(f'limit={limit} should be at least 1, or None for all examples')
    rows = read_jsonl(source) if source else read_hub()
    examples = []
    for where, row in rows:
        if len(examples) == limit:
            break
        examples.append(check_example(row, where))
    if not examples:
        raise BadInput(f'{source} has no examples')
    return examples


def read_jsonl(path):
    """Yields (place, value) of every line that is not blank."""
    try:
        with open(path, encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield f'{path}, line {number}', json.loads(line)
                    except (json.JSONDecodeError, RecursionError):
                        raise BadInput(f'{path}, line {number} is not JSON') from None
    except OSError as error:
        raise BadInput(f'{path}: {error.strerror}; --source is a .jsonl file of HellaSwag') from None
    except UnicodeDecodeError:
        raise BadInput(f'{path} is not UTF-8 text; --source is a .jsonl file of HellaSwag') from None


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
    """The fields that are used, with the label as an int. Raises BadInput."""
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


# ---- examples -> rows of tokens ---------------------------------------------------------------------


@dataclass
class Row:
    """A context and endings that continue it: what one row of a batch holds."""
    example: int
    context: list  # token ids, at least one
    endings: list  # [(number of the ending, token ids)]

    def length(self):
        """Tokens in the row; the last token of an ending is predicted, and predicts nothing."""
        return len(self.context) + sum(len(ids) - 1 for _, ids in self.endings)


@dataclass
class Questions:
    """One protocol's rows, and what its metrics divide log-probabilities by."""
    rows: list
    labels: torch.Tensor  # (N,)
    divisors: dict  # {metric: (N, 4) float64}


def prepare(examples, tokenizer, block_size, protocols=('harness', 'completion')):
    """{protocol: Questions}: everything that does not depend on the weights."""
    return {protocol: prepare_protocol(examples, tokenizer, block_size, protocol) for protocol in protocols}


def prepare_protocol(examples, tokenizer, block_size, protocol):
    text_of = harness_text if protocol == 'harness' else completion_text
    texts = [text_of(example) for example in examples]
    encode = encode_pairs if protocol == 'harness' else encode_apart
    tokens = encode(texts, tokenizer)  # [[(context ids, ending ids)] * 4] * N
    rows = [row for i, pairs in enumerate(tokens) for row in lay_out(i, pairs, block_size)]
    rows.sort(key=lambda row: (-row.length(), row.example))  # the longest first: memory that suffices once, suffices
    lengths = {'acc': lambda text, ids: 1, 'acc_norm': lambda text, ids: len(text),
               'acc_bytes': lambda text, ids: len(text.encode()), 'completion_acc': lambda text, ids: 1,
               'completion_acc_norm': lambda text, ids: len(ids)}
    divisors = {metric: torch.tensor([[lengths[metric](text, ids) for text, (_, ids) in zip(endings, pairs)]
                                      for (_, endings), pairs in zip(texts, tokens)], dtype=torch.float64)
                for metric in METRICS[protocol]}
    return Questions(rows, torch.tensor([example['label'] for example in examples]), divisors)


def harness_text(example):
    """(context, endings) as lm-evaluation-harness's task `hellaswag` words them."""
    context = example['ctx_a'] + ' ' + example['ctx_b'].capitalize()
    return clean(f'{example["activity_label"]}: {context}'), [clean(ending) for ending in example['endings']]


def clean(text):
    """The harness's clean-up of WikiHow's markup, such as [title] and [step]."""
    text = text.strip().replace(' [title]', '. ')
    return re.sub(r'\[.*?\]', '', text).replace('  ', ' ')


def completion_text(example):
    """(context, endings) as published."""
    return example['ctx'], example['endings']


def encode_pairs(texts, tokenizer):
    """Tokens as the harness cuts them: an ending's are what follows the context's in those of both together.

    Spaces at the end of a context go to the ending, since they belong to the token of the next word.
    """
    contexts = [context.rstrip() for context, _ in texts]
    spaces = [context[len(context.rstrip()):] for context, _ in texts]
    wholes = iter(tokenizer.encode_batch([f'{context}{space} {ending}' for context, space, (_, endings)
                                          in zip(contexts, spaces, texts) for ending in endings]))
    tokens = []
    for ids in tokenizer.encode_batch(contexts):
        ids = ids or [tokenizer.eot]
        tokens.append([(ids, next(wholes)[len(ids):]) for _ in range(N_ENDINGS)])
    return tokens


def encode_apart(texts, tokenizer):
    """Tokens as the GPT-2 training scripts cut them: those of the context, and those of a space and the ending."""
    endings = iter(tokenizer.encode_batch([' ' + ending for _, endings in texts for ending in endings]))
    return [[(ids or [tokenizer.eot], next(endings)) for _ in range(N_ENDINGS)]
            for ids in tokenizer.encode_batch([context for context, _ in texts])]


def lay_out(example, pairs, block_size):
    """The rows of an example: one, if all endings can follow the same context. What is too long loses its beginning."""
    groups = {}
    for number, (context, ending) in enumerate(pairs):
        if len(ending) > block_size:
            raise BadInput(f'an ending of example {example} has {len(ending)} tokens, which do not fit into a '
                           f'block_size of {block_size}')
        room = block_size + 1 - len(ending)  # the last token of the ending is not read
        groups.setdefault(tuple(context[-room:]), []).append((number, ending))
    return [Row(example, list(context), endings) for context, endings in groups.items()]


# ---- rows -> log-probabilities ----------------------------------------------------------------------


def make_batch(rows, n_rows, unit):
    """Tensors for a forward pass over at most n_rows rows; T and M are multiples of the unit.

    idx, positions (B, T), mask (B, 1, T, T), and for each of M targets its token (or -1: filling), the place in the
    flattened (B, T) that predicts it, and which of the B * 4 endings it belongs to.
    """
    T = round_up(max(row.length() for row in rows), unit)
    idx, positions = torch.zeros(2, n_rows, T, dtype=torch.int64)
    part = torch.full((n_rows, T), -1)  # 0 in the context, 1.. in the endings, -1 behind them
    targets, places, owners = [], [], []
    for b, row in enumerate(rows):
        n = len(row.context)
        idx[b, :n], positions[b, :n], part[b, :n] = torch.tensor(row.context), torch.arange(n), 0
        begin = n
        for number, ids in row.endings:
            end = begin + len(ids) - 1
            idx[b, begin:end] = torch.tensor(ids[:-1], dtype=torch.int64)
            positions[b, begin:end], part[b, begin:end] = torch.arange(n, n + len(ids) - 1), number + 1
            targets += ids
            places += [b * T + n - 1, *range(b * T + begin, b * T + end)]
            owners += [b * N_ENDINGS + number] * len(ids)
            begin = end
    same, from_context = part[:, :, None] == part[:, None, :], (part == 0)[:, None, :]  # (B, T, T), (B, 1, T)
    mask = (same | from_context) & torch.ones(T, T, dtype=torch.bool).tril()
    filling = round_up(len(targets), unit) - len(targets)
    return (idx, positions, mask[:, None], torch.tensor(targets + [-1] * filling),
            torch.tensor(places + [0] * filling), torch.tensor(owners + [0] * filling))


def round_up(n, unit):
    return -(-n // unit) * unit


def log_probabilities(model, idx, positions, mask, targets, places):
    """(M,) float32: the log-probability of each target, 0 for filling."""
    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    x = model.hidden(idx, positions, [attend] * model.config.n_layer).flatten(0, 1)[places]  # (M, C)
    return -F.cross_entropy(model.head(x).float(), targets, ignore_index=-1, reduction='none')


@torch.no_grad()
def score(model, questions, process, batch_size=16, bar=None, stopped=None, compiled=False):
    """(N, 4) float64 on the CPU: the log-probability in nats of every ending, on every process; None if stopped.

    The processes take the batches in turns, so that the batches are the same however many there are.
    """
    scorer = torch.compile(log_probabilities) if compiled else log_probabilities
    totals = torch.zeros(len(questions.labels), N_ENDINGS, dtype=torch.float64)
    batches = [questions.rows[i:i + batch_size] for i in range(0, len(questions.rows), batch_size)]
    for first in range(0, len(batches), process.world_size):
        if first + process.rank < len(batches):
            rows = batches[first + process.rank]
            shape = (batch_size, COMPILED_UNIT) if compiled else (len(rows), 1)
            *inputs, owners = (tensor.to(process.device) for tensor in make_batch(rows, *shape))
            with process.autocast():
                values = scorer(model, *inputs)
            sums = torch.zeros(len(rows) * N_ENDINGS, dtype=torch.float64).index_add_(0, owners.cpu(), values.double().cpu())
            for row, of_row in zip(rows, sums.view(-1, N_ENDINGS)):
                totals[row.example] += of_row
        if bar is not None:
            bar.update(sum(len(rows) for rows in batches[first:first + process.world_size]))
        if stopped is not None and stopped():
            return None
    return torch.tensor(process.sum(totals), dtype=torch.float64).view_as(totals)


def evaluate(model, questions, process, batch_size=16, progress=False, stopped=None, compiled=False):
    """{metric: share, metric + '_stderr': its standard error, 'scores': {protocol: (N, 4) log-probabilities}}.

    model: the plain model; it is put into evaluation mode and back. questions: from `prepare`.
    process: rank, world_size, device, autocast() and sum(values) over all processes. Every process has to call this,
    takes its share, and gets the same result.
    stopped: called after each batch, on every process equally often; when it gives True on all, None is returned.
    """
    training = model.training
    model.eval()
    results = {'scores': {}}
    try:
        with tqdm(total=sum(len(q.rows) for q in questions.values()), desc='HellaSwag', unit=' examples',
                  disable=not progress or process.rank > 0, leave=False) as bar:
            for protocol, asked in questions.items():
                scores = score(model, asked, process, batch_size, bar, stopped, compiled)
                if scores is None:
                    return None
                results['scores'][protocol] = scores
                for metric, divisor in asked.divisors.items():
                    chosen = (scores / divisor).numpy().argmax(axis=1)  # the first of equals, as the harness
                    results[metric] = float((chosen == asked.labels.numpy()).mean())
                    results[metric + '_stderr'] = standard_error(results[metric], len(chosen))
    finally:
        model.train(training)
    return results


def standard_error(share, n):
    """Of the mean of n zeros and ones."""
    return math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else math.nan


# ---- output -----------------------------------------------------------------------------------------


def report(results, process):
    what = {'acc': 'harness text, log-probability', 'acc_norm': 'harness text, per character',
            'acc_bytes': 'harness text, per byte', 'completion_acc': 'text as published, log-probability',
            'completion_acc_norm': 'text as published, per token (what GPT-2 training scripts report)'}
    for metric, description in what.items():
        if metric in results:
            error = results[metric + '_stderr']
            spread = '' if math.isnan(error) else f' ± {error:.4f}'  # one example has none
            process.print0(f'{metric:<20} {results[metric]:.4f}{spread}   {description}')


def write_details(path, examples, questions, scores):
    """A line an example: its label, and for each protocol the log-probabilities and the choice of each metric."""
    with atomic_write(path) as file:
        for i, example in enumerate(examples):
            line = {'example': i, 'label': example['label']}
            for protocol, asked in questions.items():
                line[protocol] = {'log_probabilities': scores[protocol][i].tolist()} | {
                    metric: int((scores[protocol][i] / divisor[i]).numpy().argmax()) for metric, divisor in asked.divisors.items()}
            file.write((json.dumps(line) + '\n').encode())


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
