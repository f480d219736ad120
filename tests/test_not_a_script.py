import re
import subprocess
import sys
import types

import pytest
from conftest import ROOT

from runtime import not_a_script


def run(monkeypatch, path):
    monkeypatch.setitem(sys.modules, '__main__', types.SimpleNamespace(__file__=str(path)))
    not_a_script.refuse_to_run_a_library()


@pytest.mark.parametrize('name, user', [('sources.py', 'corpus.py'), ('evals/measure.py', 'evaluate.py, hellaswag.py'), ('tasks/gsm8k.py', 'tasks/solve.py'), ('optim.py', 'train.py'),
                                        ('configurator.py', 'train.py'), ('runtime/text_files.py', 'corpus.py'), ('muon.py', 'README.md')])
def test_a_file_that_only_defines_things_says_which_script_uses_it(monkeypatch, capsys, name, user):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, ROOT / name)
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.startswith(f'{name} is no script') and user in line and line.count('\n') == 1


@pytest.mark.parametrize('started', [['bpe_textbook.py'], ['-m', 'bpe_textbook'], ['-m', 'runtime.words'], ['-m', 'scoring.wikitext_cleanup'],
                                     ['-m', 'evals.perplexity']])
def test_python_itself_says_so(started):
    ended = subprocess.run([sys.executable, *started], cwd=ROOT, capture_output=True, text=True)
    name = started[-1].removesuffix('.py').replace('.', '/')
    assert ended.returncode == 2 and ended.stderr.startswith(f'{name}.py is no script and does nothing when it is run; ')


def test_every_file_at_the_root_that_only_defines_things_imports_runtime_or_a_file_that_does():
    texts = {path.stem: path.read_text() for path in ROOT.glob('*.py')}
    imported = {name: set(re.findall(r'^(?:from|import) (\w+)', text, re.MULTILINE)) for name, text in texts.items()}
    said_by = {'runtime', *(path.parent.name for path in ROOT.glob('*/__init__.py') if re.search('^(from|import) runtime', path.read_text(), re.MULTILINE))}
    for _ in texts:
        said_by |= {name for name in texts if imported[name] & said_by}
    assert texts.keys() <= said_by


@pytest.mark.parametrize('text', ['import model\nprint(1)\n', 'for i in range(3):\n    pass\n', 'if __name__ == "__main__":\n    pass\n'])
def test_scripts_and_files_elsewhere_run(monkeypatch, tmp_path, text):
    run(monkeypatch, ROOT / 'train.py')
    (tmp_path / 'definitions.py').write_text('x = 1\n')
    run(monkeypatch, tmp_path / 'definitions.py')
    monkeypatch.setattr(not_a_script, 'ROOT', str(tmp_path))
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / 'definitions.py')
    (tmp_path / 'mine.py').write_text(text)
    run(monkeypatch, tmp_path / 'mine.py')
