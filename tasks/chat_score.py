"""How many conversations a model ends with the right answer, by kind; and one conversation with it.

    python -m tasks.chat_score --out_dir=out/chat                              generated ones, with test wordings and words
    python -m tasks.chat_score --source=FILE.jsonl --out_dir=out/chat --limit=0    {"messages": [...], "kind": ...} on each line
    python -m tasks.chat_score --out_dir=out/chat --chat='Spell "harbour". | And backwards?'       no score, but its answers

The model gets each conversation up to the user's last message, with the earlier answers as they stand there, and writes the
likeliest answer, with the calculator. An answer is right if it equals the one in the conversation; white space is not
compared, nor are calls such as <<48/2=24>> themselves.
"""
import itertools
import json
import os
import re

import chat_template
from configurator import check_bounds, choice, configure, optional
from inference import open_model
from inference.engine import Engine, Request
from runtime.errors import BadInput, one_line_errors
from runtime.files import atomic_write
from runtime.tables import table
from sources import read_rows
from tasks.instructions import generate_conversations
from tasks.solve_rate import generate_many
from tasks.tool_use import Calculator

DEFAULTS = {
    'source': 'generated',  # generated, or a .jsonl file
    'split': choice('test', 'dev', 'train'),  # of generated ones: whose wordings and words
    'limit': 600,  # conversations at most; 0: all of a file, 600 generated ones
    'out_dir': 'out/chat',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead: a checkpoint or a folder in Hugging Face's layout
    'chat': '',  # instead of a score: the model's answers to these questions of one conversation, with | between
    'max_new_tokens': 120,  # longest answer, in tokens
    'seed': 0,  # of generated conversations
    'details': optional(str),  # write every conversation with the answer to this .jsonl file
    'batch_size': 64,  # answers written side by side
    # machine
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of the weights and the arithmetic
}
CALL = re.compile(r'<<[^<>]*>>')


def main(config):
    check_bounds(config, 'max_new_tokens', 'batch_size', at_least=1, at_most=10_000)
    check_bounds(config, 'limit', 'seed', at_least=0, at_most=10**8)
    conversations = [] if config['chat'] else read_conversations(config)
    model, tokenizer, source = open_model(config)
    chat_template.need_chat_tokens(tokenizer, source)
    if config['chat']:
        return show_chat(config['chat'].split('|'), model, tokenizer, config)
    asked = [conversation['messages'][:-1] for conversation in conversations]
    answers = answer_all(asked, model, tokenizer, config, 'answering')
    results = [{**conversation, 'answer': answer, 'right': is_right(answer, conversation['messages'][-1]['content'])}
               for conversation, answer in zip(conversations, answers)]
    print(format_table(results))
    if config['details']:
        with atomic_write(config['details']) as file:
            file.writelines(json.dumps(result, ensure_ascii=False).encode() + b'\n' for result in results)
        print(f'every conversation with the answer: {config["details"]}')


def read_conversations(config):
    """[{'messages', 'kind'}], each of which ends with the reference answer."""
    if config['source'] == 'generated':
        return list(itertools.islice(generate_conversations(config['split'], config['seed']), config['limit'] or 600))
    if not os.path.exists(config['source']):
        raise BadInput(f'no file {config["source"]}; a source is generated or a .jsonl file')
    conversations = []
    for place, row in read_rows(config['source']):
        try:
            chat_template.check_messages(row['messages'])
            if row['messages'][-1]['role'] != 'assistant':
                raise ValueError('the last message should be the answer, of role assistant')
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadInput(f'{place} is no conversation such as {{"messages": [{{"role": "user", "content": "Spell cat."}}, '
                           f'{{"role": "assistant", "content": "c-a-t"}}]}}: {error}') from None
        conversations.append({'messages': row['messages'], 'kind': str(row.get('kind') or 'no kind')})
    if not conversations:
        raise BadInput(f'{config["source"]} has no conversations')
    return conversations[:config['limit'] or None]


def answer_all(conversations, model, tokenizer, config, description=None):
    """The model's answers to conversations that end with a user's message. Of long ones, the oldest turns are left out."""
    engine, calculator = Engine(model, config['batch_size']), Calculator(tokenizer)
    stop_tokens, most = chat_template.stop_tokens(tokenizer), model.config.block_size * 7 // 8
    try:
        prompts = [chat_template.encode_prompt(messages, tokenizer, most) for messages in conversations]
    except ValueError as error:
        raise BadInput(f'a conversation cannot be asked: {error}') from None
    sequences = generate_many(engine, [Request(prompt, config['max_new_tokens'], temperature=0, stop_tokens=stop_tokens,
                                               tool=calculator) for prompt in prompts], description)
    return [tokenizer.decode([token for token in sequence.tokens if token not in stop_tokens]) for sequence in sequences]


def show_chat(questions, model, tokenizer, config):
    messages = []
    for question in questions:
        messages.append({'role': 'user', 'content': question.strip()})
        (answer,) = answer_all([messages], model, tokenizer, {**config, 'batch_size': 1})
        messages.append({'role': 'assistant', 'content': answer or '...'})
        print(f'user       {question.strip()}\nassistant  {CALL.sub("", answer)}')


def is_right(answer: str, reference: str) -> bool:
    return compared(answer) == compared(reference)


def compared(answer):
    """An answer without calls and with single spaces."""
    return ' '.join(CALL.sub('', answer).split())


def format_table(results):
    rows = [['kind', 'conversations', 'right']]
    for kind in [*sorted({result['kind'] for result in results}), 'all']:
        chosen = [result['right'] for result in results if kind in (result['kind'], 'all')]
        rows.append([kind, str(len(chosen)), f'{sum(chosen) / len(chosen):.1%}'])
    return table(rows)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
