import asyncio
import collections
import concurrent.futures
import itertools
import json
import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import checkpoint
import pretrained
from tasks import math_solver
import sample
import shards
import train
from bpe import Tokenizer
from tasks.calculator import calculate
from configurator import configure
from runtime.errors import BadInput
from inference.engine import Engine, Request
from tasks.math_solver import CALL, Calculator, answer_of, encode_problem, encode_question, encode_solution
from model import GPT, GPTConfig
from tasks.word_problems import problems

JANET = {'question': 'Janet has 16 eggs and eats 3. She sells the rest for $2 each. What does she get?',
         'answer': 'She has 16-3=<<16-3=13>>13 left.\nShe gets $<<13*2=26>>26.\n#### 26'}
DEBT = {'question': 'What is 3 - 8?', 'answer': 'That is <<3-8=-5>>-5.\n#### -5'}
EQUATION = {'question': 'Solve 3x + 5 = 20.', 'answer': '<<solve(3*x+5=20, x)=5>>5\n#### 5'}
SUMS = [{'question': f'What is {a} + {b}?', 'answer': f'It is <<{a}+{b}={a + b}>>{a + b}.\n#### {a + b}', 'kind': 'sum'}
        for a in (1, 2, 3) for b in (2, 4, 6)]


@pytest.fixture(scope='module')
def tokenizer():
    made = math_solver.make_tokenizer(list(itertools.islice(problems('train'), 300)), {'tokenizer': None, 'vocab_size': 400})
    return made


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory, tokenizer):
    """A run's folder with a tiny model that has learned to answer a few sums with the result of its call, and in the calls any
    number but the right one: with a calculator all of its answers are right, without it none is."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=64, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_embd=64))
    wrong = [{**problem, 'answer': re.sub(r'=\d>>\d(.*)\d', rf'={n}>>{n}\g<1>{n}', problem['answer'], flags=re.S)}
             for problem in SUMS for n in range(1, 10) if n != answer_of(problem['answer'])]
    x = torch.full((len(wrong), 64), tokenizer.eot)
    y = torch.full((len(wrong), 64), -1)
    for row, problem in enumerate(wrong):
        tokens, counted = encode_problem(problem, tokenizer)
        tokens = torch.tensor([*tokens.tolist(), tokenizer.eot])
        x[row, :len(tokens)] = tokens
        y[row, :len(tokens) - 1] = torch.where(torch.tensor([*counted[1:], True]), tokens[1:], -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        rows = torch.randint(len(wrong), (24,))
        optimizer.zero_grad()
        loss = model(x[rows], y[rows])
        loss.backward()
        optimizer.step()
    assert loss < 0.3, loss
    folder = tmp_path_factory.mktemp('sums')
    config = {**train.DEFAULTS, 'block_size': 64, 'vocab_size': tokenizer.vocab_size, 'n_layer': 2, 'n_head': 2, 'n_embd': 64,
              'kernels': 'torch', 'attention': 'auto', 'optimizer': 'adamw', 'device': 'cpu'}
    config = {key: value for key, value in config.items() if isinstance(value, (int, float, str, bool))}
    torch.save({'model': model.state_dict(), 'config': config, 'step': 1}, checkpoint.checkpoint_path(str(folder), 1))
    tokenizer.save(folder / 'tokenizer.json')
    return str(folder)


@pytest.fixture(scope='module')
def model(run_folder):
    return pretrained.load(run_folder)[0]


def call_main(**settings):
    math_solver.main(configure(math_solver.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


# ---------------------------------------------------------------------------- problems and answers

@pytest.mark.parametrize('text, number', [
    ('so\n#### 26', 26), ('#### 1,080', 1080), ('#### $4.50', Fraction(9, 2)), ('####-5', -5), ('#### 1/3', Fraction(1, 3)),
    ('#### 5.', 5), ('#### 1\n#### 2', 2), ('26', None), ('#### many', None), ('####', None), ('#### 1/0', None), ('#### ٣x', None)])
def test_the_answer_is_the_number_behind_the_last_mark(text, number):
    assert answer_of(text) == number


def test_nearly_all_calls_in_gsm8ks_training_set_come_out_as_written_and_the_rest_are_listed(test_data):
    found = math_solver.read_problems(str(test_data / 'gsm8k' / 'train.jsonl'), 'train', 0, 0)
    n_calls, unconfirmed = math_solver.check_calls(found)
    assert len(found) == 7473 and n_calls == 23716
    assert len(unconfirmed) <= 0.005 * n_calls
    assert [call for _, call, _ in unconfirmed] == ['<<560//10=56>>', '<<180//3=60>>']
    assert all(call[2:-2].split('=')[0] in found[number - 1]['answer'] for number, call, _ in unconfirmed)


def test_a_wrong_result_in_a_solution_is_listed():
    wrong = {'question': '?', 'answer': '<<2+2=5>>5 <<1/0=1>>1 <<2*3=6.0>>6\n#### 5'}
    assert math_solver.check_calls([JANET, wrong]) == (5, [(2, '<<2+2=5>>', '4'), (2, '<<1/0=1>>', 'division by zero')])


def test_problems_of_a_file_are_sorted_by_their_number_of_steps(tmp_path):
    path = write_lines(tmp_path / 'some.jsonl', [JANET, DEBT, {'question': 'a', 'answer': '#### 1', 'kind': 'mine'}])
    assert [problem['kind'] for problem in math_solver.read_problems(path, 'test', 0, 0)] == ['2 steps', '1 step', 'mine']


@pytest.mark.parametrize('content, word', [
    ('', 'no problems'), ('{"question": "a"', 'not a .jsonl'), ('[1]\n', 'line 1'), ('{"question": "a", "answer": 5}\n', 'line 1'),
    ('{"question": "a", "answer": "5"}\n', '####')])
def test_a_file_that_holds_no_problems_gives_one_line_and_leaves_nothing(tmp_path, content, word):
    (tmp_path / 'bad.jsonl').write_text(content)
    with pytest.raises(BadInput, match=re.escape(word)) as caught:
        call_main(do='prepare', source=tmp_path / 'bad.jsonl', data_dir=tmp_path / 'data')
    assert '\n' not in str(caught.value) and not (tmp_path / 'data').exists()


# ---------------------------------------------------------------------------- problems to tokens

@pytest.mark.parametrize('problem', [JANET, DEBT, EQUATION])
def test_a_problem_is_its_text_in_tokens_and_only_solution_and_end_count(tokenizer, problem):
    tokens, counted = encode_problem(problem, tokenizer)
    assert tokens[0] == tokenizer.eot and tokens.dtype == np.uint16
    assert tokenizer.decode(tokens[1:]) == f'{problem["question"]}\n{problem["answer"]}'
    assert tokenizer.decode(tokens[counted]) == f'<|endoftext|>{problem["answer"]}'


@pytest.mark.parametrize('problem', [JANET, DEBT, EQUATION])
@pytest.mark.parametrize('vocabulary', ['own', 'gpt2'])
def test_what_the_calculator_writes_are_the_tokens_seen_in_training(tokenizer, problem, vocabulary, test_data):
    """With GPT-2's vocabulary, `=-` would be one token, and the calculator would come too late."""
    tokenizer = tokenizer if vocabulary == 'own' else Tokenizer.gpt2(test_data / 'gpt2')
    tokens, calculator = encode_solution(problem['answer'], tokenizer), Calculator(tokenizer)
    found = 0
    for length in range(1, len(tokens)):
        ids = calculator(SimpleNamespace(ids=tokens[:length], finish_reason=None))
        if ids:
            assert tokens[length:length + len(ids)] == ids
            found += 1
    assert found == len(CALL.findall(problem['answer']))


def test_in_a_vocabulary_of_our_own_every_digit_is_a_token(tokenizer):
    ids = tokenizer.encode('$1234 and 56')
    assert [tokenizer.decode([i]) for i in ids if tokenizer.decode([i]).strip().isdigit()] == list('123456')


def test_generated_problems_become_checked_masked_shards(tmp_path):
    data_dir = str(tmp_path / 'math')
    call_main(do='prepare', data_dir=data_dir, n_problems=300, n_val=20, vocab_size=350)
    assert 'targets' in shards.check_folder(data_dir)
    tokenizer, meta = shards.load_tokenizer(data_dir), shards.load_meta(data_dir)
    assert meta['vocab_size'] == tokenizer.vocab_size == 350
    assert sorted(meta['shards']) == ['math_train_000001.bin', 'math_val_000000.bin']
    tokens = shards.read_shard(tmp_path / 'math' / 'math_train_000001.bin')
    texts = tokenizer.decode(tokens).split('<|endoftext|>')[1:]
    held_out = tokenizer.decode(shards.read_shard(tmp_path / 'math' / 'math_val_000000.bin')).split('<|endoftext|>')[1:]
    generated = [f'{problem["question"]}\n{problem["answer"]}' for problem in itertools.islice(problems('train'), 320)]
    assert sorted(texts) == sorted(generated[:300]) and held_out == generated[300:]
    x, y = shards.BatchLoader(data_dir, 'val', 128, 4, seed=0).next()
    assert tokenizer.decode(y[y != -1].tolist()).count('####') >= 4
    assert '?' not in tokenizer.decode(y[y != -1].tolist())


def test_files_and_generated_problems_can_be_mixed_and_a_tokenizer_be_given(tmp_path, tokenizer):
    path = write_lines(tmp_path / 'some.jsonl', [JANET] * 20)
    tokenizer.save(tmp_path / 'tokenizer.json')
    call_main(do='prepare', source=f'generated,{path}', data_dir=tmp_path / 'mixed', n_problems=30, n_val=5,
              tokenizer=tmp_path / 'tokenizer.json')
    text = tokenizer.decode(shards.read_shard(tmp_path / 'mixed' / 'mixed_train_000001.bin'))
    assert text.count('Janet has 16') == 18 and text.count('<|endoftext|>') == 30 + 18 + 2


def test_a_folder_with_shards_of_another_name_is_not_written_to(tmp_path):
    (tmp_path / 'fineweb_train_000001.bin').write_bytes(b'x')
    with pytest.raises(BadInput, match='other shards'):
        call_main(do='prepare', data_dir=tmp_path, n_problems=30, n_val=3, vocab_size=300)


# ---------------------------------------------------------------------------- training on a masked set

def test_the_loss_on_masked_data_does_not_depend_on_the_micro_batch(tmp_path):
    data_dir = str(tmp_path / 'math')
    call_main(do='prepare', data_dir=data_dir, n_problems=200, n_val=15, vocab_size=350)
    curves = []
    for micro_batch in (1, 2, 8):
        out_dir = tmp_path / f'out{micro_batch}'
        settings = {'data_dir': data_dir, 'out_dir': out_dir, 'micro_batch': micro_batch, 'n_layer': 1, 'n_head': 2, 'n_embd': 32,
                    'block_size': 16, 'total_batch_tokens': 128, 'max_steps': 6, 'warmup_steps': 1, 'learning_rate': 3e-3,
                    'eval_interval': 3, 'eval_tokens': 500, 'sample_interval': 0, 'checkpoint_interval': 0, 'device': 'cpu',
                    'dtype': 'float32'}
        train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
        curves.append([[row.get(key, 0) for key in ('loss', 'grad_norm', 'val_loss', 'val_bpb')]
                       for row in checkpoint.read_metrics(str(out_dir))])
    assert len(curves[0]) == 7
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-4)


def test_the_validation_loss_is_the_mean_over_the_targets_that_count(tmp_path):
    data_dir = str(tmp_path / 'math')
    call_main(do='prepare', data_dir=data_dir, n_problems=200, n_val=15, vocab_size=350)
    settings = {'data_dir': data_dir, 'out_dir': tmp_path / 'out', 'micro_batch': 3, 'n_layer': 1, 'n_head': 2, 'n_embd': 32,
                'block_size': 32, 'total_batch_tokens': 96, 'max_steps': 1, 'warmup_steps': 0, 'eval_interval': 1,
                'eval_tokens': 320, 'sample_interval': 0, 'checkpoint_interval': 1, 'device': 'cpu', 'dtype': 'float32'}
    train.main(configure(train.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))
    model, tokenizer, _ = pretrained.load(str(tmp_path / 'out'))
    path = shards.find_shards(data_dir, 'val')[0]
    tokens = torch.from_numpy(shards.read_shard(path).astype(np.int64))
    counted = torch.from_numpy(np.unpackbits(shards.read_mask(path), bitorder='little')[:len(tokens)].astype(bool))
    nats = n = n_bytes = 0
    with torch.no_grad():
        for start in range(0, 320, 32):
            logits = model(tokens[None, start:start + 32]).double().log_softmax(-1)[0]
            for place in range(32):
                target = tokens[start + place + 1]
                if counted[start + place + 1]:
                    nats, n = nats - logits[place, target].item(), n + 1
                    n_bytes += int(tokenizer.token_lengths()[target])
    row = checkpoint.read_metrics(str(tmp_path / 'out'))[-1]
    assert row['val_loss'] == pytest.approx(nats / n, rel=1e-5)
    assert row['val_bpb'] == pytest.approx(nats / np.log(2) / n_bytes, rel=1e-5)


# ---------------------------------------------------------------------------- the calculator in the loop

@pytest.mark.parametrize('text, result', [
    ('It is <<48/2=', '24'), ('<<2+2=4>>4 and <<4*3=', '12'), ('<<solve(3*x+5=20, x)=', '5'), ('<<solve(3*x+5=', None), ('48/2=', None),
    ('<<48/2', None), ('<<48/2=24>>24=', None), ('<<9**9**9=', None), ("<<__import__('os')=", None), ('<<1/0=', None), ('<<=', None),
    ('<<' + '(' * 10_000 + '=', None), ('<<<<2+3=', '5'), ('<<٣+٤=', None), ('<<1/3=', '1/3')])
def test_calls_that_can_be_answered_are_and_all_other_text_stays_as_it_is(tokenizer, text, result):
    ids = Calculator(tokenizer)(SimpleNamespace(ids=tokenizer.encode(text), finish_reason=None))
    assert (ids and tokenizer.decode(ids)) == (result and result + '>>')


def test_a_finished_text_gets_nothing_more(tokenizer):
    assert Calculator(tokenizer)(SimpleNamespace(ids=tokenizer.encode('<<1+1='), finish_reason='stop')) is None


def solutions(model, tokenizer, tool, max_batch, seeds, temperature=0.8):
    prompts = [encode_question(problem['question'], tokenizer) for problem in SUMS]
    settings = [{'max_new_tokens': 40, 'temperature': temperature, 'seed': seed, 'stop_tokens': (tokenizer.eot,)} for seed in seeds]
    return [sequence.tokens for sequence in math_solver.write_solutions(Engine(model, max_batch), prompts, settings, tool)]


def test_with_the_calculator_a_text_is_the_plain_one_up_to_the_first_call(model, tokenizer):
    plain = solutions(model, tokenizer, None, 3, range(9))
    helped = solutions(model, tokenizer, Calculator(tokenizer), 3, range(9))
    differ = 0
    for tokens, others in zip(plain, helped):
        calls = [end for end in range(1, len(tokens) + 1)
                 if Calculator(tokenizer)(SimpleNamespace(ids=tokens[:end], finish_reason=None))]
        until = calls[0] if calls else len(tokens)
        assert tokens[:until] == others[:until]
        differ += bool(calls) and tokens != others
    assert differ >= 5


def test_solutions_written_side_by_side_are_those_written_alone(model, tokenizer):
    calculator, seeds = Calculator(tokenizer), range(100, 109)
    together = solutions(model, tokenizer, calculator, 4, seeds)
    prompts = [encode_question(problem['question'], tokenizer) for problem in SUMS]
    for prompt, seed, tokens in zip(prompts, seeds, together):
        engine = Engine(model, 1)
        (sequence,) = engine.add(Request(prompt, max_new_tokens=40, temperature=0.8, seed=seed, stop_tokens=(tokenizer.eot,)))
        while sequence.finish_reason is None:
            engine.step()
            if ids := calculator(sequence):
                engine.force(sequence, ids)
        assert sequence.tokens == tokens


def test_every_answered_call_in_a_text_is_right(model, tokenizer):
    for tokens in solutions(model, tokenizer, Calculator(tokenizer), 9, range(9), temperature=0):
        calls = CALL.findall(tokenizer.decode(tokens))
        assert calls and all(calculate(expression) == result for expression, result in calls)


# ---------------------------------------------------------------------------- solve and score

def test_solve_streams_the_reasoning_and_prints_the_answer_last(run_folder, capsys):
    call_main(do='solve', out_dir=run_folder, question='What is 2 + 6?', device='cpu', dtype='float32')
    out = capsys.readouterr().out
    assert out == 'It is <<2+6=8>>8.\n#### 8\n\nanswer: 8\n'
    call_main(do='solve', out_dir=run_folder, question='What is 2 + 6?', calculator=False, device='cpu', dtype='float32')
    assert re.fullmatch(r'It is <<2\+6=(\d)>>\1\.\n#### \1\n\nanswer: \1\n', plain := capsys.readouterr().out) and '8' not in plain
    call_main(do='solve', out_dir=run_folder, question='What is 2 + 6?', max_new_tokens=3, device='cpu', dtype='float32')
    assert capsys.readouterr().out.endswith('no answer: it was not done after 3 tokens\n')


def test_sample_answers_calls_too(run_folder, capsys):
    def calls(*more):
        sample.main(configure(sample.DEFAULTS, [f'--out_dir={run_folder}', '--prompt=What is 2 + 6?\n', '--temperature=0.5', '--seed=1',
                                                '--num_samples=6', '--device=cpu', '--dtype=float32', *more]))
        return CALL.findall(capsys.readouterr().out)
    answered, plain = calls('--calculator=True'), calls()
    assert answered and all(math_solver.check_call(*call)[0] for call in answered)
    assert plain and not all(math_solver.check_call(*call)[0] for call in plain)


def test_the_server_answers_calls_in_the_texts_of_requests_that_ask_for_it(model, tokenizer):
    serve = pytest.importorskip('serve')
    from inference.worker import Worker
    service = SimpleNamespace(name='sums', max_n=4, config={'max_new_tokens': 100, 'max_waiting': 8}, tokenizer=tokenizer,
                              max_prompt_tokens=64, longest_token=20, calculator=Calculator(tokenizer))
    ids = encode_question('What is 2 + 6?', tokenizer)

    async def write():
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            worker = Worker(Engine(model, 4), tokenizer, asyncio.get_running_loop(), pool)
            jobs = [job for tools in ('calculator', None) for job in serve.make_jobs(service, serve.CompletionRequest(
                prompt=ids, max_tokens=30, temperature=0, logprobs=1, tools=tools))]
            worker.submit(jobs)
            while not all(job.finished for job in jobs):
                await asyncio.sleep(0.01)
            worker.stop()
            return [job.texts[0].text for job in jobs]

    answered, plain = asyncio.run(write())
    assert answered == 'It is <<2+6=8>>8.\n#### 8'
    assert re.fullmatch(r'It is <<2\+6=[^8]>>.*', plain, flags=re.S)


def test_what_the_calculator_wrote_is_coloured_on_a_terminal(run_folder, capsys, monkeypatch):
    monkeypatch.setattr('sys.stdout.isatty', lambda: True, raising=False)
    call_main(do='solve', out_dir=run_folder, question='What is 2 + 6?', device='cpu', dtype='float32')
    assert 'It is <<2+6=\033[1;36m8>>\033[0m8' in capsys.readouterr().out


def test_solve_without_a_question_says_how_to_give_one(run_folder, monkeypatch):
    import io
    monkeypatch.setattr('sys.stdin', io.StringIO('\n'))
    with pytest.raises(BadInput, match='--question'):
        call_main(do='solve', out_dir=run_folder)


def test_score_counts_what_comes_out_right_with_without_and_by_vote(run_folder, tmp_path, capsys):
    rows = [*SUMS, *({**SUMS[i], 'answer': '#### 5000', 'kind': 'other'} for i in range(3))]
    path = write_lines(tmp_path / 'sums.jsonl', rows)
    details = tmp_path / 'details.jsonl'
    call_main(do='score', source=path, out_dir=run_folder, votes=3, batch_size=4, details=details, device='cpu', dtype='float32')
    results = [json.loads(line) for line in details.read_text().splitlines()]
    assert [result['reference'] for result in results] == [row['answer'] for row in rows]
    assert all(len(result['samples']) == 3 for result in results)
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for kind, chosen in (('sum', results[:9]), ('other', results[9:]), ('all', results)):
        rates = [sum(answer_of(result[column]) == answer_of(result['reference']) for result in chosen) / len(chosen)
                 for column in ('with', 'without')]
        votes = [collections.Counter(answer_of(sample) for sample in result['samples']).most_common(1)[0][0] for result in chosen]
        rates.append(sum(vote == answer_of(result['reference']) for vote, result in zip(votes, chosen)) / len(chosen))
        assert [float(rate) for rate in re.findall(r'([\d.]+)%', table[kind])] == pytest.approx([100 * rate for rate in rates], abs=0.06)
    assert '100.0%' in table['sum'] and ' 0.0%' in table['sum'] and '75.0%' in table['all']


def test_the_vote_goes_to_the_most_frequent_answer_and_to_the_first_of_several():
    assert math_solver.majority(['#### 3', '#### 4', 'x', '#### 4.0']) == 4
    assert math_solver.majority(['#### 3', '#### 4']) == 3
    assert math_solver.majority(['x']) is None


@pytest.mark.parametrize('text, reason', [
    ('no end', 'no answer'), ('<<2+2=5>>5\n#### 5', 'bad call'), ('<<2+=5>>5\n#### 5', 'bad call'), ('<<2+2=4>>4\n#### 4', 'wrong number')])
def test_failures_are_told_apart(text, reason):
    assert math_solver.failure(text) == reason


@pytest.mark.parametrize('settings, word', [
    ({'do': 'score', 'batch_size': 0}, 'batch_size'), ({'do': 'score', 'source': 'nowhere.jsonl'}, 'nowhere.jsonl'),
    ({'do': 'solve', 'question': 'a', 'out_dir': 'nowhere'}, 'nowhere'), ({'do': 'prepare', 'n_val': 0}, 'n_val'),
    ({'do': 'prepare', 'vocab_size': 100, 'n_problems': 50}, 'vocab_size')])
def test_bad_input_gives_one_line(settings, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=word) as caught:
        call_main(**settings)
    assert '\n' not in str(caught.value) and not (tmp_path / 'data').exists()
