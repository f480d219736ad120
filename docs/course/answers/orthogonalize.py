def orthogonalize(matrix):
    a, b, c = 3.4445, -4.775, 2.0315
    x = matrix / matrix.square().sum().sqrt()
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
