"""What the exercises are compared with: one file for each, whose parts docs/course/examine.py describes."""
