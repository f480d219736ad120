"""A server in a process of its own and clients that do it harm: silent, slow, greedy, gone. What it logs is read at the end."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time

import httpx
import pytest
import torch
from conftest import ROOT
from test_serve import export_model, reference, wait_for  # noqa: F401

from inference.engine import generate

pytestmark = [pytest.mark.slow, pytest.mark.long]

DEADLINE_S = 2  # of a head, a body and an unread answer


class Process:
    """`python serve.py` with a small model."""

    def __init__(self, folder, log, *flags):
        self.log = log
        command = [sys.executable, str(ROOT / 'serve.py'), f'--init_from={folder}', '--port=0', '--device=cpu', '--dtype=float32',
                   f'--header_timeout_s={DEADLINE_S}', f'--body_timeout_s={DEADLINE_S}', f'--write_timeout_s={DEADLINE_S}',
                   '--max_batch=4', '--max_waiting=256', '--max_new_tokens=1000000', *flags]
        with open(log, 'w') as file:
            self.process = subprocess.Popen(command, stderr=file)
        wait_for(lambda: ' at http' in self.text() or self.process.poll() is not None)
        self.port = int(re.search(r' at http://127\.0\.0\.1:(\d+)/', self.text()).group(1))
        self.url = f'http://127.0.0.1:{self.port}/'
        with self.client() as client:
            client.get('healthz')
            self.n_own_sockets = self.n_sockets() - 1

    def text(self):
        with open(self.log) as file:
            return file.read()

    def n_sockets(self):
        folder, n = f'/proc/{self.process.pid}/fd', 0
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                n += os.readlink(os.path.join(folder, name)).startswith('socket:')
        return n

    def connect(self, receive_buffer=None):
        """A connected socket. receive_buffer: in bytes; what does not fit waits in the server."""
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(60)
        client.connect(('127.0.0.1', self.port))
        return client

    def client(self, address='127.0.0.1'):
        return httpx.Client(base_url=self.url, timeout=60, transport=httpx.HTTPTransport(local_address=address))

    def wait_until_idle(self):
        def is_idle():
            with self.client() as client:
                return {'scratchgpt_running 0', 'scratchgpt_waiting 0', 'scratchgpt_open_requests 1'} <= set(
                    client.get('metrics').text.splitlines())
        wait_for(is_idle)

    def end(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope='module')
def folder(tmp_path_factory, data_dir):
    return export_model(tmp_path_factory.mktemp('calm') / 'tiny', data_dir, scale=1)


@pytest.fixture(scope='module')
def server(folder, tmp_path_factory):
    process = Process(folder, tmp_path_factory.mktemp('served') / 'log', '--max_connections=1000')
    yield process
    process.end()


@pytest.fixture(autouse=True)
def nothing_unexpected_is_logged(request):
    yield
    if 'server' in request.fixturenames:
        assert not re.search('Traceback|Exception|Error', request.getfixturevalue('server').text())


def head_of(body, path='/v1/completions', version='1.1', more=''):
    return (f'POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}'
            f'Content-Length: {len(body)}\r\n\r\n').encode()


def request_of(version='1.1', more='', **settings):
    body = json.dumps({'prompt': 'def ', 'temperature': 0, **settings}).encode()
    return head_of(body, version=version, more=more) + body


LARGE = request_of(prompt=['x' * 60] * 128, max_tokens=0, echo=True, logprobs=20)  # its answer has some megabytes


def read_to_end(client):
    """What comes until the server closes the connection, or breaks it off."""
    received = b''
    with contextlib.suppress(ConnectionError):
        while part := client.recv(1 << 16):
            received += part
    return received


def send_slowly(client, data):
    """Sends a byte each 50 ms until the server hangs up. Whether it did."""
    for i in range(len(data)):
        try:
            client.send(data[i:i + 1])
        except ConnectionError:
            return True
        if select.select([client], [], [], 0.05)[0]:
            return not read_to_end(client)
    return False


# -- connections


def test_a_silent_client_and_one_with_a_slow_head_lose_their_connection(server):
    with server.connect() as silent, server.connect() as slow, server.connect() as between:
        between.sendall(b'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')
        assert send_slowly(slow, b'GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ' + b'x' * 1200)
        assert read_to_end(silent) == b''
        assert read_to_end(between).count(b'200 OK') == 1  # an answer, and the deadline for the next request


def test_a_client_that_goes_on_asking_keeps_its_connection(server):
    client = http.client.HTTPConnection('127.0.0.1', server.port)
    client.connect()
    own_port = client.sock.getsockname()[1]
    for _ in range(10):
        client.request('GET', '/healthz')
        assert client.getresponse().read() == b'{"status": "ok"}'
        time.sleep(DEADLINE_S / 5)
    assert client.sock.getsockname()[1] == own_port
    client.close()


def test_an_answer_that_is_never_read_is_given_up(server):
    server.wait_until_idle()
    clients = [server.connect(receive_buffer=4096) for _ in range(4)]
    for more in ('', 'Connection: close\r\n'):
        body = LARGE.partition(b'\r\n\r\n')[2]
        clients[len(more) > 0].sendall(head_of(body, more=more) + body)
    for client in clients[2:]:
        client.sendall(request_of(max_tokens=1_000_000, stream=True, logprobs=20))  # without an end: it is the client that ends it
    wait_for(lambda: server.n_sockets() >= server.n_own_sockets + 4)
    wait_for(lambda: server.n_sockets() == server.n_own_sockets)
    server.wait_until_idle()
    assert len(read_to_end(clients[0])) < 4_000_000  # it was more
    for client in clients:
        client.close()


def test_an_answer_that_is_read_slowly_arrives(server):
    """For longer than the deadline: it counts from the last time that the client took something."""
    with server.connect(receive_buffer=1 << 16) as client:
        client.sendall(LARGE[:LARGE.index(b'\r\n')] + b'\r\nConnection: close' + LARGE[LARGE.index(b'\r\n'):])
        received, started = b'', time.monotonic()
        while part := client.recv(1 << 15):
            received += part
            if time.monotonic() - started < 3 * DEADLINE_S:
                time.sleep(0.05)
    assert len(json.loads(received.partition(b'\r\n\r\n')[2])['choices']) == 128


def test_health_is_told_under_silent_slow_and_unread_connections(folder, tmp_path):
    """1,100 silent clients, 200 slow heads, 4 unread answers and 64 that want texts: more than there are connections."""
    server = Process(folder, tmp_path / 'log', '--max_connections=1000', '--header_timeout_s=1000', '--write_timeout_s=1000')
    with contextlib.ExitStack() as stack:
        stack.callback(server.end)
        unread = [stack.enter_context(server.connect(receive_buffer=4096)) for _ in range(4)]
        for client in unread:
            client.sendall(LARGE)
        slow = [stack.enter_context(server.connect()) for _ in range(200)]
        for client in slow:
            client.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: ')
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(64))
        body = {'prompt': 'def ', 'temperature': 0, 'max_tokens': 40}
        texts = [pool.submit(httpx.post, server.url + 'v1/completions', json=body, timeout=60) for _ in range(64)]
        silent = [stack.enter_context(server.connect()) for _ in range(1100)]
        most = 0
        for _ in range(20):
            assert httpx.get(server.url + 'healthz', timeout=10).json() == {'status': 'ok'}
            most = max(most, server.n_sockets())
        assert len(silent) > 1000 >= most - server.n_own_sockets > 900
        assert {text.result().status_code for text in texts} == {200}
        assert len({text.result().json()['choices'][0]['text'] for text in texts}) == 1
        assert not re.search('Traceback|Exception|Error', server.text())


# -- clients that end their side, and that leave


@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('version', ['1.0', '1.1'])
def test_a_client_that_has_ended_its_side_gets_its_answer(server, stream, version):
    with server.connect() as whole, server.connect() as ended:
        whole.sendall(request_of(version, 'Connection: close\r\n', max_tokens=200, stream=stream))
        ended.sendall(request_of(version, max_tokens=200, stream=stream))
        ended.shutdown(socket.SHUT_WR)
        texts = [''.join(re.findall(r'"text": "(.*?)"[,}]', read_to_end(client).decode())) for client in (whole, ended)]
    assert texts[0] == texts[1] != ''


def test_a_client_that_has_sent_several_requests_and_ended_its_side_gets_all_answers(server):
    with server.connect() as client:
        client.sendall(3 * request_of(max_tokens=20) + b'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n')
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client).count(b'200 OK') == 4


@pytest.mark.parametrize('reset', [False, True])
def test_clients_that_leave_at_any_moment_leave_no_work_behind(server, reset):
    head, long = head_of(b' ' * 10), request_of(max_tokens=1_000_000)
    stream = request_of(max_tokens=1_000_000, stream=True)
    large = request_of(prompt=['x' * 60] * 128, max_tokens=1, echo=True, logprobs=20)
    for sent, wait_s in ((b'', 0), (b'GE', 0), (head[:40], 0), (head, 0), (head + b'12', 0.05), (long, 0), (long, 0.2), (stream, 0),
                         (stream, 0.3), (large, 0), (large, 0.5), (long + b'no request', 0.2), (stream + b'no request', 0.2),
                         (b'\x16\x03\x01\r\n\r\n', 0.1), (head_of(b'', more='Transfer-Encoding: chunked\r\n') + b'zz\r\n', 0.1),
                         (head.replace(b'Content-Length: 10', b'Transfer-Encoding: chunked') + b'zz\r\n', 0.1),
                         (b'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n', 0.1)):
        with server.connect() as client:
            client.sendall(sent)
            time.sleep(wait_s)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    server.wait_until_idle()


def test_a_body_that_breaks_after_its_answer_ends_the_connection(server):
    with server.connect() as client:
        head = head_of(b'', more='Transfer-Encoding: chunked\r\n').replace(b'Content-Length: 0\r\n', b'')
        client.sendall(head.replace(b'application/json', b'text/plain'))
        assert b'415' in client.recv(1 << 16)
        client.sendall(b'zz\r\n')
        assert b'200' not in read_to_end(client)


# -- many clients


def test_64_clients_at_once_get_what_generate_writes_for_each_alone(server, reference):  # noqa: F811
    """From five addresses, so that texts are also paused for those of others."""
    model, tokenizer = reference
    ids = tokenizer.encode('def ')

    def expected(seed):
        tokens = generate(model, torch.tensor([ids]), 10 + 2 * seed, temperature=0.9, seed=seed)[0, len(ids):]
        return tokenizer.decode(tokens.tolist())

    def ask(seed):
        body = {'prompt': 'def ', 'max_tokens': 10 + 2 * seed, 'temperature': 0.9, 'seed': seed, 'stream': bool(seed % 2)}
        with server.client(f'127.0.0.{2 + seed % 5}') as client:
            answer = client.post('v1/completions', json=body)
        assert answer.status_code == 200, answer.text
        if not body['stream']:
            return answer.json()['choices'][0]['text']
        events = [json.loads(part[6:]) for part in answer.text.split('\n\n') if part.startswith('data: {')]
        return ''.join(event['choices'][0]['text'] for event in events)

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    assert answers == [expected(seed) for seed in range(64)]


@pytest.mark.parametrize('n', [1, 4])
def test_four_greedy_clients_do_not_keep_anothers_one_token_from_being_written(server, n):
    """Each keeps ten texts open that would take many minutes."""
    with contextlib.ExitStack() as stack:
        for greedy in range(4):
            client = stack.enter_context(server.client(f'127.0.0.{2 + greedy}'))
            for _ in range(10):
                answer = stack.enter_context(client.stream('POST', 'v1/completions', json={
                    'prompt': 'def ', 'max_tokens': 1_000_000, 'n': n, 'stream': True}))
                assert answer.status_code == 200
        with server.client() as client:
            for _ in range(5):
                assert client.post('v1/completions', json={'prompt': 'a', 'max_tokens': 1}, timeout=20).status_code == 200
    server.wait_until_idle()


# -- the end


@pytest.mark.parametrize('n_signals', [1, 2])
def test_sigterm_ends_the_server_in_time_whatever_clients_do(folder, tmp_path, n_signals):
    """With the deadlines out of the way: it is the grace time alone, and a second signal, that end it."""
    server = Process(folder, tmp_path / 'log', f'--grace_s={1 if n_signals == 1 else 1000}', '--header_timeout_s=1000',
                     '--body_timeout_s=1000', '--write_timeout_s=1000')
    with contextlib.ExitStack() as stack:
        stack.callback(server.end)
        sent = [b'', b'GET / HT', head_of(b' ' * 10) + b'1', LARGE, request_of(max_tokens=1_000_000),
                request_of(max_tokens=1_000_000, stream=True), request_of(max_tokens=1_000_000, n=4)]
        clients = [stack.enter_context(server.connect(receive_buffer=4096)) for _ in sent]
        for client, data in zip(clients, sent):
            client.sendall(data)
        clients[-2].recv(1000)  # the stream has begun
        for _ in range(n_signals):
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: 'finishing what runs' in server.text())
        assert server.process.wait(60) == 0
        assert 'requests are not finished' in server.text()
        assert not re.search('Traceback|Exception|Error', server.text())
