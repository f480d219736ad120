import asyncio
import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest
import torch
from conftest import ROOT, with_head
from hypothesis import HealthCheck, Phase, given, settings, strategies

import pretrained
import serve
from configurator import configure
from inference.completions import token_name
from inference.engine import generate
from inference.http_types import CompletionRequest
from model import GPT, GPTConfig
from runtime.errors import BadInput


@pytest.fixture(scope='session')
def folder(tmp_path_factory, data_dir):
    """A small model with random weights, large enough ones that its choices are clear, as export.py writes it.

    It never ends a document by itself: what the last norm adds gives that token a logit of -32.
    """
    return export_model(tmp_path_factory.mktemp('served') / 'tiny', data_dir, scale=4)


def export_model(folder, data_dir, scale):
    """scale: of the random weights of the blocks. The larger, the more of a rounding error comes out at the other end."""
    from bpe import Tokenizer
    tokenizer = Tokenizer.load(os.path.join(data_dir, 'tokenizer.json'))
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=64, vocab_size=300, n_layer=2, n_head=2, n_embd=32))
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.mul_(scale)
        model.transformer.wpe.weight.mul_(20)
        model.transformer.wte.weight.mul_(8)
        model.transformer.ln_f.bias.fill_(0.5)
        model.transformer.wte.weight[tokenizer.eot] = -2.0
    pretrained.save(model, str(folder), eot=tokenizer.eot)
    tokenizer.save(os.path.join(folder, 'tokenizer.json'))
    return str(folder)


JSON = {'Content-Type': 'application/json'}


class Served:
    """A server in a thread of this process, with the clients that tests want."""

    def __init__(self, server, port, key):
        self.server, self.service, self.url = server, server.service, f'http://127.0.0.1:{port}/'
        self.client = openai.OpenAI(base_url=self.url + 'v1', api_key=key or 'none', max_retries=0, timeout=200)
        self.http = httpx.Client(base_url=self.url, timeout=200,
                                 headers={'Authorization': f'Bearer {key}'} if key else {})
        self.gate = threading.Event()
        self.gate.set()
        step = self.service.engine.step

        def step_when_allowed():
            self.gate.wait()
            return step()
        self.service.engine.step = step_when_allowed

    @contextlib.contextmanager
    def standing_still(self):
        """The engine takes no step meanwhile."""
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    @contextlib.contextmanager
    def slowly(self):
        """The engine takes 100 steps a second meanwhile."""
        step = self.service.engine.step

        def slow_step():
            time.sleep(0.01)
            return step()
        self.service.engine.step = slow_step
        try:
            yield
        finally:
            self.service.engine.step = step

    def post(self, body, path='v1/completions', **kwargs):
        return self.http.post(path, json=body, **kwargs)

    def metric(self, name):
        lines = self.http.get('metrics').text.splitlines()
        return sum(float(line.rsplit(' ', 1)[1]) for line in lines if re.match(rf'scratchgpt_{name}(\{{| )', line))

    def wait_until_idle(self):
        wait_for(lambda: self.metric('running') == 0 and self.metric('waiting') == 0 and self.service.worker.idle)


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def serving(folder, key=None, **settings):
    config = configure(serve.DEFAULTS, [f'--init_from={folder}', '--dtype=float32', '--device=cpu'])
    config.update(settings)
    listener = serve.bind('127.0.0.1', 0)
    server = serve.Server(serve.Service(config, key and key.encode(), serve.allowed_hosts(config, '127.0.0.1')))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    served = Served(server, listener.getsockname()[1], key)
    wait_for(lambda: server.started)
    try:
        yield served
    finally:
        served.gate.set()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope='module')
def served(folder):
    with serving(folder) as served:
        yield served
        assert served.metric('running') == served.metric('waiting') == 0


@pytest.fixture(scope='module')
def reference(folder):
    return pretrained.load(folder)[:2]


def write_greedily(reference, ids, n):
    """n tokens, each the likeliest after all before it, the whole computed anew for each."""
    model, ids = reference[0].eval(), list(ids)
    start = len(ids)
    with torch.no_grad():
        for _ in range(n):
            ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[start:]


def complete(served, prompt='def ', **settings):
    return served.client.completions.create(model='tiny', prompt=prompt, **settings)


def joined(stream, index=0):
    return ''.join(choice.text for chunk in stream for choice in chunk.choices if choice.index == index)


# -- completions, through OpenAI's client


def test_a_greedy_completion_is_the_models_own_text(served, reference):
    tokenizer = reference[1]
    ids = tokenizer.encode('def read(self):')
    answer = complete(served, 'def read(self):', max_tokens=30, temperature=0)
    assert answer.choices[0].text == tokenizer.decode(write_greedily(reference, ids, 30))
    assert answer.choices[0].finish_reason == 'length'
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 30)
    assert answer.object == 'text_completion' and answer.model == 'tiny'


def test_a_prompt_may_be_text_or_ids_or_a_list_of_either(served, reference):
    texts = ['def ', 'import os', 'é']
    ids = [reference[1].encode(text) for text in texts]
    expected = [complete(served, text, temperature=0).choices[0].text for text in texts]
    assert [complete(served, i, temperature=0).choices[0].text for i in ids] == expected
    for prompts in (texts, ids):
        answer = complete(served, prompts, temperature=0)
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_a_stream_gives_the_same_text_and_its_usage_last(served, monkeypatch):
    whole = complete(served, max_tokens=25, n=2, seed=5)
    step = served.service.engine.step
    monkeypatch.setattr(served.service.engine, 'step', lambda: (time.sleep(0.005), step())[1])  # as long as a larger model's
    chunks = list(complete(served, max_tokens=25, n=2, seed=5, stream=True, stream_options={'include_usage': True}))
    assert chunks[-1].usage == whole.usage and chunks[-1].choices == []
    assert len(chunks) > 3 and len({chunk.id for chunk in chunks}) == 1
    for index in (0, 1):
        assert joined(chunks, index) == whole.choices[index].text
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert reasons[-1] == 'length' and set(reasons[:-1]) <= {None}


def test_a_stream_arrives_while_the_text_is_being_written(served):
    with served.slowly():
        stream = complete(served, max_tokens=200, stream=True)
        next(iter(stream))
        assert served.metric('running') == 1
        stream.close()
    served.wait_until_idle()


def test_a_seed_gives_the_same_texts_alone_and_among_others(served):
    alone = [choice.text for choice in complete(served, n=4, seed=11, max_tokens=20).choices]
    assert len(set(alone)) == 4
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        others = [pool.submit(complete, served, f'class {i}', max_tokens=40, seed=i) for i in range(10)]
        again = pool.submit(complete, served, n=4, seed=11, max_tokens=20)
        assert [choice.text for choice in again.result().choices] == alone
    assert len({other.result().choices[0].text for other in others}) == 10
    assert complete(served, max_tokens=20).choices[0].text != complete(served, max_tokens=20).choices[0].text


def test_logprobs_are_the_models_own_with_each_tokens_offset(served, reference):
    model, tokenizer = reference
    answer = complete(served, 'def ', max_tokens=12, logprobs=3, seed=2, temperature=0.7).choices[0]
    logprobs, ids = answer.logprobs, tokenizer.encode('def ')
    new = [next(i for i in range(300) if token_name(tokenizer.token_bytes(i)) == name) for name in logprobs.tokens]
    with torch.no_grad():
        rows = model(torch.tensor([ids + new]))[0].log_softmax(-1)[len(ids) - 1:-1]
    assert logprobs.token_logprobs == pytest.approx([row[i].item() for row, i in zip(rows, new)], abs=1e-4)
    for row, top in zip(rows, logprobs.top_logprobs):
        assert sorted(top.values())[-3:] == pytest.approx(sorted(row.topk(3).values.tolist()), abs=1e-4)
    pieces = [tokenizer.decode(new[:i]) for i in range(len(new))]
    whole = [i for i, piece in enumerate(pieces) if '\ufffd' not in piece]
    assert [logprobs.text_offset[i] for i in whole] == [len(pieces[i]) for i in whole]


def test_streamed_logprobs_are_those_of_the_whole_answer(served):
    whole = complete(served, max_tokens=30, logprobs=2, seed=3, stop='zz', echo=True).choices[0].logprobs
    parts = [choice.logprobs for chunk in complete(served, max_tokens=30, logprobs=2, seed=3, stop='zz', echo=True, stream=True)
             for choice in chunk.choices]
    for field in ('tokens', 'token_logprobs', 'top_logprobs', 'text_offset'):
        assert [value for part in parts for value in getattr(part, field)] == getattr(whole, field)


def test_echo_with_no_new_tokens_measures_a_prompt(served, reference):
    model, tokenizer = reference
    ids = tokenizer.encode('def read(self):')
    answer = complete(served, 'def read(self):', max_tokens=0, echo=True, logprobs=0)
    with torch.no_grad():
        rows = model(torch.tensor([ids]))[0].log_softmax(-1)
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == ''.join(logprobs.tokens) == 'def read(self):'
    assert logprobs.token_logprobs[0] is None and answer.usage.completion_tokens == 0
    assert logprobs.token_logprobs[1:] == pytest.approx([row[i].item() for row, i in zip(rows, ids[1:])], abs=1e-4)


def test_text_ends_before_a_stop_string_across_tokens(served):
    text = complete(served, max_tokens=40, temperature=0).choices[0].text
    stop = next(text[i:i + 7] for i in range(12, 30) if text.find(text[i:i + 7]) == i and '\ufffd' not in text[i:i + 7])
    for stream in (False, True):
        answer = complete(served, max_tokens=40, temperature=0, stop=['not there', stop], stream=stream)
        got, reason = (joined(answer), 'stop') if stream else (answer.choices[0].text, answer.choices[0].finish_reason)
        assert got == text[:text.find(stop)] and reason == 'stop'
    served.wait_until_idle()


@contextlib.contextmanager
def ending_at_once(served, eot):
    """<|endoftext|> is the likeliest token everywhere meanwhile."""
    decoder = served.service.engine.decoder
    head = decoder.head

    def head_with_an_end(x):
        logits = head(x).clone()
        logits[..., eot] = 50
        return logits
    with with_head(decoder, head_with_an_end):
        yield


def test_the_document_separator_ends_a_text_and_is_not_in_it_but_among_its_tokens(served, reference):
    with ending_at_once(served, reference[1].eot):
        for stream in (False, True):
            answer = complete(served, max_tokens=40, temperature=0, logprobs=1, stream=stream)
            (choice,) = [choice for chunk in answer for choice in chunk.choices] if stream else answer.choices
            assert choice.text == '' and choice.finish_reason == 'stop'
            assert choice.logprobs.tokens == ['<|endoftext|>'] and choice.logprobs.text_offset == [0]
            assert choice.logprobs.token_logprobs[0] == max(choice.logprobs.top_logprobs[0].values())
        assert complete(served, max_tokens=40, temperature=0).usage.completion_tokens == 1


@pytest.mark.parametrize('ends', [True, False], ids=['the text ends', 'it goes on'])
def test_echo_has_an_entry_for_every_token_as_clients_that_measure_continuations_count_on(served, reference, ends):
    """They ask for one new token and take its entry off the end: `token_logprobs[n_context:-1]`, as lm-eval does."""
    model, tokenizer = reference
    texts = [('def read', '(self):'), ('import', ' os'), ('é', ' = 1')]
    ids = [(tokenizer.encode(context), tokenizer.encode(continuation)) for context, continuation in texts]
    with ending_at_once(served, tokenizer.eot) if ends else contextlib.nullcontext():
        answer = complete(served, [context + continuation for context, continuation in ids], max_tokens=1, temperature=0,
                          logprobs=1, echo=True, seed=1234).to_dict()
    assert sum(len(choice['logprobs']['tokens']) for choice in answer['choices']) == answer['usage']['total_tokens']
    expected = []
    for context, continuation in ids:
        with torch.no_grad():
            logits = model(torch.tensor([context + continuation]))[0]
        if ends:
            logits[:, tokenizer.eot] = 50
        rows = logits.log_softmax(-1)[len(context) - 1:-1]
        greedy = rows.argmax(-1).tolist() == continuation
        expected.append((pytest.approx(sum(row[i].item() for row, i in zip(rows, continuation)), abs=1e-3), greedy))
    for choice, (context, continuation), (logprob, _) in zip(answer['choices'], ids, expected):
        assert (choice['logprobs']['tokens'][-1] == '<|endoftext|>') == ends
        for field in ('tokens', 'token_logprobs', 'top_logprobs', 'text_offset'):
            assert len(choice['logprobs'][field]) == len(context + continuation) + 1
        assert sum(choice['logprobs']['token_logprobs'][len(context):-1]) == logprob
    client = pytest.importorskip('lm_eval.models.openai_completions', reason='pip install lm-eval').LocalCompletionsAPI
    assert client.parse_logprobs(answer, ctxlens=[len(context) for context, _ in ids]) == expected


def test_an_empty_prompt_is_a_new_document(served, reference):
    tokenizer = reference[1]
    expected = tokenizer.decode(write_greedily(reference, [tokenizer.eot], 10))
    answer = complete(served, '', max_tokens=10, temperature=0, echo=True, logprobs=0)
    assert answer.choices[0].text == expected and len(answer.choices[0].logprobs.tokens) == 10


def test_text_goes_on_past_the_models_block(served, reference):
    model, tokenizer = reference
    ids = tokenizer.encode('def ')
    expected = generate(model, torch.tensor([ids]), 150, temperature=0)[0, len(ids):].tolist()
    assert complete(served, max_tokens=150, temperature=0).choices[0].text == tokenizer.decode(expected)


@pytest.mark.slow
def test_compiled_all_is_compiled_before_the_first_request(folder, served, monkeypatch, capfd):
    compiled, compile = [], torch.compile
    monkeypatch.setattr(torch, 'compile', lambda function, **how: (compiled.append(function.__name__),
                                                                   compile(function, backend='eager', **how))[1])
    settings = [dict(temperature=0), dict(seed=1), dict(seed=1, top_p=0.8), dict(seed=1, extra_body={'top_k': 20})]
    expected = [complete(served, max_tokens=40, **how).choices[0].text for how in settings]
    assert not compiled
    with serving(folder, compile=True, max_batch=2) as fast:
        n_at_start = len(compiled)
        assert 'compiling' in capfd.readouterr().err and compiled.count('run_layer') == 2  # for 1 and 2 rows
        assert [complete(fast, max_tokens=40, **how).choices[0].text for how in settings] == expected
    assert len(compiled) == n_at_start


def test_the_models_list_has_the_one_that_is_served(served):
    assert [model.id for model in served.client.models.list()] == ['tiny']
    assert served.client.models.retrieve('tiny').id == 'tiny'
    with pytest.raises(openai.NotFoundError):
        served.client.models.retrieve('gpt-5')


def test_sagemakers_routes_answer_as_it_expects(served):
    assert served.http.get('ping').status_code == 200
    answer = served.post({'prompt': 'def ', 'temperature': 0}, 'invocations')
    assert answer.json()['choices'] == served.post({'prompt': 'def ', 'temperature': 0}).json()['choices']
    assert served.post({'prompt': 'def ', 'stream': True}, 'invocations').text.endswith('data: [DONE]\n\n')


# -- what is refused

BAD = {
    'no prompt': ({'max_tokens': 5}, 400, 'prompt'),
    'null prompt': ({'prompt': None}, 400, 'prompt'),
    'empty list': ({'prompt': []}, 400, 'prompt'),
    'mixed list': ({'prompt': ['a', 1]}, 400, 'prompt'),
    'huge prompt': ({'prompt': 'word ' * 10_000}, 400, 'prompt'),
    'huge word': ({'prompt': 'a' * 900_000}, 400, 'prompt'),
    'too many prompts': ({'prompt': ['a'] * 1000}, 400, 'prompt'),
    'half a character': ({'prompt': '\ud800'}, 400, 'prompt'),
    'unknown token': ({'prompt': [300]}, 400, 'prompt'),
    'negative token': ({'prompt': [-1]}, 400, 'prompt'),
    'negative temperature': ({'prompt': 'a', 'temperature': -0.1}, 400, 'temperature'),
    'temperature of text': ({'prompt': 'a', 'temperature': 'hot'}, 400, 'temperature'),
    'top_p 0': ({'prompt': 'a', 'top_p': 0}, 400, 'top_p'),
    'top_k -2': ({'prompt': 'a', 'top_k': -2}, 400, 'top_k'),
    'n 0': ({'prompt': 'a', 'n': 0}, 400, 'n'),
    'n beyond the batch': ({'prompt': 'a', 'n': 17}, 400, 'n'),
    'max_tokens beyond the limit': ({'prompt': 'a', 'max_tokens': 10 ** 9}, 400, 'max_tokens'),
    'max_tokens negative': ({'prompt': 'a', 'max_tokens': -1}, 400, 'max_tokens'),
    'max_tokens true': ({'prompt': 'a', 'max_tokens': True}, 400, 'max_tokens'),
    'seed beyond 64 bits': ({'prompt': 'a', 'seed': 2 ** 63}, 400, 'seed'),
    'logprobs 21': ({'prompt': 'a', 'logprobs': 21}, 400, 'logprobs'),
    'empty stop': ({'prompt': 'a', 'stop': ''}, 400, 'stop'),
    'many stops': ({'prompt': 'a', 'stop': ['x'] * 17}, 400, 'stop'),
    'an empty stop among others': ({'prompt': 'a', 'stop': ['a', '', 'b']}, 400, 'stop'),
    'a long stop': ({'prompt': 'a', 'stop': ['a', 'b' * 1001]}, 400, 'stop'),
    'a stop of numbers': ({'prompt': 'a', 'stop': [1]}, 400, 'stop'),
    'suffix': ({'prompt': 'a', 'suffix': 'b'}, 400, 'suffix'),
    'logit_bias': ({'prompt': 'a', 'logit_bias': {'50256': -100}}, 400, 'logit_bias'),
    'options of no stream': ({'prompt': 'a', 'stream_options': {'include_usage': True}}, 400, 'stream_options'),
    'an unknown option of a stream': ({'prompt': 'a', 'stream': True, 'stream_options': {'x': 1}}, 400, 'stream_options'),
    'truncate to 0': ({'prompt': 'a', 'truncate_prompt_tokens': 0}, 400, 'truncate_prompt_tokens'),
    'best_of': ({'prompt': 'a', 'best_of': 3}, 400, 'best_of'),
    'a penalty that is not here': ({'prompt': 'a', 'presence_penalty': 1}, 400, 'presence_penalty'),
    'unknown field': ({'prompt': 'a', 'temprature': 1}, 400, 'temprature'),
    'unknown model': ({'prompt': 'a', 'model': 'gpt-5'}, 404, 'model'),
    'a list': ([1, 2], 400, None),
}


@pytest.mark.parametrize('body, status, param', BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_refused_with_one_line_in_openais_shape(served, body, status, param):
    answer = served.http.post('v1/completions', content=json.dumps(body), headers=JSON)
    assert answer.status_code == status
    error = answer.json()['error']
    assert error.keys() == {'message', 'type', 'param', 'code'}
    assert error['param'] == param and error['type'] == 'invalid_request_error'
    assert 0 < len(error['message']) < 200 and '\n' not in error['message']


FIELDS = ('model, n, temperature, top_p, top_k, repetition_penalty, tools, stop, seed, truncate_prompt_tokens, stream, stream_options, '
          'user, prompt, max_tokens, logprobs, echo, best_of')


@pytest.mark.parametrize('body, message', [
    ({'prompt': None}, 'prompt is null; an empty text begins a new document'),
    ({'stop': ''}, 'stop has an empty text, before which every answer would end; leave it out'),
    ({'stop': ['a', '', 'b']}, 'stop has an empty text, before which every answer would end; leave it out'),
    ({'stop': ['x'] * 17}, 'stop has 17 texts; at most 16 are possible'),
    ({'stop': 'x' * 1001}, 'stop has a text of 1,001 characters; at most 1,000 are possible'),
    ({'stop': 5}, 'stop should be a text or a list of texts'),
    ({'suffix': 'x'}, "suffix='x' is not possible: the model only writes on from a prompt, it fills no gaps"),
    ({'logit_bias': {'5': 1}}, "logit_bias={'5': 1} is not possible: tokens get no bias here"),
    ({'frequency_penalty': 0.5}, 'frequency_penalty=0.5 is not possible: only 0 is; repetition_penalty is what this server has'),
    ({'n_predict': 5}, 'n_predict is not a field of this request; did you mean max_tokens?'),
    ({'temprature': 1}, 'temprature is not a field of this request; did you mean temperature?'),
    ({'min_p': 0.1}, f'min_p is not a field of this request, which has {FIELDS}'),
    ({'min_pppp' * 100_000: 0.1, 'prompt': 5}, f'{"min_pppp" * 10}... is not a field of this request, which has {FIELDS}'),
    ({'messages': []}, 'messages is not a field of this request; did you mean prompt?'),
    ({'truncate_prompt_tokens': 0}, 'truncate_prompt_tokens should be at least 1, or -1 for as many as fit'),
    ({'max_tokens': 10 ** 4000}, 'max_tokens=a number of 13,288 bits should be at most 4096'),
    ({'prompt': [10 ** 4000]}, 'token id a number of 13,288 bits is not in the vocabulary of 300'),
    ({'stream_options': {'x': 1}}, 'stream_options.x is not a field of this request, which has include_usage, include_obfuscation'),
    ({'stream_options': {'include_usages': 1}}, 'stream_options.include_usages is not a field of this request; did you mean include_usage?'),
    ({'stream': True, 'stream_options': {'include_usage': 1}},
     'stream_options.include_usage=1 is not possible: input should be a valid boolean')])
def test_a_refusal_says_what_would_be_right(served, body, message):
    answer = served.post({'prompt': 'a', **body})
    assert answer.status_code == 400 and answer.json()['error']['message'] == message
    assert len(answer.json()['error']['param']) < 100


@pytest.mark.parametrize('body, message', [
    ({'prompt': True}, 'prompt=True is not possible: input should be a valid string'),
    ({'prompt': 'a' * 900_000}, 'the prompt has 900,000 bytes, more than the {most} bytes that 64 tokens can have'),
    ({'prompt': 'a', 'temperature': 1}, 'temperature is not a field of this request, which has model, prompt, add_special_tokens'),
    ({'prompt': 'a', 'add_special_token': 1}, 'add_special_token is not a field of this request; did you mean add_special_tokens?')])
def test_tokenize_refuses_with_what_holds_for_it(served, body, message):
    answer = served.post(body, 'tokenize')
    assert answer.status_code == 400
    assert answer.json()['error']['message'] == message.format(most=f'{64 * served.service.longest_token:,}')


def test_no_refusal_repeats_a_long_name(served):
    for body in ({'prompt': 'a', 'model': 'x' * 900_000}, {'prompt': 'a', 'x' * 900_000: 1}, {'prompt': 'a', 'user': ['x' * 900_000]}):
        answer = served.post(body)
        assert answer.status_code in (400, 404) and len(answer.text) < 600
    assert len(served.http.get('x' * 20_000).text) < 600


# What OpenAI's client can send, and vLLM's and llama.cpp's for a field that is switched off: all without effect.
WITHOUT_EFFECT = {
    'best_of': [None, 1], 'echo': [None, False], 'frequency_penalty': [None, 0, 0.0], 'logit_bias': [None, {}],
    'logprobs': [None], 'max_tokens': [None, 16], 'model': [None, 'tiny'], 'n': [None, 1], 'presence_penalty': [None, 0, 0.0],
    'repetition_penalty': [None, 1, 1.0], 'seed': [7], 'stop': [None, [], 'not there', ['not there']], 'stream': [None, False],
    'stream_options': [None], 'suffix': [None, ''], 'temperature': [None, 1, 1.0], 'tools': [None], 'top_k': [None, 0, -1],
    'top_p': [None, 1, 1.0], 'truncate_prompt_tokens': [None, -1, 50], 'user': [None, 'somebody']}


def test_every_field_may_be_null_or_have_the_value_that_changes_nothing(served):
    plain = {'prompt': 'def ', 'seed': 7}
    expected = served.post(plain).json()['choices']
    assert WITHOUT_EFFECT.keys() | {'prompt'} == CompletionRequest.model_fields.keys()
    for field, values in WITHOUT_EFFECT.items():
        for value in values:
            assert served.post({**plain, field: value}).json().get('choices') == expected, (field, value)
    assert served.post({**dict.fromkeys(WITHOUT_EFFECT), **plain}).json()['choices'] == expected


def test_seed_minus_one_gives_another_text_each_time(served):
    texts = {complete(served, max_tokens=30, seed=-1).choices[0].text for _ in range(3)}
    assert len(texts) > 1


def test_a_streams_usage_comes_only_where_it_is_asked_for(served):
    for options, expected in ((None, 0), ({}, 0), ({'include_usage': False}, 0), ({'include_usage': None}, 0),
                              ({'include_usage': True}, 1), ({'include_usage': True, 'include_obfuscation': False}, 1)):
        chunks = list(complete(served, max_tokens=3, stream=True, stream_options=options))
        assert sum(chunk.usage is not None for chunk in chunks) == expected


@pytest.mark.parametrize('body', [b'', b'{', b'{"prompt": NaN}', b'\xff\xfe', b'null', b'[' * 100_000,
                                  b'{"prompt": "a", "temperature": 1e999}', b'{"prompt": "a", "seed": ' + b'9' * 5000 + b'}'])
def test_a_body_that_is_not_proper_json_is_refused(served, body):
    answer = served.http.post('v1/completions', content=body, headers=JSON)
    assert answer.status_code == 400 and answer.json()['error']['message']


@pytest.mark.parametrize('body, message', [
    (b'', 'the body is empty; it should be a JSON object'), (b'null', 'the body should be a JSON object'),
    (b'"a"', 'the body should be a JSON object'), (b'{', 'the body is not JSON: Expecting property name enclosed in double quotes: column 2'),
    (b'{"prompt": "a",\n "n": }', 'the body is not JSON: Expecting value: line 2, column 7'),
    (b'{"prompt": "caf\xe9"}', 'the body is not JSON: byte 16 is not utf-8'), (b'[' * 100_000, 'the body is not JSON: its lists or objects are too deep'),
    (b'{"prompt": "a", "seed": ' + b'9' * 5000 + b'}', 'the body is not JSON: it has a number of more than 4,300 digits')])
def test_a_body_that_is_no_json_is_told_what_is_wrong_and_where(served, body, message):
    error = served.http.post('v1/completions', content=body, headers=JSON).json()['error']
    assert error['message'].startswith(message)


def test_a_body_that_is_too_large_is_answered_with_413(served):
    answer = served.post({'prompt': 'a' * 10_000_000})
    assert answer.status_code == 413 and 'bytes' in answer.json()['error']['message']
    chunks = (b'a' * 100_000 for _ in range(100))  # of a length that is not said in advance
    assert served.http.post('v1/completions', content=chunks, headers=JSON).status_code == 413
    assert complete(served).choices


def test_an_unknown_path_or_method_is_refused_in_the_same_shape(served):
    for method, path, status in (('GET', 'v1/chat/completions', 404), ('GET', 'v1/completions', 405), ('POST', 'ping', 405)):
        answer = served.http.request(method, path, headers=JSON)
        assert answer.status_code == status
        assert answer.json()['error']['message'].startswith(f'{method} /{path}: ')
        assert '; this server has GET /openapi.json, POST /invocations, POST /v1/completions, POST /tokenize, GET' in answer.json()['error']['message']


@pytest.mark.parametrize('path', ['', 'healthz', 'ping', 'v1/models', 'v1/models/tiny', 'metrics', 'openapi.json', 'v1/completions'])
def test_head_gives_what_get_gives_without_the_body(served, path):
    head, get = served.http.head(path), served.http.get(path)
    assert head.status_code == get.status_code == (405 if path == 'v1/completions' else 200)
    assert head.content == b'' and head.headers['Content-Type'] == get.headers['Content-Type']


def ask_from_page(served, origin, path='v1/completions', **headers):
    """What a browser sends first for a page of another site, and what it then sends: (status, headers of both)."""
    asks = {'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'authorization,content-type,x-stainless-os'}
    first = served.http.options(path, headers={'Origin': origin, **asks})
    then = served.http.post(path, json={'prompt': 'a', 'max_tokens': 1}, headers={'Origin': origin, **headers})
    return first, then


def test_a_page_of_another_site_is_not_let_read_by_default(served):
    first, then = ask_from_page(served, 'http://localhost:5173')
    assert first.status_code == 405
    assert not [name for answer in (first, then) for name in answer.headers if name.startswith('access-control-')]


@pytest.mark.parametrize('setting, origin, allowed', [
    ('http://localhost:5173', 'http://localhost:5173', True), ('http://a.example, http://localhost:5173', 'http://localhost:5173', True),
    ('http://localhost:5173', 'http://localhost:5174', False), ('http://localhost:5173', 'http://localhost:5173.evil.example', False),
    ('*', 'http://any.example', True), ('*', 'null', True)])
def test_pages_of_the_sites_in_cors_origin_may_ask_and_read(folder, setting, origin, allowed):
    with serving(folder, key='open sesame', cors_origin=setting) as served:
        first, then = ask_from_page(served, origin)
        shown = {'*': '*'}.get(setting, origin) if allowed else None
        assert first.status_code == (200 if allowed else 400) and then.status_code == 200
        assert then.headers.get('Access-Control-Allow-Origin') == shown
        if allowed:
            assert first.headers['Access-Control-Allow-Origin'] == shown
            assert 'POST' in first.headers['Access-Control-Allow-Methods']
            assert 'x-stainless-os' in first.headers['Access-Control-Allow-Headers']
        assert 'Access-Control-Allow-Credentials' not in first.headers
        for headers, status in (({'Authorization': 'Bearer wrong'}, 401), ({'Content-Type': 'text/plain'}, 415),
                                ({'Host': 'evil.example'}, 421)):  # refused as ever, and the page may read why
            _, then = ask_from_page(served, origin, **headers)
            assert then.status_code == status and then.headers.get('Access-Control-Allow-Origin') == shown


def test_tokenize_gives_the_tokens_of_a_text_and_how_many_fit(served, reference):
    for text in ('def read(self):', '', 'é€🙂', 'word ' * 100):
        answer = served.post({'prompt': text, 'model': 'tiny', 'add_special_tokens': True}, 'tokenize')
        ids = reference[1].encode(text)
        assert answer.json() == {'count': len(ids), 'max_model_len': 64, 'tokens': ids}
    for body, status in (({'prompt': 'a' * 900_000}, 400), ({'prompt': '\ud800'}, 400), ({'prompt': [1]}, 400), ({}, 400),
                         ({'prompt': 'a', 'model': 'gpt-5'}, 404)):
        answer = served.http.post('tokenize', content=json.dumps(body), headers=JSON)
        assert answer.status_code == status and answer.json()['error']['param'] in ('prompt', 'model')


def test_of_a_long_prompt_only_the_end_is_taken_where_that_is_asked_for(served, reference):
    ids = reference[1].encode('def read(self): ' * 30)
    for how, n in ((-1, 64), (10, 10), (1000, 64)):
        answer = complete(served, ids, temperature=0, extra_body={'truncate_prompt_tokens': how})
        assert answer.usage.prompt_tokens == n
        assert answer.choices[0].text == complete(served, ids[-n:], temperature=0).choices[0].text
    with pytest.raises(openai.BadRequestError, match=f'the prompt has {len(ids)} tokens, more than the 64 tokens'):
        complete(served, ids)


def test_of_a_long_text_too_only_the_end_is_taken(served, reference):
    text = 'def read(self): ' * 20_000
    answer = complete(served, text, temperature=0, extra_body={'truncate_prompt_tokens': -1})
    assert answer.usage.prompt_tokens == 64
    assert answer.choices[0].text == complete(served, reference[1].encode(text)[-64:], temperature=0).choices[0].text


@pytest.mark.parametrize('top_k', [2 ** 31, 2 ** 63, 10 ** 30])
def test_a_top_k_beyond_all_numbers_is_all_tokens_and_harms_no_other_request(served, top_k):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        other = pool.submit(complete, served, 'def ', temperature=0, max_tokens=60)
        answer = complete(served, 'def ', seed=3, extra_body={'top_k': top_k})
    assert answer.choices[0].text == complete(served, 'def ', seed=3, extra_body={'top_k': 300}).choices[0].text
    assert other.result().usage.completion_tokens == 60


@pytest.mark.parametrize('kind', [None, 'text/plain', 'application/x-www-form-urlencoded', 'application/jsonp', 'multipart/form-data'])
def test_a_request_that_is_not_sent_as_json_is_refused(served, kind):
    """A page of another site can make a browser send these without asking first."""
    headers = {} if kind is None else {'Content-Type': kind}
    for path in ('tokenize', 'v1/completions', 'invocations'):
        answer = served.http.post(path, content=b'{"prompt": "a", "max_tokens": 1}', headers=headers)
        assert answer.status_code == 415
        message = 'sent with Content-Type: application/json' + (f', not {kind}' if kind else '')
        assert answer.json()['error']['message'].endswith(message)
    for kind in ('application/json; charset=utf-8', 'Application/JSON'):
        assert served.http.post(path, content=b'{"prompt": "a"}', headers={'Content-Type': kind}).status_code == 200


@pytest.mark.parametrize('host, status', [
    ('localhost', 200), ('LOCALHOST:80', 200), ('127.0.0.1', 200), ('127.0.0.1:8000', 200), ('[::1]', 200), ('[::1]:8000', 200),
    ('evil.example', 421), ('evil.example:8000', 421), ('127.0.0.1.evil.example', 421), ('localhost.evil.example', 421),
    ('', 421), ('10.0.0.1', 421), ('[::2]', 421), ('127.0.0.1:80:80', 421), ('\xff', 421)])
def test_on_a_loopback_address_only_its_own_names_are_answered(served, host, status):
    """A site whose name is made to point here shows in the host that a browser sends (DNS rebinding)."""
    for path in ('', 'healthz', 'v1/models'):
        answer = served.http.get(path, headers={'Host': host.encode('latin-1')})
        assert answer.status_code == status
    if status == 421:
        assert '--hosts' in answer.json()['error']['message']


def test_names_that_are_configured_are_answered_and_a_public_address_takes_any():
    def hosts(address, **settings):
        return serve.allowed_hosts({**configure(serve.DEFAULTS, []), **settings}, address)

    assert hosts('127.0.0.1', hosts='Box, gpu.local') == {'localhost', '127.0.0.1', '::1', 'box', 'gpu.local'}
    assert hosts('::1', host='localhost') == {'localhost', '127.0.0.1', '::1'}
    assert hosts('0.0.0.0') is None and hosts('::') is None
    assert hosts('0.0.0.0', hosts='gpu.example') == {'gpu.example'}


def test_openais_client_raises_its_own_errors(served):
    with pytest.raises(openai.BadRequestError, match='temperature'):
        complete(served, temperature=-1.0)
    with pytest.raises(openai.NotFoundError, match='tiny'):
        served.client.completions.create(model='gpt-5', prompt='a')


@pytest.mark.slow
def test_everything_but_health_and_the_page_asks_for_the_key(folder):
    with serving(folder, key='open sesame') as served:
        assert complete(served).choices
        for shown in (None, 'Bearer wrong', 'open sesame', 'Bearer é'.encode()):
            headers = {} if shown is None else {'Authorization': shown}
            with httpx.Client(base_url=served.url, headers=headers, timeout=200) as client:
                for path in ('v1/models', 'metrics'):
                    answer = client.get(path)
                    assert answer.status_code == 401 and answer.headers['WWW-Authenticate'] == 'Bearer'
                for path in ('v1/completions', 'invocations', 'tokenize', '/v1//completions'):
                    assert client.post(path, json={'prompt': 'a'}).status_code == 401
                for path in ('', 'ping', 'healthz', 'openapi.json'):
                    assert client.get(path).status_code == 200
        with pytest.raises(openai.AuthenticationError, match='key'):
            openai.OpenAI(base_url=served.url + 'v1', api_key='wrong', max_retries=0).models.list()


# -- load, clients that leave, time


@pytest.mark.slow
def test_many_clients_at_once_get_what_each_gets_alone(served):
    prompts = [f'def f{i}(self' + ', x' * (i % 7) for i in range(24)]
    alone = [complete(served, prompt, max_tokens=10 + i, temperature=0).choices[0].text for i, prompt in enumerate(prompts)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda i: complete(served, prompts[i], max_tokens=10 + i, temperature=0), range(24)))
    assert [answer.choices[0].text for answer in answers] == alone


def test_a_full_queue_is_answered_with_429_and_retry_after(folder):
    with serving(folder, max_batch=1, max_waiting=3) as served, concurrent.futures.ThreadPoolExecutor(4) as pool:
        with served.standing_still():
            running = pool.submit(complete, served, temperature=0)
            wait_for(lambda: served.metric('running') == 1)
            waiting = [pool.submit(complete, served, temperature=0) for _ in range(3)]
            wait_for(lambda: served.metric('waiting') == 3)
            with pytest.raises(openai.RateLimitError) as refused:
                complete(served)
            assert int(refused.value.response.headers['Retry-After']) >= 1
            assert served.http.get('healthz').status_code == 200
        assert len({future.result().choices[0].text for future in [running, *waiting]}) == 1


def test_a_request_beyond_the_limit_of_connections_is_answered_with_503_when_none_is_idle(folder):
    with serving(folder, max_connections=2) as served, concurrent.futures.ThreadPoolExecutor(2) as pool:
        with served.standing_still():
            answers = [pool.submit(httpx.post, served.url + 'v1/completions', json={'prompt': 'a'}, timeout=200) for _ in '12']
            wait_for(lambda: sum(c.is_awaited for c in list(served.server.server_state.connections)) == 2)
            assert httpx.get(served.url + 'healthz').status_code == 503
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert httpx.get(served.url + 'healthz').status_code == 200


def test_a_clients_many_long_texts_are_tokenized_between_those_of_others(served, monkeypatch):
    order, make_jobs = [], serve.make_jobs

    def make_slowly(service, body, client):
        time.sleep(0.02)
        order.append(client)
        return make_jobs(service, body, client)

    async def ask(address, n):
        async with httpx.AsyncClient(base_url=served.url, transport=httpx.AsyncHTTPTransport(local_address=address)) as client:
            await asyncio.gather(*(client.post('v1/completions', json={'prompt': 'a', 'max_tokens': 1}) for _ in range(n)))

    async def all_ask():
        greedy = asyncio.create_task(ask('127.0.0.2', 30))
        while len(order) < 3:
            await asyncio.sleep(0.001)
        await ask('127.0.0.3', 1)
        n_before = order.index('127.0.0.3')
        await greedy
        return n_before

    monkeypatch.setattr(serve, 'make_jobs', make_slowly)
    assert asyncio.run(all_ask()) < 15


def test_clients_that_disconnect_leave_no_work_behind(served):
    given_up = served.metric('given_up_total')

    async def leave(client, stream):
        body = {'prompt': 'def ', 'max_tokens': 4000, 'stream': stream}
        async with client.stream('POST', 'v1/completions', json=body) as answer:
            async for _ in answer.aiter_bytes():
                return

    async def crowd():
        async with httpx.AsyncClient(base_url=served.url, timeout=200) as client:
            await asyncio.gather(*(leave(client, stream=True) for _ in range(30)))
            for _ in range(3):  # these hear nothing until the end, and leave while they wait
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(leave(client, stream=False), 0.2)

    with served.slowly():
        asyncio.run(crowd())
        served.wait_until_idle()
    wait_for(lambda: served.metric('given_up_total') == given_up + 33)
    assert served.service.engine.n_running == 0


@pytest.mark.slow
def test_a_request_that_runs_out_of_time_frees_its_slot(folder):
    with serving(folder, max_batch=1, timeout_s=0.5) as served:
        with served.standing_still():
            with pytest.raises(openai.InternalServerError) as late:
                complete(served)
            assert late.value.response.status_code == 504
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                first = pool.submit(served.post, {'prompt': 'a', 'stream': True})
                wait_for(lambda: served.metric('open_requests') == 2)  # and the one that asks
                with pytest.raises(openai.RateLimitError):
                    complete(served)
                event = json.loads(first.result().text.removeprefix('data: '))
                assert event['error']['code'] in ('timeout', 'queue_timeout')
        served.wait_until_idle()
        assert complete(served, max_tokens=1).choices


@pytest.mark.slow
def test_a_body_that_does_not_arrive_is_given_up(folder):
    def trickle():
        yield b'{"prompt"'
        time.sleep(1.5)
        yield b': "a"}'
    with serving(folder, body_timeout_s=0.3) as served:
        with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # the server may have hung up before the rest
            assert served.http.post('v1/completions', content=trickle(), headers=JSON).status_code == 408
        wait_for(lambda: served.metric('open_requests') == 1)
        assert served.service.metrics.requests['/v1/completions', 408] == 1


def test_an_engine_that_fails_shows_in_health_and_recovers(served, monkeypatch, capfd):
    def fail():
        raise RuntimeError('on purpose')
    with monkeypatch.context() as patch:
        patch.setattr(served.service.engine, 'step', fail)
        with pytest.raises(openai.InternalServerError, match='engine'):
            complete(served)
        assert served.http.get('healthz').json() == {'status': 'failing'} and served.http.get('ping').status_code == 503
    assert complete(served).choices and served.http.get('healthz').json() == {'status': 'ok'}
    assert 'on purpose' in capfd.readouterr().err


# -- the process


@pytest.mark.slow
def test_sigterm_finishes_what_runs_and_refuses_what_is_new(folder):
    command = [sys.executable, str(ROOT / 'serve.py'), f'--init_from={folder}', '--port=0', '--max_new_tokens=10000000',
               '--model_name=small', '--device=cpu']
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if ' at http' in line)
        url = re.search(r'small at (http://127\.0\.0\.1:\d+/)', line).group(1)
        client = openai.OpenAI(base_url=url + 'v1', api_key='none', max_retries=0, timeout=200)
        with httpx.Client(base_url=url, timeout=200) as http, client.completions.create(
                model='small', prompt='def ', max_tokens=1500, stream=True) as stream:
            chunks = [next(iter(stream))]
            http.get('ping')  # a connection that stays open
            process.send_signal(signal.SIGTERM)
            assert 'finishing' in process.stderr.readline()
            refused = http.post('v1/completions', json={'prompt': 'a'})
            assert refused.status_code == 503 and refused.headers['Retry-After']
            assert http.get('healthz').json() == {'status': 'draining'}
            chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason in ('length', 'stop')
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.stderr.close()


@pytest.mark.parametrize('hard, room, says', [(20_000, 20_000 - 576, ''), (1024, 448, 'lowered to 448'), (-1, 65536 - 576, '')])
def test_the_limit_of_open_files_is_raised_and_one_that_is_too_low_is_said(hard, room, says, monkeypatch, capsys):
    now = []
    monkeypatch.setattr('resource.getrlimit', lambda _: (256, hard))
    monkeypatch.setattr('resource.setrlimit', lambda _, limits: now.extend(limits))
    assert serve.room_for_connections(2048) == room
    assert now == [65536 if hard == -1 else hard, hard]
    err = capsys.readouterr().err
    assert says in err and err.count('\n') == bool(says)


@pytest.mark.parametrize('flags, environment, message', [
    (['--max_batch=0'], {}, 'max_batch=0 should be at least 1'),
    (['--port=70000'], {}, 'port=70000 should be at least 0 and at most 65535'),
    (['--host=no.such.host.invalid'], {}, 'cannot listen'),
    (['--cors_origin=http://localhost:5173/'], {}, 'cors_origin=http://localhost:5173/ should be a site such as'),
    (['--cors_origin=localhost'], {}, 'cors_origin=localhost should be a site such as'),
    ([], {'SCRATCHGPT_API_KEY': ''}, 'SCRATCHGPT_API_KEY is empty'),
])
def test_wrong_settings_are_refused_before_a_model_is_loaded(flags, environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=re.escape(message)):
        serve.main(configure(serve.DEFAULTS, ['--port=0', '--init_from=/nowhere/at/all', *flags]))


def test_a_port_that_is_taken_is_said_in_one_line():
    listener = serve.bind('127.0.0.1', 0)
    listener.listen()
    port = listener.getsockname()[1]
    with pytest.raises(BadInput, match=f'port={port}'):
        serve.bind('127.0.0.1', port)
    listener.close()


# -- what it tells of itself


def test_metrics_are_prometheus_text_whose_counts_add_up(served):
    before = served.metric('new_tokens_total'), served.metric('first_token_seconds_count')
    complete(served, n=2, max_tokens=7)
    assert (served.metric('new_tokens_total'), served.metric('first_token_seconds_count')) == (before[0] + 14, before[1] + 1)
    answer = served.http.get('metrics')
    assert answer.headers['Content-Type'].startswith('text/plain; version=0.0.4')
    for line in answer.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) scratchgpt_\w+ .+|'
                            r'scratchgpt_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+-]+', line), line
    buckets = [float(line.rsplit(' ', 1)[1]) for line in answer.text.splitlines() if 'request_seconds_bucket' in line]
    assert buckets == sorted(buckets) and buckets[-1] == served.metric('request_seconds_count')


@pytest.mark.slow
def test_random_requests_get_only_answers_that_openapi_json_describes(folder):
    pytest.importorskip('schemathesis')
    with serving(folder, max_new_tokens=4, max_batch=4) as served:
        try_random_requests(served)


def try_random_requests(served, wanted=lambda path: True):
    """Sends random requests, right and wrong ones, to the routes whose path is wanted."""
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance
    document = schemathesis.openapi.from_url(served.url + 'openapi.json')
    for operation in filter(lambda operation: wanted(operation.path), (result.ok() for result in document.get_all_operations())):

        @settings(max_examples=25, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))
        @given(strategies.one_of(operation.as_strategy(), operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)))
        def ask(case):
            case.call_and_validate(timeout=200, excluded_checks=[positive_data_acceptance])  # limits are no part of types

        ask()
