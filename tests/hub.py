"""A stand-in for the Hugging Face hub on this machine: the routes that huggingface_hub, datasets and fsspec use.

    with Hub() as hub:
        hub.commit('datasets/Rowan/hellaswag', {'README.md': b'...', 'data/validation-00000-of-00001.parquet': content})
        hub.fail(r'/resolve/', status=503, times=2)
        ... HF_ENDPOINT=hub.endpoint python hellaswag.py ...

As on the real one: a repository has commits, and `main` is the newest; large files come from another host, to which `resolve`
redirects; trees come in pages; a repository that is not there answers 401 to a stranger. Files are served over plain HTTP: Xet,
the hub's other protocol, is not offered.

`Client` runs our scripts against it, each in a process of its own, which is forked from one that has imported the libraries:
these read HF_ENDPOINT and HF_HOME when they are imported. hub_repositories.py has what the repositories look like.
"""
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LARGE = '.parquet', '.safetensors', '.bin', '.gz', '.zst', '.h5', '.msgpack'  # what the hub keeps in LFS
PAGE = 5  # entries of a tree at once; on the hub 1,000
CHUNK = 1 << 14


class File:
    def __init__(self, path, content):
        self.path, self.content, self.is_large = path, content, path.endswith(LARGE)
        self.oid = hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
        self.sha256 = hashlib.sha256(content).hexdigest()

    def in_tree(self):
        entry = {'type': 'file', 'oid': self.oid, 'size': len(self.content), 'path': self.path}
        return {**entry, 'lfs': {'oid': self.sha256, 'size': len(self.content), 'pointerSize': 134}} if self.is_large else entry

    def in_info(self, with_blobs):
        entry = {'rfilename': self.path}
        if with_blobs:
            entry |= {'size': len(self.content), 'blobId': self.oid}
        if with_blobs and self.is_large:
            entry['lfs'] = {'sha256': self.sha256, 'size': len(self.content), 'pointerSize': 134}
        return entry


@dataclass
class Fault:
    """What `times` requests for a path that `pattern` is found in meet instead of the right answer, when `after` are over."""
    pattern: str
    times: int = 1
    after: int = 0
    status: int = 0                 # this answer, with these headers
    headers: tuple = ()
    cut_at: int | None = None       # the connection ends after so many bytes of the body
    stall_at: int | None = None     # nothing more comes after so many bytes of the body, for stall_s
    stall_s: float = 10.0
    flip_at: int | None = None      # this byte of the file is wrong
    call: object = None             # instead of all these: a function that is called before the right answer


class Hub:
    """repositories: {'models/NAME' or 'datasets/NAME': {sha of a commit: {path: File}}}, the newest commit last."""

    def __init__(self):
        self.repositories, self.gated, self.faults = {}, set(), []
        self.storage_of = {}  # sha256 of a large file: its content
        self.unknown = []  # paths that it has no route for
        self.requests = []  # (method, path with its query, status, value of the Range header)
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), type('BoundHandler', (Handler,), {'hub': self}))
        self.server.daemon_threads = True
        self.endpoint = f'http://127.0.0.1:{self.server.server_port}'
        self.storage = f'http://localhost:{self.server.server_port}'  # another host: no token may be sent there

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repository, files):
        """Adds a commit that has these files alone; returns its sha."""
        commits = self.repositories.setdefault(repository, {})
        sha = hashlib.sha1(f'{repository} {len(commits)}'.encode()).hexdigest()
        commits[sha] = {path: File(path, content) for path, content in sorted(files.items())}
        self.storage_of.update({file.sha256: file.content for file in commits[sha].values() if file.is_large})
        return sha

    def fail(self, pattern, **how):
        self.faults.append(Fault(pattern, **how))

    def next_fault(self, path):
        with self.lock:
            for fault in self.faults:
                if not fault.times or not re.search(fault.pattern, path):
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault

    def reset(self):
        """Forgets requests and faults."""
        self.faults.clear()
        self.requests.clear()

    def asked_for(self, pattern):
        """The requests for paths that a pattern is found in."""
        return [request for request in self.requests if re.search(pattern, request[1])]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    hub = None

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # a client was killed
            super().handle()

    def do_GET(self):  # noqa: N802
        length = int(self.headers.get('Content-Length') or 0)
        self.sent = self.rfile.read(length) if length else b''
        self.fault = self.hub.next_fault(self.path) or Fault('')
        if self.fault.call:
            self.fault.call()
        if self.fault.status:
            self.answer(self.fault.status, b'', dict(self.fault.headers))
        else:
            self.route()

    do_HEAD = do_POST = do_GET  # noqa: N815

    def route(self):
        url = urllib.parse.urlsplit(self.path)
        path, self.query = urllib.parse.unquote(url.path).replace('refs/convert/parquet', 'main'), dict(urllib.parse.parse_qsl(url.query))
        if path == '/api/agent-harnesses':  # huggingface_hub asks once a day which agents there are
            return self.answer(404, b'')
        if path.startswith('/storage/'):
            assert 'Authorization' not in self.headers, 'a token was sent to another host'
            return self.send_large(path)
        for pattern, send in ((r'/api/(models|datasets)/(.+?)/tree/([^/]+)(?:/(.*))?', self.send_tree),
                              (r'/api/(models|datasets)/(.+?)/paths-info/([^/]+)', self.send_paths_info),
                              (r'/api/resolve-cache/(models|datasets)/(.+?)/([0-9a-f]{40})/(.+)', self.send_small),
                              (r'/api/(models|datasets)/(.+?)(?:/revision/([^/]+))?', self.send_info),
                              (r'/(?:(datasets)/)?(.+?)/resolve/([^/]+)/(.+)', self.redirect)):
            found = re.fullmatch(pattern, path)
            if found:
                kind, name, revision, *rest = found.groups()
                return self.with_commit(send, f'{kind or "models"}/{name}', revision or 'main', *rest)
        self.hub.unknown.append(self.path)
        self.answer(404, b'{"error": "no such route"}')

    def with_commit(self, send, repository, revision, *rest):
        """Calls send(repository, sha, files, ...), or answers as the hub does where there is nothing to send."""
        commits = self.hub.repositories.get(repository)
        if commits is None:
            return self.refuse(401, 'RepoNotFound', 'Invalid username or password.')
        if repository in self.hub.gated and not self.headers.get('Authorization'):
            return self.refuse(401, 'GatedRepo', f'Access to {repository} is restricted. You must be authenticated to access it.')
        if repository in self.hub.gated and self.headers['Authorization'] != 'Bearer hf_accepted':
            return self.refuse(403, 'GatedRepo', f'Access to {repository} is restricted and you are not in the authorized list.')
        sha = list(commits)[-1] if revision == 'main' else revision
        if sha not in commits:
            return self.refuse(404, 'RevisionNotFound', f'Invalid rev id: {revision}')
        send(repository, sha, commits[sha], *rest)

    def send_info(self, repository, sha, files):
        name = repository.split('/', 1)[1]
        self.answer_json({
            '_id': '0', 'id': name, 'modelId': name, 'author': name.split('/')[0], 'sha': sha, 'private': False, 'disabled': False,
            'gated': False, 'lastModified': '2025-01-01T00:00:00.000Z', 'createdAt': '2024-01-01T00:00:00.000Z', 'downloads': 1,
            'likes': 1, 'tags': [], 'siblings': [file.in_info(self.query.get('blobs')) for file in files.values()]})

    def send_tree(self, repository, sha, files, folder=None):
        folder = f'{folder.strip("/")}/' if folder else ''
        entries, recursive = {}, self.query.get('recursive', 'false').lower() in ('true', '1')
        for path, file in files.items():
            if not path.startswith(folder):
                continue
            parts = path[len(folder):].split('/')
            for depth in range(1, len(parts)):
                above = folder + '/'.join(parts[:depth])
                if recursive or depth == 1:
                    entries[above] = {'type': 'directory', 'oid': '0' * 40, 'size': 0, 'path': above}
            if recursive or len(parts) == 1:
                entries[path] = file.in_tree()
        if folder and not entries:
            return self.refuse(404, 'EntryNotFound', f'{folder} does not exist on "{sha}"')
        begin = int(self.query.get('cursor', 0))
        page, headers = [entries[path] for path in sorted(entries)][begin:], {}
        if len(page) > PAGE:
            query = urllib.parse.urlencode({**self.query, 'cursor': begin + PAGE})
            headers['Link'] = f'<{self.hub.endpoint}{urllib.parse.urlsplit(self.path).path}?{query}>; rel="next"'
        self.answer_json(page[:PAGE], headers)

    def send_paths_info(self, repository, sha, files):
        if 'json' in self.headers.get('Content-Type', ''):
            paths = json.loads(self.sent)['paths']
        else:
            paths = urllib.parse.parse_qs(self.sent.decode()).get('paths', [])
        paths = [paths] if isinstance(paths, str) else paths
        folders = {path for path in paths if any(name.startswith(f'{path}/') for name in files)}
        self.answer_json([files[path].in_tree() if path in files else
                          {'type': 'directory', 'oid': '0' * 40, 'size': 0, 'path': path}
                          for path in paths if path in files or path in folders])

    def redirect(self, repository, sha, files, path):
        if path not in files:
            return self.refuse(404, 'EntryNotFound', f'{path} does not exist on "{sha}"', {'X-Repo-Commit': sha})
        file = files[path]
        if not file.is_large:
            location = f'/api/resolve-cache/{repository}/{sha}/{urllib.parse.quote(path)}'
            return self.answer(307, b'', {'Location': location, 'X-Repo-Commit': sha, 'ETag': f'"{file.oid}"'})
        self.answer(302, b'', {
            'Location': f'{self.hub.storage}/storage/{file.sha256}?name={urllib.parse.quote(path)}', 'X-Repo-Commit': sha,
            'X-Linked-Size': str(len(file.content)), 'X-Linked-ETag': f'"{file.sha256}"', 'Accept-Ranges': 'bytes'})

    def send_small(self, repository, sha, files, path):
        self.send_file(files[path].content, {'X-Repo-Commit': sha, 'ETag': f'"{files[path].oid}"'})

    def send_large(self, path):
        digest = path.removeprefix('/storage/')
        if digest not in self.hub.storage_of:
            return self.answer(403, b'<Error>AccessDenied</Error>')
        self.send_file(self.hub.storage_of[digest], {'ETag': f'"{digest}"'})

    def send_file(self, content, headers):
        """A file or the range of it that was asked for, as far as the fault lets it come."""
        if self.fault.flip_at is not None:
            place = self.fault.flip_at
            content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]
        found = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        if not found:
            return self.answer(200, content, {**headers, 'Accept-Ranges': 'bytes'})
        begin, end = int(found[1]), min(int(found[2] or len(content)) + 1, len(content))
        if begin >= len(content):
            return self.answer(416, b'', {'Content-Range': f'bytes */{len(content)}'})
        self.answer(206, content[begin:end], {**headers, 'Content-Range': f'bytes {begin}-{end - 1}/{len(content)}'})

    def refuse(self, status, code, message, headers=()):
        self.answer(status, json.dumps({'error': message}).encode(),
                    {'X-Error-Code': code, 'X-Error-Message': message, **dict(headers)})

    def answer_json(self, value, headers=()):
        self.answer(200, json.dumps(value).encode(), {'Content-Type': 'application/json', **dict(headers)})

    def answer(self, status, body, headers=()):
        self.hub.requests.append((self.command, self.path, status, self.headers.get('Range')))
        self.send_response(status)
        for name, value in {**dict(headers), 'Content-Length': str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == 'HEAD':
            return
        stop = min((place for place in (self.fault.cut_at, self.fault.stall_at) if place is not None), default=len(body))
        self.wfile.write(body[:stop])
        self.wfile.flush()
        if stop < len(body) or self.fault.stall_at is not None:
            if self.fault.stall_at is not None:
                self.hub.closing.wait(self.fault.stall_s)
            self.close_connection = True


# ---- our scripts as its clients -------------------------------------------------------------------------


class Client:
    """Runs scripts that find the hub at `hub.endpoint`, with one cache for all of them: `home`."""

    def __init__(self, hub, folder):
        self.home, self.folder, self.n_runs = pathlib.Path(folder) / 'home', pathlib.Path(folder), 0
        environment = {**os.environ, 'HF_ENDPOINT': hub.endpoint, 'HF_HOME': str(self.home), 'HF_HUB_DOWNLOAD_TIMEOUT': '1',
                       'HF_HUB_ETAG_TIMEOUT': '1', 'HF_HUB_OFFLINE': '0'}
        environment.pop('HF_TOKEN', None)
        self.forker = subprocess.Popen([sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.forker.stdin.close()
        assert self.forker.wait(60) == 0

    def forget(self):
        """Empties the cache."""
        shutil.rmtree(self.home, ignore_errors=True)

    def ask_forker(self, *question):
        print(json.dumps(question), file=self.forker.stdin, flush=True)
        return json.loads(self.forker.stdout.readline())

    def start(self, script, *arguments, folder=None, **environment):
        self.n_runs += 1
        log = str(self.folder / f'{self.n_runs}.log')
        return Run(self, self.ask_forker('run', script, arguments, str(folder or self.folder), environment, log), log)

    def run(self, *arguments, **options):
        """(exit code, what was printed) of a script."""
        run = self.start(*arguments, **options)
        return run.wait(), run.output()


class Run:
    def __init__(self, client, pid, log):
        self.client, self.pid, self.log, self.code = client, pid, log, None

    def wait(self, timeout_s=60):
        """The exit code; less than 0 for a signal, such as that of the time being over."""
        if self.code is None:
            watch = threading.Timer(timeout_s, self.kill)
            watch.start()
            self.code = self.client.ask_forker('wait', self.pid)
            watch.cancel()
        return self.code

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def output(self):
        """Standard output and error, without the pictures of bars that were not the last."""
        return re.sub(r'[^\n]*\r', '', pathlib.Path(self.log).read_text())



@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    """The hub with all repositories of hub_repositories.py."""
    import hub_repositories
    with Hub() as hub:
        hub_repositories.commit_all(hub, tmp_path_factory.mktemp('shards'))
        yield hub
        assert not hub.unknown, 'the stand-in lacks a route that was asked for'


@pytest.fixture(scope='module')
def clients(hub, tmp_path_factory):
    from conftest import link_clone
    folder = tmp_path_factory.mktemp('clone')
    link_clone(folder)
    with Client(hub, folder) as client:
        yield client


@pytest.fixture
def client(hub, clients):
    """A client with an empty cache, in a folder like a clone. The hub has no faults and has seen no request."""
    clients.forget()
    hub.reset()
    return clients


def fork_on_request():
    """Forks a process for each ['run', script, ...] on stdin, and answers with its id; ['wait', id] with its exit code."""
    for module in ('torch', 'torch._dynamo', 'datasets', 'pyarrow.parquet', 'conftest', 'pretrained', 'sources', 'tiktoken'):
        __import__(module)
    if 'TIKTOKEN_CACHE_DIR' in os.environ:
        sys.modules['tiktoken'].get_encoding('gpt2')
    for line in sys.stdin:
        what, *question = json.loads(line)
        if what == 'wait':
            answer = os.waitstatus_to_exitcode(os.waitpid(question[0], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                run_in_child(*question)
        print(json.dumps(answer), flush=True)


def run_in_child(script, arguments, folder, environment, log):
    import conftest
    code = 99
    try:
        os.environ.update(environment)
        with open(log, 'wb', buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sleep, seconds = time.sleep, float(environment.get('LONGEST_SLEEP', 0.01))
        time.sleep = lambda wanted: sleep(min(wanted, seconds))
        code = conftest.run_script(script, *arguments, folder=folder)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == '__main__':
    fork_on_request()
