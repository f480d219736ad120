"""Stream a text whose characters may be spread over several tokens.

To check it: python -m docs.course.check utf8_stream
"""


def utf8_stream(pieces):
    r"""
    pieces: the bytes of each new token, in their order
    Returns a list of texts, one for each piece: what can be sent to the reader after this token.

    A character of UTF-8 has up to four bytes, and a token may end in the middle of one. Such bytes are held back
    until the rest has come: a character is sent once, when it is complete. All bytes together are valid UTF-8.
    utf8_stream([b'a', b'\xc3', b'\xa9b']) is ['a', '', 'éb'].
    """
    raise NotImplementedError
