"""Generated instructions: their answers beside another solver, what the splits do not share, and the score."""
import itertools
import json
import re

import pytest
import torch

import export
from bpe import Tokenizer
from chat_template import with_chat_tokens
from configurator import configure
from model import GPT, GPTConfig
from runtime.errors import BadInput
from tasks import chat_score, instructions
from tasks.chat_score import is_right
from tasks.instruction_answers import FIXED, TASKS
from tasks.instruction_words import ORDINARY, SPLITS, WORDINGS, split_of
from tasks.instructions import generate_conversations

SLOT = re.compile(r'\{\w+\}')
NUMBERS = 'zero one two three four five six seven eight nine ten'.split()


def take(split, n, seed=0, wordings=None):
    return list(itertools.islice(generate_conversations(split, seed, wordings), n))


def words_of(text):
    return {word for word in re.findall('[a-z]{3,}', text.lower()) if word not in ORDINARY}


def expansions(text):
    """All texts that a wording with [a|b] stands for."""
    found = re.search(r'\[([^\[\]]*)\]', text)
    if not found:
        return {' '.join(text.split()).replace(' ?', '?').replace(' ,', ',').replace(' :', ':')}
    return set().union(*(expansions(text[:found.start()] + option + text[found.end():]) for option in found[1].split('|')))


def wordings_of(split):
    """The wordings of a split without marks, punctuation at the end, and case, by task."""
    return {(task, text.lstrip('*~ ').rstrip('?.!').lower()) for task in TASKS for line in WORDINGS[task]
            for text in expansions(line) if split_of(text) == split}


# ---------------------------------------------------------------------------- answers

def plain_wordings():
    """Wordings from which a program can see what is asked: the task, and what it is about between bars."""
    slots = {'word': '{w}', 'list': '{bare}', 'numbers': '{numbers}', 'text': '{text}', 'number': '{a}'}
    more = {'letter count': '|{cs}', 'repeat': '|{times}', 'join': '|{sep}', **dict.fromkeys(('add', 'subtract', 'multiply'), '|{b}')}
    wordings = {section: WORDINGS[section] for section in ('sentences', 'system')} | {'it': ['it']}
    for task, (_, _, need) in TASKS.items():
        fresh, later = f'* {task}|{slots.get(need, "")}{more.get(task, "")}|', f'~ {task}|it{more.get(task, "")}|'
        wordings[task] = [fresh] * (need != 'any') + [later] * (need is not None)
    return wordings


class Solver:
    """Answers the plain wordings in their order, remembering what "it" is."""

    def __init__(self):
        self.it, self.before = {}, None

    def answer(self, question):
        task, subject, *more = question.strip(' .!?').strip('|').split('|') + ['']
        self.before = task
        if task in FIXED:
            self.it = {}
            return FIXED[task]
        need = TASKS[task][2]
        if subject != 'it':
            self.it = {need: self.parse(need, subject)}
        self.it = {need: self.it[need]}  # and what comes of it
        shown, result = getattr(self, task.replace(' ', '_'))(self.it[need], *more[:-1])
        for key, tasks in (('word', 'reverse upper lower find_quote'),
                           ('number', 'add subtract multiply larger smaller')):
            if task.replace(' ', '_') in tasks.split():
                self.it[key] = result
        if task == 'repeat':
            self.it = {}
        return f'{shown}{result}'

    def parse(self, need, text):
        if need == 'word':
            return re.search(r'''^(?:the word )?["']?(\w+)["']?$''', text)[1]
        if need == 'list':
            return [word for word in re.findall(r'\w+', text) if ',' not in text or word not in ('and', 'or')]
        return re.findall(r'\d+', text) if need == 'numbers' else text

    def spell(self, word):
        return re.sub(r'\B', '-', word), ''

    def reverse(self, word):
        backwards = ''
        for letter in word:
            backwards = letter + backwards
        return f'{self.spell(word)[0]} -> {self.spell(backwards)[0]} -> ', backwards

    def length(self, word):
        return ' '.join(map('{}{}'.format, word, range(1, 99))) + ' -> ', len(word)

    def letter_count(self, word, letters):
        return self.mark(word, re.sub(r"\bletters?\b|\W|s\b", '', letters) or 's')

    def mark(self, word, letters):
        marked, n = list(word), 0
        for place in [i for i, letter in enumerate(word) if letter in letters]:
            n += 1
            marked[place] += str(n)
        return '-'.join(marked) + ' -> ', n

    def upper(self, word):
        return '', ''.join(chr(ord(letter) & ~32) for letter in word)

    def lower(self, word):
        return '', ''.join(chr(ord(letter) | 32) for letter in word)

    def first(self, word):
        return '', re.match('.', word)[0]

    def last(self, word):
        return f'{self.spell(word)[0]} -> ', re.search('.$', word)[0]

    def repeat(self, word, times):
        n = 2 if times == 'twice' else int(times[0]) if times[0].isdigit() else NUMBERS.index(times.split()[0])
        return f'1. {word} 2. {word} 3. {word} 4. {word} 5. {word}'[:(4 + len(word)) * n - 1], ''

    def sort_words(self, words):
        remaining, found = list(words), []
        while remaining:
            found.append(min(remaining))
            remaining.remove(found[-1])
        return ' '.join(word[0] for word in found) + ' -> ', ', '.join(found)

    def sort_up(self, numbers):
        return '', ', '.join(str(n) for n in range(1000) if str(n) in numbers)

    def join(self, words, separator):
        marks = {'com': ', ', 'hyp': '-', 'das': '-', 'sla': '/'}
        text = ' '.join(words)
        return '', text.replace(' ', marks[separator.removeprefix('a ')[:3]])

    def larger(self, numbers):
        return '', self.sort_up(numbers)[1].split(', ')[-1]

    def smaller(self, numbers):
        return '', self.sort_up(numbers)[1].split(', ')[0]

    def find_quote(self, text):
        return '', re.search('"(.*)"', text)[1]

    def find_email(self, text):
        return '', re.search(r'[\w.]+@\w+\.\w+', text)[0]

    def add(self, a, b):
        return self.call(a, '+', b, int(a) + int(b))

    def subtract(self, a, b):
        return self.call(a, '-', b, int(a) - int(b))

    def multiply(self, a, b):
        return self.call(a, '*', b, sum([int(a)] * int(b)))

    def call(self, a, sign, b, result):
        return f'<<{a}{sign}{b}={result}>>', str(result)


@pytest.mark.slow
def test_answers_are_those_of_another_solver():
    seen = set()
    for conversation in take('train', 4000, wordings=plain_wordings()):
        solver = Solver()
        messages = [message['content'] for message in conversation['messages'] if message['role'] != 'system']
        for question, answer in zip(messages[::2], messages[1::2]):
            question = re.sub(r'^\W*', '', question)
            question = question[0].lower() + question[1:]
            assert solver.answer(question) == answer, messages
            seen.add((solver.before, '|it' in question))
    assert {task for task, _ in seen} == set(TASKS)
    assert len({task for task, is_follow_up in seen if is_follow_up}) >= 14


# ---------------------------------------------------------------------------- splits

def test_the_same_seed_gives_the_same_conversations_another_seed_others():
    assert take('train', 50, 5) == take('train', 50, 5)
    assert take('train', 50, 5) != take('train', 50, 6)
    assert take('train', 50, 5) != take('test', 50, 5)


@pytest.mark.slow
def test_no_test_wording_and_no_test_word_is_in_20000_training_conversations(monkeypatch):
    used, phrase = {split: set() for split in SPLITS}, instructions.phrase

    def recorded(wording, slots, writer):
        used[writer.split].add(wording.lstrip('*~ ').rstrip('?.! ').lower())
        return phrase(wording, slots, writer)

    monkeypatch.setattr(instructions, 'phrase', recorded)
    trained = {word for conversation in take('train', 20_000) for message in conversation['messages']
               for word in words_of(message['content'])}
    asked = {word for conversation in take('test', 3000) for message in conversation['messages'] if message['role'] == 'user'
             for word in words_of(message['content'])}
    assert len(used['train']) > 5000 and len(used['test']) > 500 and not used['train'] & used['test']
    assert len(trained) > 5000 and len(asked) > 1000 and not trained & asked


@pytest.mark.parametrize('split', SPLITS)
def test_words_belong_to_the_split(split):
    for conversation in take(split, 500):
        for message in conversation['messages']:
            if message['role'] == 'user':
                assert {split_of(word) for word in words_of(message['content'])} <= {split}


# ---------------------------------------------------------------------------- form

@pytest.mark.parametrize('split', SPLITS)
def test_conversations_have_one_to_four_turns_and_fit_into_the_context(split):
    conversations = take(split, 3000)
    for conversation in conversations:
        roles = [message['role'] for message in conversation['messages']]
        turns = roles[roles[0] == 'system':]
        assert turns == ['user', 'assistant'] * (len(turns) // 2) and 2 <= len(turns) <= 8
        text = ''.join(message['content'] for message in conversation['messages'])
        assert len(text) + 2 * len(roles) + 1 < 256 and text.isascii()
        assert not SLOT.search(text) and '[' not in text and '|' not in text and '  ' not in text
        assert all(message['content'].strip() == message['content'] != '' for message in conversation['messages'])
    assert {len(conversation['messages']) // 2 for conversation in conversations} == {1, 2, 3, 4}
    assert {conversation['kind'] for conversation in conversations} == {kind for kind, _, _ in TASKS.values()} | {'follow-up'}


def test_every_task_has_wordings_in_every_split():
    assert set(WORDINGS) == {*TASKS, 'asking', 'questions', 'it', 'system', 'sentences'}
    assert all({task for task, _ in wordings_of(split)} == set(TASKS) for split in SPLITS)


def test_an_answer_is_compared_without_calls_and_white_space():
    assert is_right(' <<48/2=24>>24 ', '<<2*12=24>>24')
    assert is_right('a  b\n', 'a b')
    assert not is_right('ab', 'a b') and not is_right('Pen', 'pen') and not is_right('', '24')


def test_wordings_of_ones_own_are_written_as_jsonl(tmp_path):
    (tmp_path / 'mine.txt').write_text('== spell\nlet me hear {w} as letters\n')
    config = dict(split='test', seed=0, n=200, wordings=str(tmp_path / 'mine.txt'), to=str(tmp_path / 'mine.jsonl'))
    instructions.main(config)
    lines = (tmp_path / 'mine.jsonl').read_text().splitlines()
    assert len(lines) == 200 and any('et me hear' in line for line in lines)


# ---------------------------------------------------------------------------- the score

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """A folder with a random model that knows the tokens of a conversation."""
    tokenizer = with_chat_tokens(Tokenizer.train(['Spell cat'], 257, progress=False))
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=256, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=16))
    folder = str(tmp_path_factory.mktemp('tiny'))
    export.export(model, tokenizer, folder)
    return folder


def score(**settings):
    chat_score.main(configure(chat_score.DEFAULTS, [f'--{key}={value}' for key, value in settings.items()]))


def test_the_score_asks_the_last_question_after_the_reference_turns(tiny, tmp_path, capsys, monkeypatch):
    conversations = take('test', 12)
    asked = []

    def answer_all(messages_of, *_):
        asked.extend(messages_of)
        return [conversation['messages'][-1]['content'] + '!' * (i < 3) for i, conversation in enumerate(conversations)]

    monkeypatch.setattr(chat_score, 'answer_all', answer_all)
    score(init_from=tiny, limit=12, details=tmp_path / 'details.jsonl', device='cpu')
    assert asked == [conversation['messages'][:-1] for conversation in conversations]
    assert re.search(r'^all +12 +75\.0%$', capsys.readouterr().out, re.MULTILINE)
    rows = [json.loads(line) for line in (tmp_path / 'details.jsonl').read_text().splitlines()]
    assert [row['right'] for row in rows] == [False] * 3 + [True] * 9


def test_a_file_is_scored_with_a_model_and_a_chat_is_shown(tiny, tmp_path, capsys):
    long = [{'role': role, 'content': 'x' * 150} for role in ('user', 'assistant')]
    rows = [{'messages': long * 2, 'kind': 'long'}, {'messages': long[:1] + take('test', 1)[0]['messages'][-1:]}]
    (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    score(init_from=tiny, source=tmp_path / 'rows.jsonl', max_new_tokens=5, device='cpu')
    out = capsys.readouterr().out
    assert re.search(r'^long +1 ', out, re.MULTILINE) and re.search(r'^no kind +1 ', out, re.MULTILINE)
    score(init_from=tiny, chat='Spell cat. | And backwards?', max_new_tokens=5, device='cpu')
    assert re.findall(r'^user +(.*)$', capsys.readouterr().out, re.MULTILINE) == ['Spell cat.', 'And backwards?']


@pytest.mark.parametrize('row', ['{"messages": []}', '{"text": "a"}', '[]', '{"messages": [{"role": "user", "content": "a"}]}',
                                 '{"messages": [{"role": "user"}]}', '{"messages": 3}', '{"messages": [3, 4]}'])
def test_a_file_of_something_else_is_refused_in_one_line(tiny, tmp_path, row):
    (tmp_path / 'rows.jsonl').write_text(row + '\n')
    with pytest.raises(BadInput, match='is no conversation such as'):
        score(init_from=tiny, source=tmp_path / 'rows.jsonl', device='cpu')
    with pytest.raises(BadInput, match='no file'):
        score(init_from=tiny, source=tmp_path / 'nothing.jsonl', device='cpu')
