"""Training across two hosts whose cable is pulled, whose clocks differ, one of which dies or sees other files.

The hosts are network namespaces, joined by a bridge in a third one: where a port of it goes down, the host loses its carrier,
as with a pulled cable. All of them are tried at the same time, since they mostly wait.
"""
import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, merged_metrics

from runtime.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.long]

STEPS, TIMEOUT_S = 120, 40
SETTINGS = {'n_layer': 2, 'n_head': 2, 'n_embd': 64, 'block_size': 32, 'total_batch_tokens': 512, 'micro_batch': 4,
            'max_steps': STEPS, 'warmup_steps': 4, 'learning_rate': 3e-3, 'eval_interval': 40, 'eval_tokens': 700,
            'sample_interval': 0, 'checkpoint_interval': 10, 'device': 'cpu', 'dtype': 'float32', 'timeout_s': TIMEOUT_S}
AN_HOUR_AHEAD = '''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += 3600;
    return failed;
}
'''


class Hosts:
    """Two hosts, 0 and 1, with a cable each to a switch."""

    def __init__(self, name, folder, data_dir):
        self.name, self.folder, self.data_dir, self.started = name, folder, data_dir, []

    def __enter__(self):
        self.switch = f'{self.name}s'
        ip('netns', 'add', self.switch)
        ip('-n', self.switch, 'link', 'add', 'bridge0', 'type', 'bridge')
        ip('-n', self.switch, 'link', 'set', 'bridge0', 'up')
        for host in (0, 1):
            space = f'{self.name}{host}'
            ip('netns', 'add', space)
            ip('link', 'add', 'eth0', 'netns', space, 'type', 'veth', 'peer', 'name', f'port{host}', 'netns', self.switch)
            ip('-n', self.switch, 'link', 'set', f'port{host}', 'master', 'bridge0', 'up')
            ip('-n', space, 'addr', 'add', f'10.0.0.{host + 1}/24', 'dev', 'eth0')
            ip('-n', space, 'link', 'set', 'eth0', 'up')
            ip('-n', space, 'link', 'set', 'lo', 'up')
        return self

    def __exit__(self, *_):
        for host in (0, 1):
            self.kill(host)
        for space in (f'{self.name}0', f'{self.name}1', self.switch):
            subprocess.run(['ip', 'netns', 'del', space])

    def start(self, folders=(), environment=None):
        """torchrun on both hosts, with the data in common. folders: in which each runs, and makes its out_dir."""
        for host, where in enumerate(folders or (self.folder, self.folder)):
            where.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, '-m', 'torch.distributed.run', '--nnodes=2', '--nproc_per_node=1', f'--node_rank={host}',
                       '--master_addr=10.0.0.1', '--master_port=29500', str(ROOT / 'train.py'),
                       *(f'--{key}={value}' for key, value in {**SETTINGS, 'data_dir': self.data_dir, 'out_dir': 'out'}.items())]
            with open(self.log(host), 'wb') as log:
                self.started.append(subprocess.Popen(
                    ['ip', 'netns', 'exec', f'{self.name}{host}', *command], cwd=where, stdout=log, stderr=log,
                    env={**os.environ, 'GLOO_SOCKET_IFNAME': 'eth0', **(environment or {} if host else {})}))

    def log(self, host):
        return self.folder.parent / f'{self.folder.name}_host{host}.log'

    def said(self, host):
        return self.log(host).read_text(errors='replace')

    def wait_for_step(self, step):
        deadline = time.monotonic() + 200
        while not any(row['step'] >= step for row in read_metrics(str(self.folder / 'out'))):
            assert time.monotonic() < deadline, self.said(0)
            time.sleep(0.02)

    def cable(self, host, state):
        ip('-n', self.switch, 'link', 'set', f'port{host}', state)

    def kill(self, host):
        pids = subprocess.run(['ip', 'netns', 'pids', f'{self.name}{host}'], capture_output=True, text=True).stdout.split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def finish(self, seconds=200):
        """The exit codes of both hosts' torchrun, which must end within that time."""
        codes = [process.wait(seconds) for process in self.started]
        self.started = []
        return codes

    def curve(self):
        return merged_metrics(self.folder / 'out')


def ip(*arguments):
    subprocess.run(['ip', *arguments], check=True, capture_output=True, timeout=20)


def nothing_happens(hosts):
    hosts.start()
    assert hosts.finish() == [0, 0], hosts.said(0)


def a_cable_is_pulled_for_20_seconds_and_the_clocks_are_an_hour_apart(hosts):
    source, library = hosts.folder.parent / 'ahead.c', hosts.folder.parent / 'ahead.so'
    source.write_text(AN_HOUR_AHEAD)
    subprocess.run(['cc', '-shared', '-fPIC', '-o', library, source, '-ldl'], check=True)
    hosts.start(environment={'LD_PRELOAD': str(library)})
    hosts.wait_for_step(25)
    hosts.cable(1, 'down')
    time.sleep(20)
    hosts.cable(1, 'up')
    assert hosts.finish() == [0, 0], hosts.said(0)
    for host in (0, 1):
        assert f'process {host} of 2 on ' in hosts.said(host) and 'may be waiting for another one' in hosts.said(host)
        assert 'the run goes on' in hosts.said(host)


def a_cable_is_pulled_for_good_and_only_one_host_sees_the_folder(hosts):
    folders = hosts.folder, hosts.folder.parent / 'elsewhere'
    hosts.start(folders)
    hosts.wait_for_step(25)
    pulled = time.monotonic()
    hosts.cable(1, 'down')
    assert 0 not in hosts.finish(TIMEOUT_S + 100)
    assert time.monotonic() - pulled < TIMEOUT_S + 100
    for host in (0, 1):
        assert 'may be waiting for another one' in hosts.said(host)
        assert f'train.py: process {host} of 2 on ' in hosts.said(host) and 'lost the others' in hosts.said(host)
    hosts.cable(1, 'up')
    hosts.start(folders)
    assert 0 not in hosts.finish(TIMEOUT_S + 100)
    assert 'out_dir must be a folder that all machines share' in hosts.said(0) + hosts.said(1)
    hosts.start()
    assert hosts.finish() == [0, 0], hosts.said(0)


def a_host_dies(hosts):
    hosts.start()
    hosts.wait_for_step(25)
    hosts.kill(1)
    assert 0 not in hosts.finish(TIMEOUT_S + 100)
    assert 'train.py: process 0 of 2 on ' in hosts.said(0) and 'lost the others' in hosts.said(0)
    hosts.start()
    assert hosts.finish() == [0, 0], hosts.said(0)
    assert 'resumes at step' in hosts.said(0)


HAPPENINGS = [nothing_happens, a_cable_is_pulled_for_20_seconds_and_the_clocks_are_an_hour_apart,
              a_cable_is_pulled_for_good_and_only_one_host_sees_the_folder, a_host_dies]


@pytest.fixture
def can_make_hosts():
    try:
        with Hosts('sgtry', None, None):
            pass
    except (OSError, subprocess.SubprocessError):
        pytest.skip('network namespaces can only be made by root on Linux, with the program ip')


def test_two_hosts_end_in_time_and_say_why_or_go_on_with_the_same_curve(can_make_hosts, tmp_path, data_dir):
    curves = {}

    def happens(number, happening):
        folder = tmp_path / happening.__name__ / 'shared'
        folder.mkdir(parents=True)
        with Hosts(f'sg{os.getpid() % 10_000}{number}', folder, data_dir) as hosts:
            happening(hosts)
            curves[happening.__name__] = hosts.curve()
    with concurrent.futures.ThreadPoolExecutor(len(HAPPENINGS)) as pool:
        futures = {happening.__name__: pool.submit(happens, number, happening) for number, happening in enumerate(HAPPENINGS)}
    failures = {name: future.exception() for name, future in futures.items() if future.exception()}
    assert not failures
    for name, curve in curves.items():
        assert curve == curves['nothing_happens'], name
        assert [row['step'] for row in curve] == list(range(STEPS + 1)), name
