"""Conversations as tokens: who speaks is a special token, and what is said is text.

    <|endoftext|><|user|>Spell cat.<|end|><|assistant|>c-a-t<|end|><|user|>Thanks!<|end|><|assistant|>

    tokenizer = with_chat_tokens(Tokenizer.gpt2())            # 50,257 entries and four more
    ids, counted = encode_conversation(messages, tokenizer)   # to train on: only what the assistant says counts
    ids = encode_prompt(messages, tokenizer)                  # to be answered: ends with <|assistant|>

A message is {'role': 'system' | 'user' | 'assistant', 'content': text}. A conversation may begin with a system message; then
user and assistant take turns. Text that spells a special token stays text. JINJA is the template for transformers and others,
which make tokens of the whole text: a special token that is spelled becomes one there, and no call of a calculator is cut.

What the assistant says is encoded in pieces, cut where a calculator takes over in a call such as `<<48/2=24>>`, so that the
model sees the same tokens in training as when the calculator writes them: in GPT-2's vocabulary `=-` is one token, and a
model that has learned to write it would be past the `=` before the calculator could answer.

This file knows nothing of models, or of where conversations come from.
"""
import re

import numpy as np

from bpe import Tokenizer
from runtime.errors import BadInput

ROLES = ('system', 'user', 'assistant')
END = '<|end|>'
CHAT_TOKENS = ('<|system|>', '<|user|>', '<|assistant|>', END)
CALL = re.compile(r'<<([^<>]*)=([^<>=]*)>>')  # of the calculator; the expression is all that comes before the last =

# {% generation %} marks what the assistant says, for apply_chat_template(return_assistant_tokens_mask=True).
JINJA = """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('the role of a message should be system, user or assistant') }}
    {%- endif %}
    {{- '<|' + message.role + '|>' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
            {{- message.content + '<|end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def with_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the special tokens of a conversation behind its other ids, if it has them not yet."""
    return tokenizer.with_special_tokens(CHAT_TOKENS)


def has_chat_tokens(tokenizer: Tokenizer) -> bool:
    """Whether a model of this tokenizer can have been trained on conversations."""
    return all(token in tokenizer.special_tokens for token in CHAT_TOKENS)


def stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens at which an answer ends: <|end|>, and those that only other places of a conversation have."""
    return tuple(tokenizer.special_tokens[token] for token in (END, *CHAT_TOKENS[:-1])) + (tokenizer.eot,)


def check_messages(messages: list[dict]):
    """Raises ValueError, whose text names the message, for what is no conversation. Its content is text already."""
    if not messages:
        raise ValueError('there are no messages; send at least one of role user')
    expected = ('system', 'user')
    for number, message in enumerate(messages):
        role = message['role']
        if role not in ROLES:
            raise ValueError(f'message {number} has the role {role!r:.60}; there are system, user and assistant')
        if role not in expected:
            after = f'behind one of role {messages[number - 1]["role"]}' if number else 'as the first one'
            raise ValueError(f'message {number} has the role {role} {after}; a system message may come first, then user and '
                             'assistant take turns')
        if not message['content'].strip():
            raise ValueError(f'message {number}, of role {role}, is empty')
        expected = ('assistant',) if role == 'user' else ('user',)


def check_question(messages: list[dict]):
    """Raises ValueError for what is no conversation that can be answered."""
    check_messages(messages)
    if messages[-1]['role'] != 'user':
        raise ValueError(f'the last message has the role {messages[-1]["role"]}; one of role user is what can be answered')


def encode_conversation(messages: list[dict], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a conversation, (n,) uint16, and whether each counts as a target, (n,) bool.

    What the assistant says counts, with the <|end|> behind it. Raises ValueError as check_messages does.
    """
    check_messages(messages)
    ids, counted = [tokenizer.eot], [False]
    for message in messages:
        tokens = encode_message(message, tokenizer)
        ids += tokens
        counted += [False] + [message['role'] == 'assistant'] * (len(tokens) - 1)
    return np.array(ids, dtype=np.uint16), np.array(counted)


def encode_message(message, tokenizer):
    """<|ROLE|>, the content and <|end|>, as ids."""
    role, content, special = message['role'], message['content'], tokenizer.special_tokens
    ids = encode_answer(content, tokenizer) if role == 'assistant' else tokenizer.encode(content)
    return [special[f'<|{role}|>'], *ids, special[END]]


def encode_answer(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of what a model writes, in pieces: up to the = of a call, its result with >>, and what follows."""
    ids, end = [], 0
    for call in CALL.finditer(text):
        result = call.start(2)
        ids += tokenizer.encode(text[end:result]) + tokenizer.encode(text[result:call.end()])
        end = call.end()
    return ids + tokenizer.encode(text[end:])


def encode_prompt(messages: list[dict], tokenizer: Tokenizer, most: int | None = None) -> list[int]:
    """The tokens of a conversation and <|assistant|>, which an answer follows.

    most: so many tokens at most; the oldest turns, each of a user's message and its answer, are left out until they fit,
    but the system message stays. Raises ValueError if not even the last message fits, and as check_question does.
    """
    check_question(messages)
    has_system = messages[0]['role'] == 'system'
    system = encode_message(messages[0], tokenizer) if has_system else []
    encoded = [encode_message(message, tokenizer) for message in messages[has_system:]]
    around = [tokenizer.eot, *system], [tokenizer.special_tokens['<|assistant|>']]
    n_tokens = sum(map(len, encoded)) + sum(map(len, around))
    while most is not None and n_tokens > most:
        if len(encoded) == 1:
            raise ValueError(f'the last message{" and the system message have" if has_system else " has"} {n_tokens:,} tokens, '
                             f'more than the {max(0, most):,} that there is room for')
        n_tokens -= len(encoded[0]) + len(encoded[1])
        encoded = encoded[2:]
    return around[0] + [token for tokens in encoded for token in tokens] + around[1]


def encode_with_room(messages: list[dict], tokenizer: Tokenizer, block_size: int, n_new: int) -> list[int]:
    """encode_prompt of as many turns as leave room in the context for n_new tokens, or for a quarter of it if they are more.

    A last message that is too long for this may take the whole context.
    """
    try:
        return encode_prompt(messages, tokenizer, block_size - min(n_new, block_size // 4))
    except ValueError:
        return encode_prompt(messages, tokenizer, block_size)


def need_chat_tokens(tokenizer: Tokenizer, source: str):
    """Raises BadInput if `source`, a model, was trained without the special tokens of a conversation."""
    if not has_chat_tokens(tokenizer):
        raise BadInput(f'{source} was not trained on conversations: its tokenizer has no {CHAT_TOKENS[1]}; '
                       '`python train.py config/finetune_chat.py` teaches GPT-2 to answer, `make chat` a small model')
