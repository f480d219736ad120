"""Numbers in sentences: '1 step' and '2 steps', '3 min 27 s'; and lists with commas."""


def plural(n: int, noun: str, nouns: str | None = None, width: int = 0) -> str:
    """A number and what it counts: plural(1, 'process', 'processes') is '1 process'. nouns: noun and an s, if None.

    width: of the number, so that words stand below each other; 'document' then is as long as 'documents'.
    """
    nouns = nouns or f'{noun}s'
    return f'{n:>{width},} {(noun if n == 1 else nouns).ljust(len(nouns) if width else 0)}'


def split_list(text: str) -> list[str]:
    """The parts of a text between commas, but empty ones; the text itself where all are empty."""
    return [part for part in text.split(',') if part] or [text]


def duration(seconds: float) -> str:
    """A time in the two largest units that it has: '4.2 s', '3 min 27 s', '5 h 12 min', '3 days 4 h'."""
    if seconds < 60:
        return f'{seconds:.1f} s'
    minutes, s = divmod(round(seconds), 60)
    hours, minutes_of_hour = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days:
        return f'{plural(days, "day")} {hours_of_day} h'
    return f'{hours} h {minutes_of_hour} min' if hours else f'{minutes} min {s} s'
