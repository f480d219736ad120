"""What the tokens of a sequence spell, as far as it is certain: whole characters, up to a stop string.

    text = TextStream(sequence, tokenizer, stops=('\\n\\n',))
    while text.finish_reason is None:
        engine.step()
        text.read()
    print(text.text)

Knows of a sequence what inference/engine.py says of it, and of a tokenizer `token_bytes`.
"""
import codecs
from typing import NamedTuple


class Token(NamedTuple):
    """A token of a text: the offset at which its characters begin, and what the model thought of it."""
    id: int
    offset: int
    logprob: float | None  # None: the model did not choose it
    alternatives: list  # [(id, logprob), ...], the likeliest first


class TextStream:
    """A text that grows with its sequence.

    text:   the characters so far; nothing that may still become a stop string, or be a part of a character
    tokens: [Token] of these characters, if the request asks for log-probabilities; a stop token, which spells nothing here,
        is the last of them
    n_read: how many of the sequence's tokens were read
    finish_reason: None while the text goes on; 'stop' after a stop string or token, 'length' after max_new_tokens
    progress: (characters of text, number of tokens, finish_reason) after the last read, for readers in another thread:
        it is set last and at once, while text and tokens only grow
    """

    def __init__(self, sequence, tokenizer, stops=(), n_echoed: int = 0):
        """stops: the text ends before the first of these strings. n_echoed: with so many of the prompt's last tokens the
        text begins; stop strings within them do not count."""
        self.sequence, self.tokenizer, self.stops, self.n_echoed = sequence, tokenizer, stops, n_echoed
        self.decoder = codecs.getincrementaldecoder('utf-8')(errors='replace')  # a character may take several tokens
        self.text, self.tokens, self.n_read, self.finish_reason = '', [], 0, None
        self.progress = 0, 0, None
        self.held, self.held_tokens = '', []  # not certain yet
        self.started = False

    def read(self):
        """Takes in the sequence's new tokens."""
        if not self.started:
            self.read_prompt()
        if self.finish_reason is not None:
            return
        sequence, reason = self.sequence, None
        while reason is None and self.n_read < len(sequence.tokens):
            token, logprobs = sequence.tokens[self.n_read], sequence.logprobs and sequence.logprobs[self.n_read]
            self.n_read += 1
            if token in sequence.request.stop_tokens:
                self.held += self.decoder.decode(b'', final=True)
                self.hold(token, logprobs, b'')
            else:
                self.hold(token, logprobs, self.tokenizer.token_bytes(token))
            reason = self.cut_at_stop()
        if reason is None and sequence.finish_reason is not None:
            self.held += self.decoder.decode(b'', final=True)
            reason = self.cut_at_stop() or sequence.finish_reason
        self.release(final=reason is not None)
        self.finish_reason = reason
        self.progress = len(self.text), len(self.tokens), reason

    def read_prompt(self):
        """Decodes all of it: its last bytes may be the beginning of a character that the first new tokens complete."""
        self.started = True
        ids, logprobs = self.sequence.request.ids, self.sequence.prompt_logprobs
        for i, token in enumerate(ids):
            spelling = self.tokenizer.token_bytes(token)
            if i < len(ids) - self.n_echoed:
                self.decoder.decode(spelling)
            else:
                self.hold(token, logprobs and logprobs[i], spelling)
        self.release(final=True)

    def hold(self, token, logprobs, spelling):
        """Decodes what a token spells. logprobs: what the engine says of it, None where the model did not choose it."""
        if self.sequence.request.logprobs is not None:
            self.held_tokens.append(Token(token, len(self.text) + len(self.held), *(logprobs or (None, []))))
        self.held += self.decoder.decode(spelling)

    def cut_at_stop(self):
        """'stop', after dropping a stop string and what follows it, if one is complete; else None."""
        cut = find_stop(self.held, self.stops)
        if cut is None:
            return None
        self.held = self.held[:cut]
        self.held_tokens = [token for token in self.held_tokens if token.offset < len(self.text) + cut]
        return 'stop'

    def release(self, final):
        """Moves what is certain from `held` to `text`, and the tokens that begin in it; everything if it is final."""
        end = len(self.held) - (0 if final else length_of_possible_stop(self.held, self.stops))
        self.text, self.held = self.text + self.held[:end], self.held[end:]
        n = len(self.held_tokens) if final else sum(token.offset < len(self.text) for token in self.held_tokens)
        self.tokens += self.held_tokens[:n]
        self.held_tokens = self.held_tokens[n:]


def find_stop(text: str, stops) -> int | None:
    """Where the stop string begins that is complete first, or None."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return min(ends)[1] if ends else None


def length_of_possible_stop(text: str, stops) -> int:
    """How many of the last characters may become a stop string: 2 for 'a\\n\\n' and the stop string '\\n\\n\\n'."""
    longest = max(map(len, stops), default=0)
    for length in range(min(len(text), longest - 1), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
