"""Scores a model as the field scores models: multiple choice, the last word, perplexity; and GPT-2's own table.

    python evaluate.py --init_from=gpt2                                        # what GPT-2 is usually given, from the hub
    python evaluate.py --out_dir=out/mine --tasks=piqa --source=dev.jsonl      # a file as published, its labels beside it
    python evaluate.py --out_dir=out/mine --tasks=text --source=FILE           # the perplexity of any text
    python evaluate.py --init_from=gpt2 --tasks=gpt2paper                      # table 3 of GPT-2's paper, beside what it says
    python evaluate.py --compare=a.json,b.json                                 # which of two results is better
    torchrun --nproc_per_node=8 evaluate.py --init_from=gpt2-xl --tasks=core --json=xl.json

Tasks, with commas between: hellaswag, hellaswag_completion, piqa, siqa, winogrande, arc_easy, arc_challenge, openbookqa,
boolq, copa, cbt_cn, cbt_ne (multiple choice); lambada, lambada_standard, lambada_gpt2 (the last word); wikitext2,
wikitext103, wikitext2_gpt2, wikitext103_gpt2, ptb, lm1b, enwik8, text8, text (perplexity); and the groups default, gpt2paper
and core. piqa@10 has ten examples in each prompt, as --shots=10 gives them to all.

A score is printed with its standard error. --json keeps every example's log-probabilities beside the scores, and --compare
compares two such files example by example. docs/evaluation.md has the protocols, and what GPT-2 scores.
"""
import runtime.waiting  # noqa: F401  before torch

# isort: split
import functools
import json
import math

from configurator import check_bounds, choice, configure, optional
from evals.compare import compare_files, verdict
from evals.groups import CORE, SIZES, TABLE_3, core
from evals.measure import prepare, read_tasks, run
from evals.scores import METRICS
from evals.tasks import choose_tasks
from pretrained import sha256_of_weights
from runtime import hardware
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write
from runtime.tables import table
from runtime.text_files import known_encoding
from runtime.words import plural
from scoring.likelihood import open_for_evaluation

DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead: a checkpoint file, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    # what is scored
    'tasks': 'default',  # names with commas between; see above
    'shots': 0,  # examples in each prompt, from the hub's training split, or from the other rows of a file
    'limit': optional(int),  # only the first so many rows, or documents of a text
    'source': optional(str),  # the file of the only task, or a folder with a file for each; None: the hub
    # results
    'json': optional(str),  # a file for the results, with every example's log-probabilities
    'compare': optional(str),  # instead of scoring a model: two such files, with a comma between
    # texts
    'protocol': choice('auto', 'harness', 'gpt2', 'plain'),  # how text is cleaned and words are counted; auto: as the task says
    'stride': optional(int),  # tokens that the window moves on; None: its length, so that windows do not overlap
    'split': choice('test', 'val', 'train'),  # of WikiText
    'encoding': 'utf-8',  # of a text file that has no byte order mark, such as latin-1, cp1252, utf-16-le
    # machine
    'batch_size': 16,  # questions, or windows of a text, in a forward pass
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('float32', 'auto', 'bfloat16', 'float16'),  # of matrix products; published figures are float32's
    'compile': False,  # torch.compile, which pays on a GPU where there is much to score
}


def main(config):
    if config['compare'] is not None:
        print(comparison(config['compare']))
        return
    check_bounds(config, 'limit', 'stride', at_least=1)
    check_bounds(config, 'shots', at_least=0, at_most=100)
    config['encoding'] = known_encoding(config['encoding'])
    chosen = choose_tasks(config['tasks'], config['shots'])
    read = functools.partial(read_tasks, chosen, config['source'], config['limit'],
                             **{key: config[key] for key in ('split', 'encoding', 'protocol')})
    asked = read() if config['source'] is not None else None  # before a large model is loaded; the hub is asked after that
    model, tokenizer, process, source = open_for_evaluation(config)
    asked = asked or read()
    compiled = hardware.may_compile(config['compile'], process.device, process.print0)
    prepared = prepare(asked, tokenizer, model.config.block_size, config['stride'])
    scores = {}
    for one in prepared:  # scores are printed at once: the next task may take hours
        name = one.asked.name
        scores[name] = run(one, model, process, batch_size=config['batch_size'], compiled=compiled, bar=True)
        process.print0(f'{name}, {plural(len(scores[name]["examples"]), "example")}')
        process.print0(score_table(one, scores[name]))
    results = {'model': describe(model, source), 'settings': settings(config),
               'tasks': {one.asked.name: {**facts(one), **scores[one.asked.name]} for one in prepared}}
    if subset := core(scores):
        results['core'] = subset
        process.print0(core_line(subset))
    if any(task in scores for _, task, *_ in TABLE_3):
        results['gpt2paper'] = paper = compare_with_paper(scores)
        process.print0(paper_table(paper))
    if config['json']:
        process.on_first(lambda: write_results(config['json'], results))
    process.end()


def settings(config):
    """What a figure depends on, but for rounding."""
    return {key: config[key] for key in ('tasks', 'shots', 'limit', 'source', 'protocol', 'stride', 'split', 'dtype')}


def facts(prepared):
    """What a task's figures come from: of a text, too, how much of it there is."""
    task, documents = prepared.asked, prepared.asked.parts
    found = {'version': task.task.version, 'shots': task.shots, 'protocol': task.protocol}
    if task.protocol:
        found |= {'tokens': sum(prepared.n_tokens), 'words': sum(document.n_words for document in documents),
                  'bytes': sum(document.n_bytes for document in documents)}
    return found


def describe(model, source):
    config = {key: getattr(model.config, key) for key in ('block_size', 'vocab_size', 'n_layer', 'n_head', 'n_embd')}
    return {'source': source, 'sha256': sha256_of_weights(model), 'parameters': model.n_params(), **config}


def write_results(path, results):
    with atomic_write(path) as file:
        file.write((json.dumps(without_nan(results)) + '\n').encode())


def without_nan(value):
    """The value with None for floats that are not finite, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- tables -----------------------------------------------------------------------------------------


def score_table(prepared, scores):
    """Scores with their standard errors, and what each is: of a text, over how many words, bytes or tokens."""
    rows, metrics, found = [('  metric', 'score', 'standard error', '')], prepared.asked.task.metrics, facts(prepared)
    whats = [f'{found[unit]:,} {unit}' if (unit := METRICS[metric].per) else METRICS[metric].what for metric in metrics]
    for metric, what in zip(metrics, whats):
        error = f'± {readable(scores[f"{metric}_stderr"])}'
        rows.append((f'  {metric}', readable(scores[metric]), error, what.ljust(max(map(len, whats)))))
    return table(rows)


def readable(score):
    """Six digits, and all of those before the point of a number of up to 12."""
    return f'{score:,.0f}' if 1e5 <= score < 1e12 else f'{score:#.6g}'


def core_line(subset):
    score = f'{subset["centered"]:.4f} ± {subset["centered_stderr"]:.4f}'
    return f'CORE, on {len(CORE)} of its {subset["of"]} tasks: {score}; no figure over all of them compares with it'


def compare_with_paper(scores):
    """[{'name', 'task', 'metric', 'score', 'published': {size: figure}}] of the rows of table 3 whose task was scored."""
    return [{'name': name, 'task': task, 'metric': metric, 'score': factor * scores[task][metric],
             'score_stderr': factor * scores[task][f'{metric}_stderr'], 'published': dict(zip(SIZES, published))}
            for name, task, metric, factor, published in TABLE_3 if task in scores]


def paper_table(rows):
    """Ours beside the published figures, each with the difference."""
    shown = [('table 3 of GPT-2\'s paper', 'here', *(f'{size} (here - there)' for size in SIZES))]
    for row in rows:
        there = [f'{figure:.2f} ({row["score"] - figure:+,.2f})' for figure in row['published'].values()]
        shown.append((row['name'], f'{row["score"]:,.2f}', *there))
    return table(shown)


def comparison(words):
    paths = words.split(',')
    if len(paths) != 2 or not all(paths):
        raise BadInput(f'compare={words} should be two files that --json wrote, with a comma between')
    rows = [('task, metric', paths[0], paths[1], 'difference', '95% interval', f'{paths[1]} is')]
    for row in compare_files(*paths):
        interval = f'{readable(row["low"])} to {readable(row["high"])}'
        rows.append((f'{row["task"]}, {row["metric"]}', readable(row['a']), readable(row['b']), readable(row['difference']),
                     interval, verdict(row)))
    return table(rows)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
