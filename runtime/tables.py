"""Tables in plain text, for everything that prints them."""
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of strings, the headings first, as lines: the first column is aligned to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
        lines.append('  '.join(cells).rstrip())
    return '\n'.join(lines)
