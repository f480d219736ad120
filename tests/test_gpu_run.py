"""bench/gpu.py, what `make gpu` runs: each part has its row whatever becomes of it. Its own parts run here on the CPU."""
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, run_script

import bench.gpu
from bench import checks
from bench.checks import CHECKS, Runs
from bench.gpu import Part, run_parts
from bench.report import error_line
from runtime.errors import BadInput
from runtime.gpu_peak import makers_peak_flops

RUN = {'command': 'a test', 'machine': {'gpu': None, 'cpu': 'a CPU', 'cores': 2, 'cpu_bf16': False}, 'versions': {}, 'commit': 'none'}
WRITE = 'import json, sys\njson.dump({"tables": [{"title": "A table", "rows": [{"ms": 1.5}]}]}, open(sys.argv[1][7:], "w"))\n'


def part(name, code, limit_s=60, is_check=False):
    return Part(name, ['-c', code], limit_s, is_check)


def written(folder):
    return json.loads((folder / 'gpu.json').read_text())


@pytest.mark.slow
def test_whatever_a_part_ends_with_is_in_its_row_and_the_next_one_runs(tmp_path):
    parts = [
        part('raises', 'raise KeyError("no such thing")'),
        part('is killed', f'{WRITE}import os\nos.kill(os.getpid(), 9)'),
        part('has no memory', 'import torch\nraise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\\nand more")'),
        part('never ends', f'{WRITE}import time\ntime.sleep(600)', limit_s=1),
        part('cannot run here', 'import json, sys\njson.dump({"left_out": "one GPU"}, open(sys.argv[1][7:], "w"))'),
        part('works', WRITE),
    ]
    results = run_parts(parts, RUN, str(tmp_path), total_s=300)
    assert [(result['part'], result['result'], result['note']) for result in results] == [
        ('raises', 'failed', "KeyError: 'no such thing'"),
        ('is killed', 'killed', 'by SIGKILL, probably because memory ran out'),
        ('has no memory', 'out of memory', 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB'),
        ('never ends', 'too slow', 'stopped after 1 s'),
        ('cannot run here', 'left out', 'one GPU'),
        ('works', 'ok', '')]
    assert written(tmp_path)['parts'] == results and written(tmp_path)['commit'] == 'none'
    assert [bool(result['tables']) for result in results] == [False, True, False, True, False, True]
    assert 'Traceback' in results[0]['log'] and 'log' not in results[-1]
    text = (tmp_path / 'gpu.md').read_text()
    assert all(result['note'] in text for result in results) and text.count('| ms  |') == 3


def test_the_results_are_written_after_each_part(tmp_path):
    code = f'import json\nassert [p["part"] for p in json.load(open({str(tmp_path / "gpu.json")!r}))["parts"]] == ["first"]'
    results = run_parts([part('first', WRITE), part('second', code)], RUN, str(tmp_path), total_s=60)
    assert [result['result'] for result in results] == ['ok', 'ok'], results


def test_what_a_part_started_ends_with_it(tmp_path):
    code = (f'import subprocess, sys\nchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])\n'
            f'open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))')
    run_parts([part('leaves a process', code)], RUN, str(tmp_path), total_s=60)
    pid = int((tmp_path / 'pid').read_text())
    deadline = time.monotonic() + 10
    while os.path.exists(f'/proc/{pid}') and 'State:\tZ' not in open(f'/proc/{pid}/status').read():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_part_begins_after_the_time_for_everything(tmp_path):
    results = run_parts([part('slow', 'import time\ntime.sleep(600)'), part('late', WRITE)], RUN, str(tmp_path), total_s=1)
    assert [result['result'] for result in results] == ['too slow', 'not started']
    assert '1 s for everything' in results[1]['note']


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_measured(tmp_path, number):
    script = (f'import signal, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport bench.gpu\nfrom bench.gpu import Part\n'
              f'from runtime.errors import one_line_errors\n'
              f'bench.gpu.list_parts = lambda *_: [Part("first", ["-c", {WRITE!r}], 60), '
              f'Part("second", ["-c", {WRITE + "import time; time.sleep(600)"!r}], 60), Part("third", ["-c", ""], 60)]\n'
              f'with one_line_errors():\n'
              f'    bench.gpu.main(bench.gpu.configure(bench.gpu.DEFAULTS, ["--device=cpu", {f"--out_dir={tmp_path}"!r}]))\n')
    process = subprocess.Popen([sys.executable, '-c', script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if 'second ...' in line:
            break
    time.sleep(1)  # the second one has begun, and may have written its table
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and 'interrupted' in err
    assert [result['result'] for result in written(tmp_path)['parts']] == ['ok', 'interrupted']
    assert written(tmp_path)['parts'][0]['tables'] and '| second | interrupted |' in out


@pytest.mark.parametrize('is_check, code', [(True, 1), (False, 0)])
def test_the_exit_code_is_1_if_a_check_failed(tmp_path, monkeypatch, is_check, code):
    monkeypatch.setattr(bench.gpu, 'list_parts', lambda *_: [part('fails', 'raise ValueError', is_check=is_check)])
    config = bench.gpu.configure(bench.gpu.DEFAULTS, ['--device=cpu', f'--out_dir={tmp_path}'])
    before = signal.getsignal(signal.SIGTERM)
    try:
        bench.gpu.main(config)
        ended_with = 0
    except SystemExit as end:
        ended_with = end.code
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended_with == code


def test_without_a_gpu_one_line_says_so(capsys, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert run_script('bench.gpu') == 2
    err = capsys.readouterr().err
    assert 'sees no CUDA device' in err and '--device=cpu' in err and err.count('\n') == 1


def test_a_part_that_does_not_exist_is_refused(tmp_path, capsys):
    assert run_script('bench.gpu', '--device=cpu', f'--out_dir={tmp_path}', '--parts=losses,zeppelin') == 2
    assert 'kernel_tests,losses,resume' in capsys.readouterr().err


def test_a_python_without_what_is_needed_says_what(monkeypatch):
    from bench import usable
    assert usable.why_not(['--device=cpu']) is None
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert 'sees no CUDA device' in usable.why_not([])
    monkeypatch.setattr(usable, 'NEEDED', ('torch', 'no_such_package'))
    assert usable.why_not(['--device=cpu']) == 'it has no no_such_package'


@pytest.mark.skipif(shutil.which('nvidia-smi') is not None or os.path.exists('/dev/nvidiactl'), reason='there is a GPU')
def test_make_gpu_installs_nothing_where_there_is_no_gpu(tmp_path):
    for name in ('Makefile', 'bench', 'runtime'):
        (tmp_path / name).symlink_to(ROOT / name)
    run = subprocess.run(['make', 'gpu', f'PYTHON={sys.executable}'], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2 and 'this machine has no NVIDIA GPU' in run.stderr
    assert not (tmp_path / '.venv').exists()


def test_the_line_that_says_what_went_wrong_is_found():
    assert error_line('Traceback (most recent call last):\n  File "a.py"\ntorch.AcceleratorError: CUDA error\nCompile with X\n') == \
        'torch.AcceleratorError: CUDA error'
    assert error_line('step 1\ntrain.py: no config file x; a setting is written --key=value\nbye') == \
        'train.py: no config file x; a setting is written --key=value'
    assert error_line('FAILED tests/test_kernels_gpu.py::test_x - AssertionError\n1 failed in 3 s') == \
        'FAILED tests/test_kernels_gpu.py::test_x - AssertionError'
    assert error_line('all is well: 3 steps') == ''


def test_the_peak_of_a_gpu_is_the_makers_for_that_form():
    peaks = {name: makers_peak_flops(f'NVIDIA {name}') for name in ('H100 80GB HBM3', 'H100 PCIe', 'L40S', 'L4', 'A100-SXM4-80GB')}
    assert peaks == {'H100 80GB HBM3': 989.5e12, 'H100 PCIe': 756.5e12, 'L40S': 362e12, 'L4': 121e12, 'A100-SXM4-80GB': 312e12}
    assert makers_peak_flops('AMD EPYC') is None


def test_two_curves_that_differ_are_told_apart(tmp_path):
    runs = Runs('cpu')
    runs.folder = str(tmp_path)
    for name, losses in (('a', [6.0, 5.0]), ('b', [6.0, 5.25]), ('short', [6.0]), ('nan', [6.0, float('nan')])):
        (tmp_path / name).mkdir()
        rows = [json.dumps({'step': step, 'loss': loss}) + '\n' for step, loss in enumerate(losses, 1)]
        (tmp_path / name / 'metrics.jsonl').write_text(''.join(rows))
    assert runs.compare('a', 'b', 0.1)['measured'] == 0.25
    assert not runs.compare('a', 'nan', 0.1)['measured'] <= 0.1
    with pytest.raises(BadInput, match='2 and 1 steps'):
        runs.compare('a', 'short', 0.1)


def test_a_check_that_measures_more_than_is_allowed_fails(monkeypatch, capsys):
    monkeypatch.setitem(CHECKS, 'losses', (lambda device: [{'what': 'distance', 'measured': 0.5, 'allowed': 0.1}], 1))
    with pytest.raises(BadInput, match='distance: 0.5, allowed 0.1'):
        checks.main(['losses', '--device=cpu'])


@pytest.mark.slow
@pytest.mark.parametrize('check', ['losses', 'samples', 'generation', 'processes'])
def test_every_check_passes_on_a_cpu(check, capfd, data_dir, monkeypatch):
    monkeypatch.setattr(Runs, 'data_dir', lambda runs: data_dir)
    checks.main([check, '--device=cpu'])
    assert '| measured' in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.long
def test_a_small_run_on_the_cpu_goes_from_end_to_end(tmp_path):
    names = ['kernel_tests', 'resume', 'train', 'sample', 'profile']
    result = subprocess.run([sys.executable, '-m', 'bench.gpu', '--device=cpu', f'--out_dir={tmp_path}', f'--parts={",".join(names)}'],
                            cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    results = {result['part']: result for result in written(tmp_path)['parts']}
    assert {name: result['result'] for name, result in results.items()} == {
        name: 'left out' if name == 'kernel_tests' else 'ok' for name in names}
    assert [row['contender'] for row in results['train']['tables'][0]['rows']] == ['eager', 'ours']
    (resumed,) = results['resume']['tables'][0]['rows']
    assert resumed['measured'] == 0 and 'resumed at' in resumed['what']
    with gzip.open(tmp_path / 'trace.json.gz') as file:
        assert json.load(file)['traceEvents']
    assert all(table['title'] in (tmp_path / 'gpu.md').read_text() for result in results.values() for table in result['tables'])
