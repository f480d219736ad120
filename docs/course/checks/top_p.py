"""What the exercise top_p is compared with; examine.py describes the parts."""
import torch

HINTS = (
    'probabilities.sort(descending=True) gives them in falling order, and the tokens they belong to. cumsum is the '
    'running sum. A token is kept if those before it have together less than p.',
    'falling, tokens = probabilities.sort(descending=True); kept = torch.where(falling.cumsum(0) - falling < p, '
    'falling, 0.0); result = torch.zeros_like(logits); result[tokens] = kept / kept.sum().',
)
PROBABILITIES = torch.tensor([0.15, 0.5, 0.05, 0.3])


def cases():
    logits = PROBABILITIES.log()
    yield 'probabilities 0.15, 0.5, 0.05 and 0.3, and p = 0.7, which the second one reaches', (logits, 0.7)
    yield 'the same with p = 0.9, which the third one reaches', (logits, 0.9)
    yield 'the same with p = 0.1: the likeliest token alone', (logits, 0.1)
    yield 'the same with p = 1: all tokens', (logits, 1.0)
    yield '50 tokens and p = 0.6', (torch.randn(50), 0.6)


def expected(logits, p, includes=True, divides=True):
    probabilities = logits.softmax(dim=0)
    kept, total = torch.zeros_like(probabilities), 0.0
    for token in probabilities.argsort(descending=True):
        if total >= p or not includes and total + probabilities[token] > p + 1e-6:
            break
        kept[token] = probabilities[token]
        total += probabilities[token].item()
    return kept / (kept.sum() if divides else 1)


def by_threshold(keeps):
    def variant(logits, p):
        probabilities = logits.softmax(dim=0)
        kept = torch.where(keeps(probabilities, p), probabilities, 0.0)
        return kept / kept.sum()
    return variant


FAULTS = {
    'the token that reaches p is left out; it should be taken': lambda logits, p: expected(logits, p, includes=False),
    'the probabilities that are left do not add up to 1: divide them by their sum':
        lambda logits, p: expected(logits, p, divides=False),
    'the running sum is that of the tokens in the order of the vocabulary; sort them first':
        by_threshold(lambda probabilities, p: probabilities.cumsum(0) - probabilities < p),
    'tokens with a probability of at least p are kept; it is their sum that should reach p':
        by_threshold(lambda probabilities, p: probabilities >= p),
    'the probabilities are in falling order; each should stand at the position of its token':
        lambda logits, p: expected(logits, p).sort(descending=True).values,
}
