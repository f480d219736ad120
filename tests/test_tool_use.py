import asyncio
import collections
import concurrent.futures
import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import architecture
import checkpoint
import pretrained
import sample
import train
from bpe import Tokenizer
from chat_template import CALL, encode_answer
from configurator import configure
from inference.engine import Engine, Request
from model import GPT, GPTConfig
from runtime.errors import BadInput
from tasks import solve, solve_rate
from tasks.calculator import calculate
from tasks.gsm8k import answer_of
from tasks.prepare_problems import open_or_train_tokenizer
from tasks.tool_use import Calculator, check_call, encode_problem, encode_question
from tasks.word_problems import generate_problems

JANET = {'question': 'Janet has 16 eggs and eats 3. She sells the rest for $2 each. What does she get?',
         'answer': 'She has 16-3=<<16-3=13>>13 left.\nShe gets $<<13*2=26>>26.\n#### 26'}
DEBT = {'question': 'What is 3 - 8?', 'answer': 'That is <<3-8=-5>>-5.\n#### -5'}
EQUATION = {'question': 'Solve 3x + 5 = 20.', 'answer': '<<solve(3*x+5=20, x)=5>>5\n#### 5'}
SUMS = [{'question': f'What is {a} + {b}?', 'answer': f'It is <<{a}+{b}={a + b}>>{a + b}.\n#### {a + b}', 'kind': 'sum'}
        for a in (1, 2, 3) for b in (2, 4, 6)]


@pytest.fixture(scope='module')
def tokenizer():
    return open_or_train_tokenizer(list(itertools.islice(generate_problems('train'), 300)),
                                   {'tokenizer': None, 'vocab_size': 400})[0]


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
    state = {'model': model.state_dict(), 'config': config, 'step': 1, 'architecture': architecture.GPT2}
    torch.save(state, checkpoint.checkpoint_path(str(folder), 1))
    tokenizer.save(folder / 'tokenizer.json')
    return str(folder)


@pytest.fixture(scope='module')
def model(run_folder):
    return pretrained.load(run_folder)[0]


def run(script, **settings):
    script.main(configure(script.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


# ---------------------------------------------------------------------------- problems to tokens

@pytest.mark.parametrize('problem', [JANET, DEBT, EQUATION])
def test_only_solution_and_end_of_a_problem_count(tokenizer, problem):
    tokens, counted = encode_problem(problem, tokenizer)
    assert tokens[0] == tokenizer.eot and tokens.dtype == np.uint16
    assert tokenizer.decode(tokens[1:]) == f'{problem["question"]}\n{problem["answer"]}'
    assert tokenizer.decode(tokens[counted]) == f'<|endoftext|>{problem["answer"]}'


@pytest.mark.slow
@pytest.mark.parametrize('problem', [JANET, DEBT, EQUATION])
@pytest.mark.parametrize('vocabulary', ['own', 'gpt2'])
def test_what_the_calculator_writes_are_the_tokens_seen_in_training(tokenizer, problem, vocabulary, test_data):
    """With GPT-2's vocabulary, `=-` would be one token, and the calculator would come too late."""
    tokenizer = tokenizer if vocabulary == 'own' else Tokenizer.gpt2(test_data / 'gpt2')
    tokens, calculator = encode_answer(problem['answer'], tokenizer), Calculator(tokenizer)
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


# ---------------------------------------------------------------------------- the calculator in the loop

@pytest.mark.parametrize('text, result', [
    ('It is <<48/2=', '24'), ('<<2+2=4>>4 and <<4*3=', '12'), ('<<solve(3*x+5=20, x)=', '5'), ('<<solve(3*x+5=', None),
    ('48/2=', None), ('<<48/2', None), ('<<48/2=24>>24=', None), ('<<9**9**9=', None), ("<<__import__('os')=", None),
    ('<<1/0=', None), ('<<=', None), ('<<' + '(' * 10_000 + '=', None), ('<<<<2+3=', '5'), ('<<٣+٤=', None), ('<<1/3=', '1/3')])
def test_calls_that_can_be_worked_out_are_answered_and_no_others(tokenizer, text, result):
    ids = Calculator(tokenizer)(SimpleNamespace(ids=tokenizer.encode(text), finish_reason=None))
    assert (ids and tokenizer.decode(ids)) == (result and result + '>>')


def test_a_finished_text_gets_nothing_more(tokenizer):
    assert Calculator(tokenizer)(SimpleNamespace(ids=tokenizer.encode('<<1+1='), finish_reason='stop')) is None


def requests(tokenizer, tool, seeds, temperature=0.8):
    return [Request(encode_question(problem['question'], tokenizer), 40, temperature, seed=seed,
                    stop_tokens=(tokenizer.eot,), tool=tool) for problem, seed in zip(SUMS, seeds)]


def solutions(model, tokenizer, tool, max_batch, seeds, temperature=0.8):
    sequences = solve_rate.generate_many(Engine(model, max_batch), requests(tokenizer, tool, seeds, temperature))
    return [sequence.tokens for sequence in sequences]


@pytest.mark.slow
def test_up_to_the_first_call_the_calculator_changes_nothing(model, tokenizer):
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


@pytest.mark.slow
def test_solutions_written_side_by_side_are_those_written_alone(model, tokenizer):
    tool, seeds = Calculator(tokenizer), range(100, 109)
    together = solutions(model, tokenizer, tool, 4, seeds)
    for request, tokens in zip(requests(tokenizer, tool, seeds), together):
        engine = Engine(model, 1)
        (sequence,) = engine.add(request)
        while sequence.finish_reason is None:
            engine.step()
        assert sequence.tokens == tokens


def test_every_answered_call_in_a_text_is_right(model, tokenizer):
    for tokens in solutions(model, tokenizer, Calculator(tokenizer), 9, range(9), temperature=0):
        calls = CALL.findall(tokenizer.decode(tokens))
        assert calls and all(calculate(expression) == result for expression, result in calls)


# ---------------------------------------------------------------------------- solve and solve_rate

def test_solve_streams_the_reasoning_and_prints_the_answer_last(run_folder, capsys):
    run(solve, out_dir=run_folder, question='What is 2 + 6?', device='cpu', dtype='float32')
    out = capsys.readouterr().out
    assert out == 'It is <<2+6=8>>8.\n#### 8\n\nanswer: 8\n'
    run(solve, out_dir=run_folder, question='What is 2 + 6?', calculator=False, device='cpu', dtype='float32')
    plain = capsys.readouterr().out
    assert re.fullmatch(r'It is <<2\+6=(\d)>>\1\.\n#### \1\n\nanswer: \1\n', plain) and '8' not in plain
    run(solve, out_dir=run_folder, question='What is 2 + 6?', max_new_tokens=3, device='cpu', dtype='float32')
    assert capsys.readouterr().out.endswith('no answer: the solution was not finished after 3 tokens\n')


def test_sample_answers_calls_too(run_folder, capsys):
    def calls(*more):
        sample.main(configure(sample.DEFAULTS, [f'--out_dir={run_folder}', '--prompt=What is 2 + 6?\n', '--temperature=0.5',
                                                '--seed=1', '--num_samples=6', '--device=cpu', '--dtype=float32', *more]))
        return CALL.findall(capsys.readouterr().out)
    answered, plain = calls('--calculator=True'), calls()
    assert answered and all(check_call(*call)[0] for call in answered)
    assert plain and not all(check_call(*call)[0] for call in plain)


def test_the_server_answers_calls_of_requests_that_ask_for_it(model, tokenizer):
    serve = pytest.importorskip('serve')
    from inference.worker import Worker
    service = SimpleNamespace(name='sums', max_n=4, config={'max_new_tokens': 100, 'max_waiting': 8}, tokenizer=tokenizer,
                              max_prompt_tokens=64, longest_token=20, calculator=Calculator(tokenizer))
    ids = encode_question('What is 2 + 6?', tokenizer)

    async def write():
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            jobs = [job for tools in ('calculator', None) for job in serve.make_jobs(service, serve.CompletionRequest(
                prompt=ids, max_tokens=30, temperature=0, logprobs=1, tools=tools), 'a client')]
            worker = Worker(Engine(model, 4), tokenizer, asyncio.get_running_loop(), pool)
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
    run(solve, out_dir=run_folder, question='What is 2 + 6?', device='cpu', dtype='float32')
    assert 'It is <<2+6=\033[1;36m8>>\033[0m8' in capsys.readouterr().out.replace('\033[0m\033[1;36m', '')


def test_solve_without_a_question_says_how_to_give_one(run_folder, monkeypatch):
    import io
    monkeypatch.setattr('sys.stdin', io.StringIO('\n'))
    with pytest.raises(BadInput, match='--question'):
        run(solve, out_dir=run_folder)


def test_solve_rates_count_right_answers_with_without_and_by_vote(run_folder, tmp_path, capsys):
    rows = [*SUMS, *({**SUMS[i], 'answer': '#### 5000', 'kind': 'other'} for i in range(3))]
    path = write_lines(tmp_path / 'sums.jsonl', rows)
    details = tmp_path / 'details.jsonl'
    run(solve_rate, source=path, out_dir=run_folder, votes=3, batch_size=4, details=details, device='cpu', dtype='float32')
    results = [json.loads(line) for line in details.read_text().splitlines()]
    assert [result['reference'] for result in results] == [row['answer'] for row in rows]
    assert all(len(result['samples']) == 3 for result in results)
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for kind, chosen in (('sum', results[:9]), ('other', results[9:]), ('all', results)):
        rates = [sum(answer_of(result[column]) == answer_of(result['reference']) for result in chosen) / len(chosen)
                 for column in ('with', 'without')]
        votes = [collections.Counter(map(answer_of, result['samples'])).most_common(1)[0][0] for result in chosen]
        rates.append(sum(vote == answer_of(result['reference']) for vote, result in zip(votes, chosen)) / len(chosen))
        printed = [float(rate) for rate in re.findall(r'([\d.]+)%', table[kind])]
        assert printed == pytest.approx([100 * rate for rate in rates], abs=0.06)
    assert '100.0%' in table['sum'] and ' 0.0%' in table['sum'] and '75.0%' in table['all']


def test_the_vote_goes_to_the_first_of_the_most_frequent_answers():
    assert solve_rate.majority_answer(['#### 3', '#### 4', 'x', '#### 4.0']) == 4
    assert solve_rate.majority_answer(['#### 3', '#### 4']) == 3
    assert solve_rate.majority_answer(['x']) is None


@pytest.mark.parametrize('text, reason', [
    ('no end', 'no answer'), ('<<2+2=5>>5\n#### 5', 'bad call'), ('<<2+=5>>5\n#### 5', 'bad call'),
    ('<<2+2=4>>4\n#### 4', 'wrong number')])
def test_failures_are_told_apart(text, reason):
    assert solve_rate.find_failure(text) == reason


@pytest.mark.parametrize('script, settings, word', [
    (solve_rate, {'batch_size': 0}, 'batch_size'), (solve_rate, {'source': 'nowhere.jsonl'}, 'nowhere.jsonl'),
    (solve, {'question': 'a', 'out_dir': 'nowhere'}, 'nowhere'),
    (solve, {'question': 'a', 'max_new_tokens': 0}, 'max_new_tokens')])
def test_bad_input_gives_one_line(script, settings, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=word) as caught:
        run(script, **settings)
    assert '\n' not in str(caught.value)
