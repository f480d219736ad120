"""The part bpe: training a vocabulary and encoding with it, against Hugging Face's tokenizers."""
import collections
import itertools
import os
import random
import resource
import sys
import tempfile
import time
from statistics import median

import bpe
from bench.data import read_texts
from bench.turns import alone, compare, spread, take_turns, timed
from bpe_textbook import CHUNK, learn_merges_slowly
from runtime.errors import BadInput
from runtime.parallel import available_cores


def measure_bpe(config):
    """Yields (title, rows) of training, of encoding, and of training on a large text if --large_mb asks for it."""
    vocab_sizes = config['vocab_sizes'].split(',')
    if not all(size.isdigit() for size in vocab_sizes):
        raise BadInput(f"--vocab_sizes={config['vocab_sizes']} should be numbers with commas between, as in 4096,32768")
    texts, rows = read_texts(config['input']), []
    n_mb = sum(len(text.encode()) for text in texts) / 1e6
    for vocab_size in map(int, vocab_sizes):
        tokenizer, compared = compare_training(texts, n_mb, vocab_size, config['turns'])
        rows += compared
    yield f'Training on {n_mb:.2f} MB, {len(texts)} documents, {available_cores()} cores', rows
    yield compare_encoding(texts, n_mb, tokenizer, config['turns'])
    if config['large_mb']:
        row = alone(train_on_stream, texts, config['large_mb'], vocab_size)  # as peak memory is one number per process
        yield f"Training on a stream of {config['large_mb']} MB", [row]


def compare_training(texts, n_mb, vocab_size, turns):
    """(our tokenizer, rows)"""
    import tokenizers
    trained = {}

    def train_ours():
        trained['bpe.py'] = bpe.Tokenizer.train(texts, vocab_size, progress=False)

    def train_theirs():
        trained['tokenizers'] = tokenizers.Tokenizer(tokenizers.models.BPE())
        trained['tokenizers'].pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trained['tokenizers'].train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[bpe.EOT], show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))

    textbook = 'textbook (extrapolated from its first merges)'
    times = take_turns({'bpe.py': timed(train_ours), 'tokenizers': timed(train_theirs),
                        textbook: lambda: textbook_seconds(texts)}, turns)
    n_ours = sum(map(len, trained['bpe.py'].encode_batch(texts)))
    n_theirs = sum(len(out.ids) for out in trained['tokenizers'].encode_batch(texts, add_special_tokens=False))
    seconds = {by: median(samples) for by, samples in times.items()}
    seconds[textbook] *= vocab_size - 257
    return trained['bpe.py'], [
        {'vocab': vocab_size, 'by': by, 's': seconds[by], 'spread': spread(times[by]),
         "times bpe.py's": seconds[by] / seconds['bpe.py'], 'bytes/token': n_mb * 1e6 / n_tokens}
        for by, n_tokens in (('bpe.py', n_ours), ('tokenizers', n_theirs), (textbook, n_ours))]


def textbook_seconds(texts, n_merges=5):
    """Seconds a merge of the textbook's training. Its first merges are its slowest, as tokens grow fewer."""
    counts = collections.Counter(chunk for text in texts for chunk in CHUNK.findall(text))
    started = time.perf_counter()
    learn_merges_slowly(counts, n_merges)
    return (time.perf_counter() - started) / n_merges


def compare_encoding(texts, n_mb, ours, turns):
    """(title, rows): both encoders with the same vocabulary."""
    import tokenizers
    with tempfile.TemporaryDirectory() as folder:
        ours.save(os.path.join(folder, 'tokenizer.json'))
        theirs = tokenizers.Tokenizer.from_file(os.path.join(folder, 'tokenizer.json'))
    if [ours.encode(text) for text in texts[:50]] != [theirs.encode(text).ids for text in texts[:50]]:
        raise BadInput('the two encoders disagree: what follows would compare different work')
    cores = available_cores()
    one_core, all_cores = 'bpe.py encode_batch, 1 core', f'bpe.py encode_batch, all {cores} cores'
    calls = {
        'tokenizers encode': lambda: [theirs.encode(text, add_special_tokens=False).ids for text in texts],
        'bpe.py encode': lambda: [ours.encode(text) for text in texts],
        'bpe.py encode_array': lambda: [ours.encode_array(text) for text in texts],
        one_core: lambda: ours.encode_batch(texts, threads=1),
        f'tokenizers encode_batch_fast, all {cores} cores': lambda: [out.ids for out in theirs.encode_batch_fast(texts)],
        all_cores: lambda: ours.encode_batch(texts),
    }
    times = take_turns({name: timed(call) for name, call in calls.items()}, turns)
    return (f'Encoding {n_mb:.2f} MB, vocabulary {ours.vocab_size}; one core where no number is given; encode_batch scales by '
            f'{median(times[one_core]) / median(times[all_cores]):.2f}'), compare(times, n_mb, 'MB/s')


def train_on_stream(texts, n_mb, vocab_size):
    """A row of training on a stream of n_mb MB made from the texts: time and peak memory of all processes together."""
    started = time.perf_counter()
    tokenizer = bpe.Tokenizer.train(endless_text(texts, n_mb * 1_000_000), vocab_size)  # says how long each half takes
    unit = 2**30 if sys.platform == 'darwin' else 2**20  # ru_maxrss is in bytes there, else in KiB
    own, other = (resource.getrusage(who).ru_maxrss / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {'vocab': tokenizer.vocab_size, 's': time.perf_counter() - started,
            'peak GiB (sum over processes)': own + other * (available_cores() - 1)}


def endless_text(texts, n_characters):
    """The texts over and over, each time with 2% of other new words, which large corpora never stop having."""
    rng, size = random.Random(0), 0
    for text in itertools.cycle(texts):
        letters = ''.join(rng.choices('etaoinshrdlu', k=len(text) // 50))
        text += ' '.join(letters[i:i + 8] for i in range(0, len(letters), 8))
        size += len(text)
        yield text
        if size >= n_characters:
            return
