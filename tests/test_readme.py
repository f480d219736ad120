import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()


def test_every_script_and_config_is_in_the_readme_and_every_file_named_there_exists():
    named = set(re.findall(r'`((?:[\w/]+/)?\w+\.py|\w+/)`', README))
    for name in named:
        assert (ROOT / name).exists() or (ROOT / 'config' / name).exists(), name
    for path in [*ROOT.glob('*.py'), *(ROOT / 'config').glob('*.py')]:
        assert path.name in named, path.name


@pytest.mark.parametrize('command', re.findall(r'^(?:\.venv/bin/)?(?:python|torchrun .*?) ?(\w+\.py.*?)(?:  +#.*)?$', README, re.M))
def test_every_command_in_the_readme_has_flags_and_configs_that_exist(command):
    import importlib
    import shlex
    from configurator import configure
    script, *arguments = shlex.split(command)
    module = importlib.import_module(script.removesuffix('.py'))
    arguments = [argument for argument in arguments if argument.startswith('--') or argument.endswith('.py')]
    if '--help' not in arguments:
        configure(module.DEFAULTS, [str(ROOT / a) if a.endswith('.py') and a.startswith('config/') else a for a in arguments])
