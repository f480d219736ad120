"""What the reader builds with his own hands: a small GPT-2, and exercises that check themselves."""
