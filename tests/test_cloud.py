"""What is in cloud/, as far as it shows without a cloud: scripts run outside a container, AWS is moto, and files are
read by the tools that will read them (SkyPilot's parser, actionlint, hadolint, shellcheck) where these are installed."""
import ast
import fnmatch
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request

import pytest
import yaml
from conftest import free_port

import pretrained
import train
from configurator import configure
from runtime.errors import BadInput

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLOUD = ROOT / 'cloud'
SCRIPTS = [*sorted(CLOUD.glob('*.sh')), CLOUD / 'slurm.sbatch']
PATIENCE_S = 240
SECRET = {'SCRATCHGPT_API_KEY': 'abc'}


def tool(name):
    """Path of a program, beside this Python or in the PATH; the test is skipped where there is none."""
    path = shutil.which(name, path=f'{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get("PATH", "")}')
    return path or pytest.skip(f'{name} is not installed')


def load_sagemaker():
    spec = importlib.util.spec_from_file_location('deploy_to_sagemaker', CLOUD / 'sagemaker.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def run_dir(data_dir, tmp_path_factory):
    """The folder of a tiny run, trained by the container's entry point."""
    out_dir = tmp_path_factory.mktemp('run') / 'tiny'
    command = ['bash', CLOUD / 'entrypoint.sh', 'train', ROOT / 'config/demo.py', f'--data_dir={data_dir}',
               f'--out_dir={out_dir}', '--n_layer=1', '--n_head=2', '--n_embd=16', '--block_size=32',
               '--total_batch_tokens=64', '--max_steps=3', '--eval_tokens=64', '--sample_interval=0']
    result = subprocess.run(command, env=path_with_python(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 0, result.stderr
    return out_dir


def path_with_python(*folders, **more):
    """The environment with this Python, and what is in the folders, first in the PATH."""
    path = os.pathsep.join([*map(str, folders), os.path.dirname(sys.executable), os.environ['PATH']])
    return {**os.environ, 'PATH': path, **{key: str(value) for key, value in more.items()}}


def write_stub(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\n{text}\n')
    path.chmod(0o755)


# --- the image


def dockerfile():
    """[[(instruction, arguments), ...] of every stage], the part before the first FROM left out."""
    text = re.sub(r'^\s*#.*\n', '', (CLOUD / 'Dockerfile').read_text(), flags=re.M).replace('\\\n', ' ')
    stages = []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, arguments = line.partition(' ')
        if instruction == 'FROM':
            stages.append([])
        if stages:
            stages[-1].append((instruction, arguments.strip()))
    return stages


def in_context(path):
    """Whether a path reaches the build, by .dockerignore's rules: the last pattern that fits a path or a parent decides."""
    kept = True
    for pattern in (ROOT / '.dockerignore').read_text().splitlines():
        if pattern and not pattern.startswith('#'):
            parts, wanted = path.split('/'), pattern.lstrip('!').strip('/').split('/')
            if all(fnmatch.fnmatch(part, want) for part, want in zip(parts, wanted)) and len(parts) >= len(wanted):
                kept = pattern.startswith('!')
    return kept


def copied():
    """Files of the repository that the image has."""
    patterns = [source for stage in dockerfile() for instruction, arguments in stage if instruction == 'COPY'
                and '--from' not in arguments for source in arguments.split()[:-1]]
    paths = [str(path.relative_to(ROOT)) for folder in ('', 'kernels', 'config', 'cloud', 'tests', 'docs', 'runs')
             for path in (ROOT / folder).glob('*') if path.is_file()]
    return [path for path in paths if in_context(path) and any(
        path.startswith(f'{pattern}/') or os.path.dirname(path) == os.path.dirname(pattern) and fnmatch.fnmatch(path, pattern)
        for pattern in patterns)]


def test_a_change_of_the_code_leaves_the_layers_with_the_dependencies_as_they_are():
    _, builder, base = dockerfile()[:3]
    sources = {source for instruction, arguments in builder if instruction in ('COPY', 'ADD') for source in arguments.split()[:-1]}
    assert sources == {'requirements.lock', 'cloud/install.sh', 'cloud/torch-cpu.lock'}
    steps = [f'{instruction} {arguments}' for instruction, arguments in base]
    first_code = next(i for i, step in enumerate(steps) if step.startswith('COPY') and '--from' not in step)
    assert not [step for step in steps[first_code:] if step.startswith(('RUN', 'COPY --from'))]
    assert any('--mount=type=cache' in arguments for instruction, arguments in builder if instruction == 'RUN')


def test_the_image_runs_as_a_user_without_rights_and_says_whether_it_is_well():
    last = dict(dockerfile()[-1])
    base = dict(dockerfile()[2])
    assert last['USER'] == '${UID}' and ('ARG', 'UID=1000') in dockerfile()[-1]
    assert 'healthcheck.py' in base['HEALTHCHECK']
    assert json.loads(base['ENTRYPOINT'])[-1] == 'cloud/entrypoint.sh' and os.access(CLOUD / 'entrypoint.sh', os.X_OK)


def test_the_image_has_every_module_and_page_that_runs_and_no_others():
    names = copied()
    for path in [*ROOT.glob('*.py'), *ROOT.glob('*.html'), *ROOT.glob('kernels/*.py'), *ROOT.glob('config/*.py')]:
        assert str(path.relative_to(ROOT)) in names
    assert {name for name in names if name.startswith('cloud/')} == {
        'cloud/entrypoint.sh', 'cloud/healthcheck.py', 'cloud/install.sh', 'cloud/torch-cpu.lock'}
    assert not [name for name in names if name.startswith(('tests/', 'docs/', 'bench_results/'))]
    assert in_context('inference/step.cpp') and in_context('inference/page.html')


def test_the_image_has_every_package_that_its_modules_import():
    listed = {re.match(r'[\w.-]+', line)[0].lower().replace('-', '_')
              for name in ('requirements.txt', 'cloud/requirements.txt')
              for line in (ROOT / name).read_text().splitlines() if line and not line.startswith('#')}
    brought_along = {'pydantic': 'fastapi', 'starlette': 'fastapi', 'sympy': 'torch', 'fsspec': 'huggingface_hub', 'pyarrow': 'datasets'}
    optional = {'tensorboard', 'wandb', 'scipy', 'transformers', 'tokenizers', 'boto3', 'gguf', 'gigatoken'}
    ours = {path.stem for path in ROOT.glob('*.py')} | {'runtime', 'kernels', 'inference', 'scoring', 'evals', 'tasks', 'config'}
    for name in copied():
        if not name.endswith('.py'):
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in (module.partition('.')[0] for module in modules):
                if module not in ours | optional and module not in sys.stdlib_module_names:
                    assert brought_along.get(module, module) in listed, f'{name} imports {module}'


@pytest.mark.parametrize('path', ['.git/config', '.env', 'key.pem', 'cloud/gcp_key.json', 'data/fineweb/x.bin', 'out/ckpt_0000001.pt',
                                  '.venv/bin/python', 'config/id_ed25519', 'kernels/__pycache__/x.pyc', 'tests/test_cloud.py'])
def test_data_keys_and_history_never_reach_the_build(path):
    assert not in_context(path)


def test_hadolint_finds_nothing_in_the_dockerfile():
    result = subprocess.run([tool('hadolint'), CLOUD / 'Dockerfile'], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_service_of_compose_is_shut_in_and_the_server_is_open_to_this_machine_alone():
    services = yaml.safe_load((CLOUD / 'docker-compose.yml').read_text())['services']
    assert set(services) == {'train', 'train-gpu', 'serve', 'serve-gpu'}
    for name, service in services.items():
        assert service['user'] == '${UID:-1000}:${GID:-1000}' and service['read_only'] and service['cap_drop'] == ['ALL']
        assert service['build']['args']['DEVICE'] == ('cuda' if name.endswith('-gpu') else 'cpu')
        assert (CLOUD / service['build']['context'] / service['build']['dockerfile']).exists()
        assert ('deploy' in service) == name.endswith('-gpu')
        for port in service.get('ports', []):
            assert port.startswith('${HOST:-127.0.0.1}:')
        assert service.get('environment', []) in ([], ['SCRATCHGPT_API_KEY']), 'a name without a value, taken from outside'


# --- scripts


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing_in_the_scripts(path):
    assert subprocess.run(['bash', '-n', path]).returncode == 0
    result = subprocess.run([tool('shellcheck'), path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_actionlint_finds_nothing_in_the_workflow():
    result = subprocess.run([tool('actionlint'), ROOT / '.github/workflows/ci.yml'], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_workflow_tests_on_every_supported_python_and_names_files_that_exist():
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
    jobs = workflow['jobs']
    assert set(workflow[True]) == {'push', 'pull_request'}  # YAML 1.1 reads the key `on` as true
    assert jobs['test']['strategy']['matrix']['python'] == ['3.10', '3.11', '3.12', '3.13', '3.14']
    assert {'run': 'make test'} in jobs['test']['steps']
    build = next(step['with'] for step in jobs['image']['steps'] if 'build-push-action' in step.get('uses', ''))
    assert (ROOT / build['file']).exists() and 'type=gha' in build['cache-from'] and 'mode=max' in build['cache-to']


@pytest.mark.parametrize('gpus, command', [('4', 'torchrun --standalone --nproc_per_node=4 train.py config/demo.py --seed=1'),
                                           ('1', 'python train.py config/demo.py --seed=1')])
def test_the_entry_point_trains_on_every_gpu(tmp_path, gpus, command):
    write_stub(tmp_path / 'python', f'if [[ $1 == -c ]]; then echo {gpus}; else echo python "$@"; fi')
    write_stub(tmp_path / 'torchrun', 'echo torchrun "$@"')
    result = subprocess.run(['bash', CLOUD / 'entrypoint.sh', 'train', 'config/demo.py', '--seed=1'], text=True,
                            capture_output=True, env=path_with_python(tmp_path, TMPDIR=tmp_path) | {
                                'PATH': f'{tmp_path}:{os.environ["PATH"]}'})
    assert result.stdout.strip() == command


def test_the_entry_point_runs_any_other_command_as_it_stands(tmp_path):
    result = subprocess.run(['bash', CLOUD / 'entrypoint.sh', 'echo', 'a b', '*'], capture_output=True, text=True,
                            env={**os.environ, 'TMPDIR': str(tmp_path)})
    assert result.stdout == 'a b *\n'


def ask(port, path, body=None, key='abc'):
    """(status, answer) of the server on this port."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f'http://127.0.0.1:{port}{path}', data, {
        'Content-Type': 'application/json', 'Authorization': f'Bearer {key}'})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.slow
def test_the_container_keeps_sagemakers_contract_with_the_model_that_was_packed_for_it(run_dir, tmp_path):
    pytest.importorskip('fastapi', reason='serving needs cloud/requirements.txt')
    sagemaker = load_sagemaker()
    archive = sagemaker.pack(configure(sagemaker.DEFAULTS, [f'--out_dir={run_dir}']), str(tmp_path))
    (tmp_path / 'opt').mkdir()
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / 'opt', filter='data')
    port = free_port()
    environment = path_with_python(TMPDIR=tmp_path, MODEL_DIR=tmp_path / 'opt', **SECRET)
    health = [sys.executable, CLOUD / 'healthcheck.py']
    assert subprocess.run(health, env=environment).returncode == 0, 'a container that does not serve is well'
    server = subprocess.Popen(['bash', CLOUD / 'entrypoint.sh', 'serve', f'--port={port}'], env=environment)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert server.poll() is None and time.monotonic() < deadline
            try:
                status, _ = ask(port, '/ping')
                break
            except OSError:
                time.sleep(0.1)
        assert status == 200
        assert subprocess.run(health, env=environment).returncode == 0
        status, answer = ask(port, '/invocations', {'prompt': 'def ', 'max_tokens': 5, 'temperature': 0})
        assert status == 200 and json.loads(answer)['usage']['completion_tokens'] == 5
        status, answer = ask(port, '/invocations', {'prompt': 'def ', 'max_tokens': 'many'})
        assert status in (400, 422) and b'max_tokens' in answer
        assert ask(port, '/invocations', {'prompt': 'def '}, key='wrong')[0] == 401
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(PATIENCE_S)
    assert code == 0, 'SIGTERM ends the server itself: no shell stands in between'
    result = subprocess.run(health, env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and 'healthz' in result.stderr


# --- spot machines and clusters


def sky_file(name):
    return yaml.safe_load((CLOUD / name).read_text())


@pytest.mark.parametrize('name, clouds', [('spot.sky.yaml', {'AWS', 'GCP', 'Azure', 'Lambda', 'Paperspace'}),
                                          ('serve.sky.yaml', {'AWS', 'GCP', 'Azure'})])
def test_skypilot_reads_its_files(name, clouds, monkeypatch):
    monkeypatch.setenv('SKYPILOT_DISABLE_USAGE_COLLECTION', '1')
    sky = pytest.importorskip('sky', reason='SkyPilot is not installed (pip install skypilot)')
    monkeypatch.chdir(ROOT)
    task = sky.Task.from_yaml(str(CLOUD / name))
    assert {str(resources.cloud) for resources in task.resources} == clouds
    for resources in task.resources:
        assert resources.use_spot == (str(resources.cloud) not in ('Lambda', 'Paperspace'))
    assert task.storage_mounts['/bucket'].name == 'scratchgpt-runs'
    if name == 'serve.sky.yaml':
        assert task.service.readiness_path == '/healthz' and task.service.max_replicas > task.service.min_replicas


@pytest.mark.parametrize('name', ['spot.sky.yaml', 'serve.sky.yaml'])
def test_shellcheck_finds_nothing_in_what_skypilot_runs(name, tmp_path):
    for part in ('setup', 'run'):
        (tmp_path / part).write_text(f'#!/usr/bin/env bash\n{sky_file(name)[part]}')
        # SC2086: ARGS are several words; SC1091: the environment is not here; SC2154: SkyPilot sets its variables
        result = subprocess.run([tool('shellcheck'), '-e', 'SC2086,SC1091,SC2154', tmp_path / part], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


def run_spot(tmp_path, **changes):
    """Runs spot.sky.yaml's `run` with a bucket in a folder and programs that write down how they were called."""
    for folder in ('bucket/data/fineweb', 'work'):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    calls = tmp_path / 'calls'
    calls.write_text('')
    for name in ('python', 'torchrun', 'rsync'):
        write_stub(tmp_path / 'work/.venv/bin' / name, f'printf "%s\\n" "{name} $*" >>{calls}; touch {tmp_path}/bucket/data/fineweb/meta.json')
    (tmp_path / 'work/.venv/bin/activate').write_text(f'PATH={tmp_path}/work/.venv/bin:$PATH\n')
    spec = sky_file('spot.sky.yaml')
    variables = {**spec['envs'], 'SKYPILOT_NODE_RANK': '0', 'SKYPILOT_NUM_NODES': '2', 'SKYPILOT_NUM_GPUS_PER_NODE': '8',
                 'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2', **changes}
    script = spec['run'].replace('/bucket', f'{tmp_path}/bucket')
    result = subprocess.run(['bash', '-c', script], cwd=tmp_path / 'work', env={**os.environ, **variables}, timeout=PATIENCE_S)
    assert result.returncode == 0
    return calls.read_text().replace(f'{tmp_path}/', '/').splitlines()


def test_a_spot_job_makes_the_data_copies_it_and_goes_on_from_the_bucket(tmp_path):
    data, copy, training = run_spot(tmp_path)
    assert data == 'python fineweb.py --out_dir=/bucket/data/fineweb'
    assert copy.startswith('rsync') and copy.endswith('/bucket/data/fineweb data/')
    assert training.startswith('torchrun --nnodes=2 --node_rank=0 --nproc_per_node=8 --master_addr=10.0.0.1 --master_port=29500 train.py')
    arguments = shlex.split(training.partition('train.py ')[2])
    config = configure(train.DEFAULTS, [str(ROOT / word) if word.startswith('config/') else word for word in arguments])
    assert config['init_from'] == 'auto' and config['out_dir'] == '/bucket/out/gpt2' and config['data_dir'] == 'data/fineweb'


def test_a_spot_job_without_arguments_makes_the_data_alone_and_other_nodes_leave_that_to_the_first(tmp_path):
    assert run_spot(tmp_path, ARGS='') == ['python fineweb.py --out_dir=/bucket/data/fineweb']
    calls = run_spot(tmp_path, SKYPILOT_NODE_RANK='1')
    assert [call.split()[0] for call in calls] == ['rsync', 'torchrun'] and '--node_rank=1' in calls[1]


@pytest.fixture
def slurm(tmp_path):
    """Runs slurm.sbatch with an srun that is `command`: slurm(command) -> (process, the calls of scontrol so far)."""
    calls = tmp_path / 'calls'
    write_stub(tmp_path / 'bin/scontrol', f'if [[ $1 == show ]]; then echo node1; echo node2; else echo "$@" >>{calls}; fi')

    def start(command):
        write_stub(tmp_path / 'bin/srun', command)
        environment = {**os.environ, 'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}', 'SLURM_SUBMIT_DIR': str(tmp_path),
                       'SLURM_GPUS_ON_NODE': '8', 'SLURM_JOB_NUM_NODES': '2', 'SLURM_JOB_ID': '7', 'SLURM_JOB_NODELIST': 'node[1-2]'}
        process = subprocess.Popen(['bash', CLOUD / 'slurm.sbatch', 'config/demo.py', '--seed=1'], env=environment,
                                   stdout=subprocess.PIPE, text=True)
        return process, lambda: calls.read_text() if calls.exists() else ''
    return start


def test_slurm_starts_torchrun_once_a_machine_all_meeting_at_the_first(slurm):
    process, requeued = slurm('echo "$@"')
    words = process.communicate(timeout=PATIENCE_S)[0].split()
    assert {'--nnodes=2', '--nproc_per_node=8', '--rdzv_endpoint=node1:29500', '--rdzv_id=7'} <= set(words)
    assert words[-3:] == ['train.py', 'config/demo.py', '--seed=1']
    assert process.returncode == 0 and requeued() == ''


def test_slurm_takes_a_run_that_had_to_stop_back_into_the_queue_after_it_has_saved(slurm, tmp_path):
    process, requeued = slurm(f'trap "sleep 0.5; touch {tmp_path}/saved; exit 1" TERM; touch {tmp_path}/started; while :; do sleep 0.1; done')
    while not (tmp_path / 'started').exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / 'saved').exists() and requeued() == 'requeue 7\n'


def test_slurm_does_not_repeat_a_run_that_fails(slurm):
    process, requeued = slurm('exit 3')
    assert process.wait(PATIENCE_S) == 3 and requeued() == ''


# --- SageMaker


@pytest.fixture
def aws(monkeypatch):
    """boto3 with moto's S3 and SageMaker behind it, and a bucket."""
    moto = pytest.importorskip('moto', reason='moto is not installed (pip install "moto[s3]")')
    import boto3
    for key in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.setenv(key, 'testing')
    monkeypatch.setenv('AWS_DEFAULT_REGION', 'us-east-1')
    with moto.mock_aws():
        boto3.client('s3').create_bucket(Bucket='models')
        yield boto3


DEPLOYMENT = ['--name=tiny', '--bucket=models', '--image=123456789012.dkr.ecr.us-east-1.amazonaws.com/scratchgpt',
              '--role=arn:aws:iam::123456789012:role/endpoint', '--instance_type=ml.m5.large']


def deploy(*arguments):
    sagemaker = load_sagemaker()
    sagemaker.main(configure(sagemaker.DEFAULTS, [*DEPLOYMENT, *arguments]))


@pytest.mark.slow
def test_an_endpoint_is_created_described_and_deleted(aws, run_dir, tmp_path):
    deploy(f'--out_dir={run_dir}')
    client, s3 = aws.client('sagemaker'), aws.client('s3')
    assert client.describe_endpoint(EndpointName='tiny')['EndpointStatus'] == 'InService'
    variant = client.describe_endpoint_config(EndpointConfigName='tiny')['ProductionVariants'][0]
    assert (variant['ModelName'], variant['InstanceType'], variant['InitialInstanceCount']) == ('tiny', 'ml.m5.large', 1)
    container = client.describe_model(ModelName='tiny')['PrimaryContainer']
    assert container['ModelDataUrl'] == 's3://models/tiny/model.tar.gz' and 'Environment' not in container
    s3.download_file('models', 'tiny/model.tar.gz', str(tmp_path / 'model.tar.gz'))
    with tarfile.open(tmp_path / 'model.tar.gz') as tar:
        members = tar.getmembers()
        tar.extractall(tmp_path / 'model', filter='data')
    assert {member.uid for member in members} == {0} and not any(member.uname for member in members)
    served, _, _ = pretrained.load(str(tmp_path / 'model'))
    trained, _, _ = pretrained.load(str(run_dir))
    assert served.config.n_embd == trained.config.n_embd and served.n_params() == trained.n_params()

    deploy('--delete')
    assert client.list_endpoints()['Endpoints'] == client.list_endpoint_configs()['EndpointConfigs'] == client.list_models()['Models'] == []
    assert 'Contents' not in s3.list_objects_v2(Bucket='models')
    deploy('--delete')  # again: nothing is there, and that is no mistake


@pytest.mark.slow
def test_a_dry_run_prints_every_call_and_makes_none(aws, capsys):
    deploy('--dry_run')
    calls = [line.split(' ', 1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in calls] == ['s3.upload_file', 'sagemaker.create_model', 'sagemaker.create_endpoint_config',
                                           'sagemaker.create_endpoint', 'sagemaker.wait']
    assert json.loads(calls[1][1])['PrimaryContainer']['ModelDataUrl'] == 's3://models/tiny/model.tar.gz'
    assert aws.client('sagemaker').list_models()['Models'] == []
    deploy('--dry_run', '--delete')
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        'sagemaker.delete_endpoint', 'sagemaker.delete_endpoint_config', 'sagemaker.delete_model', 's3.delete_object']


def test_what_aws_refuses_is_one_line_that_says_how_to_clean_up(aws, run_dir):
    with pytest.raises(BadInput, match='s3.upload_file: .*--delete --name=tiny removes'):
        deploy(f'--out_dir={run_dir}', '--bucket=elsewhere')


@pytest.mark.parametrize('argument, message', [
    ('--name=a_b', 'name=a_b should have up to 63 letters'), ('--instances=0', 'instances=0 should be at least 1'),
    ('--role=', r'--role=\.\.\. is needed'), ('--out_dir=nowhere', 'nowhere')])
def test_wrong_settings_are_refused_before_anything_is_uploaded(argument, message):
    with pytest.raises(BadInput, match=message):
        deploy(argument)


@pytest.mark.slow
def test_the_options_without_a_value_work_from_the_command_line():
    command = [sys.executable, CLOUD / 'sagemaker.py', *DEPLOYMENT, '--delete', '--dry-run']
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 0 and result.stdout.startswith('sagemaker.delete_endpoint {"EndpointName": "tiny"}')
