def encode_conversation(messages, encode, special):
    ids, counted = [special['<|endoftext|>']], [False]
    for message in messages:
        said = [*encode(message['content']), special['<|end|>']]
        ids += [special[f'<|{message["role"]}|>'], *said]
        counted += [False] + [message['role'] == 'assistant'] * len(said)
    return ids, counted
