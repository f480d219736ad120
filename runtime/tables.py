"""Tables and counts in plain text, for everything that prints them."""
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of strings, the headings first, as lines: the first column is aligned to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
        lines.append('  '.join(cells).rstrip())
    return '\n'.join(lines)


def plural(n: int, noun: str, width: int = 0) -> str:
    """'1 document', '2,345 documents', both of the same length where the number is set to a width."""
    return f'{n:>{width},} {noun}' + ('s' if n != 1 else ' ' if width else '')
