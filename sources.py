"""Where documents come from: files, folders, tables, datasets on the Hugging Face hub, Python's own source, WikiText.

`find_source` finds the files of a --source, `read_documents` yields their documents in a fixed order. What a document is,
the help of corpus.py says. This module knows nothing of tokens and shards.
"""
import collections
import csv
import functools
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bpe import EOT
from configurator import shorten
from runtime import hub
from runtime.errors import BadInput, first_line, why_not_json
from runtime.files import find_files, open_to_read
from runtime.parallel import ordered_map
from runtime.text_files import MAX_EXPANSION, check_expansion, decoded, n_bytes_of, read_text, unpacked, what_is_wrong

SYNTH = 'PleIAs/SYNTH'
SYNTH_COLUMNS = ('query', 'synthetic_reasoning', 'synthetic_answer')
# Not read as Python's standard library: tests, tables that a program wrote, and packages that were installed later.
NOT_THE_STDLIB = {'encodings', 'pydoc_data', 'lib2to3', 'msilib', 'test', 'tests', 'idle_test', 'site-packages',
                  'dist-packages', 'lib-dynload', '__pycache__', '__phello__'}
GENERATED_FILES = re.compile(r'_sysconfigdata.*|entities\.py|stringprep\.py')
TABLE_NAME = re.compile(r'\.(parquet|jsonl|ndjson|json|csv|tsv)(\.gz|\.bz2|\.xz|\.zst)?$', re.IGNORECASE)
FILE_NAME = re.compile(TABLE_NAME.pattern + r'|\.(txt|md|gz|bz2|xz|zst|zip|py|html)$', re.IGNORECASE)
DATASET_NAME = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')
SPACE, LIST_SIGN = re.compile(r'\s*'), re.compile(r'\s*([],])')
RETURN = re.compile(r'(?<=\r)(?!\n)')  # behind a carriage return that ends a line by itself
FEW_FILES = 20                  # below that many, files are cut into blocks: whole ones leave no small part to hold out
BLOCK_CHARACTERS = (256, 8192)
ROWS_AT_ONCE = 512
ROW_BYTES = 64 << 20            # the most that one row of a table may have, or that is made of its rows at once
RETRIES = 8                     # how often a read over the network is tried again, after ever longer waits
MAY_REPEAT = 16 << 20           # bytes; parquet files below that are read so that a text many rows share is in memory once
LARGE_GROUP, GROUPS_FETCHED_AT_ONCE = 64 << 20, 8  # bytes of a row group; row groups, over the network
CONVERTED = 'refs/convert/parquet'
NO_SOURCE = ('no file or folder {name} is here, and on the Hugging Face hub: {what}. Give files, a folder, a glob or the name '
             'of a dataset as --source')
WIKITEXT_SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}  # our names: the hub's


class Source(NamedTuple):
    """Tables, of which each row is a document, or text files: each is one, except that a few files are cut into blocks."""
    name: str
    files: list  # paths, or URLs such as hf://datasets/NAME@COMMIT/PATH

    @property
    def is_table(self):
        return bool(TABLE_NAME.search(self.files[0]))


# ---- the files of a source --------------------------------------------------------------------------


def find_source(source: str, dataset_config: str | None = None, dataset_split: str = 'train', encoding: str = 'utf-8',
                verbose: bool = False) -> Source:
    """The files of 'stdlib', 'SYNTH', paths, a folder, a glob, or a dataset on the hub. Raises BadInput if there are none.

    Files that hold no text are left out, which a line on stderr says, with their names if `verbose`.
    """
    if source == 'stdlib':
        return Source('stdlib', stdlib_files())
    if name := name_on_hub(source):
        return hub_source(name, dataset_config, dataset_split, wrong=NO_SOURCE)
    try:
        files = find_files(source)
    except BadInput as error:
        raise BadInput(f'{error}; --source takes stdlib, SYNTH, files, a folder, a glob, or the name of a dataset on the '
                       'Hugging Face hub') from None
    tables = [path for path in files if TABLE_NAME.search(path)]
    if tables and len(tables) < len(files):
        others = [path for path in files if not TABLE_NAME.search(path)]
        named = max(tables, others, key=len)[0]
        ending = TABLE_NAME.search(named)[0] if named is tables[0] else os.path.splitext(named)[1]
        example = os.path.join(os.path.dirname(named), f'*{ending}')
        raise BadInput(f'{source} holds tables ({os.path.basename(tables[0])}) and text files ({os.path.basename(others[0])}) '
                       f"together; name one kind, as in --source='{example}'")
    files = tables or text_files(files, source, encoding, verbose)
    return Source(os.path.splitext(os.path.basename(os.path.normpath(source)))[0], files)


def text_files(files, source, encoding, verbose):
    """Those of the files that hold text; what is left out is said on stderr. Raises BadInput if that is all of them."""
    wrong = {path: what for path in files if (what := what_is_wrong(path, encoding))}
    if not wrong:
        return files
    counts = ', '.join(f'{n:,} {what}' for what, n in collections.Counter(wrong.values()).most_common())
    if len(wrong) == len(files):
        advice = '; --encoding=utf-16-le or utf-16-be reads what is UTF-16' if 'UTF-16' in counts else ''
        raise BadInput(f'{source} holds no text: {counts.removeprefix("1 ") if len(files) == 1 else counts}{advice}')
    names = [f'  {path}: {what}' for path, what in wrong.items()] if verbose else []
    line = f'left out {len(wrong):,} of {len(files):,} files: {counts}{"" if verbose else "; --verbose=True names them"}'
    print(line, *names, sep='\n', file=sys.stderr)
    return [path for path in files if path not in wrong]


def stdlib_files() -> list[str]:
    """The .py files of the running Python's standard library, without tests and generated tables."""
    root = os.path.dirname(os.__file__)
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_THE_STDLIB and not name.startswith('config-')]
        files += [os.path.join(folder, name) for name in names
                  if name.endswith('.py') and not GENERATED_FILES.fullmatch(name)]
    if not files:
        raise BadInput(f'this Python keeps no source text of its library in {root}; name another --source')
    return sorted(files, key=lambda path: os.path.relpath(path, root).replace(os.sep, '/'))


def name_on_hub(source: str) -> str | None:
    """The name that a --source has on the Hugging Face hub, or None if it is on this machine."""
    if source == 'SYNTH':
        return SYNTH
    is_name = source != 'stdlib' and DATASET_NAME.fullmatch(source) and not FILE_NAME.search(source)
    return source if is_name and not os.path.exists(source) else None


def hub_source(name: str, dataset_config: str | None, dataset_split: str, revision: str | None = None,
               wrong: str = hub.NOT_FETCHED) -> Source:
    """A split of a dataset on the Hugging Face hub, as of `revision` or else now."""
    files = hub_files(name, dataset_config, revision, wrong).get(dataset_split, [])
    if not files or not all(TABLE_NAME.search(path) for path in files):
        raise BadInput(f'{name} has no parquet or json files for split {dataset_split!r}; download it and give its files '
                       'as --source')
    return Source(os.path.basename(name), files)


def hub_files(name: str, dataset_config: str | None, revision: str | None = None,
              wrong: str = hub.NOT_FETCHED) -> dict[str, list[str]]:
    """{split: URLs} of a dataset on the hub, pinned to the commit they have now: hf://datasets/NAME@COMMIT/PATH."""
    import datasets
    builder = hub.fetch(name, lambda: datasets.load_dataset_builder(name, dataset_config, revision=revision), wrong)
    return {str(split): [str(path) for path in paths] for split, paths in (builder.config.data_files or {}).items()}


# ---- documents --------------------------------------------------------------------------------------


def read_documents(source: Source, text_column: str = 'text', separator: str | None = None, limit: int = 0,
                   max_expansion: int = MAX_EXPANSION, encoding: str = 'utf-8', cut_few: bool = True) -> Iterator[str]:
    r"""Yields the text of every document of a source in a fixed order; empty ones are left out.

    separator: cuts text files into documents; \n and \t may be written as two characters. limit: 0 for all documents.
    max_expansion: as in `read_table`. encoding: of text files, JSON and CSV without a byte order mark. cut_few: whether text
    files without separators are cut into blocks where there are few.
    """
    if source.is_table:
        documents = (text for path in source.files
                     for _, texts, _ in read_steadily(path, text_column, max_expansion=max_expansion, encoding=encoding)
                     for text in texts)
    else:
        block_size = block_size_of(source) if cut_few else None
        documents = (text for path in source.files
                     for text in cut_file(path, separator, block_size, max_expansion=max_expansion, encoding=encoding))
    documents = (text for text in documents if text and not text.isspace())
    return itertools.islice(documents, limit or None)


def block_size_of(source: Source) -> int | None:
    """Characters of the blocks that text files without separators are cut into; None where each is one document."""
    if source.is_table or len(source.files) >= FEW_FILES:
        return None
    low, high = BLOCK_CHARACTERS
    return min(max(sum(map(os.path.getsize, source.files)) // 100, low), high)


def cut_file(path, separator=None, block_size=None, **options):
    """Yields the documents of one text file: between separators, or else blocks, or all of it if block_size is None.

    A line end in a separator is also found where the file has a carriage return before it. options: of `read_text`.
    """
    if separator:
        separator = separator.replace('\\n', '\n').replace('\\t', '\t')
    elif block_size is None:
        yield from ''.join(read_text(path, **options)).split(EOT)
        return
    elif is_in(EOT, read_text(path, **options)):
        separator = EOT
    else:
        yield from cut_into_blocks(read_text(path, **options), block_size)
        return
    pattern = re.compile('\r?\n'.join(map(re.escape, separator.split('\n'))))
    longest = len(separator) + separator.count('\n')
    begun, end = [], ''  # of a document: what is certainly in it, and where a separator may have begun
    for piece in read_text(path, **options):
        *whole, rest = pattern.split(end + piece)
        if whole:
            yield ''.join([*begun, whole[0]])
            yield from whole[1:]
            begun = []
        place = max(0, len(rest) - longest + 1)
        begun.append(rest[:place])
        end = rest[place:]
    yield ''.join([*begun, end])


def is_in(word, pieces):
    """Whether a text that comes in pieces has a word in it."""
    end = ''
    for piece in pieces:
        if word in end + piece:
            return True
        end = (end + piece)[1 - len(word):]
    return False


def cut_into_blocks(pieces, size):
    """Yields the text in blocks of at least `size` characters that together are the text.

    A block ends after the first blank line behind that size, or, where none comes for as long again, after the
    first line end or white space; text without any is cut at the size.
    """
    rest = ''
    for piece in itertools.chain(pieces, [None]):
        rest += piece or ''
        start = 0
        while len(rest) - start > 2 * size:
            for end_of in ('\n\n', '\r\n\r\n', '\n', ' '):
                place = rest.find(end_of, start + size - len(end_of), start + 2 * size)
                if place >= 0:
                    break
            end = start + size if place < 0 else place + len(end_of)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    yield rest


# ---- tables -----------------------------------------------------------------------------------------


def read_table(path: str, column: str, first_row: int = 0, share: tuple[int, int, int] = (0, 1, 1),
               max_expansion: int = MAX_EXPANSION, encoding: str = 'utf-8') -> Iterator[tuple]:
    """Yields (row numbers, their texts, share of the file read so far) of a table, in order: parquet, json-lines, a JSON
    list, or CSV (with tabs if it is .tsv) whose first line names the columns.

    column:    where the text is. A table without it that has SYNTH's columns gives SYNTH's documents.
    first_row: rows before this one are left out.
    share:     (low, high, n): only the rows from the low-th to the high-th n-th of the file; of all but parquet, which do
               not say how many they are, those with low <= row % n < high.
    max_expansion: how many times its size a compressed file may become, if that is more than 32 MB; 0: any.
    A row without text is '' in the list. Raises BadInput on a damaged file, on one that expands too much, and on a missing
    column with the names of those that are there.
    """
    if '.parquet' in TABLE_NAME.search(path)[0].lower():
        yield from read_parquet(path, column, first_row, share, max_expansion)
    else:
        yield from read_rows_of_text(path, column, first_row, share, max_expansion, encoding)


def read_steadily(path: str, column: str, first_row: int = 0, share: tuple[int, int, int] = (0, 1, 1),
                  max_expansion: int = MAX_EXPANSION, encoding: str = 'utf-8', retries: int = RETRIES) -> Iterator[tuple]:
    """`read_table`, which goes on at the row where the network failed; after `retries` tries without a new row it gives up."""
    failures = 0
    while True:
        try:
            for rows, texts, done in read_table(path, column, first_row, share, max_expansion, encoding):
                yield rows, texts, done
                first_row, failures = rows[-1] + 1, 0
            return
        except Exception as error:  # the libraries of the network agree on no common class
            trouble = error.__cause__ or error  # the network's own error, not what read_table made of it
            if '://' not in path or isinstance(trouble, BadInput):
                raise
            what, lasts = hub.explain(trouble, path)
            failures += 1
            if lasts or failures > retries:
                tries = '' if lasts else f', even after {retries} more tries'
                raise BadInput(f'{path} cannot be read{tries}: {what}; run again to resume') from error
            seconds = min(60, 2 ** (failures - 1))
            hub.say(f'the hub: {what}; trying again in {seconds} s ({failures} of {retries})')
            time.sleep(seconds)


def read_parquet(path, column, first_row, share, max_expansion):
    import pyarrow
    import pyarrow.parquet
    low, high, n = share
    try:
        with open_anywhere(path) as file:
            size, n_bytes = n_bytes_of(file), 0
            table = pyarrow.parquet.ParquetFile(file)
            check_expansion(path, table.metadata.num_rows, size, max_expansion)
            columns = pick_columns(table.schema_arrow.names, column, path)
            for name in columns:
                if not is_text_type(kind := table.schema_arrow.field(name).type):
                    raise BadInput(f'{path}: column {name!r} holds {kind}, not text; name another --text_column')
            first, last = table.metadata.num_rows * low // n, table.metadata.num_rows * high // n
            begin = max(first, first_row)
            ends = list(itertools.accumulate(table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)))
            groups = [i for i, (start, end) in enumerate(zip([0, *ends], ends)) if start < last and end > begin]
            n_unpacked = sum(table.metadata.row_group(group).total_byte_size for group in groups)
            check_expansion(path, n_unpacked, size, max_expansion)
            if size < MAY_REPEAT:
                table = pyarrow.parquet.ParquetFile(file, metadata=table.metadata, read_dictionary=list(columns))
            for group, batches in zip(groups, read_groups(path, table, groups, list(columns))):
                row = ends[group - 1] if group else 0
                for batch in itertools.chain.from_iterable(map(small_batches, batches)):
                    n_bytes += sum(map(text_bytes, batch.columns))
                    check_expansion(path, n_bytes, size, max_expansion)
                    if len(batch) == 1 and n_bytes > ROW_BYTES and sum(map(text_bytes, batch.columns)) > ROW_BYTES:
                        raise BadInput(f'{path}: row {row} has more than {ROW_BYTES >> 20} MB; cut it into documents first')
                    start, stop = max(row, begin), min(row + len(batch), last)
                    if start < stop:
                        values = batch.slice(start - row, stop - start).to_pydict()
                        texts = [format_row(row_values) for row_values in zip(*(values[name] for name in columns))]
                        yield range(start, stop), texts, (stop - first) / (last - first)
                    row += len(batch)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # a column of text may hold bytes that are not UTF-8
        raise BadInput(f'{path} is not a readable parquet file: {first_line(error)}') from error


def small_batches(batch):
    """An arrow batch in parts whose texts are at most 64 MB, or one row."""
    if len(batch) <= 1 or sum(map(text_bytes, batch.columns)) <= ROW_BYTES:
        return [batch]
    half = len(batch) // 2
    return itertools.chain(small_batches(batch.slice(0, half)), small_batches(batch.slice(half)))


def is_text_type(kind):
    """Whether an arrow column of this type holds text: each for itself, or numbers of those in a dictionary, or none at all."""
    import pyarrow
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    return any(is_kind(kind) for is_kind in (pyarrow.types.is_string, pyarrow.types.is_large_string,
                                             pyarrow.types.is_string_view, pyarrow.types.is_null))


def text_bytes(column):
    """How many bytes the texts of an arrow column have; its dictionary may hold one text for many rows."""
    import pyarrow
    import pyarrow.compute
    if pyarrow.types.is_null(column.type):
        return 0
    is_dictionary = isinstance(column, pyarrow.DictionaryArray)
    texts = column.dictionary if is_dictionary else column
    if pyarrow.types.is_string_view(texts.type):  # whose lengths are not computed
        texts = texts.cast(pyarrow.large_string())
    lengths = pyarrow.compute.binary_length(texts)
    return pyarrow.compute.sum(lengths.take(column.indices) if is_dictionary else lengths).as_py() or 0


def read_groups(path, table, groups, columns):
    """An iterator over the row groups of a parquet file, each an iterable of arrow batches.

    Over the network several groups are fetched at once, or most cores would wait for one answer after another. Groups
    of which several may not fit into memory are read in small pieces instead.
    """
    import pyarrow.parquet

    def batches(table, group):
        found = table.metadata.row_group(group)
        fit = ROW_BYTES * found.num_rows // max(1, found.total_byte_size)
        return table.iter_batches(batch_size=max(1, min(ROWS_AT_ONCE, fit)), row_groups=[group], columns=columns)

    def fetch(group):
        with open_anywhere(path) as file:
            return list(batches(pyarrow.parquet.ParquetFile(file, metadata=table.metadata, pre_buffer=True), group))

    largest = max((table.metadata.row_group(group).total_byte_size for group in groups), default=0)
    if '://' in path and largest <= LARGE_GROUP:
        return ordered_map(fetch, groups, GROUPS_FETCHED_AT_ONCE)
    return (batches(table, group) for group in groups)


def read_rows_of_text(path, column, first_row, share, max_expansion, encoding):
    low, high, n = share
    with open_anywhere(path) as file:
        size = n_bytes_of(file) or 1
        pieces = decoded(unpacked(file, path, max_expansion), path, encoding)
        if '.csv' in (name := TABLE_NAME.search(path)[0].lower()) or '.tsv' in name:
            records, text_of = csv_records(pieces, path, '\t' if '.tsv' in name else ',', column), format_row
        else:
            records, text_of = json_records(pieces, path), functools.partial(json_text, column=column, path=path)
        records = enumerate(records)
        while batch := list(itertools.islice(records, ROWS_AT_ONCE)):
            batch = [(row, record) for row, record in batch if row >= first_row and low <= row % n < high]
            if batch:
                texts = [text_of(record, row) for row, record in batch]
                done = 1 if file.closed else file.tell() / size  # a decompressor closes it at the end
                yield [row for row, _ in batch], texts, done


def json_records(pieces, path):
    """The lines of a json-lines file; a file that is one JSON list gives its elements, as JSON again."""
    first = next(pieces, '')
    pieces = itertools.chain([first], pieces)
    return list_elements(pieces, path) if first.lstrip().startswith('[') else lines_of(pieces, path)


def lines_of(pieces: Iterable[str], path: str) -> Iterator[str]:
    """Yields the lines of a text that comes in pieces, each with its end. Raises BadInput on one of more than 64 MB."""
    begun, size = [], 0
    for piece in pieces:
        *lines, rest = piece.split('\n')
        if lines:
            yield ''.join([*begun, lines[0], '\n'])
            yield from (f'{line}\n' for line in lines[1:])
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size > ROW_BYTES:
            raise BadInput(f'{path} has a line of more than {ROW_BYTES >> 20} MB; each line should be a document')
    if size:
        yield ''.join(begun)


def csv_records(pieces, path, delimiter, column):
    """Yields the values of the text's columns in each row of a CSV file behind its first, which names the columns.

    Its lines end as any system ends them.
    """
    csv.field_size_limit(ROW_BYTES)
    lines = (line for lines in lines_of(pieces, path) for line in RETURN.split(lines) if line)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        names = next(rows, [])
        columns = pick_columns(names, column, f'{path}, whose first line should name its columns,')
        places = [names.index(name) for name in columns]
        for row in rows:
            if row and len(row) != len(names):
                raise BadInput(f'{path}, line {rows.line_num}: {len(row)} values, where the first line names {len(names)} '
                               'columns; a text with commas or line ends stands in quotes')
            yield [row[place] for place in places] if row else ['']
    except csv.Error as error:
        raise BadInput(f'{path}, line {rows.line_num}: {error}') from error


def list_elements(pieces, path):
    """Yields the elements of a JSON list that comes in pieces, each as JSON again, without all of it in memory."""
    decoder, text, at_end = json.JSONDecoder(), next(pieces), False
    place = text.index('[') + 1
    while True:
        begin = SPACE.match(text, place).end()
        try:
            value, end = decoder.raw_decode(text, begin)
            sign = LIST_SIGN.match(text, end)
            if end - begin > ROW_BYTES:
                sign, at_end = None, True
        except json.JSONDecodeError:
            sign = None
        except (ValueError, RecursionError) as error:
            raise BadInput(f'{path} is not a list of objects: {why_not_json(error)}') from error
        if sign:
            yield json.dumps(value)
            place = sign.end()
        elif text[begin:begin + 1] == ']':
            place = begin + 1
        if text[place - 1:place] == ']':
            if text[place:].strip() or any(piece.strip() for piece in pieces):
                raise BadInput(f'{path} goes on behind its JSON list; a file is one list, or an object on each line')
            return
        if sign:
            continue
        if at_end or len(text) - place > ROW_BYTES:
            raise BadInput(f'{path} is cut short or damaged: it is no JSON list whose elements have at most '
                           f'{ROW_BYTES >> 20} MB')
        wanted, read = len(text) - place, [text[place:]]  # as much again is read, so that no part is looked at often
        while wanted >= 0 and not at_end:
            piece = next(pieces, None)
            at_end = piece is None
            read.append(piece or '')
            wanted -= len(read[-1])
        text, place = ''.join(read), 0


def json_text(line, row, column, path):
    """The document of one line of a json-lines file; '' for a blank line."""
    if not line.strip():
        return ''
    where = f'{path}, line {row + 1}'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f'{where}: not JSON: {why_not_json(error)}') from error
    if not isinstance(row, dict):
        raise BadInput(f'{where}: should be an object with a key {column!r}')
    columns = pick_columns(row, column, where)
    for name in columns:
        if not isinstance(row[name], (str, type(None))):
            raise BadInput(f'{where}: {name!r} is {type(row[name]).__name__}, not text; name another --text_column')
    return format_row([row[name] for name in columns])


def pick_columns(names, column, where):
    if list(names).count(column) > 1:
        raise BadInput(f'{where} has several columns {column!r}; give each a name of its own')
    if column in names:
        return (column,)
    if column == 'text' and all(name in names for name in SYNTH_COLUMNS):
        return SYNTH_COLUMNS
    advice = f'name one of these with --text_column: {shorten(", ".join(names))}' if names else 'it has none at all'
    raise BadInput(f'{where} has no column {column!r}; {advice}')


def format_row(values, row=None):
    """The document of a row: its text, or SYNTH's question, reasoning and answer."""
    if len(values) == 1:
        return values[0] or ''
    query, reasoning, answer = (value or '' for value in values)
    return f'Q: {query}\n\nReasoning:\n{reasoning}\n\nA: {answer}'


def open_anywhere(path):
    """A local path, or a URL such as hf://datasets/..., opened for reading bytes."""
    if '://' not in path:
        return open_to_read(path)
    import fsspec
    filesystem, name = fsspec.core.url_to_fs(path)
    return filesystem.open(name, 'rb')


# ---- WikiText (Merity et al. 2016, "Pointer Sentinel Mixture Models") -------------------------------


def wikitext_files(size: str = '2', raw: bool = True, source: str | None = None,
                   needed: Iterable[str] = ('train', 'val')) -> dict[str, list[str]]:
    """{'train': [path or URL], 'val': [...], 'test': [...]} of WikiText-2 or -103. Raises BadInput without a needed split.

    raw:    on the hub, the text as it was written; otherwise rare words are <unk>.
    source: a local folder with files named by split instead of the hub: train.txt, wiki.valid.raw, test.parquet, ...
    """
    if source is None:
        found = hub_files('Salesforce/wikitext', f'wikitext-{size}-{"raw-" if raw else ""}v1')
        if missing := set(WIKITEXT_SPLITS.values()) - found.keys():
            raise BadInput(f'Salesforce/wikitext has no split {min(missing)} on the hub now; '
                           'give a folder with the splits as --source')
        return {split: found[theirs] for split, theirs in WIKITEXT_SPLITS.items()}
    if not os.path.isdir(source):
        raise BadInput(f'no file or folder {source!r}; --source names a folder with train.txt, valid.txt and test.txt')
    files = {}
    for split, theirs in WIKITEXT_SPLITS.items():
        words = {split, theirs, theirs[:5]}  # val, validation, valid
        found = [name for name in sorted(os.listdir(source))
                 if words & set(re.split(r'[._-]', name.lower())) and not name.endswith('.bin')]  # .bin: shards
        if len(found) > 1 and not all(TABLE_NAME.search(name) for name in found):
            raise BadInput(f'{source} has several files for the {split} split: {", ".join(found)}; leave one')
        if found:
            files[split] = [os.path.join(source, name) for name in found]
        elif split in needed:
            raise BadInput(f'{source} has no file for the {split} split, such as {theirs[:5]}.txt')
    return files


def read_split(paths: Iterable[str]) -> Iterator[str]:
    r"""Yields the text of a split in pieces, with line ends as WikiText has them, \n alone, whatever became of them since.

    A table has a line of text in each row, and nothing for a blank line.
    """
    for path in paths:
        if TABLE_NAME.search(path):
            yield from (''.join(line or ' \n' for line in lines) for _, lines, _ in read_steadily(path, 'text'))
        else:
            yield from (line.removesuffix('\r\n') + '\n' if line.endswith('\r\n') else line
                        for line in lines_of(read_text(path), path))


# ---- rows of questions, such as HellaSwag's and GSM8K's -----------------------------------------------------


def read_rows(path: str) -> Iterator[tuple[str, object]]:
    """Yields (place, value) of each line of a .jsonl file that is not blank; a message about a value names its place."""
    with open_to_read(path) as file:
        for number, line in enumerate(lines_of(decoded(unpacked(file, path), path), path), 1):
            if line.strip():
                place = f'{path}, line {number}'
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise BadInput(f'{place} is not JSON ({why_not_json(error)}), as every line of a .jsonl file should '
                                   'be') from None
                yield place, value


def read_records(path: str) -> Iterator[tuple[str, dict]]:
    """Yields (place, {column: value}) of each row of a table: parquet, json-lines, a JSON list, csv or tsv."""
    ending = TABLE_NAME.search(path)[0].lower()
    if '.parquet' in ending:
        rows = parquet_records(path)
    elif '.csv' in ending or '.tsv' in ending:
        csv.field_size_limit(ROW_BYTES)
        rows = csv.DictReader(lines_of(read_text(path), path), delimiter='\t' if '.tsv' in ending else ',', strict=True)
    else:
        rows = (json.loads(line) for line in json_records(read_text(path), path) if line.strip())
    row = 0
    try:
        for row, record in enumerate(rows, 1):
            if not isinstance(record, dict):
                raise BadInput(f'{path}, row {row} should be an object, with a name for each value')
            yield f'{path}, row {row}', record
    except BadInput:
        raise
    except csv.Error as error:
        raise BadInput(f'{path}, row {row + 1}: {error}') from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f'{path}, row {row + 1} is not JSON ({why_not_json(error)})') from None


def parquet_records(path):
    import pyarrow
    import pyarrow.parquet
    try:
        with open_to_read(path) as file:
            size, table = n_bytes_of(file), pyarrow.parquet.ParquetFile(file)
            n_bytes = sum(table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups))
            check_expansion(path, n_bytes, size, MAX_EXPANSION)
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadInput(f'{path} is not a readable parquet file: {first_line(error)}') from error


def hub_rows(name: str, dataset_config: str | None, dataset_split: str,
             revision: str | None = None) -> Iterator[tuple[str, dict]]:
    """The same as `read_rows` of a split of a dataset on the Hugging Face hub.

    revision: CONVERTED for a dataset that is published as a program: the hub's own copy, with a folder for each configuration.
    """
    import datasets
    where = {'data_dir' if revision == CONVERTED else 'name': dataset_config}
    rows = hub.fetch(name, lambda: datasets.load_dataset(name, split=dataset_split, revision=revision, **where),
                     '{name} could not be fetched from the hub: {what}. A .jsonl file can be the '
                     'source instead')
    return ((f'{name}, row {number}', row) for number, row in enumerate(rows, 1))
