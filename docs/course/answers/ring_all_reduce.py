def ring_all_reduce(gradients):
    n, states, state = len(gradients), [], gradients
    for i in range(2 * (n - 1)):
        adds = i < n - 1
        state = [list(chunks) for chunks in state]
        before = [list(chunks) for chunks in state]  # what all have when the round begins
        for r in range(n):
            chunk = (r - i) % n if adds else (r + 1 - (i - (n - 1))) % n
            receiver = state[(r + 1) % n]
            receiver[chunk] = before[r][chunk] + (receiver[chunk] if adds else 0)
        states.append(state)
    return states
