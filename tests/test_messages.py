"""Every message that the sources can print, in one table to read side by side: `python tests/test_messages.py`.

The tests check what can be checked of wording. Whether a stranger understands a message, only a reader can tell: read the
table after changing some.
"""
import ast
import re
import subprocess

from conftest import ROOT

SAID_BY = ('BadInput', 'Diverged', 'ProcessesLost', 'warn', 'warn_once', 'print0', 'print', 'write', 'say', 'log_line')


def message_of(node):
    """The text of a string or an f-string, with the source of what is filled in between braces; None for other nodes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(part.value if isinstance(part, ast.Constant) else f'{{{ast.unparse(part.value)}}}' for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [message_of(node.left), message_of(node.right)]
        return None if sides == [None, None] else ''.join('{...}' if side is None else side for side in sides)
    if isinstance(node, ast.IfExp):
        return message_of(node.body) or message_of(node.orelse)
    return None


def messages(path):
    """[(line, function, message)] of a source."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, 'id', getattr(node.func, 'attr', None))
            is_tqdm = name != 'write' or getattr(getattr(node.func, 'value', None), 'id', None) == 'tqdm'
            if name in SAID_BY and is_tqdm and (message := message_of(node.args[0])) and re.search('[a-z]{3}', message):
                found.append((node.lineno, name, message))
    return sorted(found)


def all_messages():
    listed = subprocess.run(['git', '-C', ROOT, 'ls-files', '*.py'], capture_output=True, text=True, check=True).stdout.split()
    return [(name, *message) for name in listed if not name.startswith('tests/') for message in messages(ROOT / name)]


ADVICE = re.compile(r'should|needs|did you mean|instead|;|--|\bor\b')
ABOUT_A_SETTING = re.compile(r'^(--)?(\w+|\{key\})=')
JARGON = re.compile(r'\b(invalid|illegal|dicts?|tuples?|kwargs|args|stdin|stderr|fatal|oops|please)\b', re.I)
COUNTED_BY_HAND = re.compile(r'\{[^{}]*(\blen\(|_count\(|\bn_)[^{}]*\} (\w+ )?'
                             r'(documents|files|rows|lines|processes|shards|examples|requests|devices|checkpoints)\b')


def test_no_message_ends_in_a_full_stop_or_has_words_of_programmers():
    for place, _, _, message in all_messages():
        assert not re.search(r'[^.]\.$', message), f'{place}: {message}'
        words = re.sub(r'\{[^{}]*\}|`[^`]*`', '', message)
        assert not JARGON.search(words), f'{place}: {message}'


def test_bad_input_is_one_line_and_for_a_setting_says_what_would_be_right():
    found = [(place, message) for place, _, said_by, message in all_messages() if said_by == 'BadInput']
    assert len(found) > 150
    for place, message in found:
        assert '\\n' not in message, f'{place}: {message}'
        assert not ABOUT_A_SETTING.search(message) or ADVICE.search(message), f'{place}: {message}'


def test_what_may_be_one_is_counted_by_the_helper():
    for place, _, _, message in all_messages():
        assert not COUNTED_BY_HAND.search(message), f'{place}: {message}'


def test_the_rules_see_what_is_against_them():
    assert JARGON.search('the dict is wrong') and COUNTED_BY_HAND.search('{len(x)} whole shards')
    assert ABOUT_A_SETTING.search('seed={seed} is odd') and not ADVICE.search('seed={seed} is odd')
    assert not COUNTED_BY_HAND.search("{plural(len(x), 'shard')} here")


if __name__ == '__main__':
    for name, line, said_by, message in all_messages():
        print(f'{name}:{line}\t{said_by}\t{message!r}')
