"""Find the call of the calculator at the end of a text that a model is writing.

To check it: python -m docs.course.check parse_call
"""


def parse_call(text):
    """
    text: what the model has written so far
    Returns the expression of the call at the end of the text, or None if it does not end in a call.

    A call begins with << and goes up to its =, where the calculator takes over: 'There are now <<486+47=' gives
    '486+47'. A call that already has its result, <<486+47=533>>, is no call any more. The expression contains
    neither < nor >.
    """
    raise NotImplementedError
