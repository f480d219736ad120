"""Speed and memory beside what a user would run instead. Calls the project as any script does; nothing imports it."""
import runtime.waiting  # noqa: F401  before torch
