import sys
import types

import pytest
from conftest import ROOT

from runtime import not_a_script


def run(monkeypatch, path):
    monkeypatch.setitem(sys.modules, '__main__', types.SimpleNamespace(__file__=str(path)))
    not_a_script.refuse_to_run_a_library()


@pytest.mark.parametrize('name, user', [('sources.py', 'corpus.py, evaluate.py'), ('tasks/gsm8k.py', 'tasks/solve.py'), ('optim.py', 'train.py'),
                                        ('configurator.py', 'train.py'), ('runtime/text_files.py', 'corpus.py'), ('muon.py', 'README.md')])
def test_a_file_that_only_defines_things_says_which_script_uses_it(monkeypatch, capsys, name, user):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, ROOT / name)
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.startswith(f'{name} is no script') and user in line and line.count('\n') == 1


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
