import gzip
import json
import math
import os
import pathlib
import re
import shutil
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
from evaluate import windows
from model import GPT, GPTConfig
from runtime.errors import BadInput

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
    for batch_size in (1, 4, 100):
        nats = evaluate.total_nats(model, documents, 299, process, stride, batch_size=batch_size)
        assert nats == pytest.approx(expected, rel=1e-5)


@given(n=st.integers(0, 300), block_size=st.integers(1, 40), data=st.data())
def test_windows_predict_every_token_once_within_a_block(n, block_size, data):
    stride = data.draw(st.integers(1, block_size))
    spans = list(windows(n, block_size, stride))
    assert [token for _, first, end in spans for token in range(first, end)] == list(range(n))
    assert all(0 <= begin <= first < end <= begin + block_size for begin, first, end in spans)
    assert all(end - begin == block_size and end - first <= stride for begin, first, end in spans[1:])


def test_a_model_that_guesses_has_its_vocabulary_size_as_perplexity(process, tokenizer):
    model = make_model()
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    result = evaluate.measure_perplexity(model, tokenizer, TEXT, process, 'plain')
    n_tokens = len(tokenizer.encode(TEXT))
    assert (result['tokens'], result['words'], result['bytes']) == (n_tokens, len(TEXT.split()), len(TEXT.encode()))
    assert result['token_perplexity'] == pytest.approx(300, rel=1e-5)
    assert result['bits_per_byte'] == pytest.approx(n_tokens * math.log2(300) / len(TEXT.encode()), rel=1e-5)
    assert result['word_perplexity'] == pytest.approx(300 ** (n_tokens / len(TEXT.split())), rel=1e-4)


@pytest.mark.parametrize('protocol', evaluate.PROTOCOLS)
def test_the_batch_size_changes_no_figure(process, tokenizer, protocol):
    model = make_model()
    results = [evaluate.measure_perplexity(model, tokenizer, TEXT, process, protocol, batch_size=n) for n in (1, 3, 64)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-4)


@pytest.mark.parametrize('text', ['', '\n', ' \n \n'])
def test_a_text_without_words_is_refused(process, tokenizer, text):
    with pytest.raises(BadInput, match='no text'):
        evaluate.measure_perplexity(make_model(), tokenizer, text, process, 'plain')


@pytest.mark.parametrize('stride', [0, -1, 17])
def test_a_stride_that_leaves_gaps_or_goes_nowhere_is_refused(process, tokenizer, stride):
    with pytest.raises(BadInput, match=f'stride={stride} should be 1 to 16'):
        evaluate.measure_perplexity(make_model(), tokenizer, TEXT, process, 'plain', stride)


def test_a_perplexity_beyond_floats_is_infinite(process, tokenizer):
    result = evaluate.measure_perplexity(make_model(scale=30), tokenizer, TEXT.replace(' ', ''), process, 'plain')
    assert result['word_perplexity'] == math.inf and math.isfinite(result['bits_per_byte'])


@pytest.mark.parametrize('score, shown', [(508484.3, '508,484'), (26.5, '26.5000'), (0.91, '0.910000'), (99999.5, '99999.5'), (1e6, '1,000,000'),
                                          (3.14159e40, '3.14159e+40'), (math.inf, 'inf')])
def test_a_score_of_any_size_is_readable(score, shown):
    assert evaluate.readable(score) == shown


def test_words_and_bytes_are_counted_before_the_clean_up():
    texts, n_words, n_bytes = evaluate.apply_protocol(' = T = \n \n a @-@ b \n', 'harness')
    assert texts == [' = T =\n\na-b\n']
    assert (n_words, n_bytes) == (8, len(' = T = \n \n a @-@ b \n'))  # 6 and the empty ones at both ends, as the harness has it


@pytest.mark.parametrize('protocol', ['harness', 'gpt2'])
def test_wikitext_with_windows_line_ends_is_the_same_text(protocol):
    assert evaluate.apply_protocol(WIKI_TEXT.replace('\n', '\r\n'), protocol) == evaluate.apply_protocol(WIKI_TEXT, protocol)


def test_the_papers_words_are_wikitexts_tokens_and_line_ends():
    text = ' \n = Title = \n It \'s 1 @,@ 000 . \n'
    assert evaluate.apply_protocol(text, 'gpt2')[1:] == (3 + 6 + 3, len(text.encode()))


# ---- the script -------------------------------------------------------------------------------------


WIKI_TEXT = ''.join(f' \n = Article {i} = \n \n Some text = not a heading , number {i} . \n = 5 = is none . \n'
                    f' = = Section = = \n \n More @-@ text . \n' for i in range(5))


def write_splits(folder):
    """A folder with the splits of WikiText; the test split is WIKI_TEXT."""
    folder.mkdir()
    for split, text in (('train', WIKI_TEXT * 3), ('valid', WIKI_TEXT * 2), ('test', WIKI_TEXT)):
        (folder / f'{split}.txt').write_text(text)
    return str(folder)


def write_model(folder, tokenizer, **fields):
    """A random model in Hugging Face's layout, with weights large enough for its guesses to differ."""
    torch.manual_seed(0)
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


def run(capsys, model_folder, **changes):
    """What it prints: (counts, figures, everything)."""
    capsys.readouterr()
    settings = {'init_from': model_folder, 'device': 'cpu', **changes}
    evaluate.main(configure(evaluate.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
    return read_figures(capsys.readouterr().out)


def read_figures(text):
    found = re.findall(r'^(?:token|word|bits) per[a-z ]+([\d.,e+]+) +([\d,]+) (?:tokens|words|bytes)$', text, re.MULTILINE)
    figures, counts = zip(*[(float(figure.replace(',', '')), int(count.replace(',', ''))) for figure, count in found], strict=True)
    return counts, figures, text


def test_a_split_is_scored_as_the_harness_does_and_any_file_as_it_is(tmp_path, capsys, model_folder):
    folder = write_splits(tmp_path / 'in')
    counts, _, text = run(capsys, model_folder, source=folder)
    assert 'protocol harness' in text and counts[2] == len(WIKI_TEXT.encode()) - 2 - 4  # the blank line, and ends of pages
    counts, plain, text = run(capsys, model_folder, source=os.path.join(folder, 'test.txt'))
    assert 'protocol plain' in text and counts[1:] == (len(WIKI_TEXT.split()), len(WIKI_TEXT.encode()))
    for count, perplexity in zip(counts, plain[:2]):
        assert math.log2(perplexity) * count == pytest.approx(plain[2] * counts[2], rel=1e-4)
    assert run(capsys, model_folder, source=folder, split='val')[0] != counts
    sliding = run(capsys, model_folder, source=os.path.join(folder, 'test.txt'), stride=16)
    assert sliding[0] == counts and sliding[1] != plain and 'move on by 16' in sliding[2]


def test_compressed_text_and_other_encodings_are_measured_and_binary_data_is_not(tmp_path, capsys, model_folder):
    files = {'a.txt': TEXT.encode(), 'b.TXT.GZ': gzip.compress(TEXT.encode()), 'c.txt': TEXT.encode('utf-16')}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    plain, *others = [run(capsys, model_folder, source=str(tmp_path / name))[:2] for name in files]
    assert others == [plain, plain]
    (tmp_path / 'd.txt').write_bytes('é'.encode('latin-1') + TEXT.encode())
    assert run(capsys, model_folder, source=str(tmp_path / 'd.txt'), encoding='latin-1')[0][2] == plain[0][2] + 2
    for data in (gzip.compress(TEXT.encode()), b'%PDF-1.7\n' + TEXT.encode(), os.urandom(5000)):
        (tmp_path / 'e.txt').write_bytes(data)
        with pytest.raises(BadInput, match='e.txt holds binary data, not text'):
            run(capsys, model_folder, source=str(tmp_path / 'e.txt'))


def test_a_folder_with_the_wanted_split_alone_is_enough(tmp_path, capsys, model_folder):
    (tmp_path / 'wiki.test.tokens').write_text(WIKI_TEXT)
    (tmp_path / 'x_val_000000.bin').write_bytes(b'no text')
    assert run(capsys, model_folder, source=str(tmp_path))[0][0] > 100
    with pytest.raises(BadInput, match='has no file for the val split, such as valid.txt'):
        run(capsys, model_folder, source=str(tmp_path), split='val')


def test_without_a_model_it_says_what_is_missing_and_ends_with_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_script('evaluate.py') == 2
    assert capsys.readouterr().err.startswith('evaluate.py: out')


@pytest.mark.parametrize('changes, message', [
    (dict(batch_size=0), 'batch_size=0'),
    (dict(stride=65), 'stride=65 should be 1 to 64'), (dict(source='missing'), 'no file or folder'), (dict(init_from='gpt7'), 'gpt7')])
def test_bad_settings_are_one_line(tmp_path, capsys, model_folder, changes, message):
    with pytest.raises(BadInput, match=message) as error:
        run(capsys, model_folder, **{'source': write_splits(tmp_path / 'in'), **changes})
    assert '\n' not in str(error.value)


@pytest.mark.slow
def test_two_processes_under_torchrun_give_the_figures_of_one(tmp_path, capsys, model_folder):
    source = write_splits(tmp_path / 'in')
    source = os.path.join(source, 'test.txt')
    counts, figures, _ = run(capsys, model_folder, source=source, stride=16)
    assert run(capsys, model_folder, source=source, stride=16, batch_size=3)[1] == pytest.approx(figures, rel=1e-4)
    settings = {'init_from': model_folder, 'source': source, 'stride': 16, 'device': 'cpu'}
    spread = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                             ROOT / 'evaluate.py', *[f'--{key}={value}' for key, value in settings.items()]],
                            capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert spread.returncode == 0, spread.stderr
    assert read_figures(spread.stdout)[0] == counts
    assert read_figures(spread.stdout)[1] == pytest.approx(figures, rel=1e-4)


def test_lm_eval_measures_the_same_on_real_pages(tmp_path, capsys, test_data):
    HFLM = pytest.importorskip('lm_eval.models.huggingface', reason='pip install lm-eval accelerate').HFLM
    import lm_eval
    from lm_eval.tasks import TaskManager
    folder = write_model(tmp_path / 'model', Tokenizer.gpt2(), block_size=256, n_embd=16)
    text = (test_data / 'wikitext-2-raw' / 'test.txt').read_text()[:60_000]
    (tmp_path / 'test.txt').write_text(text)
    _, ours, _ = run(capsys, folder, source=str(tmp_path))
    titles = [match.start() for match in re.finditer(r'^ = [^=].*[^=] = $', text, re.MULTILINE)]
    pages = [text[begin:end].removesuffix('\n') for begin, end in zip(titles, [*titles[1:], len(text) + 1])]
    (tmp_path / 'pages.jsonl').write_text(''.join(json.dumps({'page': page}) + '\n' for page in pages))
    their_task = pathlib.Path(lm_eval.__file__).parent / 'tasks' / 'wikitext'
    shutil.copy(their_task / 'preprocess_wikitext.py', tmp_path)
    settings = (their_task / 'wikitext.yaml').read_text()
    ours_alone = 'dataset_path|dataset_name|training_split|validation_split|test_split|dataset_kwargs|task'
    settings = re.sub(rf'^({ours_alone}):.*\n', '', settings, flags=re.MULTILINE)
    (tmp_path / 'task.yaml').write_text(f'task: from_a_file\ndataset_path: json\ntest_split: train\n'
                                        f'dataset_kwargs: {{data_files: {tmp_path / "pages.jsonl"}}}\n' + settings)
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=folder, device='cpu', dtype='float32', batch_size=8), tasks=['from_a_file'], bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False))['results']['from_a_file']
    assert len(pages) > 1
    assert ours[1:] == pytest.approx((theirs['word_perplexity,none'], theirs['bits_per_byte,none']), rel=1e-3)
