"""What a model is taught to do: word problems and a calculator. Knows nothing of how it is trained."""
import runtime.waiting  # noqa: F401  before torch
