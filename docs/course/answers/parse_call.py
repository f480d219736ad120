def parse_call(text):
    _, opening, expression = text.rpartition('<<')
    if not opening or not expression.endswith('=') or '<' in expression or '>' in expression:
        return None
    return expression[:-1]
