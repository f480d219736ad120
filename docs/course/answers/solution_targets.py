def solution_targets(question, solution, end):
    inputs = [end, *question, *solution]
    targets = [-1] * len(question) + [*solution, end]
    return inputs, targets
