"""What the exercise utf8_stream is compared with; examine.py describes the parts."""
import codecs

HINTS = (
    'Keep the bytes that are held back in a variable. After each piece, try to decode what is held and the piece; if '
    'that fails, try without the last byte, without the last two, without the last three.',
    "Python has this: decoder = codecs.getincrementaldecoder('utf-8')(), and decoder.decode(piece) returns what is "
    'complete. Without it: held += piece, then for cut in 0, 1, 2, 3 try held[:len(held) - cut].decode(); at the '
    'first that works, keep the rest as held.',
)


def cases():
    yield 'letters of one byte', ([b'to', b' be'],)
    yield 'a character of two bytes in two pieces', ([b'a', b'\xc3', b'\xa9b'],)
    yield 'a piece that ends with the beginning of a character', (['naïve'.encode()[:3], 'naïve'.encode()[3:]],)
    yield 'a character of four bytes, each a piece of its own', ([bytes([byte]) for byte in '🙂'.encode()],)
    yield 'an empty piece', ([b'', b'a'],)
    text = 'größer 你好 🙂!'.encode()
    yield 'a longer text in pieces of three bytes', ([text[i:i + 3] for i in range(0, len(text), 3)],)


def expected(pieces):
    decoder = codecs.getincrementaldecoder('utf-8')()
    return [decoder.decode(piece) for piece in pieces]


def all_at_the_end(pieces):
    return [''] * (len(pieces) - 1) + [b''.join(pieces).decode()]


def whole_or_nothing(pieces):
    texts, held = [], b''
    for piece in pieces:
        held += piece
        try:
            texts.append(held.decode())
            held = b''
        except UnicodeDecodeError:
            texts.append('')
    return texts


FAULTS = {
    'each piece is decoded alone, so a character in two pieces becomes two marks �':
        lambda pieces: [piece.decode(errors='replace') for piece in pieces],
    'bytes of a character that is not complete are thrown away; keep them for the next piece':
        lambda pieces: [piece.decode(errors='ignore') for piece in pieces],
    'everything is sent at the end': all_at_the_end,
    'complete characters wait for one that is not complete; send them at once': whole_or_nothing,
    'the text so far is sent each time; send only what is new':
        lambda pieces: [b''.join(pieces[:i + 1]).decode(errors='ignore') for i in range(len(pieces))],
}
