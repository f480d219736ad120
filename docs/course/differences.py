"""Says in words how a result differs from the right one. Results are numbers, texts, tensors, and lists and dicts of them."""
import math
import numbers

import torch

TOLERANCE = 1e-4  # how far a number may be away, relative to its size or absolutely: much more than float32 is rounded
SHOWN = 180  # characters of a result that is shown as a whole; of a longer one, only the first difference is


def difference(expected, got, tolerance: float = TOLERANCE) -> list[str]:
    """[] if two results are the same, else lines that say what differs."""
    place = first_difference(expected, got, tolerance)
    if place is None:
        return []
    where, reason = place
    if not isinstance(expected, (torch.Tensor, dict, list, tuple)):
        return [reason]
    whole = [f'expected  {show(expected)}', f'got       {show(got)}']
    return [*(whole if max(map(len, whole)) <= SHOWN else []), f'{where}: {reason}' if where else reason]


def first_difference(expected, got, tolerance, where=''):
    """None if both are the same, else (where the first difference is, what it is), in words."""
    if isinstance(expected, torch.Tensor):
        return tensor_difference(expected, got, tolerance, where)
    if isinstance(expected, dict):
        if not isinstance(got, dict):
            return where, f'expected a dict, got {kind(got)}'
        for key in [*expected, *got]:
            if key not in got or key not in expected:
                return where, f'the key {key!r} {"is missing" if key not in got else "should not be there"}'
        pairs = [(key, expected[key], got[key]) for key in expected]
    elif isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)):
            return where, f'expected {kind(expected)}, got {kind(got)}'
        pairs = [(i, *pair) for i, pair in enumerate(zip(expected, got))]
    else:
        return None if same(expected, got, tolerance) else (where, f'expected {show(expected)}, got {show(got)}')
    for key, one, other in pairs:
        if found := first_difference(one, other, tolerance, f'{where}[{key!r}]'):
            return found
    if len(expected) != len(got):
        return where, f'expected a length of {len(expected)}, got {len(got)}'
    return None


def tensor_difference(expected, got, tolerance, where):
    if not isinstance(got, torch.Tensor):
        return where, f'expected a tensor of shape {tuple(expected.shape)}, got {kind(got)}'
    if got.shape != expected.shape:
        return where, f'expected a tensor of shape {tuple(expected.shape)}, got one of shape {tuple(got.shape)}'
    right, own = expected.detach().double(), got.detach().double()
    wrong = ~torch.isclose(own, right, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not wrong.any():
        return None
    first = wrong.nonzero()[0].tolist()
    count = f' ({int(wrong.sum())} of {wrong.numel()} numbers differ)' if wrong.numel() > 1 else ''
    return f'{where}{first or ""}', f'expected {show(right[tuple(first)])}, got {show(own[tuple(first)])}{count}'


def same(expected, got, tolerance):
    if isinstance(expected, bool) or isinstance(got, bool) or not isinstance(expected, numbers.Number):
        return type(expected) is type(got) and expected == got
    if isinstance(got, torch.Tensor) and got.numel() == 1:
        got = got.item()
    if not isinstance(got, numbers.Number):
        return False
    if isinstance(expected, float):
        return math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance) or math.isnan(expected) and math.isnan(got)
    return expected == got


def kind(value):
    return 'nothing' if value is None else f'a {type(value).__name__}'


def show(value):
    """A result as text, numbers with four digits or so."""
    if isinstance(value, torch.Tensor):
        return show(value.detach().tolist())
    if isinstance(value, float):
        return f'{value:.5g}'
    if isinstance(value, list):
        return f'[{", ".join(map(show, value))}]'
    if isinstance(value, tuple):
        return f'({", ".join(map(show, value))})'
    if isinstance(value, dict):
        return f'{{{", ".join(f"{key!r}: {show(element)}" for key, element in value.items())}}}'
    return 'nothing (None)' if value is None else str(value) if isinstance(value, numbers.Number) else repr(value)
