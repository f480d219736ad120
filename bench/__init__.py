"""Speed and memory, measured beside what a user would run instead: `python -m bench` and a file for each part.

__main__.py has the settings, turns.py the way of measuring, report.py the machine and the tables, contenders.py what
the parts train and sample share. What a contender is, is said in the function that sets it up. A new one is such a
function and a line in its part's dict. Knows nothing about how the parts of the project work inside: it calls them
as any script does, and nothing of the project imports it.
"""
