"""The tasks that language models are compared by, one function each, and what their scores are made of."""
import runtime  # noqa: F401 - which says so when a file here is run: they only define things
