import itertools
import json
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import merged_metrics
from hypothesis import given
from hypothesis import strategies as st

import pretrained
import shards
import train
from bpe import Tokenizer
from configurator import configure
from runtime.errors import BadInput
from tasks import prepare_problems
from tasks.gsm8k import answer_of, check_calls, read_problems
from tasks.word_problems import generate_problems

JANET = {'question': 'Janet has 16 eggs and eats 3. She sells the rest for $2 each. What does she get?',
         'answer': 'She has 16-3=<<16-3=13>>13 left.\nShe gets $<<13*2=26>>26.\n#### 26'}
DEBT = {'question': 'What is 3 - 8?', 'answer': 'That is <<3-8=-5>>-5.\n#### -5'}


def prepare(**settings):
    prepare_problems.main(configure(prepare_problems.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


# ---------------------------------------------------------------------------- problems from files, and their answers

@pytest.mark.parametrize('text, number', [
    ('so\n#### 26', 26), ('#### 1,080', 1080), ('#### 4.50', Fraction(9, 2)), ('#### -5', -5), ('#### 1/3', Fraction(1, 3)),
    ('#### 5.', 5), ('#### 1\n#### 2', 1), ('26', None), ('#### many', None), ('####', None), ('#### 1.2.3', None), ('#### ,', None),
    ('#### ٣x', None), ('#### 12 pens', 12), ('#### 7,500 km', 7500), ('#### 30%', 30), ('#### .5', Fraction(1, 2)), ('####\n5', None),
    ('so\r\n#### 8\r\n', 8), ('#### ' + '9' * 5000, None), ('#### 2e30000000', 2)])
def test_the_answer_is_the_first_number_behind_a_mark(text, number):
    assert answer_of(text) == number


@given(st.text('#-.,0123456789 a\n', max_size=30).map('#### '.__add__))
def test_answers_are_those_of_gsm8ks_own_pattern(text):
    found = re.search(r'#### (\-?[0-9\.\,]+)', text)
    try:
        expected = Fraction(found[1].replace(',', '')) if found else None
    except ValueError:
        expected = None
    assert answer_of(text) == expected


def test_calls_of_gsm8k_that_the_calculator_does_not_confirm_are_listed(test_data):
    problems = read_problems(str(test_data / 'gsm8k' / 'train.jsonl'))
    n_calls, unconfirmed = check_calls(problems)
    assert len(problems) == 7473 and n_calls == 23716
    assert len(unconfirmed) <= 0.005 * n_calls
    assert [call for _, call, _ in unconfirmed] == ['<<560//10=56>>', '<<180//3=60>>']
    assert all(call[2:-2].split('=')[0] in problems[number - 1]['answer'] for number, call, _ in unconfirmed)


def test_a_wrong_result_in_a_solution_is_listed():
    wrong = {'question': '?', 'answer': '<<2+2=5>>5 <<1/0=1>>1 <<2*3=6.0>>6\n#### 5'}
    assert check_calls([JANET, wrong]) == (5, [(2, '<<2+2=5>>', '4'), (2, '<<1/0=1>>', 'division by zero')])


def test_problems_of_a_file_get_their_number_of_steps_as_kind(tmp_path):
    path = write_lines(tmp_path / 'some.jsonl', [JANET, DEBT, {'question': 'a', 'answer': '#### 1', 'kind': 'mine'}])
    assert [problem['kind'] for problem in read_problems(path)] == ['2 steps', '1 step', 'mine']


@pytest.mark.parametrize('content, word', [
    ('', 'no problems'), ('{"question": "a"', 'line 1 is not JSON'), ('[1]\n', 'line 1'),
    ('{"question": "a", "answer": 5}\n', 'line 1'), ('{"question": "a", "answer": "5"}\n', '####')])
def test_a_file_without_problems_gives_one_line_and_leaves_nothing(tmp_path, content, word):
    (tmp_path / 'bad.jsonl').write_text(content)
    with pytest.raises(BadInput, match=re.escape(word)) as caught:
        prepare(source=tmp_path / 'bad.jsonl', out_dir=tmp_path / 'data')
    assert '\n' not in str(caught.value) and not (tmp_path / 'data').exists()


# ---------------------------------------------------------------------------- problems to shards

def test_generated_problems_become_checked_masked_shards(tmp_path):
    data_dir = str(tmp_path / 'math')
    prepare(out_dir=data_dir, n_problems=300, n_val=20, vocab_size=350)
    assert 'targets' in shards.check_folder(data_dir)
    tokenizer, meta = shards.load_tokenizer(data_dir), shards.load_meta(data_dir)
    assert meta['vocab_size'] == tokenizer.vocab_size == 350
    assert sorted(meta['shards']) == ['math_train_000001.bin', 'math_val_000000.bin']
    tokens = shards.read_shard(tmp_path / 'math' / 'math_train_000001.bin')
    texts = tokenizer.decode(tokens).split('<|endoftext|>')[1:]
    held_out = tokenizer.decode(shards.read_shard(tmp_path / 'math' / 'math_val_000000.bin')).split('<|endoftext|>')[1:]
    generated = [f'{problem["question"]}\n{problem["answer"]}' for problem in itertools.islice(generate_problems('train'), 320)]
    assert sorted(texts) == sorted(generated[:300]) and held_out == generated[300:]
    x, y = shards.BatchLoader(data_dir, 'val', 128, 4, seed=0).next()
    assert tokenizer.decode(y[y != -1].tolist()).count('####') >= 4
    assert '?' not in tokenizer.decode(y[y != -1].tolist())


def test_sources_can_be_mixed_and_a_tokenizer_be_given(tmp_path):
    tokenizer = Tokenizer.train(['Janet'], 257)
    path = write_lines(tmp_path / 'some.jsonl', [JANET] * 20)
    tokenizer.save(tmp_path / 'tokenizer.json')
    prepare(source=f'generated,{path},', out_dir=tmp_path / 'mixed', n_problems=30, n_val=5,
              tokenizer=tmp_path / 'tokenizer.json')
    text = tokenizer.decode(shards.read_shard(tmp_path / 'mixed' / 'mixed_train_000001.bin'))
    assert text.count('Janet has 16') == 18 and text.count('<|endoftext|>') == 30 + 18


def test_as_many_problems_are_generated_as_asked_for_and_of_a_file_a_tenth_is_held_out(tmp_path, capsys):
    path = write_lines(tmp_path / 'a,b[1].jsonl', [JANET] * 29)
    prepare(out_dir=tmp_path / 'generated', n_problems=40, n_val=30, vocab_size=300)
    meta = shards.load_meta(str(tmp_path / 'generated'))
    assert (meta['train_documents'], meta['val_documents']) == (40, 30)
    capsys.readouterr()
    prepare(source=path, out_dir=tmp_path / 'file', n_val=30, vocab_size=260)
    meta = shards.load_meta(str(tmp_path / 'file'))
    assert (meta['train_documents'], meta['val_documents']) == (27, 2)
    assert f'{path}: 2 of 29 problems are held out, a tenth' in capsys.readouterr().out


@pytest.mark.parametrize('encode', [lambda text: b'\xef\xbb\xbf' + text.encode(), lambda text: text.encode('utf-16'),
                                    lambda text: text.replace('\n', '\r\n').encode()])
def test_problems_are_read_whatever_an_editor_made_of_the_file(tmp_path, encode):
    (tmp_path / 'some.JSONL').write_bytes(encode(json.dumps(JANET) + '\n' + json.dumps(DEBT) + '\n'))
    assert [problem['question'] for problem in read_problems(str(tmp_path / 'some.JSONL'))] == [JANET['question'], DEBT['question']]


def test_a_folder_with_shards_of_another_name_is_not_written_to(tmp_path):
    (tmp_path / 'fineweb_train_000001.bin').write_bytes(b'x')
    with pytest.raises(BadInput, match='other shards'):
        prepare(out_dir=tmp_path, n_problems=30, n_val=3, vocab_size=300)


@pytest.mark.parametrize('settings, word', [({'n_val': 0}, 'n_val'), ({'vocab_size': 100, 'n_problems': 50}, 'vocab_size')])
def test_settings_that_cannot_be_give_one_line(settings, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=word) as caught:
        prepare(**settings)
    assert '\n' not in str(caught.value) and not (tmp_path / 'data').exists()


def test_finished_data_is_not_made_again_nor_overwritten(tmp_path, capsys):
    settings = {'out_dir': tmp_path / 'math', 'n_problems': 30, 'n_val': 3, 'vocab_size': 300}
    prepare(**settings)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'math').iterdir()}
    prepare(**settings)
    assert 'already made' in capsys.readouterr().out
    with pytest.raises(BadInput, match='seed=0, not 1'):
        prepare(**settings, seed=1)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'math').iterdir()} == before


# ---------------------------------------------------------------------------- training on a masked set

@pytest.mark.slow
def test_the_loss_on_masked_data_does_not_depend_on_the_micro_batch(tmp_path):
    data_dir = str(tmp_path / 'math')
    prepare(out_dir=data_dir, n_problems=200, n_val=15, vocab_size=350)
    curves = []
    for micro_batch in (1, 2, 8):
        out_dir = tmp_path / f'out{micro_batch}'
        settings = {'data_dir': data_dir, 'out_dir': out_dir, 'micro_batch': micro_batch, 'n_layer': 1, 'n_head': 2,
                    'n_embd': 32, 'block_size': 16, 'total_batch_tokens': 128, 'max_steps': 6, 'warmup_steps': 1,
                    'learning_rate': 3e-3, 'eval_interval': 3, 'eval_tokens': 500, 'sample_interval': 0,
                    'checkpoint_interval': 0, 'device': 'cpu', 'dtype': 'float32'}
        train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
        curves.append([[row.get(key, 0) for key in ('loss', 'grad_norm', 'val_loss', 'val_bpb')]
                       for row in merged_metrics(out_dir)])
    assert len(curves[0]) == 7
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-4)


def test_the_validation_loss_is_the_mean_over_the_targets_that_count(tmp_path, capsys):
    data_dir = str(tmp_path / 'math')
    prepare(out_dir=data_dir, n_problems=200, n_val=15, vocab_size=350)
    settings = {'data_dir': data_dir, 'out_dir': tmp_path / 'out', 'micro_batch': 3, 'n_layer': 1, 'n_head': 2, 'n_embd': 32,
                'block_size': 32, 'total_batch_tokens': 96, 'max_steps': 1, 'warmup_steps': 0, 'eval_interval': 1,
                'eval_tokens': 320, 'sample_interval': 0, 'checkpoint_interval': 1, 'device': 'cpu', 'dtype': 'float32'}
    train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
    assert f'try it: python -m tasks.solve --out_dir={tmp_path / "out"}\n' in capsys.readouterr().out
    model, tokenizer, _ = pretrained.load(str(tmp_path / 'out'))
    path = shards.find_shards(data_dir, 'val')[0]
    tokens = torch.from_numpy(shards.read_shard(path).astype(np.int64))
    counted = torch.from_numpy(np.unpackbits(shards.read_mask(path), bitorder='little')[:len(tokens)].astype(bool))
    nats = n = n_bytes = 0
    with torch.no_grad():
        for start in range(0, 320, 32):
            logits = model(tokens[None, start:start + 32]).double().log_softmax(-1)[0]
            for position in range(32):
                target = tokens[start + position + 1]
                if counted[start + position + 1]:
                    nats, n = nats - logits[position, target].item(), n + 1
                    n_bytes += int(tokenizer.token_lengths()[target])
    row = merged_metrics(tmp_path / 'out')[-1]
    assert row['val_loss'] == pytest.approx(nats / n, rel=1e-5)
    assert row['val_bpb'] == pytest.approx(nats / np.log(2) / n_bytes, rel=1e-5)
