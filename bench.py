"""Speed and memory, measured beside what a user would run instead. One part at a time:

    python bench.py bpe                               # training and encoding against Hugging Face's tokenizers
    python bench.py bpe --json=bpe.json               # also writes machine, versions, commit and figures
    python bench.py bpe --markdown=True               # prints tables that can be pasted into a README

What is compared runs in turns in the same process on the same data, so that a busy machine slows both;
the figure is the median of the turns. Nothing here knows how the parts of the project work inside.
"""
import concurrent.futures
import importlib.metadata
import json
import multiprocessing
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from configurator import BadInput, configure, one_line_errors, optional

DEFAULTS = {
    # Output
    'json': optional(str),         # write the results to this file
    'markdown': False,             # print markdown tables
    'turns': 3,                    # how often each thing is measured
    # Part bpe
    'input': optional(str),        # text to train on and encode: files, globs, folders; None: Python's standard library
    'vocab_sizes': '4096,32768',   # sizes to train, with commas between; the last one encodes
    'large_mb': 1000,              # size of the text whose training's memory is measured; 0 leaves that out
}


def main(part, config, argv):
    tables = []
    for title, rows in PARTS[part](config):  # every part gives its tables one by one, as they are measured
        print_table(title, rows, config['markdown'])
        tables.append((title, rows))
    if config['json']:
        result = {'part': part, 'command': ' '.join(['python bench.py', *argv]), **describe_machine(),
                  'tables': [{'title': title, 'rows': rows} for title, rows in tables]}
        with open(config['json'], 'w', encoding='utf-8') as file:
            json.dump(result, file, indent=1, ensure_ascii=False)


# ---- measuring and reporting --------------------------------------------------------------------------


def take_turns(things, turns):
    """{name: median seconds} of {name: function}, every function called once a turn after one call to warm up."""
    seconds = {name: [] for name in things}
    for turn in range(turns + 1):
        for name, thing in things.items():
            started = time.perf_counter()
            thing()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def print_table(title, rows, markdown):
    """rows: dicts with the same keys; floats are shown with three digits."""
    def show(value):
        return str(value) if not isinstance(value, float) else f'{value:.3g}' if value < 1000 else f'{value:,.0f}'

    lines = [list(rows[0]), *([show(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    border, between = ('| ', ' | ') if markdown else ('', '  ')
    if markdown:
        lines.insert(1, ['-' * width for width in widths])
    print(f'\n{title}\n')
    for line in lines:
        print((border + between.join(cell.ljust(width) for cell, width in zip(line, widths)) + border[::-1]).rstrip(),
              flush=True)


def describe_machine():
    import bpe
    libraries = {}
    for name in ('numpy', 'regex', 'tiktoken', 'tokenizers', 'torch', 'transformers', 'triton', 'datasets'):
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            libraries[name] = None
    return {
        'machine': {'cpu': cpu_name(), 'cores': bpe.available_cores(), 'system': platform.platform()},
        'versions': {'python': platform.python_version(), **libraries},
        'commit': git('rev-parse', 'HEAD') + ('-dirty' if git('status', '--porcelain', '--untracked-files=no') else ''),
    }


def cpu_name():
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            for line in file:
                if line.startswith('model name'):
                    return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def git(*args):
    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        return subprocess.run(['git', *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


# ---- bpe ------------------------------------------------------------------------------------------------


def bench_bpe(config):
    try:
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise BadInput('this part compares with tokenizers: pip install -r requirements-dev.txt') from error
    vocab_sizes = [int(size) for size in config['vocab_sizes'].split(',') if size.isdigit()]
    if not vocab_sizes:
        raise BadInput(f"--vocab_sizes={config['vocab_sizes']} should be numbers with commas between, as in 4096,32768")
    texts = read_bench_texts(config['input'])
    training, ours = compare_training(texts, vocab_sizes, config['turns'])
    yield training
    yield compare_encoding(texts, ours, config['turns'])
    if config['large_mb']:
        # In a process of its own, as the peak of memory is one number per process.
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as executor:
            row = executor.submit(train_on_much, texts, config['large_mb'], vocab_sizes[-1]).result()
        yield f"Training on a stream of {config['large_mb']} MB", [row]


def read_bench_texts(patterns):
    import bpe
    import corpus
    paths = bpe.find_files(patterns)[0] if patterns else corpus.stdlib_files()
    texts = []
    for path in paths:
        with open(path, encoding='utf-8', errors='replace', newline='') as file:
            texts.append(file.read())
    return texts


def compare_training(texts, vocab_sizes, turns):
    import tokenizers

    import bpe
    n_bytes = sum(len(text.encode()) for text in texts)
    rows = []
    for vocab_size in vocab_sizes:
        trained = {}

        def train_ours():
            trained['ours'] = bpe.Tokenizer.train(texts, vocab_size, progress=False)

        def train_theirs():
            trained['theirs'] = tokenizers.Tokenizer(tokenizers.models.BPE())
            trained['theirs'].pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
            trained['theirs'].train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
                vocab_size=vocab_size, special_tokens=[bpe.EOT], show_progress=False,
                initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))

        seconds = take_turns({'ours': train_ours, 'theirs': train_theirs}, turns)
        our_tokens = sum(map(len, trained['ours'].encode_batch(texts)))
        their_tokens = sum(len(out.ids) for out in trained['theirs'].encode_batch(texts, add_special_tokens=False))
        naive_s = naive_seconds_per_token_and_merge(texts) * (vocab_size - 257) * our_tokens
        rows.append({
            'vocab': vocab_size, 'bpe.py s': seconds['ours'], 'tokenizers s': seconds['theirs'],
            'time ratio': seconds['ours'] / seconds['theirs'],
            'bytes/token': n_bytes / our_tokens, "tokenizers' bytes/token": n_bytes / their_tokens,
            'naive s (at least, extrapolated)': naive_s, 'naive ratio': naive_s / seconds['ours'],
        })
    title = f'Training on {n_bytes / 1e6:.2f} MB, {len(texts)} documents, {bpe.available_cores()} cores'
    return (title, rows), trained['ours']


def naive_seconds_per_token_and_merge(texts, n_characters=200_000, n_merges=5):
    """What training costs that counts all pairs of all chunks again for every merge, as teaching code does.

    Measured on the beginning of the text. A merge costs time for each token there is; as there are never fewer
    tokens than at the end of training, (tokens at the end) x (merges) x this is less than it would really take.
    """
    import bpe
    chunks = [list(chunk.encode()) for chunk in bpe.CHUNK.findall(''.join(texts)[:n_characters])]
    started, n_tokens = time.perf_counter(), 0
    for new in range(256, 256 + n_merges):
        n_tokens += sum(map(len, chunks))
        counts = {}
        for ids in chunks:
            for pair in zip(ids, ids[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=counts.get)
        chunks = [merge_naively(ids, best, new) for ids in chunks]
    return (time.perf_counter() - started) / n_tokens


def merge_naively(ids, pair, new):
    merged, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def compare_encoding(texts, ours, turns):
    """One document after the other on one core, then all of them on all cores; the same vocabulary for both."""
    import tokenizers

    import bpe
    cores = bpe.available_cores()
    with tempfile.TemporaryDirectory() as folder:
        ours.save(os.path.join(folder, 'tokenizer.json'))
        theirs = tokenizers.Tokenizer.from_file(os.path.join(folder, 'tokenizer.json'))
    one_core, all_cores = '1 core, document by document', f'{cores} cores, a batch'
    calls = {
        ('tokenizers encode', one_core): lambda: [theirs.encode(text, add_special_tokens=False).ids for text in texts],
        ('bpe.py encode', one_core): lambda: [ours.encode(text) for text in texts],
        ('bpe.py encode_array', one_core): lambda: [ours.encode_array(text) for text in texts],
        ('bpe.py encode_batch', '1 core, a batch'): lambda: ours.encode_batch(texts, threads=1),
        ('tokenizers encode_batch_fast', all_cores): lambda: [out.ids for out in theirs.encode_batch_fast(texts)],
        ('bpe.py encode_batch', all_cores): lambda: ours.encode_batch(texts),
    }
    if [ours.encode(text) for text in texts[:50]] != [theirs.encode(text).ids for text in texts[:50]]:
        raise BadInput('the two encoders disagree: what follows would compare different work')
    seconds = take_turns(calls, turns)
    n_bytes = sum(len(text.encode()) for text in texts)
    base = seconds['tokenizers encode', one_core]
    rows = [{'what': what, 'how': how, 'MB/s': n_bytes / 1e6 / seconds[what, how],
             'times tokenizers encode': base / seconds[what, how]} for what, how in calls]
    scaling = seconds['bpe.py encode_batch', '1 core, a batch'] / seconds['bpe.py encode_batch', all_cores]
    return f'Encoding {n_bytes / 1e6:.2f} MB, vocabulary {ours.vocab_size}; encode_batch scales by {scaling:.2f}', rows


def train_on_much(texts, n_mb, vocab_size):
    """Trains on a stream of n_mb MB made from the texts; a row with time and peak memory of all processes."""
    import bpe
    started = time.perf_counter()
    counts = bpe.count_chunks(grow(texts, n_mb * 1_000_000), progress=True)
    counted_s = time.perf_counter() - started
    merges = bpe.learn_merges(counts, vocab_size - 257, progress=True)
    unit = 2**10 if sys.platform == 'darwin' else 1  # ru_maxrss is in bytes there, else in KiB
    own, other = (resource.getrusage(who).ru_maxrss / unit / 2**20
                  for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {'vocab': len(merges) + 257, 'different chunks': len(counts), 'counting s': counted_s,
            'merging s': time.perf_counter() - started - counted_s,
            'peak GiB (sum over processes)': own + other * (bpe.available_cores() - 1)}


def grow(texts, n_characters):
    """The texts over and over, each time with 2% of other new words, which large corpora never stop having."""
    rng, sent = random.Random(0), 0
    while sent < n_characters:
        for text in texts:
            letters = ''.join(rng.choices('etaoinshrdlu', k=len(text) // 50))
            text += ' '.join(letters[i:i + 8] for i in range(0, len(letters), 8))
            sent += len(text)
            yield text
            if sent >= n_characters:
                break


PARTS = {'bpe': bench_bpe}


if __name__ == '__main__':
    argv = sys.argv[1:]
    with one_line_errors():
        if argv and argv[0] in PARTS:
            main(sys.argv.pop(1), configure(DEFAULTS), argv)
        elif {'--help', '-h'} & set(argv):
            configure(DEFAULTS)
        else:
            raise BadInput(f'say which part to run, as in `python bench.py bpe`; there are {", ".join(PARTS)}')
