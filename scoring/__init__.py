"""What scores of a model are made of: log-probabilities of texts, and texts cleaned up. Knows nothing of training."""
import runtime  # noqa: F401 - which says so when a file here is run: they only define things
