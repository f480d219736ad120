"""The part bpe: training a vocabulary and encoding with it, against Hugging Face's tokenizers, and rustbpe, tokie and gigatoken
where these are installed."""
import importlib.util
import os
import tempfile

import bpe
from bench.data import read_texts
from bench.turns import compare, take_turns, timed
from runtime.errors import BadInput
from runtime.parallel import available_cores


def measure_bpe(config):
    """Yields (title, rows) of training, then of encoding."""
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


def compare_training(texts, n_mb, vocab_size, turns):
    """(our tokenizer, rows)"""
    import tokenizers
    ours, theirs, rusts = None, None, None

    def train_ours():
        nonlocal ours
        ours = bpe.Tokenizer.train(texts, vocab_size, progress=False)

    def train_theirs():
        nonlocal theirs
        theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
        theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        theirs.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[bpe.EOT], show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))

    def train_rustbpe():
        nonlocal rusts
        import rustbpe
        rusts = rustbpe.Tokenizer()
        rusts.train_from_iterator(texts, vocab_size, pattern=bpe.SPLIT_PATTERN)

    more = {'rustbpe': timed(train_rustbpe)} if importlib.util.find_spec('rustbpe') else {}
    times = take_turns({'tokenizers': timed(train_theirs), 'bpe.py': timed(train_ours), **more}, turns)
    n_tokens = {'tokenizers': sum(len(out.ids) for out in theirs.encode_batch(texts, add_special_tokens=False)),
                'bpe.py': sum(map(len, ours.encode_batch(texts)))}
    if rusts:
        n_tokens['rustbpe'] = sum(map(len, rusts.batch_encode(texts)))
    return ours, [{'vocabulary': vocab_size, **row, 'bytes/token': 1e6 * n_mb / n_tokens[row['contender']]}
                  for row in compare(times, n_mb, 'MB/s')]


def compare_encoding(texts, n_mb, ours, turns):
    """(title, rows): both encoders with the same vocabulary."""
    import tokenizers
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'tokenizer.json')
        ours.save(path)
        theirs = tokenizers.Tokenizer.from_file(path)
        if importlib.util.find_spec('tokie'):
            import tokie
            other = tokie.Tokenizer.from_json(path)
            calls['tokie encode'] = lambda: [other.encode(text, add_special_tokens=False).ids for text in texts]
    if [ours.encode(text) for text in texts[:50]] != [theirs.encode(text).ids for text in texts[:50]]:
        raise BadInput('the two encoders disagree: what follows would compare different work')
    on_all = f'all {available_cores()} cores'
    calls = {
        'tokenizers encode': lambda: [theirs.encode(text, add_special_tokens=False).ids for text in texts],
        'bpe.py encode': lambda: [ours.encode(text) for text in texts],
        'bpe.py encode_array': lambda: [ours.encode_array(text) for text in texts],
        f'tokenizers encode_batch_fast, {on_all}': lambda: [out.ids for out in theirs.encode_batch_fast(texts)],
        f'bpe.py encode_batch, {on_all}': lambda: ours.encode_batch(texts),
        **calls,
    }
    times = take_turns({name: timed(call) for name, call in calls.items()}, turns)
    return f'Encoding {n_mb:.2f} MB, vocabulary {ours.vocab_size}, on one core unless said', compare(times, n_mb, 'MB/s')
