"""The engine of all tasks: rows become token pairs once (`prepare`), which are scored as often as wanted (`run`).

    prepared = prepare(read_tasks(choose_tasks('hellaswag,wikitext2')), tokenizer, model.config.block_size)
    results = {one.asked.name: run(one, model, process) for one in prepared}

train.py calls `prepare` once and `run` at intervals; evaluate.py and hellaswag.py do both. Knows nothing about training.
"""
import os
import random
from dataclasses import dataclass

import numpy as np

from bpe import Tokenizer
from evals.perplexity import Document, Window, cut, documents_of
from evals.questions import Question
from evals.rows import Row, find_file, read_rows_of
from evals.scores import judge_choices, summarize
from evals.stop_words import STOP_WORDS
from evals.tasks import Task, TextTask
from model import GPT
from runtime.errors import BadInput
from runtime.process import Process
from runtime.words import plural
from scoring.likelihood import measure

SHOTS_SEED = 1234  # the harness's, so that the examples in a prompt are the same
LENGTHS = {  # {metric: what it divides a log-probability by, from an ending's text and tokens}
    'acc': lambda text, ids: 1, 'acc_norm': lambda text, ids: len(text), 'acc_bytes': lambda text, ids: len(text.encode()),
    'acc_token': lambda text, ids: len(ids)}


@dataclass
class Asked:
    """A task as it is read: what does not depend on the model."""
    name: str
    task: Task | TextTask
    shots: int
    parts: list       # of questions: Question; of a text: Document
    rows: list[str]   # a name for each part
    protocol: str | None = None  # of a text


@dataclass
class Prepared:
    """A task as a model reads it: what does not depend on the weights."""
    asked: Asked
    pairs: list                          # (context ids, ending ids)
    never: list[int] | None = None       # ids that a guess never is; None where nothing is guessed
    windows: list[Window] | None = None  # of a text
    n_tokens: list[int] | None = None    # of each document of a text


def read_tasks(chosen: dict[str, tuple[Task | TextTask, int]], source: str | None = None, limit: int | None = None, *,
               split: str = 'test', encoding: str = 'utf-8', protocol: str = 'auto') -> list[Asked]:
    """What is asked in the tasks of `choose_tasks`. Raises BadInput that names the row.

    source: the file of the only task, a folder with a file for each, or None for the hub. limit: only the first so many rows,
        or documents of a text. The others are for texts alone.
    """
    if source is not None and not os.path.exists(source):
        raise BadInput(f'no file or folder {source!r}; it should be a file as published, or a folder with one for each task')
    n_texts = len({task if isinstance(task, TextTask) else task.data for task, _ in chosen.values()})
    if source is not None and not os.path.isdir(source) and n_texts > 1:
        raise BadInput(f'{source} is one file for several tasks ({", ".join(chosen)}); name one of them, or a folder with a '
                       'file for each')
    asked = []
    for name, (task, shots) in chosen.items():
        if isinstance(task, TextTask):
            used = task.protocol if protocol == 'auto' else protocol
            documents = documents_of(task.read(source, split, encoding, used), used)[:limit]
            asked.append(Asked(name, task, 0, documents, [f'document {i}' for i in range(1, len(documents) + 1)], used))
        else:
            asked.append(read_questions(name, task, shots, source, limit))
    return asked


def prepare(asked: list[Asked], tokenizer: Tokenizer, block_size: int, stride: int | None = None) -> list[Prepared]:
    """The tasks as tokens. Raises BadInput that names the row whose ending does not fit into block_size tokens."""
    return [prepare_text(one, tokenizer, block_size, stride) if isinstance(one.task, TextTask)
            else prepare_questions(one, tokenizer, block_size) for one in asked]


def run(prepared: Prepared, model: GPT, process: Process, bar: bool = False, **options) -> dict:
    """{metric: score, metric + '_stderr': ..., 'examples': [{'logprobs': [...], ...}]} of a task.

    Every process must call this, takes its share of the work, and gets the same result. bar: show the progress. options: of
    `measure`, such as batch_size and check_stop.
    """
    task, progress = prepared.asked.task, prepared.asked.name if bar else ''
    logprobs, guessed = measure(model, prepared.pairs, process, never=prepared.never, progress=progress, **options)
    logprobs, guessed = logprobs.numpy(), guessed.numpy()
    if isinstance(task, TextTask):
        examples = judge_text(prepared, logprobs)
    elif task.guesses:
        examples = judge_words(prepared, logprobs, guessed)
    else:
        examples = judge_questions(prepared, logprobs)
    return {**summarize(task.metrics, examples), 'examples': examples}


# ---- questions --------------------------------------------------------------------------------------


def read_questions(name, task, shots, source, limit):
    base = name.partition('@')[0]
    path = source and find_file(source, base, task.data.files)
    own = path or not task.data.examples  # whether examples are rows of the same file or split
    rows = read_rows_of(task.data, base, path, None if shots and own else limit)
    pool = rows if own or not shots else read_rows_of(task.data, base, None, split=task.data.examples)
    rows = rows[:limit]
    questions = list(map(task.ask, rows))
    if shots:
        questions = [with_shots(question, examples, task) for question, examples
                     in zip(questions, draw_shots(rows, pool, shots, name, own), strict=True)]
    return Asked(name, task, shots, questions, [row.place for row in rows])


def draw_shots(rows, pool, shots, name, own):
    """For each row its examples, drawn as the harness draws them: from another split, or from the same one without the row."""
    drawn = random.Random(SHOTS_SEED)

    def draw(rows, n):
        if len(rows) < n:
            raise BadInput(f'shots={shots} should be less: the examples of {name} are drawn from {plural(len(rows), "row")}')
        return drawn.sample(rows, n)

    for row in rows:
        examples = draw(pool, shots + bool(own))
        if own:
            examples = [example for example in examples if example.values != row.values][:shots]
            if len(examples) < shots:  # rows that are equal
                examples = draw([example for example in pool if example.values != row.values], shots)
        yield examples


def with_shots(question: Question, examples: list[Row], task: Task) -> Question:
    """The question after examples with their right endings, and a blank line behind each."""
    before = ''.join(' '.join(example.choice(example.label)) + '\n\n' for example in map(task.ask, examples))
    return question._replace(contexts=[before + context for context in question.contexts])


def prepare_questions(asked, tokenizer, block_size):
    task = asked.task
    texts = [question.choice(i) for question in asked.parts for i in range(question.n_choices)]
    pairs = encode_pairs(texts, tokenizer, task.joined)
    rows = [row for row, question in zip(asked.rows, asked.parts) for _ in range(question.n_choices)]
    if 'acc_last_token' in task.metrics:  # behind all words, each one's last token after all others
        pairs += [(context + word[:-1], word[-1:]) for context, word in pairs]
        rows += rows
    return Prepared(asked, fit(pairs, rows, block_size), banned_tokens(tokenizer) if task.guesses else None)


def encode_pairs(texts: list[tuple[str, str]], tokenizer: Tokenizer, joined: bool) -> list[tuple[list[int], list[int]]]:
    """[(context ids, ending ids)], with the space between context and ending in the ending.

    joined: as the harness cuts, an ending's tokens are those of context and ending together that come after the
    context's; otherwise, as GPT-2 training scripts cut, those of a space and the ending by themselves. A context without
    tokens is <|endoftext|>.
    """
    contexts = list(dict.fromkeys(context.rstrip() if joined else context for context, _ in texts))
    encoded = dict(zip(contexts, tokenizer.encode_batch(contexts)))
    endings = tokenizer.encode_batch([f'{context if joined else ""} {ending}' for context, ending in texts])
    pairs = []
    for (context, _), ids in zip(texts, endings):
        before = encoded[context.rstrip() if joined else context]
        pairs.append((before or [tokenizer.eot], ids[len(before) if joined else 0:]))
    return pairs


def fit(pairs, rows, block_size):
    """The pairs with contexts that lose their beginning where they are too long. Raises BadInput if an ending is too long."""
    fitting = []
    for (context, ending), row in zip(pairs, rows, strict=True):
        if not ending:
            raise BadInput(f'{row}: an ending has no tokens of its own; it should be a text that is not empty')
        if len(ending) > block_size:
            raise BadInput(f'{row}: an ending has {len(ending)} tokens, and should have at most {block_size}, the longest '
                           'context of the model (block_size)')
        # The last token of an ending is predicted, but not read.
        fitting.append((context[-(block_size + 1 - len(ending)):], ending))
    return fitting


def banned_tokens(tokenizer):
    """The ids of stop words that are one token, with the space before them."""
    encoded = tokenizer.encode_batch([f' {word}' for word in STOP_WORDS])
    return sorted({ids[0] for ids in encoded if len(ids) == 1})


# ---- texts ------------------------------------------------------------------------------------------


def prepare_text(asked, tokenizer, block_size, stride):
    ids = tokenizer.encode_batch([document.text for document in asked.parts])
    windows = cut(ids, tokenizer.eot, block_size, stride)
    pairs = [(window.context, window.target) for window in windows]
    return Prepared(asked, pairs, windows=windows, n_tokens=list(map(len, ids)))


# ---- examples ---------------------------------------------------------------------------------------


def judge_questions(prepared, logprobs):
    examples, begin = [], 0
    for row, question in zip(prepared.asked.rows, prepared.asked.parts):
        end = begin + question.n_choices
        texts = [question.choice(i)[1] for i in range(question.n_choices)]
        ids = [ending for _, ending in prepared.pairs[begin:end]]
        lengths = {metric: np.array([LENGTHS[metric](text, tokens) for text, tokens in zip(texts, ids)], dtype=np.float64)
                   for metric in prepared.asked.task.metrics}
        examples.append({'row': row, **judge_choices(logprobs[begin:end], lengths, question.label)})
        begin = end
    return examples


def judge_words(prepared, logprobs, guessed):
    """The pairs are the words of all rows, and then, if they are scored, their last tokens."""
    rows = prepared.asked.rows
    examples = [{'row': row, 'logprobs': [logprob], 'logprob': logprob, 'acc': int(is_guessed),
                 'acc_stop_words': int(is_guessed_then)}
                for row, logprob, (is_guessed, is_guessed_then) in zip(rows, logprobs.tolist(), guessed)]
    for example, logprob, (is_guessed, _) in zip(examples, logprobs[len(rows):].tolist(), guessed[len(rows):]):
        example |= {'logprob_last_token': logprob, 'acc_last_token': int(is_guessed)}
    return examples


def judge_text(prepared, logprobs):
    """An example is a document, or, where there is one only, a window; then words and bytes are shared out by tokens."""
    documents: list[Document] = prepared.asked.parts
    if len(documents) > 1:
        totals = np.bincount([window.document for window in prepared.windows], weights=logprobs, minlength=len(documents))
        return [{'row': row, 'logprobs': [total], 'logprob': total, 'tokens': n_tokens, 'words': document.n_words,
                 'bytes': document.n_bytes} for row, document, n_tokens, total
                in zip(prepared.asked.rows, documents, prepared.n_tokens, totals.tolist(), strict=True)]
    (document,), (n_tokens,) = documents, prepared.n_tokens
    sizes = [len(window.target) for window in prepared.windows]
    return [{'row': f'window {i}', 'logprobs': [total], 'logprob': total, 'tokens': size,
             'words': document.n_words * size / n_tokens, 'bytes': document.n_bytes * size / n_tokens}
            for i, (size, total) in enumerate(zip(sizes, logprobs.tolist(), strict=True), 1)]
