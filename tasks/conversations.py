"""Conversations in the shapes that people have them in, as messages; and pairs of a better and a worse answer.

    for place, row in read_rows_of('chats.jsonl'):
        messages = to_messages(row, shape_of(row), place)      # [{'role': 'user', 'content': 'Hi'}, ...]

This file knows nothing of tokens or models.
"""
import collections
import functools
import itertools
import sys
from collections.abc import Iterator

from chat_template import check_messages
from configurator import shorten
from runtime.errors import BadInput
from runtime.files import find_files
from runtime.words import plural
from sources import TABLE_NAME, hub_rows, name_on_hub, read_records
from tasks.gsm8k import split_sources
from tasks.instructions import generate_conversations

SHAPES = {  # the keys that tell a shape, and an example of it
    'messages': (('messages',), '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'),
    'conversations': (('conversations',),
                      '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}'),
    'instruction': (('instruction', 'output'), '{"instruction": "Sort these.", "input": "3 1 2", "output": "1 2 3"}'),
    'prompt': (('prompt', 'completion'), '{"prompt": "Hi", "completion": "Hello"}'),
    'question': (('question', 'answer'), '{"question": "What is 2+3?", "answer": "<<2+3=5>>5"}'),
}
PREFERENCE = '{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, or instruction and input in place of prompt'
SPEAKERS = {'human': 'user', 'gpt': 'assistant', 'chatgpt': 'assistant', 'bot': 'assistant', 'model': 'assistant',
            'developer': 'system'}  # what other programs call our roles


# ---------------------------------------------------------------------------- rows

def read_rows_of(source: str, dataset_config: str | None = None, dataset_split: str = 'train') -> Iterator[tuple[str, dict]]:
    """Yields (place, row) of files, a folder, a glob, or a dataset on the Hugging Face hub."""
    files = local_files(source)
    if files is None:
        return hub_rows(source, dataset_config, dataset_split)
    return itertools.chain.from_iterable(map(read_records, files))


def local_files(source: str) -> list[str] | None:
    """The tables that a source names, or None if it is a dataset on the hub."""
    if name_on_hub(source):
        return None
    try:
        files = find_files(source)
    except BadInput as error:
        raise BadInput(f'{error}; --source takes files, a folder, a glob, or the name of a dataset on the Hugging Face '
                       'hub') from None
    if others := [path for path in files if not TABLE_NAME.search(path)]:
        raise BadInput(f'{others[0]} is no table; conversations come as .jsonl, .json, .parquet or .csv, one in each row')
    return files


def shape_of(row: dict) -> str | None:
    """The name of a row's shape, or None."""
    return next((name for name, (keys, _) in SHAPES.items() if all(row.get(key) is not None for key in keys)), None)


def to_messages(row: dict, shape: str, place: str) -> list[dict]:
    """The messages of a row of a shape. Raises BadInput, with its place, for values of another kind than text."""
    if shape == 'messages':
        return [message_of(message, 'role', 'content', place) for message in list_of(row['messages'], 'messages', place)]
    if shape == 'conversations':
        return [message_of(message, 'from', 'value', place) for message in
                list_of(row['conversations'], 'conversations', place)]
    _, answer = SHAPES[shape][0]
    return [message('user', question_of(row, place)), message('assistant', text_of(row[answer], answer, place))]


def question_of(row, place):
    """What a row without a list of messages asks: an instruction with its input, a prompt, or a question."""
    key = next((key for key in ('instruction', 'prompt', 'question') if row.get(key) is not None), 'prompt')
    question, more = text_of(row.get(key), key, place), row.get('input') if key == 'instruction' else None
    return f'{question}\n\n{text_of(more, "input", place)}' if more else question


def message(role, content):
    return {'role': role, 'content': content}


def message_of(entry, role_key, content_key, place):
    if not isinstance(entry, dict) or not isinstance(entry.get(role_key), str):
        raise BadInput(f'{place}: a message should be an object with {role_key} and {content_key}, not {shorten(str(entry))}')
    role = entry[role_key]
    return message(SPEAKERS.get(role, role), text_of(entry.get(content_key), content_key, place))


def list_of(value, key, place):
    if not isinstance(value, list):
        raise BadInput(f'{place}: {key} should be a list of messages, not {shorten(str(value))}')
    return value


def text_of(value, key, place):
    """A content as text: it may be a list of parts that hold text, as OpenAI writes it; None, as of a call of a tool, is ''."""
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get('text'), str) for part in value):
        return ''.join(part['text'] for part in value)
    if not isinstance(value, (str, type(None))):
        raise BadInput(f'{place}: {key} should be text, not {shorten(str(value))}')
    return value or ''


# ---------------------------------------------------------------------------- conversations

def read_conversations(sources: str, n_generated: int = 0, seed: int = 0, dataset_config: str | None = None,
                       dataset_split: str = 'train', system: str | None = None) -> Iterator[list[dict]]:
    """Yields the messages of each conversation of sources with commas between them.

    system: the system message of conversations that have none. All rows of a source have one shape, which is said; rows that
    are no conversation, as when roles are out of order, are left out and counted. Raises BadInput if none is left.
    """
    for source in split_sources(sources):
        if source == 'generated':
            generated = itertools.islice(generate_conversations('train', seed), n_generated)
            conversations = (conversation['messages'] for conversation in generated)
        else:
            conversations = conversations_of(source, read_rows_of(source, dataset_config, dataset_split))
        for messages in conversations:
            yield messages if system is None or messages[0]['role'] == 'system' else [message('system', system), *messages]


def conversations_of(source, rows):
    """The messages of each row of a source whose shape is that of the first."""
    shape, n_rows, left_out = None, 0, collections.Counter()
    for place, row in rows:
        n_rows += 1
        found = shape_of(row)
        if found is None or shape not in (None, found):
            before = f', where rows before it have {", ".join(SHAPES[shape][0])}' if shape else ''
            raise BadInput(f'{place} has the keys {shorten(", ".join(row))}{before}; all rows should have one of these shapes:',
                           [example for _, example in SHAPES.values()])
        if shape is None:
            shape = found
            say_once(f'{source}: {" and ".join(SHAPES[shape][0])} in each row')
        messages = to_messages(row, shape, place)
        if messages and messages[-1]['role'] == 'user':  # nobody answers it
            messages.pop()
        try:
            check_messages(messages)
            if messages[-1]['role'] != 'assistant':
                raise ValueError('nothing in it is an answer')
        except ValueError as error:
            left_out[str(error)] += 1
            continue
        yield messages
    if n_rows and sum(left_out.values()) == n_rows:
        raise BadInput(f'{source} has no conversation: {left_out.most_common(1)[0][0]}')
    if left_out:
        reason, n = left_out.most_common(1)[0]
        say_once(f'{source}: left out {plural(sum(left_out.values()), "row")} of {n_rows:,}; most often ({n:,}) as {reason}')


@functools.cache
def say_once(line):
    """A line on stderr; conversations are read several times."""
    print(line, file=sys.stderr)


def first_question(messages: list[dict]) -> str:
    """By its hash, conversations are trained on or held out: so what begins alike is on the same side, in tasks.dpo too."""
    return next(message['content'] for message in messages if message['role'] == 'user')


# ---------------------------------------------------------------------------- preferences

def read_preferences(source: str, dataset_config: str | None = None, dataset_split: str = 'train') -> list[tuple]:
    """[(messages up to the last of role user, the better answer, the worse answer)] of each row of a source.

    prompt, chosen and rejected are text, or lists of messages, of which chosen and rejected may repeat the prompt's (as
    trl has them). Raises BadInput for a row that has no such values, with its place.
    """
    return [preference_of(row, place) for place, row in read_rows_of(source, dataset_config, dataset_split)]


def preference_of(row, place):
    answers = [row.get(key) for key in ('chosen', 'rejected')]
    if None in answers:
        raise BadInput(f'{place} has the keys {shorten(", ".join(row))}; a row should be such as', [PREFERENCE])
    conversations = [[message_of(entry, 'role', 'content', place) for entry in answer] if isinstance(answer, list) else
                     [message('assistant', text_of(answer, 'chosen or rejected', place))] for answer in answers]
    prompt = row.get('prompt')
    if isinstance(prompt, list):
        prompt = [message_of(entry, 'role', 'content', place) for entry in prompt]
    elif prompt is None and len(conversations[0]) > 1:
        prompt = conversations[0][:-1]
    else:
        prompt = [message('user', question_of(row, place))]
    for conversation in conversations:
        if not conversation or conversation[-1]['role'] != 'assistant':
            raise BadInput(f'{place}: chosen and rejected should end with a message of role assistant')
        if conversation[:-1] not in ([], prompt):
            raise BadInput(f'{place}: chosen and rejected should answer the same messages')
        try:
            check_messages([*prompt, conversation[-1]])
        except ValueError as error:
            raise BadInput(f'{place}: {error}') from None
    return prompt, *(conversation[-1]['content'] for conversation in conversations)
