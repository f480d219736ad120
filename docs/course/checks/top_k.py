"""What the exercise top_k is compared with; examine.py describes the parts."""
import torch

HINTS = (
    'logits.topk(k) gives the k largest and their positions. Tokens that are not among them can have a logit of −∞, '
    'whose probability is 0.',
    'values, tokens = (logits / temperature).topk(k); probabilities = torch.zeros_like(logits); probabilities[tokens] '
    '= values.softmax(dim=0).',
)
LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.0, 0.5])


def cases():
    yield 'all tokens, temperature 1', (LOGITS, 1.0, 5)
    yield 'the two likeliest tokens', (LOGITS, 1.0, 2)
    yield 'the likeliest token alone', (LOGITS, 1.0, 1)
    yield 'temperature 0.5, which makes likely tokens likelier', (LOGITS, 0.5, 3)
    yield 'temperature 2', (LOGITS, 2.0, 4)
    yield '50 tokens, of which 10 are kept', (torch.randn(50), 0.8, 10)


def expected(logits, temperature, k):
    smallest = logits.sort(descending=True).values[k - 1]
    return torch.where(logits >= smallest, logits / temperature, -torch.inf).softmax(dim=0)


FAULTS = {
    'the logits are multiplied by the temperature; divide': lambda logits, t, k: expected(logits, 1 / t, k),
    'the temperature is not used': lambda logits, t, k: expected(logits, 1.0, k),
    'the probabilities of the kept tokens do not add up to 1: take the softmax after the others are removed':
        lambda logits, t, k: (logits / t).softmax(0) * (expected(logits, t, k) > 0),
    'the probabilities are divided by the temperature; the logits should be':
        lambda logits, t, k: expected(logits, 1.0, k) / t,
    'all tokens are kept': lambda logits, t, k: expected(logits, t, len(logits)),
    'the k smallest are kept': lambda logits, t, k: torch.where(
        logits <= logits.sort().values[k - 1], logits / t, -torch.inf).softmax(dim=0),
    'the probabilities are in falling order; each should stand at the position of its token':
        lambda logits, t, k: expected(logits, t, k).sort(descending=True).values,
    'only the kept probabilities are returned, in falling order; there should be one for every token':
        lambda logits, t, k: expected(logits, t, k).sort(descending=True).values[:k],
}
