"""Says so when a file is run that only defines things, such as `python sources.py --source=x`: it would do nothing, which looks
like a success. runtime/__init__.py calls `refuse_to_run_a_library`, so a file needs no line for it. Knows nothing of any file.
"""
import ast
import glob
import os
import re
import sys
import tokenize

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = re.compile("^if __name__ == '__main__':", re.MULTILINE)
DEFINITIONS = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign


def refuse_to_run_a_library():
    """Ends the program with one line and exit code 2 if what was started is a file of this repo that only defines things."""
    path = os.path.abspath(started_file())
    if not path.startswith(os.path.join(ROOT, '')) or not path.endswith('.py') or not os.path.isfile(path):
        return
    text = read_source(path)
    if SCRIPT.search(text) or not all(map(only_defines, ast.parse(text).body)):
        return
    name = os.path.relpath(path, ROOT)
    users = scripts_that_import(name.removesuffix('.py').replace(os.sep, '.'))
    where = f'it is used by {", ".join(users)}; `python {as_argument(users[0])} --help` says what that does' if users else \
        'README.md names the scripts'
    print(f'{name} is no script and does nothing when it is run; {where}', file=sys.stderr)
    sys.exit(2)


def as_argument(script):
    return f'-m {script.removesuffix(".py").replace("/", ".")}' if '/' in script else script


def started_file():
    """The path of what was started, or ''. For `python -m PACKAGE.MODULE`, this may be asked while PACKAGE is loaded."""
    if sys.argv[0] == '-m' and '-m' in sys.orig_argv:
        module = sys.orig_argv[sys.orig_argv.index('-m') + 1]
        return os.path.join(ROOT, *module.split('.')) + '.py'
    return getattr(sys.modules['__main__'], '__file__', None) or ''


def only_defines(node):
    """Whether a statement at the top of a file has no effect beyond that file: a definition or a docstring."""
    return isinstance(node, DEFINITIONS) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def scripts_that_import(module):
    """Those of the scripts at the root and in tasks/ that import a module themselves."""
    is_imported = re.compile(rf'^(from|import) {re.escape(module)}\b', re.MULTILINE)
    paths = [path for folder in ('', 'tasks') for path in sorted(glob.glob(os.path.join(glob.escape(ROOT), folder, '*.py')))]
    texts = {os.path.relpath(path, ROOT): read_source(path) for path in paths}
    return [name for name, text in texts.items() if SCRIPT.search(text) and is_imported.search(text)]


def read_source(path):
    with tokenize.open(path) as file:
        return file.read()
