import gzip
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest
import torch
from conftest import run_script
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import evaluate
import pretrained
from bpe import Tokenizer
from configurator import configure
from evals import perplexity
from evals.perplexity import PROTOCOLS, windows
from evals.stop_words import STOP_WORDS
from model import GPT, GPTConfig
from runtime.errors import BadInput
from scoring.likelihood import log_likelihoods

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = ''.join(f' \n = Page {i} = \n \n It \'s the {i} @,@ 000 th , " so to say " , of <unk> . \n = = Part = = \n \n Ends : \n'
               for i in range(6))


def make_model(scale=0.3, **fields):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**dict(block_size=16, vocab_size=300, n_layer=2, n_head=2, n_embd=32), **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn_like(parameter)
        model.transformer.wte.weight[model.config.vocab_size:] = 0
    return model.eval()


@torch.no_grad()
def score_slowly(model, ids, eot, stride):
    """One token after the other, each with the context that its window gives it."""
    block_size, nats = model.config.block_size, 0.0
    for i, token in enumerate(ids):
        end = block_size + max(0, -(-(i + 1 - block_size) // stride)) * stride  # of the first window that reaches it
        begin = max(0, min(end, len(ids)) - block_size)
        context = [ids[begin - 1] if begin else eot, *ids[begin:i]]
        nats -= F.log_softmax(model(torch.tensor([context]))[0, -1].double(), dim=-1)[token].item()
    return nats


@pytest.mark.parametrize('stride', [None, 16, 7, 1])
def test_nats_are_the_sum_over_tokens_each_with_its_windows_context(process, stride):
    model = make_model()
    documents = [torch.randint(300, (n,)).tolist() for n in (1, 15, 16, 17, 40, 0, 33)]
    expected = sum(score_slowly(model, ids, 299, stride or 16) for ids in documents)
    cut = [(window.context, window.target) for window in perplexity.cut(documents, 299, 16, stride)]
    for batch_size in (1, 4, 100):
        assert -log_likelihoods(model, cut, process, batch_size).sum().item() == pytest.approx(expected, rel=1e-5)


@given(n=st.integers(0, 300), block_size=st.integers(1, 40), data=st.data())
def test_windows_predict_every_token_once_within_a_block(n, block_size, data):
    stride = data.draw(st.integers(1, block_size))
    spans = list(windows(n, block_size, stride))
    assert [token for _, first, end in spans for token in range(first, end)] == list(range(n))
    assert all(0 <= begin <= first < end <= begin + block_size for begin, first, end in spans)
    assert all(end - begin == block_size and end - first <= stride for begin, first, end in spans[1:])


@pytest.mark.parametrize('text', ['', '\n', ' \n \n'])
@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_a_text_without_words_is_refused(text, protocol):
    with pytest.raises(BadInput, match='no text'):
        perplexity.documents_of(text, protocol)


@pytest.mark.parametrize('stride', [0, -1, 17])
def test_a_stride_that_leaves_gaps_or_goes_nowhere_is_refused(stride):
    with pytest.raises(BadInput, match=f'stride={stride} should be 1 to 16'):
        perplexity.cut([[1, 2, 3]], 0, 16, stride)


@pytest.mark.parametrize('score, shown', [(508484.3, '508,484'), (26.5, '26.5000'), (0.91, '0.910000'), (99999.5, '99999.5'), (1e6, '1,000,000'),
                                          (3.14159e40, '3.14159e+40'), (math.inf, 'inf')])
def test_a_score_of_any_size_is_readable(score, shown):
    assert evaluate.readable(score) == shown


def test_words_and_bytes_are_counted_before_the_clean_up():
    (document,) = perplexity.documents_of(' = T = \n \n a @-@ b \n', 'harness')
    assert document == (' = T =\n\na-b\n', 8, len(' = T = \n \n a @-@ b \n'))  # 6 and the empty ones at both ends, as the harness has it


@pytest.mark.parametrize('protocol', ['harness', 'gpt2'])
def test_wikitext_with_windows_line_ends_is_the_same_text(protocol):
    assert perplexity.documents_of(WIKI_TEXT.replace('\n', '\r\n'), protocol) == perplexity.documents_of(WIKI_TEXT, protocol)


def test_the_papers_words_are_the_texts_tokens_and_line_ends():
    text = ' \n = Title = \n It \'s 1 @,@ 000 . \n'
    assert perplexity.documents_of(text, 'gpt2')[0][1:] == (3 + 6 + 3, len(text.encode()))
    ptb = 'no it was n\'t $ N\nmr. <unk>\n'
    assert perplexity.documents_of(ptb, 'ptb') == [("no it wasn't $N\nmr. <unk>\n", 10, len(ptb) + 4)]
    assert perplexity.documents_of('He said , " so " .\nYes .\n', 'lm1b') == [('He said, "so".\n', 8, 19), ('Yes.\n', 3, 6)]


# ---- the script -------------------------------------------------------------------------------------


WIKI_TEXT = ''.join(f' \n = Article {i} = \n \n Some text = not a heading , number {i} . \n = 5 = is none . \n'
                    f' = = Section = = \n \n More @-@ text . \n' for i in range(5))
PIQA = [{'goal': f'make {i} cakes', 'sol1': 'mix all' * (1 + i % 3), 'sol2': 'def return' * (1 + i % 2)} for i in range(12)]


def write_splits(folder):
    """A folder with the splits of WikiText; the test split is WIKI_TEXT."""
    folder.mkdir()
    for split, text in (('train', WIKI_TEXT * 3), ('valid', WIKI_TEXT * 2), ('test', WIKI_TEXT)):
        (folder / f'{split}.txt').write_text(text)
    return str(folder)


def write_rows(path, rows, labels=None):
    """A .jsonl file as published, and the file of labels beside it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(''.join((row if isinstance(row, str) else json.dumps(row)) + '\n' for row in rows))
    if labels is not None:
        path.with_name(f'{path.stem}-labels.lst').write_text(''.join(f'{label}\n' for label in labels))
    return str(path)


def write_model(folder, tokenizer, seed=0, **fields):
    """A random model in Hugging Face's layout, with weights large enough for its guesses to differ."""
    torch.manual_seed(seed)
    sizes = {'block_size': 64, 'n_layer': 2, 'n_head': 2, 'n_embd': 32, **fields}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    pretrained.save(model, str(folder), eot=tokenizer.eot)
    tokenizer.save(folder / 'tokenizer.json')
    return str(folder)


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory, texts):
    return write_model(tmp_path_factory.mktemp('model'), Tokenizer.train(texts, 300, progress=False))


def evaluate_to_json(model_folder, path, **changes):
    """What evaluate.py writes."""
    settings = {'init_from': model_folder, 'device': 'cpu', 'json': path, **changes}
    evaluate.main(configure(evaluate.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
    return json.loads(path.read_text())


@pytest.fixture
def score(model_folder, tmp_path):
    """score(task, **settings): what the JSON says of that task."""
    return lambda task, **settings: evaluate_to_json(model_folder, tmp_path / 'a.json', tasks=task, **settings)['tasks'][task]


def test_a_split_is_scored_by_pages_and_any_text_as_it_is(tmp_path, score):
    folder = write_splits(tmp_path / 'in')
    pages = score('wikitext2', source=folder)
    assert pages['protocol'] == 'harness' and pages['bytes'] == len(WIKI_TEXT.encode()) - 2 - 4  # the blank line, and ends of pages
    assert len(pages['examples']) == 5
    plain = score('text', source=os.path.join(folder, 'test.txt'))
    assert plain['protocol'] == 'plain' and (plain['words'], plain['bytes']) == (len(WIKI_TEXT.split()), len(WIKI_TEXT.encode()))
    for unit in ('word', 'token', 'byte'):
        assert math.log2(plain[f'{unit}_perplexity']) * plain[f'{unit}s'] == pytest.approx(plain['bits_per_byte'] * plain['bytes'])
    assert score('wikitext2', source=os.path.join(folder, 'test.txt')) == pages
    assert score('wikitext2', source=folder, split='val')['words'] != pages['words']
    sliding = score('text', source=os.path.join(folder, 'test.txt'), stride=16)
    assert sliding['words'] == plain['words'] and sliding['bits_per_byte'] != plain['bits_per_byte']
    assert score('wikitext2', source=folder, protocol='plain')['bytes'] == plain['bytes']


def test_compressed_text_and_other_encodings_are_measured_and_binary_data_is_not(tmp_path, score):
    files = {'a.txt': TEXT.encode(), 'b.TXT.GZ': gzip.compress(TEXT.encode()), 'c.txt': TEXT.encode('utf-16')}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    plain, *others = [score('text', source=tmp_path / name) for name in files]
    assert others == [plain, plain]
    (tmp_path / 'd.txt').write_bytes('é'.encode('latin-1') + TEXT.encode())
    assert score('text', source=tmp_path / 'd.txt', encoding='latin-1')['bytes'] == plain['bytes'] + 2
    for data in (gzip.compress(TEXT.encode()), b'%PDF-1.7\n' + TEXT.encode(), os.urandom(5000)):
        (tmp_path / 'e.txt').write_bytes(data)
        with pytest.raises(BadInput, match='e.txt holds binary data, not text'):
            score('text', source=tmp_path / 'e.txt')


def test_rows_in_a_compressed_file_with_windows_line_ends_or_in_utf_16_are_the_same_rows(tmp_path, score):
    text = ''.join(json.dumps({**row, 'label': 1}) + '\n' for row in PIQA)
    files = {'a.jsonl': text.encode(), 'b.jsonl.gz': gzip.compress(text.encode()), 'c.jsonl': text.replace('\n', '\r\n').encode(),
             'd.jsonl': text.encode('utf-16')}
    scores = []
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        scores.append(score('piqa', source=tmp_path / name))
    logprobs = [[example['logprobs'] for example in one['examples']] for one in scores]
    assert logprobs[1:] == [logprobs[0]] * 3
    (tmp_path / 'e.jsonl').write_bytes(gzip.compress(text.encode()))
    with pytest.raises(BadInput, match='e.jsonl, line 1 is not JSON'):
        score('piqa', source=tmp_path / 'e.jsonl')


def test_a_folder_with_the_wanted_split_alone_is_enough(tmp_path, score):
    (tmp_path / 'wiki.test.tokens').write_text(WIKI_TEXT)
    (tmp_path / 'x_val_000000.bin').write_bytes(b'no text')
    assert score('wikitext2', source=tmp_path)['tokens'] > 100
    with pytest.raises(BadInput, match='has no file for the val split, such as valid.txt'):
        score('wikitext2', source=tmp_path, split='val')


def test_a_model_that_guesses_has_its_vocabulary_size_as_perplexity(tmp_path, score, monkeypatch):
    load = pretrained.load

    def without_embedding(*arguments, **options):
        model, tokenizer, source = load(*arguments, **options)
        with torch.no_grad():
            model.transformer.wte.weight.zero_()
        return model, tokenizer, source

    monkeypatch.setattr(pretrained, 'load', without_embedding)
    (tmp_path / 'a.txt').write_text(TEXT)
    assert score('text', source=tmp_path / 'a.txt')['token_perplexity'] == pytest.approx(300, rel=1e-5)


def test_a_wild_models_perplexity_is_printed_readably_and_is_null_in_json_beyond_floats(tmp_path, capsys, texts):
    tokenizer = Tokenizer.train(texts, 300, progress=False)
    pretrained.save(make_model(scale=30), str(tmp_path), eot=tokenizer.eot)
    tokenizer.save(tmp_path / 'tokenizer.json')
    (tmp_path / 'a.txt').write_text(TEXT.replace(' ', ''))
    found = evaluate_to_json(str(tmp_path), tmp_path / 'a.json', tasks='text', source=tmp_path / 'a.txt')['tasks']['text']
    assert found['word_perplexity'] is None and math.isfinite(found['bits_per_byte'])
    assert ' inf ' in capsys.readouterr().out


def test_several_tasks_come_from_a_folder_with_a_file_for_each(tmp_path, model_folder):
    write_rows(tmp_path / 'piqa' / 'dev.jsonl', PIQA, [0, 1] * 6)
    write_rows(tmp_path / 'lambada' / 'lambada_test.jsonl', [{'text': f'a {i} b'} for i in range(5)])
    found = evaluate_to_json(model_folder, tmp_path / 'a.json', tasks='piqa,lambada', source=tmp_path, limit=4)
    assert [(name, len(task['examples'])) for name, task in found['tasks'].items()] == [('piqa', 4), ('lambada', 4)]
    assert found['model']['parameters'] > 0 and len(found['model']['sha256']) == 64 and found['settings']['limit'] == 4
    for task in found['tasks'].values():
        assert {key for key in task if key.endswith('_stderr')} == {f'{key}_stderr' for key in task if f'{key}_stderr' in task}
        assert task['acc'] == sum(example['acc'] for example in task['examples']) / 4
    with pytest.raises(BadInput, match='one file for several tasks .piqa, lambada.; name one'):
        evaluate_to_json(model_folder, tmp_path / 'b.json', tasks='piqa,lambada', source=tmp_path / 'piqa' / 'dev.jsonl')
    with pytest.raises(BadInput, match='no file for siqa, such as siqa/dev.jsonl'):
        evaluate_to_json(model_folder, tmp_path / 'b.json', tasks='siqa', source=tmp_path)


def test_the_papers_table_and_core_stand_beside_what_was_measured(tmp_path, capsys, model_folder):
    write_rows(tmp_path / 'lambada_test.jsonl', [{'text': f'a {i} b'} for i in range(5)])
    found = evaluate_to_json(model_folder, tmp_path / 'a.json', tasks='lambada_gpt2', source=tmp_path / 'lambada_test.jsonl')
    assert [(row['name'], row['published']['gpt2-xl']) for row in found['gpt2paper']] == [('LAMBADA (PPL)', 8.63), ('LAMBADA (ACC)', 63.24)]
    assert '35.13' in capsys.readouterr().out and 'core' not in found


def test_without_a_model_it_says_what_is_missing_and_ends_with_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_script('evaluate.py') == 2
    assert capsys.readouterr().err.startswith('evaluate.py: out')


@pytest.mark.parametrize('changes, message', [
    (dict(batch_size=0), 'batch_size=0'), (dict(shots=-1), 'shots=-1'), (dict(tasks='piqa'), 'has no file for piqa'),
    (dict(stride=65), 'stride=65 should be 1 to 64'), (dict(source='missing'), 'no file or folder'), (dict(init_from='gpt7'), 'gpt7'),
    (dict(tasks='hellaswig'), "no task 'hellaswig'; did you mean hellaswag"), (dict(tasks='piqa@x'), "no task 'piqa@x'; tasks are"),
    (dict(tasks='text@3'), 'no examples before it'), (dict(compare='a.json'), 'two files')])
def test_bad_settings_are_one_line(tmp_path, model_folder, changes, message):
    with pytest.raises(BadInput, match=message) as error:
        evaluate_to_json(model_folder, tmp_path / 'a.json', **{'source': write_splits(tmp_path / 'in'), 'tasks': 'wikitext2', **changes})
    assert '\n' not in str(error.value) and not (tmp_path / 'a.json').exists()


@pytest.mark.slow
def test_two_processes_and_any_batch_size_give_the_same_results(tmp_path, model_folder):
    rows = write_rows(tmp_path / 'piqa' / 'dev.jsonl', PIQA, [0, 1] * 6)
    (tmp_path / 'test.txt').write_text(WIKI_TEXT)
    settings = {'tasks': 'piqa,wikitext2', 'source': tmp_path, 'stride': 16}
    found = [evaluate_to_json(model_folder, tmp_path / 'a.json', **settings, batch_size=n) for n in (16, 1, 5)]
    settings |= {'init_from': model_folder, 'device': 'cpu', 'json': tmp_path / 'b.json'}
    spread = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                             ROOT / 'evaluate.py', *[f'--{key}={value}' for key, value in settings.items()]],
                            capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert spread.returncode == 0, spread.stderr
    found.append(json.loads((tmp_path / 'b.json').read_text()))
    assert spread.stdout.count('piqa, 12 examples') == 1 and rows in found[0]['tasks']['piqa']['examples'][0]['row']
    for other in found[1:]:
        assert_alike(other, found[0])


def assert_alike(one, other):
    """The same JSON but for the rounding of floats."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_alike(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other):
            assert_alike(*pair)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-4)
    else:
        assert one == other


@pytest.mark.slow
def test_compiled_it_gives_the_same_results(tmp_path, model_folder):
    write_rows(tmp_path / 'dev.jsonl', PIQA, [0, 1] * 6)
    settings = {'tasks': 'piqa', 'source': tmp_path / 'dev.jsonl'}
    found = [evaluate_to_json(model_folder, tmp_path / 'a.json', **settings, compile=compiled) for compiled in (False, True)]
    assert_alike(*found)


def test_a_guess_of_the_last_word_may_not_be_a_stop_word_and_the_last_token_is_scored_after_the_others(tmp_path, score, model_folder):
    texts = ['import os and the path', 'def f of things', 'return not the', 'x and y or', 'a b']
    write_rows(tmp_path / 'lambada_test.jsonl', [{'text': text} for text in texts])
    found = score('lambada_gpt2', source=tmp_path / 'lambada_test.jsonl')['examples']
    model, tokenizer, _ = pretrained.load(model_folder)
    stop_words = {tokenizer.encode(f' {word}')[0] for word in STOP_WORDS if len(tokenizer.encode(f' {word}')) == 1}
    assert stop_words
    for text, example in zip(texts, found, strict=True):
        n, ids = len(tokenizer.encode(text.rpartition(' ')[0])), tokenizer.encode(text)
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]]))[0].double()
        logprobs = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        assert example['logprob'] == pytest.approx(logprobs[n - 1:].sum().item(), abs=1e-3)
        assert example['logprob_last_token'] == pytest.approx(logprobs[-1].item(), abs=1e-3)
        guesses = logits.argmax(-1).tolist()
        assert (example['acc'], example['acc_last_token']) == (guesses[n - 1:] == ids[n:], guesses[-1] == ids[-1])
        logits[:, sorted(stop_words)] = -math.inf
        assert example['acc_stop_words'] == (logits.argmax(-1).tolist()[n - 1:] == ids[n:])
