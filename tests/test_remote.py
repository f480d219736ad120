"""cloud/remote.sh against a real sshd on the loopback, with keys, a port and a configuration of its own."""
import getpass
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import free_port, merged_metrics

import checkpoint
from runtime.metrics import read_metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent
SSHD = shutil.which('sshd', path=f'{os.environ.get("PATH", "")}:/usr/sbin')
MISSING = [name for name, found in (('sshd', SSHD), *((name, shutil.which(name)) for name in ('ssh', 'rsync', 'flock')))
           if not found]
PATIENCE_S = 240
RUN = ['0', 'config/demo.py', '--data_dir=data/tiny', '--out_dir=out/tiny', '--n_layer=1', '--n_head=1', '--n_embd=16',
       '--block_size=16', '--total_batch_tokens=64', '--eval_interval=1000000', '--eval_tokens=64', '--sample_interval=50',
       '--sample_tokens=1', '--checkpoint_interval=50', '--dtype=float32']
ENDLESS = '--max_steps=1000000'
SECRETS = ['key.pem', '.env', 'cloud/gcp_key.json', 'config/id_ed25519', 'data/private.txt', 'out/old/ckpt_0000001.pt']

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=f'no {", ".join(MISSING)} here (apt install openssh-server rsync)'),
              pytest.mark.timeout(2 * PATIENCE_S), pytest.mark.slow]


@pytest.fixture(scope='module')
def sshd(tmp_path_factory):
    """A folder with ssh_config, whose host `box` is this machine, behind a server of this test's own."""
    folder = tmp_path_factory.mktemp('ssh')
    if os.geteuid() == 0:
        os.makedirs('/run/sshd', exist_ok=True)  # which sshd wants to have, if it is started by root
    for name in ('host_key', 'user_key'):
        subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', folder / name], check=True)
    port = free_port()
    (folder / 'known_hosts').write_text(f'[127.0.0.1]:{port} {(folder / "host_key.pub").read_text()}')
    (folder / 'sshd_config').write_text(
        f'Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile {folder}/pid\nUsePAM no\n'
        f'AuthorizedKeysFile {folder}/user_key.pub\nStrictModes no\nPasswordAuthentication no\n'
        f'SetEnv OMP_NUM_THREADS=1\n')
    (folder / 'ssh_config').write_text(
        f'Host box\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {folder}/user_key\n'
        f' IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n StrictHostKeyChecking yes\n')
    server = subprocess.Popen([SSHD, '-D', '-f', folder / 'sshd_config', '-E', folder / 'log'])
    wait_until(lambda: can_connect(port) or server.poll() is not None)
    if server.poll() is not None:
        pytest.skip(f'sshd does not start here: {(folder / "log").read_text().strip()}')
    yield folder, server.pid
    server.terminate()
    server.wait()


@pytest.fixture
def checkout(tmp_path, data_dir):
    """A copy of what is in the repository, with things in it that must not leave this machine."""
    folder = tmp_path / 'checkout'
    folders = ('runtime', 'kernels', 'inference', 'scoring', 'evals', 'tasks', 'config', 'cloud', 'bench')
    files = ('requirements.txt', 'requirements-dev.txt', 'requirements.lock', 'Makefile', 'pyproject.toml', 'tests/conftest.py', 'tests/test_kernels_gpu.py')
    for path in [*ROOT.glob('*.py'), *(path for name in folders for path in ROOT.glob(f'{name}/*')), *(ROOT / name for name in files)]:
        if path.is_file():
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for name in SECRETS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('secret')
    shutil.copytree(data_dir, tmp_path / 'tiny')
    (tmp_path / 'box').mkdir(exist_ok=True)
    return folder


class Remote:
    """remote.sh as a user has it, who trains in `box`, a folder of the other machine."""

    def __init__(self, checkout, sshd):
        self.checkout, self.box = checkout, checkout.parent / 'box'  # which `stub` may have filled
        self.options = [f'--ssh-config={sshd[0]}/ssh_config', f'--dir={self.box}']
        self.shown = checkout.parent / 'shown.txt'

    def start(self, *arguments, options=()):
        with open(self.shown, 'ab') as shown:
            return subprocess.Popen(['bash', self.checkout / 'cloud/remote.sh', *self.options, *options, *arguments],
                                    stdin=subprocess.DEVNULL, stdout=shown, stderr=shown, start_new_session=True)

    def run(self, *arguments, options=()):
        """(exit code, what it printed)"""
        before = len(self.text())
        code = self.start(*arguments, options=options).wait(PATIENCE_S)
        return code, self.text()[before:]

    def text(self):
        return self.shown.read_text() if self.shown.exists() else ''

    def step(self):
        rows = read_metrics(str(self.box / 'out/tiny'))
        return rows[-1]['step'] if rows else -1


@pytest.fixture
def remote(checkout, sshd):
    remote = Remote(checkout, sshd)
    yield remote
    if (remote.box / '.job/pid').exists():  # what a failed test left running
        subprocess.run(['bash', remote.box / 'cloud/box.sh', 'stop'], capture_output=True, timeout=PATIENCE_S)


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def newest(out_dir):
    """The step of the newest checkpoint that is whole."""
    return checkpoint.load_newest(str(out_dir))[1]['step']


def can_connect(port):
    with socket.socket() as client:
        return client.connect_ex(('127.0.0.1', port)) == 0


def cut_connections(server_pid):
    """Ends what the server has forked for its connections, as a broken network would, and returns how many there were."""
    children = pathlib.Path(f'/proc/{server_pid}/task/{server_pid}/children').read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    return len(children)


def test_a_run_outlives_its_connection_and_the_same_command_comes_back_to_it(remote, sshd, tmp_path):
    options = [f'--python={sys.executable}', f'--data={tmp_path}/tiny']

    # The client dies mid-run; the run does not.
    client = remote.start('box', *RUN, ENDLESS, options=options)
    wait_until(lambda: 'sample at step' in remote.text() or client.poll() is not None)
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    cut_connections(sshd[1])
    seen = remote.step()
    wait_until(lambda: remote.step() > seen + 50)

    # The same command comes back to it, and comes back by itself when the connection breaks again.
    shown_before = len(remote.text())
    client = remote.start('box', *RUN, ENDLESS, options=options)
    wait_until(lambda: 'sample at step' in remote.text()[shown_before:])
    assert 'reattached' in remote.text()[shown_before:]
    assert cut_connections(sshd[1]) > 0
    wait_until(lambda: 'connection lost' in remote.text())

    # --stop lets it save; whoever follows sees it end.
    code, _ = remote.run('--stop', 'box')
    assert code == 0 and client.wait(PATIENCE_S) == 0
    results = remote.checkout / 'out/box/tiny'
    stopped_at = newest(results)
    assert stopped_at == newest(remote.box / 'out/tiny') > seen

    # Started again, it goes on from there, to the end; and then there is nothing left to do but to fetch.
    last = stopped_at + 70
    code, printed = remote.run('box', *RUN, f'--max_steps={last}', options=options)
    assert code == 0
    assert f'resumes at step {stopped_at:,}' in printed and f'done: {last:,} steps' in printed
    assert [row['step'] for row in merged_metrics(results)] == list(range(last + 1))
    assert newest(results) == last
    shutil.rmtree(results)
    code, printed = remote.run('box', *RUN, f'--max_steps={last}', options=options)
    assert code == 0 and 'is done' in printed and 'resumes' not in printed
    assert newest(results) == last

    # The log was shown whole, whatever happened in between: nothing twice, nothing left out.
    log = (remote.checkout / 'out/box/box.log').read_bytes()
    assert log == (remote.box / '.job/log').read_bytes()
    # Code went there, and nothing else did.
    assert (remote.box / 'model.py').exists()
    assert not [path for path in remote.box.rglob('*') if path.is_file() and path.read_bytes() == b'secret']


@pytest.mark.parametrize('known', ['', 'another key'])
def test_nothing_goes_to_a_machine_whose_key_is_not_the_known_one(remote, sshd, tmp_path, known):
    config = (sshd[0] / 'ssh_config').read_text()
    host = (sshd[0] / 'known_hosts').read_text().split()[0]
    (tmp_path / 'known_hosts').write_text(known and f'{host} {(sshd[0] / "user_key.pub").read_text()}')
    (tmp_path / 'ssh_config').write_text(
        config.replace(f'{sshd[0]}/known_hosts', f'{tmp_path}/known_hosts').replace(' StrictHostKeyChecking yes\n', ''))
    code, printed = remote.run('box', '1', 'config/demo.py', options=[f'--ssh-config={tmp_path}/ssh_config'])
    assert code == 1 and 'Host key verification failed' in printed
    assert not list(remote.box.iterdir())


# --- what needs no training: a folder whose train.py and torchrun write down how they were called

TRAIN = """
DEFAULTS = {'out_dir': 'out'}
def configure(defaults):
    import sys
    if '--wrong' in sys.argv:
        sys.exit(f'{sys.argv[0]}: unknown key wrong')
    return dict(defaults, out_dir='out/stub')
"""
TORCHRUN = """
import json, os, pathlib, sys
key = os.environ.get('GOOGLE_APPLICATION_CREDENTIALS')
stat = key and os.stat(key)
os.makedirs('out/stub', exist_ok=True)
pathlib.Path('out/stub/called.json').write_text(json.dumps({
    'argv': sys.argv[1:], 'key': key and pathlib.Path(key).read_text(), 'mode': key and stat.st_mode & 0o777,
    'python': sys.executable}))
"""
DOCKER = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>docker_commands
if [[ $* == *" python -c "* ]]; then echo out/stub; fi
"""


@pytest.fixture
def stub(tmp_path):
    """A folder as remote.sh leaves it on the box, but for a train.py and a torch that train nothing."""
    box = tmp_path / 'box'
    for name, text in (('train.py', TRAIN), ('requirements.lock', ''), ('torch/__init__.py', ''),
                       ('torch/distributed/__init__.py', ''), ('torch/distributed/run.py', TORCHRUN)):
        (box / name).parent.mkdir(parents=True, exist_ok=True)
        (box / name).write_text(text)
    shutil.copytree(ROOT / 'cloud', box / 'cloud')
    return box


def run_stub(box, *arguments, docker='', python=sys.executable, prepare='', path=()):
    """(exit code, what it printed) of a run that box.sh starts and follows."""
    environment = {**os.environ, 'PATH': os.pathsep.join([*path, os.environ['PATH']])}
    script = ['bash', box / 'cloud/box.sh']
    subprocess.run([*script, 'start', docker, python, prepare, *arguments], check=True, env=environment, timeout=PATIENCE_S)
    result = subprocess.run([*script, 'follow', '0', str(PATIENCE_S)], capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def called(out):
    return json.loads((out / 'stub/called.json').read_text())


def test_gpus_become_processes_of_torchrun_and_the_rest_is_train_pys(stub):
    code, printed = run_stub(stub, '8', 'config/demo.py', "--out_dir=a b'c")
    assert code == 0, printed
    expected = ['--standalone', '--nproc_per_node=8', '--max-restarts=3', 'train.py', 'config/demo.py', "--out_dir=a b'c"]
    assert called(stub / 'out')['argv'] == expected


def test_the_preparation_runs_first_with_the_same_python_and_its_failure_ends_the_run(stub):
    code, printed = run_stub(stub, '0', prepare='python -c "import sys; print(sys.prefix)" && exit 3')
    assert code == 3 and sys.prefix in printed
    assert not (stub / 'out').exists()


def test_what_train_py_refuses_is_said_before_torchrun_starts(stub):
    code, printed = run_stub(stub, '0', '--wrong')
    assert code == 1 and 'train.py: unknown key wrong' in printed
    assert not (stub / 'out').exists()


def test_an_environment_is_made_from_the_lock_file_once(stub):
    (stub / 'requirements.lock').write_text('# nothing\n')
    code, printed = run_stub(stub, '1', python='')
    assert code == 0, printed
    assert called(stub / 'out')['python'] == str(stub / '.venv/bin/python')
    assert (stub / '.venv/installed').read_text() == '# nothing\n'
    (stub / '.venv/bin/pip').unlink()
    shutil.rmtree(next((stub / '.venv/lib').glob('python*/site-packages/pip')))
    code, printed = run_stub(stub, '1', python='')
    assert code == 0, printed
    (stub / 'requirements.lock').write_text('# nothing else\n')
    code, printed = run_stub(stub, '1', python='')
    assert 'pip' in printed and (stub / '.venv/installed').read_text() == '# nothing\n'


def test_with_docker_the_image_is_built_there_and_trains_with_the_folders_of_data_and_runs(stub, tmp_path):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin/docker').write_text(DOCKER)
    (tmp_path / 'bin/docker').chmod(0o755)
    (stub / '.job').mkdir()
    (stub / '.job/gcp_key.json').write_text('the key')
    code, printed = run_stub(stub, '2', 'config/demo.py', docker='yes', python='', prepare='python corpus.py',
                             path=[str(tmp_path / 'bin')])
    assert code == 0, printed
    commands = (stub / 'docker_commands').read_text().splitlines()
    build, prepare, _, train = [line for line in commands if line.startswith(('build', 'run'))]
    assert build == 'build --file cloud/Dockerfile --build-arg DEVICE=cuda --tag scratchgpt:cuda .'
    assert prepare.endswith('scratchgpt:cuda bash -c python corpus.py')
    for part in ('--rm', '--gpus 2', f'--user {os.getuid()}:{os.getgid()}', f'--volume {stub}/data:/app/data',
                 f'--volume {stub}/out:/app/out', f'--volume {stub}/.job/gcp_key.json:/run/secrets/gcp_key.json:ro'):
        assert f' {part} ' in train
    assert train.endswith('python -m torch.distributed.run --standalone --nproc_per_node=2 --max-restarts=3 train.py config/demo.py')
    assert not (stub / '.job/gcp_key.json').exists()


def test_a_google_key_goes_along_only_if_named_is_its_owners_alone_and_is_gone_after_the_run(remote, stub, tmp_path):
    for path in remote.checkout.glob('*.py'):
        path.unlink()
    shutil.copy(stub / 'train.py', remote.checkout)
    (tmp_path / 'key.json').write_text('the key')
    options = [f'--python={sys.executable}']
    assert remote.run('box', '0', options=options)[0] == 0
    assert called(remote.checkout / 'out/box')['key'] is None
    assert remote.run('box', '0', '--seed=2', options=[*options, f'--gcp-key={tmp_path}/key.json'])[0] == 0
    assert (called(remote.checkout / 'out/box')['key'], called(remote.checkout / 'out/box')['mode']) == ('the key', 0o600)
    assert not [path for path in remote.box.rglob('*') if path.is_file() and path.read_text(errors='ignore') == 'the key']


def test_a_folder_has_one_run(remote, stub):
    options = [f'--python={sys.executable}', '--prepare=until [ -e go ]; do sleep 0.1; done']
    first = remote.start('box', '0', '--seed=1', options=options)
    wait_until(lambda: 'started on box' in remote.text())
    code, printed = remote.run('box', '0', '--seed=2', options=options)
    assert code == 2 and 'busy with another run' in printed and '--seed=1' in printed
    (remote.box / 'train.py').write_text(TRAIN)
    (remote.box / 'go').touch()
    assert first.wait(PATIENCE_S) == 0


def test_bench_runs_make_gpu_there_and_brings_the_results_back(remote):
    if shutil.which('make') is None:
        pytest.skip('no make here')
    command = ['--bench', 'box', '--device=cpu', '--parts=kernel_tests,train']
    code, printed = remote.run(*command, options=[f'--python={sys.executable}'])
    assert code == 0, printed
    results = json.loads((remote.checkout / 'bench_results/cpu/gpu.json').read_text())
    assert [result['part'] for result in results['parts']] == ['kernel_tests', 'train']
    assert [row['contender'] for row in results['parts'][1]['tables'][0]['rows']] == ['eager', 'ours']
    assert 'make gpu' in printed and 'the results are in' in printed
    # The same command measures again, with the code as it is now.
    (remote.checkout / 'bench/gpu.py').write_text('raise SystemExit(3)')
    assert remote.run(*command, options=[f'--python={sys.executable}'])[0] == 2
    assert not [path for path in remote.box.rglob('*') if path.is_file() and path.read_bytes() == b'secret']


@pytest.mark.parametrize('arguments, message', [
    (['box'], 'HOST and GPUS are needed'),
    (['box', 'many'], 'GPUS is many'),
    (['box', '1', 'config/no.py'], 'no config file config/no.py'),
    (['box', '1', '/etc/passwd'], '/etc/passwd should be a flag, or a config file in config/'),
    (['--gcp-key=none.json', 'box', '1'], '--gcp-key=none.json is no file'),
    (['--dir=a b', 'box', '1'], '--dir=a b should have letters'),
    (['--frob', 'box', '1'], 'unknown option --frob'),
    (['--stop', 'box', '1'], '--stop takes HOST alone'),
    (['--bench'], '--bench needs HOST'),
    (['--bench', 'box', 'config/demo.py'], 'config/demo.py should be --key=value'),
    (['--bench', '--docker', 'box'], '--bench makes its environment and data'),
])
def test_a_wrong_command_line_is_refused_in_one_line_with_the_right_one_below(arguments, message):
    result = subprocess.run(['bash', ROOT / 'cloud/remote.sh', *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[0] and 'cloud/remote.sh [OPTIONS] HOST GPUS' in result.stderr
