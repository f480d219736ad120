"""Numbers in sentences: '1 step' and '2 steps', '3 min 27 s'."""


def counted(n: int, noun: str, nouns: str | None = None) -> str:
    """A number and what it counts: counted(1, 'process', 'processes') is '1 process'. nouns: noun and an s, if None."""
    return f'{n:,} {noun if n == 1 else nouns or noun + "s"}'


def duration(seconds: float) -> str:
    """A time in the two largest units that it has: '4.2 s', '3 min 27 s', '5 h 12 min', '3 days 4 h'."""
    if seconds < 60:
        return f'{seconds:.1f} s'
    minutes, s = divmod(round(seconds), 60)
    hours, minutes_of_hour = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days:
        return f'{counted(days, "day")} {hours_of_day} h'
    return f'{hours} h {minutes_of_hour} min' if hours else f'{minutes} min {s} s'
