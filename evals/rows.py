"""The rows of a task: from a file as its authors published it, or from the Hugging Face hub; checked field by field.

    for row in read_rows_of(data, 'piqa', 'dev.jsonl'): ...
    row.text('goal'); row.number('label', range(2))        # BadInput that names the row and the field

Knows nothing about what becomes of a row.
"""
import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from runtime.errors import BadInput
from runtime.text_files import read_text
from runtime.words import plural
from sources import hub_rows, lines_of, read_rows


class Row:
    """One row of a task. Every reader raises BadInput, one line that names the row, if the field is not what it should be."""

    def __init__(self, place: str, values: object):
        self.place, self.values = place, values if isinstance(values, dict) else {}
        if not isinstance(values, dict):
            raise BadInput(f'{place} should be an object with named fields')

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str, may_be_empty: bool = False) -> str:
        return self.check_text(self.values.get(name), name, may_be_empty)

    def texts(self, name: str, n: int | None = None) -> list[str]:
        """A list of n texts, or of two or more."""
        values = self.values.get(name)
        if not isinstance(values, list) or len(values) < 2 or n not in (None, len(values)):
            self.refuse(name, f'a list of {n or "two or more"} texts')
        return [self.check_text(value, f'{name}[{i}]') for i, value in enumerate(values)]

    def number(self, name: str, allowed: range) -> int:
        """A whole number, which may also be written as text, as the hub has labels."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, str)) or str(value).strip() not in map(str, allowed):
            self.refuse(name, f'a whole number from {allowed[0]} to {allowed[-1]}')
        return int(value)

    def truth(self, name: str) -> bool:
        """true or false, or 1 or 0, as the hub has them."""
        value = self.values.get(name)
        if not isinstance(value, int) or value not in (0, 1):
            self.refuse(name, 'true or false')
        return bool(value)

    def one_of(self, name: str, words: list[str]) -> int:
        """The place of a text among `words`."""
        value = self.text(name).strip()
        if value not in words:
            self.refuse(name, f'one of {", ".join(words)}')
        return words.index(value)

    def inside(self, name: str) -> 'Row':
        """The fields of an object in this row."""
        if not isinstance(self.values.get(name), dict):
            self.refuse(name, 'an object with named fields')
        return Row(f'{self.place}, {name}', self.values[name])

    def rows(self, name: str) -> list['Row']:
        """A list of two or more objects in this row."""
        values = self.values.get(name)
        if not isinstance(values, list) or len(values) < 2:
            self.refuse(name, 'a list of two or more objects')
        return [Row(f'{self.place}, {name}[{i}]', value) for i, value in enumerate(values)]

    def check_text(self, value, name, may_be_empty=False):
        if not isinstance(value, str) or not (may_be_empty or value.strip()):
            self.refuse(name, 'a text' if may_be_empty else 'a text that is not empty', value)
        return value

    def refuse(self, name, expected, value=None):
        value = self.values.get(name) if value is None else value
        found = 'is missing' if value is None else 'is empty' if value == '' else f'is {shown(value)}'
        raise BadInput(f'{self.place}: {name} {found}, and should be {expected}')


def shown(value):
    text = repr(value)
    return text if len(text) <= 40 else f'{text[:40]}...'


class Published(NamedTuple):
    """Where the rows of a task are."""
    hub: str                                # name of the dataset on the hub
    config: str | None = None
    split: str = 'validation'
    examples: str | None = 'train'          # the hub's split that examples in a prompt are from; None: the same split
    files: tuple[str, ...] = ()             # names as published, for a --source that is a folder
    labels: str = ''                        # what replaces .jsonl in the name of a file of labels that stands beside
    read: Callable | None = None            # path -> (place, values) of each row, if the file is no .jsonl


def read_rows_of(data: Published, name: str, source: str | None, limit: int | None = None,
                 split: str | None = None) -> list[Row]:
    """The rows of a task: of the file `source`, or of `split` on the hub. Raises BadInput if there are none."""
    if source is None:
        rows = hub_rows(data.hub, data.config, split or data.split)
    else:
        rows = data.read(source) if data.read else read_rows(source)
        if data.labels:
            rows = with_labels(rows, source, os.path.splitext(source)[0] + data.labels, limit)
    rows = [Row(place, values) for place, values in itertools.islice(rows, limit)]
    if not rows:
        raise BadInput(f'{source or data.hub} has no rows of {name}; it should have at least one')
    return rows


def with_labels(rows, source, labels_path, limit):
    """Yields rows with the field `label` from the file beside, a label a line; rows that have one of their own keep it."""
    labels = None
    for i, (place, values) in enumerate(rows):
        if not isinstance(values, dict) or 'label' in values:
            yield place, values
            continue
        if labels is None:
            if not os.path.exists(labels_path):
                raise BadInput(f'{place} has no label, and there is no file {labels_path}; the labels of {source} should stand '
                               'there, one a line')
            labels = [line.strip() for line in text_lines(labels_path)]
        if i >= len(labels):
            raise BadInput(f'{labels_path} has {plural(len(labels), "label")}, and {place} is a row more; each row needs one')
        yield place, {**values, 'label': labels[i]}
    if labels is not None and limit is None and len(labels) != i + 1:
        raise BadInput(f'{labels_path} has {plural(len(labels), "label")} for the {plural(i + 1, "row")} of {source}; each row '
                       'needs one')


def text_lines(path: str) -> Iterator[str]:
    """Yields the lines of a text file, without line ends."""
    for line in lines_of(read_text(path), path):
        yield line.rstrip('\r\n')


def passages(path: str) -> Iterator[tuple[str, dict]]:
    """(place, {'text': line}) of each line of a text, or of each row of a .jsonl file."""
    if re.search(r'\.jsonl(\.\w+)?$', path):
        yield from read_rows(path)
        return
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            yield f'{path}, line {number}', {'text': line}


def book_tests(path: str) -> Iterator[tuple[str, dict]]:
    """(place, values) of each question of the Children's Book Test: 20 numbered sentences, and the 21st with a gap.

    Behind the 21st stand, after tabs, the answer and the choices with | between them. A blank line ends a question.
    """
    if re.search(r'\.jsonl(\.\w+)?$', path):
        yield from read_rows(path)
        return
    sentences, place = [], None
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        place = place or f'{path}, line {number}'
        index, _, rest = line.partition(' ')
        if index == '21' and rest.count('\t') >= 2:
            question, answer, *_, options = rest.split('\t')
            yield place, {'sentences': sentences, 'question': question, 'answer': answer, 'options': options.split('|')}
            sentences, place = [], None
        elif index == str(len(sentences) + 1):
            sentences.append(rest)
        else:
            raise BadInput(f'{path}, line {number} is not of the Children\'s Book Test; it should have the number '
                           f'{len(sentences) + 1}, and the line with the number 21 tabs before its answer and its choices')
    if sentences:
        raise BadInput(f'{place} begins a question that the file does not end; it should have 21 lines')


def find_file(source: str, name: str, files: tuple[str, ...]) -> str:
    """The file of a task under a --source: that file, or in a folder, or in the task's own folder there, one of `files`."""
    if not os.path.isdir(source):
        return source
    for folder in (os.path.join(source, name), source):
        for file in files:
            if os.path.isfile(path := os.path.join(folder, file)):
                return path
    raise BadInput(f'{source} has no file for {name}, such as {os.path.join(name, files[0])}')
