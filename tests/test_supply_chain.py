"""What is installed is what was tested: lock files, their installer, and everything else that others publish."""
import hashlib
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOCKS = {'requirements.lock': ['requirements.txt', 'cloud/requirements.txt'],
         'requirements-dev.lock': ['requirements-dev.txt'],
         '.github/requirements-lint.lock': ['.github/requirements-lint.txt'],
         'cloud/torch-cpu.lock': []}
LISTS = sorted({name for names in LOCKS.values() for name in names})
MACHINES = [{'python_version': f'3.{minor}', 'python_full_version': f'3.{minor}.5', 'sys_platform': platform,
             'platform_system': system, 'platform_machine': machine, 'os_name': 'posix', 'implementation_name': 'cpython',
             'platform_python_implementation': 'CPython', 'extra': ''}
            for minor, (platform, system, machine) in itertools.product(range(10, 15), [
                ('linux', 'Linux', 'x86_64'), ('linux', 'Linux', 'aarch64'), ('darwin', 'Darwin', 'arm64')])]
WORKFLOW = ROOT / '.github/workflows/ci.yml'
SCRIPTS = [path for pattern in ('Makefile', '*.txt', '*.toml', '*.md', 'cloud/*', '.ci/*', '.github/*.*', '.github/workflows/*',
                                'docs/*.md') for path in sorted(ROOT.glob(pattern)) if path.is_file()]


def listed(name):
    """The requirements of a list and of the lists that it names with -r."""
    requirements = []
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith('-r '):
            requirements += listed((ROOT / name).parent.joinpath(line[3:]).resolve().relative_to(ROOT))
        elif line and not line.startswith('#'):
            requirements.append(Requirement(line))
    return requirements


def entries(name):
    """[(requirement, its hashes), ...] of a lock file; a line of any other form fails."""
    found = []
    for line in (ROOT / name).read_text().splitlines():
        if digest := re.fullmatch(r'    --hash=sha256:([0-9a-f]{64})( \\)?', line):
            found[-1][1].append(digest[1])
        elif not line.startswith('#'):
            package = re.fullmatch(r'([a-z0-9-]+(\[[a-z0-9,-]+\])?==\S+( ; .+)?) \\', line)
            assert package, f'{name}: {line}'
            found.append((Requirement(package[1]), []))
    return found


def versions(name, machine):
    """{package: version} that a lock file has for a machine."""
    here = [requirement for requirement, _ in entries(name) if not requirement.marker or requirement.marker.evaluate(machine)]
    names = [canonicalize_name(requirement.name) for requirement in here]
    assert len(set(names)) == len(names), f'{name} has a package twice for one machine'
    return {key: next(iter(requirement.specifier)).version for key, requirement in zip(names, here)}


@pytest.mark.parametrize('name', LOCKS)
def test_every_package_of_a_lock_file_has_one_version_and_the_hashes_of_its_files(name):
    assert entries(name)
    for requirement, digests in entries(name):
        assert [part.operator for part in requirement.specifier] == ['=='] and '*' not in str(requirement.specifier)
        assert digests and len(set(digests)) == len(digests), requirement


@pytest.mark.parametrize('lock, lists', [(lock, lists) for lock, lists in LOCKS.items() if lists])
def test_every_name_of_the_lists_is_locked_at_a_version_they_allow_on_every_python(lock, lists):
    for machine in MACHINES:
        locked = versions(lock, machine)
        for requirement in itertools.chain.from_iterable(map(listed, lists)):
            if not requirement.marker or requirement.marker.evaluate(machine):
                version = locked.get(canonicalize_name(requirement.name), 'none')
                assert requirement.specifier.contains(version), f'{lock} has {version} for {requirement}; make lock'


def test_the_tests_run_with_the_files_that_training_and_serving_get():
    for machine in MACHINES:
        assert versions('requirements.lock', machine).items() <= versions('requirements-dev.lock', machine).items()
    tested = {(requirement.name, requirement.specifier): digests for requirement, digests in entries('requirements-dev.lock')}
    for requirement, digests in entries('requirements.lock'):
        assert digests == tested[requirement.name, requirement.specifier], requirement


def test_the_cpu_has_the_torch_of_the_list_with_a_wheel_for_every_python_on_both_kinds_of_linux():
    [(requirement, digests)] = entries('cloud/torch-cpu.lock')
    [pinned] = [requirement for requirement in listed('requirements.txt') if requirement.name == 'torch']
    assert str(requirement) == f'{pinned}+cpu'
    assert len(digests) >= 5 * 2


@pytest.mark.parametrize('name', [*LOCKS, *LISTS])
def test_packages_come_by_name_from_the_one_public_index(name):
    for line in (ROOT / name).read_text().splitlines():
        assert not re.search(r'://|file:|\s@\s|^-(?!r )|^--', line.split('#')[0]), line


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_asks_a_second_index_or_lets_a_stranger_answer(path):
    unsafe = ('extra-index-url', 'extra_index_url', 'find-links', 'find_links', 'trusted-host', 'trusted_host',
              'index-strategy', 'stricthostkeychecking', 'userknownhostsfile', 'globalknownhostsfile', 'verifyhostkeydns',
              'ssh-keyscan', 'nohostauthentication', '--insecure', 'curl -k', 'no-check-certificate', 'verify=false')
    text = path.read_text().lower()
    assert not [word for word in unsafe if word in text]


# --- the installer


PIP = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>calls
[[ ${@: -1} != /dev/stdin ]] || cat >"$HERE/installed.lock"
"""


def install(*arguments, **environment):
    return subprocess.run(['bash', ROOT / 'cloud/install.sh', *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, **environment})


@pytest.fixture
def pip(tmp_path):
    """A pip that writes down how it is called and what it reads."""
    script = tmp_path / 'pip'
    script.write_text(PIP.replace('>>calls', f'>>{tmp_path}/calls').replace('$HERE', str(tmp_path)))
    script.chmod(0o755)
    return script


@pytest.mark.parametrize('device, left_out', [('cpu', 'torch triton'), ('cpu+triton', 'torch')])
def test_the_cpu_gets_no_cuda_and_torch_alone_comes_from_pytorchs_index(pip, device, left_out):
    assert install(device, 'requirements.lock', pip).returncode == 0
    first, second, check = (pip.parent / 'calls').read_text().splitlines()
    assert first.endswith('--no-deps --index-url https://download.pytorch.org/whl/cpu --requirement cloud/torch-cpu.lock')
    assert 'index' not in second and check == 'check'
    assert all('--require-hashes --only-binary=:all:' in line for line in (first, second))
    kept = re.findall(r'^([a-z0-9-]+)==', (pip.parent / 'installed.lock').read_text(), re.M)
    every = [requirement.name for requirement, _ in entries('requirements.lock')]
    assert kept == [name for name in every if name not in left_out.split() and not name.startswith(('cuda-', 'nvidia-'))]
    assert len(re.findall('--hash', (pip.parent / 'installed.lock').read_text())) == sum(
        len(digests) for requirement, digests in entries('requirements.lock') if requirement.name in kept)


def test_cuda_gets_the_whole_lock_file(pip):
    assert install('cuda', 'requirements.lock', pip).returncode == 0
    call, _ = (pip.parent / 'calls').read_text().splitlines()
    assert call.endswith('--require-hashes --only-binary=:all: --requirement requirements.lock')


@pytest.mark.parametrize('device, lock, code', [('tpu', 'requirements.lock', 2), ('cpu', 'missing.lock', 2)])
def test_a_wrong_device_or_lock_file_ends_the_installation(pip, device, lock, code):
    result = install(device, lock, pip)
    assert result.returncode == code and 'install.sh:' in result.stderr
    assert not (pip.parent / 'calls').exists()


@pytest.mark.parametrize('change, refused', [(lambda line: line, None), (lambda line: line[:-4] + 'beef', 'DO NOT MATCH'),
                                             (lambda line: line.split(' ')[0], 'hashes are required')])
def test_pip_installs_a_file_with_the_locks_hash_and_no_other(tmp_path, change, refused):
    wheel = tmp_path / 'lonely-1.0-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('lonely.py', '')
        archive.writestr('lonely-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: lonely\nVersion: 1.0\n')
        archive.writestr('lonely-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr('lonely-1.0.dist-info/RECORD', '')
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tmp_path / 'one.lock').write_text(change(f'lonely==1.0 --hash=sha256:{digest}') + '\n')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True)
    python = tmp_path / 'venv/bin/python'
    result = install('cuda', tmp_path / 'one.lock', sys.executable, '-m', 'pip', '--python', python,
                     PIP_NO_INDEX='1', PIP_FIND_LINKS=str(tmp_path), PIP_CONFIG_FILE=os.devnull)
    assert (result.returncode == 0) == (refused is None), result.stderr
    assert refused is None or refused.lower() in result.stderr.lower()
    assert (subprocess.run([python, '-c', 'import lonely'], capture_output=True).returncode == 0) == (refused is None)


# --- who uses it, and what else comes from outside


def test_the_image_ci_and_rented_machines_install_by_the_lock_files_alone():
    users = {name: (ROOT / name).read_text() for name in (
        'cloud/Dockerfile', 'cloud/box.sh', 'cloud/spot.sky.yaml', 'cloud/serve.sky.yaml', '.github/workflows/ci.yml')}
    for name, text in users.items():
        text = re.sub(r'^\s*#.*', '', text, flags=re.M)
        assert not re.search(r'pip3? install|pip" install|uv pip|requirements[\w-]*\.txt', text), name
        for lock in re.findall(r'install\.sh \S+ (\S+\.lock)', text):
            assert lock in LOCKS
    for name in ('cloud/Dockerfile', 'cloud/box.sh', 'cloud/spot.sky.yaml', 'cloud/serve.sky.yaml'):
        assert re.search(r'bash cloud/install\.sh \S+ requirements\.lock ', users[name]), name
    steps = [step.get('run', '') for step in yaml.safe_load(users['.github/workflows/ci.yml'])['jobs']['test']['steps']]
    assert steps.index('make locked') < steps.index('make test')


def test_after_make_locked_make_test_installs_nothing(tmp_path):
    for name in ('Makefile', 'requirements.txt', 'requirements-dev.txt'):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / '.venv').mkdir()
    (tmp_path / 'cloud').mkdir()
    (tmp_path / 'cloud/install.sh').write_text('echo "$@" >called')
    subprocess.run(['make', 'locked', 'PYTHON=true'], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / 'called').read_text() == 'cpu+triton requirements-dev.lock .venv/bin/python -m pip\n'
    planned = subprocess.run(['make', '--dry-run', 'test', 'demo'], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 'pytest' in planned.stdout and 'train.py' in planned.stdout and 'install' not in planned.stdout


def test_every_action_is_named_by_its_commit_and_every_image_by_its_digest():
    actions = re.findall(r'uses: (.*)', WORKFLOW.read_text())
    assert actions
    for action in actions:
        assert re.fullmatch(r'[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+', action), action
    pinned = r'\S+:\S+@sha256:[0-9a-f]{64}'
    for image in re.findall(r'image=(.*)', WORKFLOW.read_text()):
        if not image.startswith(('true', 'false', '$')):
            assert re.fullmatch(pinned, image), image
    stages = set()
    for image, stage in re.findall(r'^FROM (\S+) AS (\S+)', (ROOT / 'cloud/Dockerfile').read_text(), re.M):
        assert image in stages or re.fullmatch(pinned, image), image
        stages.add(stage)
    assert '# syntax=' not in (ROOT / 'cloud/Dockerfile').read_text(), 'a frontend is an image, too'
