"""Encode a conversation, with a mask that says which tokens are learned.

To check it: python -m docs.course.check encode_conversation
"""


def encode_conversation(messages, encode, special):
    """
    messages: [{'role': 'system' | 'user' | 'assistant', 'content': text}, ...]
    encode: a function from a text to a list of ids; it never makes a special token
    special: {'<|endoftext|>': id, '<|system|>': id, '<|user|>': id, '<|assistant|>': id, '<|end|>': id}
    Returns (ids, counted): the tokens, and for each of them True if it is learned, else False.

    A conversation is <|endoftext|>, then for each message the token of its role, its content, and <|end|>.
    Learned is what the assistant says: its content and the <|end|> after it, by which the model learns to stop. The
    token <|assistant|> is not learned: whoever asks for an answer writes it.
    """
    raise NotImplementedError
