def utf8_stream(pieces):
    texts, held = [], b''
    for piece in pieces:
        held += piece
        text = ''
        for end in range(len(held), max(-1, len(held) - 4), -1):  # at most the last three bytes are incomplete
            try:
                text = held[:end].decode()
            except UnicodeDecodeError:
                continue
            held = held[end:]
            break
        texts.append(text)
    return texts
