"""Serves a model over HTTP: OpenAI's completions and chat, SageMaker's two routes, metrics, and a page to try it on.

    python serve.py --out_dir=out/demo                   # then open http://127.0.0.1:8000/
    SCRATCHGPT_API_KEY=secret python serve.py --init_from=gpt2 --host=0.0.0.0 --port=8080

    from openai import OpenAI                            # pip install openai
    client = OpenAI(base_url='http://127.0.0.1:8000/v1', api_key='secret')
    client.completions.create(model='gpt2', prompt='Once upon a time', max_tokens=50).choices[0].text

    POST /v1/completions   prompt (text, token ids, or a list of either), n, max_tokens, temperature, top_p, top_k, stop, seed,
                           logprobs, echo, stream, repetition_penalty, truncate_prompt_tokens, tools ("calculator")
    POST /v1/chat/completions   for a model that was trained on conversations: messages and the same, with top_logprobs
    POST /tokenize         prompt (text)
    GET  /v1/models        POST /invocations, GET /ping (SageMaker)        GET /healthz, /metrics, /openapi.json, /

Requests run as one batch, which they join between two tokens; clients share it fairly (inference/worker.py). What is accepted
is finished, also after SIGTERM, for up to grace_s; what is not is refused at once, with OpenAI's errors. Clients that are
slow, silent or gone lose their connection (inference/connections.py). inference/completions.py answers requests, with
inference/chat.py for chats.
"""
import runtime.waiting  # noqa: F401  before torch

# isort: split
import asyncio
import base64
import contextlib
import functools
import hashlib
import ipaddress
import os
import re
import socket
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

try:
    import uvicorn
    from fastapi import Depends, FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, PlainTextResponse, Response
    from fastapi.security import HTTPBearer
    from starlette.exceptions import HTTPException
    from starlette.middleware.cors import CORSMiddleware

    from inference import chat
    from inference.completions import COMPLETION, Stream, answer_whole, count_tokens, make_jobs, unknown_model
    from inference.connections import Connection, close_late
except ModuleNotFoundError as error:
    print(f'serve.py: {error.name} is missing; pip install -r cloud/requirements.txt', file=sys.stderr)
    sys.exit(2)

from chat_template import has_chat_tokens
from configurator import check_bounds, choice, configure, optional, shorten
from inference import may_compile, open_model
from inference.engine import Engine
from inference.http_gate import Gate
from inference.http_types import (
    MAX_SAMPLES,
    ApiError,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ErrorBody,
    Model,
    Models,
    Status,
    TokenizeRequest,
    Tokens,
    json_response,
    not_json,
    validation_error,
)
from inference.metrics import Metrics
from inference.worker import Busy, Draining, Worker
from runtime.errors import BadInput, one_line_errors, warn
from tasks.tool_use import Calculator

DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file, Hugging Face folder, or gpt2[-medium|-large|-xl]
    'model_name': optional(str),  # what clients call it; the name of its folder if None
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of the weights and the arithmetic
    'weights': choice('auto', 'int8', 'int4'),  # on a CPU: weights rounded to 8 or 4 bits, which are read faster
    'compile': optional(bool),  # None: on a GPU yes, on a CPU no; the start is slow, as all is compiled then, and steps fast
    # address; SCRATCHGPT_API_KEY in the environment makes clients show that key
    'host': '127.0.0.1',  # 0.0.0.0: reachable from other machines
    'port': 8000,  # 0: any that is free
    'hosts': optional(str),  # names it is asked under, with commas; None: any, or localhost alone on a loopback address
    'proxies': optional(str),  # addresses of proxies, with commas, that tell whom they ask for in X-Forwarded-For
    'cors_origin': optional(str),  # pages of other sites that may ask it: http://localhost:5173, several with commas, or *
    # limits
    'max_batch': 16,  # texts that are written at once
    'max_waiting': 128,  # texts that wait for a slot; then the answer is 429, twice as late for a client with none waiting
    'max_prompt_tokens': optional(int),  # longest prompt; the model's block_size if None
    'max_new_tokens': 4096,  # most that a request may ask for, in tokens of each text
    'max_body_bytes': 1_000_000,  # of a request
    'max_connections': 2048,  # beyond it the one is closed that is silent for the longest time
    'header_timeout_s': 10.0,  # for the head of a request to arrive in, and between requests
    'body_timeout_s': 30.0,  # for its body to arrive in
    'timeout_s': 300.0,  # for it to be answered in
    'write_timeout_s': 30.0,  # for a client to take more of its answer
    'grace_s': 25.0,  # after SIGTERM, for what is accepted to be finished in; the process ends a second or two later
    # log
    'access_log': False,  # a line a request
}

BACKLOG = 512  # connections that the system keeps until the event loop comes to them, which then takes as many at once
OTHER_FILES = 64  # open files besides connections

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'inference', 'page.html')


def main(config):
    check(config)
    key = read_key()
    listener = bind(config['host'], config['port'])
    config['max_connections'] = min(config['max_connections'], room_for_connections(config['max_connections']))
    host, port = listener.getsockname()[:2]
    service = Service(config, key, allowed_hosts(config, host))
    print(f'{service.name} at http://{f"[{host}]" if ":" in host else host}:{port}/, '
          f'{"with the key in SCRATCHGPT_API_KEY" if key else "without a key"}; Ctrl-C ends it', file=sys.stderr, flush=True)
    try:
        Server(service).run(sockets=[listener])
    finally:
        service.tokenizing.shutdown(wait=False, cancel_futures=True)
        if service.worker:
            service.worker.stop()


def check(config):
    check_bounds(config, 'max_batch', 'max_waiting', 'max_new_tokens', 'max_body_bytes', 'max_prompt_tokens',
                 'max_connections', at_least=1)
    check_bounds(config, 'header_timeout_s', 'body_timeout_s', 'timeout_s', 'write_timeout_s', 'grace_s', at_least=0)
    check_bounds(config, 'port', at_least=0, at_most=65535)
    read_origins(config)


def read_origins(config):
    """The sites whose pages may ask: none but the server's own, if the list is empty, or all, if '*' is in it."""
    origins = [origin.strip().lower() for origin in (config['cors_origin'] or '').split(',') if origin.strip()]
    wrong = next((origin for origin in origins if not re.fullmatch(r'\*|[a-z][a-z0-9+.-]*://[^/\s]+', origin)), None)
    if wrong is not None:
        raise BadInput(f'cors_origin={wrong} should be a site such as http://localhost:5173, without a path, or *')
    return origins


def read_key():
    """The key that clients must show, as bytes, or None. An empty one is a mistake, not a server without a key."""
    key = os.environ.get('SCRATCHGPT_API_KEY')
    if key is not None and not key.strip():
        raise BadInput('SCRATCHGPT_API_KEY is empty; give it a key, or unset it for a server that asks for none')
    return key.strip().encode() if key else None


def bind(host, port):
    """A listening socket: whether the address is free shows before a model is loaded."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise BadInput(f'cannot listen at host={host} port={port}: {error.strerror}; --port=0 takes any that is free') from None


def room_for_connections(wanted):
    """How many connections the limit of open files allows, after raising that as far as it goes."""
    if sys.platform == 'win32':
        return wanted
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if hard != resource.RLIM_INFINITY else max(soft, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    room = max(1, limit - BACKLOG - OTHER_FILES)
    if room < wanted:
        warn(f'max_connections={wanted} is lowered to {room}: this process may open {limit} files (ulimit -Hn)')
    return room


def allowed_hosts(config, address):
    """The names under which it may be asked, in lower case, or None for any. address: what it listens at."""
    named = {name.strip().lower() for name in (config['hosts'] or '').split(',') if name.strip()}
    if ipaddress.ip_address(address).is_loopback:
        return named | {'localhost', '127.0.0.1', '::1', address, config['host'].lower()}
    return named or None


def name_of(source):
    """'demo' for out/demo/ckpt_0000800.pt, 'gpt2' for gpt2."""
    folder = os.path.dirname(source) if source.endswith('.pt') else source
    return os.path.basename(os.path.abspath(folder)) or 'scratchgpt'


def load_engine(config):
    """(Engine, Tokenizer, what was loaded)"""
    model, tokenizer, source = open_model(config)
    compile = may_compile(config['compile'], model.transformer.wte.weight.device)
    engine = Engine(model, config['max_batch'], compile, config['weights'])
    if compile:
        print('compiling, so that no request has to wait for it; --compile=False starts at once', file=sys.stderr)
        engine.warm_up()
    return engine, tokenizer, source


class Service:
    """What all requests share."""

    def __init__(self, config, key=None, hosts=None):
        """key: what clients must show, as bytes, or None. hosts: names under which it is asked, or None for any."""
        self.config, self.key, self.hosts = config, key, hosts
        self.computing = ThreadPoolExecutor(1, 'engine')  # its thread loads the model and will run it (see Worker)
        self.engine, self.tokenizer, source = self.computing.submit(load_engine, config).result()
        self.tokenizing = ThreadPoolExecutor(1, 'tokenizer')  # encoding a long text must not block the event loop
        self.turns = weakref.WeakValueDictionary()  # {client: lock}: one text of each client at a time
        self.name, self.created = config['model_name'] or name_of(source), int(time.time())
        self.max_prompt_tokens = config['max_prompt_tokens'] or self.engine.config.block_size
        self.max_chat_tokens = min(self.max_prompt_tokens, self.engine.config.block_size)  # beyond it, a window cuts turns
        self.chats = has_chat_tokens(self.tokenizer)
        self.max_n = min(MAX_SAMPLES, config['max_batch'], config['max_waiting'])
        self.longest_token = max(len(self.tokenizer.token_bytes(i)) for i in range(self.tokenizer.vocab_size))
        self.calculator, self.metrics = Calculator(self.tokenizer), Metrics()
        self.worker = None  # is made when there is an event loop

    def turn_of(self, client):
        """The lock that a client holds while a text of its own is tokenized."""
        return self.turns.setdefault(client, asyncio.Lock())

    def status(self):
        worker = self.worker
        return 'draining' if worker.draining else 'failing' if worker.failing or worker.work.done() else 'ok'


def make_app(service):
    """The ASGI application."""

    @contextlib.asynccontextmanager
    async def lifespan(_):
        service.worker = Worker(service.engine, service.tokenizer, asyncio.get_running_loop(), service.computing,
                                service.config['max_waiting'])
        yield
        service.worker.stop()

    app = FastAPI(title='scratchgpt', version='1', lifespan=lifespan, docs_url=None, redoc_url=None,  # their pages need a CDN
                  dependencies=[Depends(HTTPBearer(auto_error=False))] if service.key else [],  # for openapi.json; see Gate
                  responses={'4XX': {'model': ErrorBody}, '5XX': {'model': ErrorBody}})
    app.add_middleware(Gate, key=service.key, hosts=service.hosts, max_body_bytes=service.config['max_body_bytes'],
                       body_timeout_s=service.config['body_timeout_s'], metrics=service.metrics)
    if origins := read_origins(service.config):  # around the gate: a page has to be let read what the gate refuses
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=['GET', 'HEAD', 'POST'], allow_headers=['*'],
                           expose_headers=['Retry-After'])
    add_error_handlers(app)
    completion, chat_completion = ({200: {'model': model, 'content': {'text/event-stream': {'schema': {'type': 'string'}}}}}
                                   for model in (Completion, ChatCompletion))

    @app.post('/v1/completions', response_model=None, responses=completion)
    @app.post('/invocations', response_model=None, responses=completion)
    async def complete(request: Request, body: CompletionRequest) -> Response:
        return await answer(service, request, body, make_jobs, COMPLETION)

    if service.chats:
        @app.post('/v1/chat/completions', response_model=None, responses=chat_completion)
        async def complete_chat(request: Request, body: ChatRequest) -> Response:
            return await answer(service, request, body, chat.make_chat_jobs, chat.STREAMED if body.stream else chat.WHOLE)

    @app.post('/tokenize', response_model=None, responses={200: {'model': Tokens}})
    async def tokenize(request: Request, body: TokenizeRequest) -> Response:
        async with service.turn_of(name_of_client(request)):
            return json_response(await in_thread(service.tokenizing, count_tokens, service, body))

    model = {'id': service.name, 'object': 'model', 'created': service.created, 'owned_by': 'scratchgpt',
             'max_prompt_tokens': service.max_prompt_tokens, 'max_new_tokens': service.config['max_new_tokens'],
             'max_n': service.max_n, 'chat': service.chats}

    @app.get('/v1/models', response_model=Models)
    async def list_models():
        return {'object': 'list', 'data': [model]}

    @app.get('/v1/models/{name:path}', response_model=Model)
    async def get_model(name: str):
        if name != service.name:
            raise unknown_model(service, name)
        return model

    @app.get('/ping', response_model=None, responses={200: {'model': Status}, 503: {'model': Status}})
    @app.get('/healthz', response_model=None, responses={200: {'model': Status}, 503: {'model': Status}})
    async def health() -> Response:
        status = service.status()
        return json_response({'status': status}, 200 if status == 'ok' else 503)

    @app.get('/metrics', response_class=PlainTextResponse)
    async def metrics():
        return PlainTextResponse(service.metrics.render(service.worker), media_type='text/plain; version=0.0.4')

    page, page_headers = read_page()

    @app.get('/', include_in_schema=False)
    async def index():
        return HTMLResponse(page, headers=page_headers)

    return app


async def answer(service, request, body, make_jobs, form):
    """Queues the jobs of a request, and answers with what becomes of them."""
    client = name_of_client(request)
    try:
        async with service.turn_of(client):
            service.worker.check_open()
            jobs = await in_thread(service.tokenizing, make_jobs, service, body, client)
        service.worker.submit(jobs)
    except Busy as busy:
        raise ApiError(429, f'too many requests are waiting; try again in {busy} s', code='queue_full',
                       headers={'Retry-After': str(busy)}) from None
    except Draining:
        raise ApiError(503, 'the server is shutting down and takes no new requests', code='draining',
                       headers={'Retry-After': '10', 'Connection': 'close'}) from None
    if body.stream:
        return Stream(service, body, jobs, form)
    return await answer_whole(service, request, jobs, form)


def name_of_client(request):
    return request.client.host if request.client else ''  # it has already gone


async def in_thread(pool, function, *arguments):
    return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def read_page():
    """The page, and headers under which a browser runs its one script and loads nothing from anywhere else."""
    with open(PAGE, encoding='utf-8') as file:
        page = file.read()
    (script,) = re.findall('<script>(.*?)</script>', page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; " \
             "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return page, {'Content-Security-Policy': policy, 'Cache-Control': 'no-cache', 'X-Content-Type-Options': 'nosniff'}


def add_error_handlers(app):
    """All errors are answered in OpenAI's shape."""
    @app.exception_handler(ApiError)
    async def api_error(_, error):
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_, error):
        return (not_json(error.__cause__) if error.__cause__ else validation_error(error.errors())).response()

    @app.exception_handler(HTTPException)
    async def http_error(request, error):
        if isinstance(error.__cause__, (ValueError, RecursionError)):  # of a body that it could not read
            return not_json(error.__cause__).response()
        detail = error.detail
        if error.status_code == 404 and request.url.path == '/v1/chat/completions':
            detail = 'this model was not trained on conversations, it only goes on with a text'
        message = f'{request.method} {shorten(request.url.path)}: {detail}'
        if error.status_code in (404, 405):
            message += f'; this server has {", ".join(f"{min(route.methods)} {route.path_format}" for route in app.routes)}'
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def unexpected(_, error):
        return ApiError(500, 'something unexpected went wrong; the server has logged what').response()


class Server(uvicorn.Server):
    """Ends when all accepted requests are finished, at the latest after grace_s. A second signal ends it at once."""

    def __init__(self, service):
        self.service, self.ends_at = service, None
        config = service.config
        super().__init__(uvicorn.Config(
            make_app(service), log_level='info' if config['access_log'] else 'error', server_header=False, lifespan='on',
            loop='asyncio', ws='none', http=functools.partial(Connection, most=config['max_connections']), backlog=BACKLOG,
            limit_concurrency=config['max_connections'] + 1, timeout_keep_alive=config['header_timeout_s'],
            timeout_graceful_shutdown=1, proxy_headers=config['proxies'] is not None, forwarded_allow_ips=config['proxies']))

    def handle_exit(self, sig, frame):
        worker = self.service.worker
        if worker is None or worker.draining:
            self.should_exit = True
        else:
            worker.draining = True

    async def on_tick(self, counter):
        """Is called ten times a second."""
        config, connections = self.service.config, self.server_state.connections
        close_late(connections, config['header_timeout_s'], config['write_timeout_s'])
        if self.service.worker.draining and not self.should_exit:
            if self.ends_at is None:
                self.ends_at = time.monotonic() + config['grace_s']
                print(f'finishing what runs, for up to {config["grace_s"]:g} s; new requests are refused', file=sys.stderr,
                      flush=True)
            is_done = self.service.worker.idle and not any(connection.is_owed for connection in connections)
            self.should_exit = is_done or time.monotonic() > self.ends_at
        if self.should_exit:
            await self.leave(connections)
        return await super().on_tick(counter)

    async def leave(self, connections):
        """Closes all connections, and waits a moment for their requests to hear of it."""
        left = sum(connection.is_owed for connection in connections)
        if left:
            print(f'{left} requests are not finished', file=sys.stderr, flush=True)
        for connection in list(connections):
            connection.abort()
        deadline = time.monotonic() + 1
        while self.server_state.tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.01)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
