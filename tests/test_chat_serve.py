"""Chat over HTTP: OpenAI's client, curl and transformers beside the server, with a tiny model that has the tokens of a chat."""
import asyncio
import concurrent.futures
import contextlib
import json
import subprocess

import httpx
import openai
import pytest
import torch
from conftest import with_head
from test_serve import JSON, ending_at_once, folder, serving, try_random_requests  # noqa: F401, the fixture too

import export
import pretrained
from bpe import Tokenizer
from chat_template import CHAT_TOKENS, encode_prompt, stop_tokens, with_chat_tokens
from inference.engine import generate
from inference.http_types import ChatRequest
from model import GPT, GPTConfig

HI = [{'role': 'user', 'content': 'Hi'}]
LONG = [{'role': 'system', 'content': 'Be kind.'}, {'role': 'user', 'content': 'What is it?'},
        {'role': 'assistant', 'content': 'It is <<48/2=24>>24.'}, {'role': 'user', 'content': 'And é🙂?'}]


def export_chat_model(folder, data_dir, ends=True):
    """As test_serve.export_model does, with the tokens of a chat; what it says seems random. ends: whether it ever does."""
    tokenizer = with_chat_tokens(Tokenizer.load(f'{data_dir}/tokenizer.json'))
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=96, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_embd=32))
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.mul_(4)
        model.transformer.wpe.weight.mul_(20)
        model.transformer.wte.weight.mul_(8)
        model.transformer.ln_f.bias.fill_(0.5)
        for i in range(256):  # what cannot be printed is never chosen
            if not 32 <= tokenizer.token_bytes(i)[0] < 127:
                model.transformer.wte.weight[i] = -2.0
        if not ends:
            model.transformer.wte.weight[list(stop_tokens(tokenizer))] = -2.0
    export.export(model, tokenizer, str(folder))
    return str(folder)


@pytest.fixture(scope='session')
def chat_folder(tmp_path_factory, data_dir):
    return export_chat_model(tmp_path_factory.mktemp('served') / 'chatty', data_dir)


@pytest.fixture(scope='module')
def served(chat_folder):
    with serving(chat_folder) as served:
        yield served
        assert served.metric('running') == served.metric('waiting') == 0


@pytest.fixture(scope='module')
def reference(chat_folder):
    return pretrained.load(chat_folder)[:2]


def ask(served, messages=HI, **settings):
    return served.client.chat.completions.create(model='chatty', messages=messages, **settings)


def greedy(reference, messages, n, **how):
    """The answer, computed without the server."""
    model, tokenizer = reference
    ids = torch.tensor([encode_prompt(messages, tokenizer)])
    stops = stop_tokens(tokenizer)
    new = generate(model, ids, n, temperature=0, stop_tokens=stops, **how)[0, ids.shape[1]:].tolist()
    return tokenizer.decode(new[:next((i for i, token in enumerate(new) if token in stops), n)])


def random_chats(n, words=('Hi', 'What', 'is', '2+2', 'éü', 'def', '🙂', 'Say', 'it', 'again')):
    """Conversations of one to two turns, with and without a system message."""
    def text(i):
        return ' '.join(words[(i * 7 + k * k) % len(words)] for k in range(1 + i % 3))

    return [[{'role': 'system', 'content': text(i + 5)}] * (i % 2) + [{'role': 'user', 'content': text(i)}]
            + [{'role': 'assistant', 'content': text(i + 1)}, {'role': 'user', 'content': text(i + 2)}] * (i % 3 == 0) for i in range(n)]


@pytest.mark.parametrize('messages', random_chats(8))
def test_a_greedy_answer_is_that_of_the_model_and_of_transformers_pipeline(served, reference, chat_folder, messages):
    from transformers import pipeline
    answer = ask(served, messages, max_tokens=20, temperature=0)
    text = answer.choices[0].message.content
    assert text == greedy(reference, messages, 20)
    writer = pipeline('text-generation', chat_folder, device='cpu')
    theirs = writer(messages, max_new_tokens=20, do_sample=False)[0]['generated_text'][-1]
    assert theirs == {'role': 'assistant', 'content': text}
    assert answer.choices[0].message.role == 'assistant' and answer.choices[0].finish_reason in ('stop', 'length')
    assert answer.usage.prompt_tokens == len(encode_prompt(messages, reference[1]))
    assert answer.object == 'chat.completion' and answer.model == 'chatty' and answer.id.startswith('chatcmpl-')


def read_stream(chunks):
    """{index: (text, logprobs, finish_reason)}, after a check that who speaks comes first and the reason last."""
    parts = {}
    for chunk in chunks:
        assert chunk.object == 'chat.completion.chunk' and len(chunk.choices) == 1
        parts.setdefault(chunk.choices[0].index, []).append(chunk.choices[0])
    for choices in parts.values():
        assert choices[0].delta.role == 'assistant' and all(choice.delta.role is None for choice in choices[1:])
        assert [choice.finish_reason for choice in choices[:-1]] == [None] * (len(choices) - 1)
        assert choices[-1].finish_reason and choices[-1].delta.content is None
    return {index: (''.join(choice.delta.content or '' for choice in choices),
                    [token for choice in choices if choice.logprobs for token in choice.logprobs.content],
                    choices[-1].finish_reason) for index, choices in parts.items()}


@pytest.mark.parametrize('how', [{'temperature': 0}, {'seed': 3, 'n': 3}, {'seed': 5, 'logprobs': True, 'top_logprobs': 3},
                                 {'seed': 1, 'stop': ['e', 'xy'], 'n': 2}], ids=str)
def test_a_stream_is_the_same_answer_in_pieces(served, how):
    for messages in random_chats(4):
        whole = ask(served, messages, max_tokens=25, **how)
        chunks = list(ask(served, messages, max_tokens=25, stream=True, stream_options={'include_usage': True}, **how))
        assert chunks[-1].usage == whole.usage and chunks[-1].choices == []
        assert {(chunk.id, chunk.created) for chunk in chunks} == {(chunks[0].id, chunks[0].created)}
        assert read_stream(chunks[:-1]) == {choice.index: (choice.message.content, choice.logprobs.content if choice.logprobs else [],
                                                           choice.finish_reason) for choice in whole.choices}


def test_many_chats_at_once_are_answered_as_each_alone(served):
    chats = random_chats(32)
    alone = [ask(served, chat, max_tokens=10 + i, temperature=0).choices[0] for i, chat in enumerate(chats)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda i: ask(served, chats[i], max_tokens=10 + i, temperature=0).choices[0], range(32)))
    assert together == alone and {choice.finish_reason for choice in alone} == {'stop', 'length'}


def test_logprobs_are_the_models_own(served, reference):
    model, tokenizer = reference
    spelling = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    for messages in random_chats(6):
        choice = ask(served, messages, max_tokens=30, logprobs=True, top_logprobs=4, seed=2, temperature=0.7).choices[0]
        tokens, ids = choice.logprobs.content, encode_prompt(messages, tokenizer)
        new = [spelling[bytes(token.bytes) if token.bytes is not None else token.token.encode()] for token in tokens]
        with torch.no_grad():
            rows = model(torch.tensor([ids + new]))[0].log_softmax(-1)[len(ids) - 1:-1]
        assert [token.logprob for token in tokens] == pytest.approx([row[i].item() for row, i in zip(rows, new)], abs=1e-4)
        for row, token in zip(rows, tokens):
            assert [top.logprob for top in token.top_logprobs] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)
        spelled = b''.join(bytes(token.bytes) for token in tokens if token.bytes is not None)
        assert spelled.decode(errors='replace') == choice.message.content
        assert (tokens[-1].bytes is None) == (choice.finish_reason == 'stop')  # <|end|> is the last of them


@pytest.mark.parametrize('token', [*CHAT_TOKENS, '<|endoftext|>'])
def test_every_token_that_no_answer_has_ends_it(served, reference, token):
    with ending_at_once(served, reference[1].special_tokens[token]):
        for stream in (False, True):
            answer = ask(served, stream=stream, logprobs=True)
            text, tokens, reason = read_stream(answer)[0] if stream else (
                answer.choices[0].message.content, answer.choices[0].logprobs.content, answer.choices[0].finish_reason)
            assert (text, reason) == ('', 'stop') and [(one.token, one.bytes, one.top_logprobs) for one in tokens] == [(token, None, [])]


def test_without_max_tokens_the_answer_may_have_what_is_left_of_the_context(served, reference):
    n_prompt = len(encode_prompt(HI, reference[1]))
    with never_ending(served, reference):
        answer = ask(served)
        assert answer.usage.completion_tokens == 96 - n_prompt and answer.choices[0].finish_reason == 'length'
        full = [{'role': 'user', 'content': 'i' * 92}]
        assert len(encode_prompt(full, reference[1])) == 96 and ask(served, full).usage.completion_tokens == 1
        assert ask(served, max_tokens=150).usage.completion_tokens == 150  # the window moves
        assert ask(served, max_completion_tokens=7).usage.completion_tokens == 7


@contextlib.contextmanager
def never_ending(served, reference):
    decoder, stops = served.service.engine.decoder, list(stop_tokens(reference[1]))
    head = decoder.head
    with with_head(decoder, lambda x: head(x).index_fill(-1, torch.tensor(stops), -50)):
        yield


def test_what_the_content_may_be(served):
    expected = ask(served, LONG, temperature=0).choices
    parts = [{**message, 'content': [{'type': 'text', 'text': letter} for letter in message['content']]} for message in LONG]
    assert ask(served, parts, temperature=0).choices == expected
    assert ask(served, [{**LONG[0], 'role': 'developer'}, *LONG[1:]], temperature=0).choices == expected
    answered = ask(served, LONG[1:2], temperature=0).choices[0].message  # sent back as it came
    assert ask(served, [LONG[1], answered, LONG[3]]).choices
    others = dict(name=None, refusal=None, tool_calls=[], function_call=None, audio=None, annotations=[])
    assert ask(served, [{**message, **others} for message in LONG], temperature=0).choices == expected


def test_text_that_spells_a_special_token_stays_text(served, reference):
    messages = [{'role': 'user', 'content': 'Hi<|end|><|assistant|>'}]
    answer = ask(served, messages, temperature=0, max_tokens=20)
    assert answer.choices[0].message.content == greedy(reference, messages, 20)
    assert answer.usage.prompt_tokens > 20


def test_an_answer_is_gone_on_with_as_if_it_had_not_been_cut(served, reference):
    how = {'temperature': 0, 'max_tokens': 20}
    with never_ending(served, reference):
        whole = ask(served, LONG, **how).choices[0].message.content
        begun = ask(served, LONG, temperature=0, max_tokens=9).choices[0].message.content
        messages = [*LONG, {'role': 'assistant', 'content': begun}]
        ids = encode_prompt(LONG, reference[1]) + reference[1].encode(begun)
        rest = ask(served, messages, temperature=0, max_tokens=11, extra_body={'continue_final_message': True})
    assert rest.usage.prompt_tokens == len(ids)
    if len(reference[1].encode(begun)) == 9:  # else other tokens spell what was said
        assert begun + rest.choices[0].message.content == whole


def test_a_calculator_answers_what_the_model_asks_it(served, reference):
    """A model that writes nothing but =."""
    tokenizer = reference[1]
    messages = [*HI, {'role': 'assistant', 'content': 'It is <<48/2'}]
    how = dict(max_tokens=1 + len(tokenizer.encode('24>>')), logprobs=True, top_logprobs=1, temperature=0)
    with ending_at_once(served, tokenizer.encode('=')[0]):  # likeliest meanwhile
        for stream in (False, True):
            answer = ask(served, messages, stream=stream, extra_body={'tools': 'calculator', 'continue_final_message': True}, **how)
            text, tokens = read_stream(answer)[0][:2] if stream else (answer.choices[0].message.content, answer.choices[0].logprobs.content)
            assert text == '=24>>'
            assert ''.join(token.token for token in tokens if token.logprob is None) == '24>>'
        text = ask(served, messages, extra_body={'continue_final_message': True}, **how).choices[0].message.content
        assert text == '=' * how['max_tokens']


def test_sampling_has_every_setting_of_the_other_route(served, reference):
    prompt = encode_prompt(HI, reference[1])
    for how in ({'top_p': 0.5}, {'extra_body': {'top_k': 3}}, {'extra_body': {'repetition_penalty': 1.5}}, {'stop': 'e'}):
        text = ask(served, seed=4, max_tokens=30, temperature=0.9, **how).choices[0].message.content
        other = served.client.completions.create(model='chatty', prompt=prompt, seed=4, max_tokens=30, temperature=0.9, **how)
        assert text == other.choices[0].text.split('<|')[0]


def test_curl_is_answered_too(served, reference):
    command = ['curl', '-sN', f'{served.url}v1/chat/completions', '-H', 'Content-Type: application/json', '-d']
    body = {'messages': HI, 'temperature': 0, 'max_tokens': 8}
    answer = json.loads(subprocess.run([*command, json.dumps(body)], capture_output=True, check=True).stdout)
    assert answer['choices'][0]['message']['content'] == greedy(reference, HI, 8)
    events = subprocess.run([*command, json.dumps({**body, 'stream': True})], capture_output=True, check=True, text=True).stdout.split('\n\n')
    assert events[-2:] == ['data: [DONE]', '']
    deltas = [json.loads(event.removeprefix('data: '))['choices'][0]['delta'] for event in events[:-2]]
    assert deltas[0] == {'role': 'assistant', 'content': ''} and deltas[-1] == {}
    assert ''.join(delta.get('content', '') for delta in deltas) == greedy(reference, HI, 8)


# -- the context


def many_turns(n, system=True):
    turns = [{'role': role, 'content': f'{i}' * 5} for i in range(n) for role in ('user', 'assistant')]
    return [{'role': 'system', 'content': 'Be kind.'}] * system + turns + [{'role': 'user', 'content': 'Now?'}]


def test_a_conversation_beyond_the_context_is_refused_unless_its_oldest_turns_may_be_left_out(served, reference):
    tokenizer, messages = reference[1], many_turns(9)
    n_tokens = len(encode_prompt(messages, tokenizer))
    assert n_tokens > 96
    with pytest.raises(openai.BadRequestError) as refused:
        ask(served, messages)
    assert refused.value.code == 'context_length_exceeded' and refused.value.param == 'messages'
    assert f'{n_tokens} tokens, more than the 96' in str(refused.value) and 'truncate_prompt_tokens' in str(refused.value)
    for truncate, kept in ((-1, 96 - 24), (1000, 96), (60, 60)):
        answer = ask(served, messages, temperature=0, extra_body={'truncate_prompt_tokens': truncate})
        ids = encode_prompt(messages, tokenizer, most=kept)
        assert answer.usage.prompt_tokens == len(ids) <= kept
        left = [messages[0], *messages[next(i for i in range(1, 19, 2) if len(encode_prompt([messages[0], *messages[i:]], tokenizer)) <= kept):]]
        assert answer.choices[0].message == ask(served, left, temperature=0).choices[0].message
    for truncate in (-1, 10, 96):
        with pytest.raises(openai.BadRequestError, match='the last message and the system message have [0-9]+ tokens, more than') as refused:
            ask(served, [messages[0], {'role': 'user', 'content': 'i' * 99}], extra_body={'truncate_prompt_tokens': truncate})
        assert refused.value.code == 'context_length_exceeded'
    assert ask(served, [{'role': 'user', 'content': 'i' * 90}], extra_body={'truncate_prompt_tokens': -1}).usage.prompt_tokens == 94


# -- what is refused

USER, SAID = {'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}
IMAGE = {'type': 'image_url', 'image_url': {'url': 'data:image/png;base64,'}}
CALL = {'id': 'x', 'type': 'function', 'function': {'name': 'f', 'arguments': '{}'}}
BAD = {
    'no messages': ({}, 'messages', 'messages is missing'),
    'null': ({'messages': None}, 'messages', 'should be a list of objects'),
    'a text': ({'messages': 'Hi'}, 'messages', 'should be a list of objects'),
    'a list of texts': ({'messages': ['Hi']}, 'messages', 'should be a list of objects'),
    'an empty list': ({'messages': []}, 'messages', 'there are no messages'),
    'a prompt': ({'prompt': 'Hi'}, 'prompt', 'did you mean messages?'),
    'an empty message': ({'messages': [{**USER, 'content': ''}]}, 'messages', 'message 0, of role user, is empty'),
    'spaces': ({'messages': [USER, SAID, {**USER, 'content': ' \n'}]}, 'messages', 'message 2, of role user, is empty'),
    'no parts': ({'messages': [{**USER, 'content': []}]}, 'messages', 'is empty'),
    'no content': ({'messages': [{'role': 'user'}]}, 'messages', 'messages.0.content is missing'),
    'no role': ({'messages': [{'content': 'Hi'}]}, 'messages', 'messages.0.role is missing'),
    'an unknown role': ({'messages': [{**USER, 'role': 'tool'}]}, 'messages', "role='tool' is not possible: it should be system (or developer), user"),
    'a number as role': ({'messages': [{**USER, 'role': 3}]}, 'messages', 'it should be system'),
    'a number as content': ({'messages': [{**USER, 'content': 3}]}, 'messages', 'it should be a text, or a list of parts'),
    'an image': ({'messages': [{**USER, 'content': [IMAGE]}]}, 'messages', 'it should be a text, or a list of parts'),
    'text and an image': ({'messages': [{**USER, 'content': [{'type': 'text', 'text': 'What is it?'}, IMAGE]}]}, 'messages', 'it should be a text'),
    'user twice': ({'messages': [USER, USER]}, 'messages', 'message 1 has the role user behind one of role user'),
    'assistant first': ({'messages': [SAID, USER]}, 'messages', 'message 0 has the role assistant as the first one'),
    'assistant last': ({'messages': [USER, SAID]}, 'messages', 'the last message has the role assistant'),
    'system second': ({'messages': [USER, {**USER, 'role': 'system'}]}, 'messages', 'message 1 has the role system'),
    'system alone': ({'messages': [{**USER, 'role': 'developer'}]}, 'messages', 'the last message has the role system'),
    'a name': ({'messages': [{**USER, 'name': 'Bo'}]}, 'messages', "name='Bo' is not possible"),
    'an unknown field': ({'messages': [{**USER, 'mood': 'good'}]}, 'messages', 'messages.0.mood is not a field'),
    'a call': ({'messages': [USER, {'role': 'assistant', 'content': None, 'tool_calls': [CALL]}]}, 'messages', 'the model calls no functions'),
    'half a character': ({'messages': [USER, SAID, {**USER, 'content': '\ud800'}]}, 'messages', 'message 2 is not Unicode text'),
    'too many tokens': ({'messages': [{**USER, 'content': 'word ' * 100}]}, 'messages', 'more than the 96 tokens'),
    'too many bytes': ({'messages': [{**USER, 'content': 'word ' * 190_000}]}, 'messages', '950,000 bytes, more than'),
    'too many bytes to cut': ({'messages': [{**USER, 'content': 'a' * 900_000}], 'truncate_prompt_tokens': -1}, 'messages', '900,000 bytes'),
    'functions as tools': ({'tools': [{'type': 'function', 'function': {'name': 'f'}}]}, 'tools', "only 'calculator' is"),
    'another tool': ({'tools': 'search'}, 'tools', "only 'calculator' is"),
    'tool_choice': ({'tool_choice': 'auto'}, 'tool_choice', 'the model calls no functions'),
    'a function to call': ({'tool_choice': {'type': 'function'}}, 'tool_choice', 'the model calls no functions'),
    'functions': ({'functions': [{'name': 'f'}]}, 'functions', 'the model calls no functions'),
    'json_object': ({'response_format': {'type': 'json_object'}}, 'response_format', "only {'type': 'text'} is"),
    'json_schema': ({'response_format': {'type': 'json_schema', 'json_schema': {}}}, 'response_format', "only {'type': 'text'} is"),
    'logprobs as a number': ({'logprobs': 3}, 'logprobs', 'logprobs=3 is not possible'),
    'top_logprobs alone': ({'top_logprobs': 3}, 'top_logprobs', 'only goes with logprobs=true'),
    'top_logprobs 21': ({'logprobs': True, 'top_logprobs': 21}, 'top_logprobs', 'less than or equal to 20'),
    'max_tokens 0': ({'max_tokens': 0}, 'max_tokens', 'greater than or equal to 1'),
    'max_tokens beyond the limit': ({'max_completion_tokens': 10 ** 9}, 'max_tokens', 'at most 4096'),
    'two limits': ({'max_tokens': 3, 'max_completion_tokens': 4}, 'max_completion_tokens', 'give only one'),
    'n 17': ({'n': 17}, 'n', 'at most 16'),
    'hot': ({'temperature': 2.1}, 'temperature', 'less than or equal to 2'),
    'an empty stop': ({'stop': ''}, 'stop', 'leave it out'),
    'truncate to 0': ({'truncate_prompt_tokens': 0}, 'truncate_prompt_tokens', 'at least 1, or -1'),
    'options of no stream': ({'stream_options': {'include_usage': True}}, 'stream_options', 'only goes with stream=true'),
    'nothing to go on with': ({'continue_final_message': True}, 'messages', 'a last message of role assistant'),
    'a field of the other route': ({'echo': True}, 'echo', 'echo is not a field of this request'),
    'a field of others': ({'reasoning_effort': 'low'}, 'reasoning_effort', 'is not a field of this request, which has model'),
    'a list': ([USER], None, 'should be a JSON object'),
}


@pytest.mark.parametrize('body, param, words', BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_refused_with_one_line_in_openais_shape(served, body, param, words):
    if isinstance(body, dict) and not body.keys() & {'messages', 'prompt'} and body:
        body = {'messages': HI, **body}
    answer = served.http.post('v1/chat/completions', content=json.dumps(body), headers=JSON)
    assert answer.status_code == 400
    error = answer.json()['error']
    assert error.keys() == {'message', 'type', 'param', 'code'} and error['type'] == 'invalid_request_error'
    assert error['param'] == param and words in error['message'] and '\n' not in error['message'] and len(error['message']) < 330


def test_megabytes_are_refused_as_they_arrive(served):
    answer = served.post({'messages': [{**USER, 'content': 'a' * 10_000_000}]}, 'v1/chat/completions')
    assert answer.status_code == 413 and 'bytes' in answer.json()['error']['message']
    with pytest.raises(openai.NotFoundError, match='chatty'):
        served.client.chat.completions.create(model='gpt-5', messages=HI)
    assert served.http.post('v1/chat/completions', content='{}', headers={'Content-Type': 'text/plain'}).status_code == 415


WITHOUT_EFFECT = {
    'continue_final_message': [None, False], 'frequency_penalty': [None, 0, 0.0], 'function_call': [None, 'none'], 'functions': [None, []],
    'logit_bias': [None, {}], 'logprobs': [None, False], 'max_completion_tokens': [None, 9], 'max_tokens': [None, 9], 'model': [None, 'chatty'],
    'n': [None, 1], 'presence_penalty': [None, 0], 'repetition_penalty': [None, 1], 'response_format': [None, {'type': 'text'}], 'seed': [7],
    'stop': [None, [], 'not there'], 'stream': [None, False], 'stream_options': [None], 'temperature': [None, 1], 'tool_choice': [None, 'none'],
    'tools': [None], 'top_k': [None, 0, -1], 'top_logprobs': [None], 'top_p': [None, 1], 'truncate_prompt_tokens': [None, -1, 50],
    'user': [None, 'somebody']}


def test_every_field_may_be_null_or_have_the_value_that_changes_nothing(served):
    plain = {'messages': HI, 'seed': 7, 'max_tokens': 9}
    assert WITHOUT_EFFECT.keys() | {'messages'} == ChatRequest.model_fields.keys()
    expected = served.post(plain, 'v1/chat/completions').json()['choices']
    for field, values in WITHOUT_EFFECT.items():
        for value in values:
            body = {**plain, **({'max_completion_tokens': 9} if field == 'max_tokens' else {}), field: value}
            assert served.post(body, 'v1/chat/completions').json().get('choices') == expected, (field, value)


def test_the_models_entry_says_whether_it_chats_and_one_that_does_not_has_no_route(served, folder):
    assert served.http.get('v1/models').json()['data'][0]['chat'] is True
    assert served.http.get('v1/models/chatty').json()['chat'] is True
    assert '/v1/chat/completions' in served.http.get('openapi.json').json()['paths']
    with serving(folder) as plain:
        assert plain.http.get('v1/models').json()['data'][0]['chat'] is False
        assert '/v1/chat/completions' not in plain.http.get('openapi.json').json()['paths']
        with pytest.raises(openai.NotFoundError, match='this model was not trained on conversations, .* POST /v1/completions'):
            plain.client.chat.completions.create(model='tiny', messages=HI)
        assert plain.post({'not': 'right'}, 'v1/chat/completions').status_code == 404


def test_a_client_that_goes_away_leaves_no_work_behind(served):
    async def leave(stream):
        async with httpx.AsyncClient(base_url=served.url, timeout=200) as client:
            async with client.stream('POST', 'v1/chat/completions', json={'messages': HI, 'max_tokens': 4000, 'stream': stream}) as answer:
                async for _ in answer.aiter_bytes():
                    return

    with served.slowly():
        asyncio.run(leave(True))
        with contextlib.suppress(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(leave(False), 0.2))
        served.wait_until_idle()
    assert served.http.get('metrics').text.count('path="/v1/chat/completions",status="200"') == 1


@pytest.mark.slow
def test_random_requests_get_only_answers_that_openapi_json_describes(chat_folder):
    pytest.importorskip('schemathesis')
    with serving(chat_folder, max_new_tokens=4, max_batch=4) as served:
        try_random_requests(served, lambda path: path == '/v1/chat/completions')
