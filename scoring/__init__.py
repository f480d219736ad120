"""What scores of a model are made of: log-probabilities of texts, and texts cleaned up. Knows nothing of training."""
