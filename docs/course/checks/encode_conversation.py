"""What the exercise encode_conversation is compared with; examine.py describes the parts."""
import functools
import types

import chat_template

SPECIAL = {'<|endoftext|>': 256, '<|system|>': 257, '<|user|>': 258, '<|assistant|>': 259, '<|end|>': 260}
HINTS = (
    "Build both lists side by side: for each message one token of its role, f'<|{role}|>', then its content and "
    '<|end|>.',
    "said = [*encode(content), special['<|end|>']]; ids gets the token of the role and said; counted gets one False, "
    "and then len(said) times whether the role is 'assistant'. Both begin with one entry for <|endoftext|>.",
)


def cases():
    user, assistant = ({'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Yes'})
    yield 'a question and an answer', ([user, assistant],)
    yield 'two turns', ([user, assistant, {'role': 'user', 'content': 'So'}, {'role': 'assistant', 'content': 'No'}],)
    yield 'a system message', ([{'role': 'system', 'content': 'Be kind'}, user, assistant],)
    yield 'a user who types <|end|>, which stays text', ([{'role': 'user', 'content': '<|end|>'}, assistant],)
    yield 'a question without an answer', ([user],)


def encode_bytes(text):
    return list(text.encode())


def run(encode_conversation, messages):
    result = encode_conversation(messages, encode_bytes, SPECIAL)
    if result is None:
        return None
    ids, counted = result
    return {'ids': list(ids), 'counted': [bool(counts) for counts in counted]}


def expected(messages, encode, special):
    tokenizer = types.SimpleNamespace(encode=encode, special_tokens=special, eot=special['<|endoftext|>'])
    ids, counted = chat_template.encode_conversation(messages, tokenizer)
    return ids.tolist(), counted.tolist()


def variant(messages, encode, special, end=True, role=False, user=False, begins=True):
    ids, counted = ([special['<|endoftext|>']], [False]) if begins else ([], [])
    for message in messages:
        content, learned = encode(message['content']), user or message['role'] == 'assistant'
        ids += [special[f'<|{message["role"]}|>'], *content, special['<|end|>']]
        counted += [learned and role, *[learned] * len(content), learned and end]
    return ids, counted


def special_in_text(messages, encode, special):
    ids, counted = [], []
    for message in messages:
        part, learned = variant([message], lambda text: [special[text]] if text in special else encode(text), special)
        ids, counted = ids + (part[1:] if ids else part), counted + (learned[1:] if counted else learned)
    return ids, counted


FAULTS = {
    'the <|end|> of an answer is not learned, so the model would never stop': functools.partial(variant, end=False),
    'the token <|assistant|> is learned; whoever asks writes it': functools.partial(variant, role=True),
    'what others say is learned, too': functools.partial(variant, user=True),
    'the <|endoftext|> at the beginning is missing': functools.partial(variant, begins=False),
    'a text that spells a special token becomes one; give all contents to `encode`': special_in_text,
}
