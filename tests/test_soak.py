"""The part soak of bench on a small scale, and that it tells what grows from what does not."""
import json
import subprocess
import sys

import pytest
from conftest import ROOT

from bench.soak import summarize, watch
from runtime.errors import BadInput


def grow(amount, files=10):
    """Samples over a run in whose second half the memory grows by so many MB."""
    return [{'memory in MB': 500 + amount * (i > 100), 'open files': files, 'threads': 4} for i in range(200)]


def test_a_run_that_grows_is_told_from_one_that_warms_up():
    warm = [{'memory in MB': 100 + 20 * i, 'open files': 3, 'threads': 1} for i in range(20)]
    for samples, flat in ((warm + grow(2), 'yes'), (warm + grow(20), 'NO'), (grow(-50), 'yes')):
        row = summarize(samples)[0]
        assert row['flat'] == flat and row['first'] == samples[0]['memory in MB']
        assert row['highest'] == max(sample['memory in MB'] for sample in samples)
    leak = grow(0)
    for i, sample in enumerate(leak):
        sample['open files'] += i // 10
    assert [row['flat'] for row in summarize(leak)] == ['yes', 'NO', 'yes']
    with pytest.raises(BadInput, match='too few'):
        summarize(grow(0)[:19])


def test_a_process_is_looked_at_until_it_ends():
    code = 'import threading, time; files = [open("/dev/null") for _ in range(50)]; ' \
           'threading.Thread(target=time.sleep, args=(1,)).start(); block = bytearray(50_000_000); time.sleep(1)'
    process = subprocess.Popen([sys.executable, '-c', code])
    samples = watch(process, 0.02, lambda: False)
    assert process.returncode == 0 and len(samples) > 5
    assert max(sample['open files'] for sample in samples) >= 53
    assert max(sample['threads'] for sample in samples) == 2
    assert max(sample['memory in MB'] for sample in samples) > 50


@pytest.mark.slow
def test_a_short_soak_serves_without_a_wrong_answer_and_writes_its_figures(tmp_path, data_dir):
    figures = tmp_path / 'soak.json'
    run = subprocess.run([sys.executable, '-m', 'bench', 'soak', '--minutes=0.1', '--soak_steps=100', '--every_s=0.1', '--device=cpu',
                          f'--data_dir={data_dir}', f'--json={figures}'], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    training, serving, clients = (table['rows'] for table in json.loads(figures.read_text())['tables'])
    for rows in (training, serving):
        assert [row['of the process'] for row in rows] == ['memory in MB', 'open files', 'threads']
        assert all(0 < row['last tenth'] <= row['highest'] and row['flat'] in ('yes', 'NO') for row in rows)
    assert all(row['requests'] > 0 and row['answered wrongly'] == 0 for row in clients)
    assert '| memory in MB ' in run.stdout and str(tmp_path) not in run.stdout
