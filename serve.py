"""Serves a model over HTTP: OpenAI's completions, SageMaker's two routes, metrics, and a page to try it on.

    python serve.py --out_dir=out/demo                   # then open http://127.0.0.1:8000/
    SCRATCHGPT_API_KEY=secret python serve.py --init_from=gpt2 --host=0.0.0.0 --port=8080

    from openai import OpenAI
    client = OpenAI(base_url='http://127.0.0.1:8000/v1', api_key='secret')
    client.completions.create(model='gpt2', prompt='Once upon a time', max_tokens=50).choices[0].text

    POST /v1/completions   prompt (text, token ids, or a list of either), n, max_tokens, temperature, top_p, top_k, stop,
                           seed, logprobs, echo, stream, repetition_penalty, tools ("calculator")
    GET  /v1/models        POST /invocations, GET /ping (SageMaker)        GET /healthz, /metrics, /openapi.json, /

Requests run as one batch and join it between two tokens. What the server cannot take is refused at once, in OpenAI's
shape of an error; what it has taken it finishes, also after SIGTERM. This file knows nothing of how tokens are computed
(generation.py), nor of how requests share a batch (batching.py).
"""
import asyncio
import base64
import contextlib
import hashlib
import hmac
import math
import os
import re
import socket
import sys
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import torch

try:
    import uvicorn
    from fastapi import Depends, FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, PlainTextResponse, Response
    from fastapi.security import HTTPBearer
    from pydantic import BaseModel, ConfigDict, Field, model_validator
    from sse_starlette import EventSourceResponse
    from starlette.exceptions import HTTPException
except ImportError as error:
    print(f'serve.py: {error.name} is missing; pip install -r cloud/requirements.txt', file=sys.stderr)
    sys.exit(2)

import pretrained
from runtime import hardware
from inference import engine as generation
from inference.worker import Busy, Draining, Job, Piece, Worker
from configurator import choice, configure, optional
from runtime.errors import BadInput, one_line_errors
from tasks.tool_use import Calculator

DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file, a folder in Hugging Face's layout, or gpt2[-medium|-large|-xl]
    'model_name': optional(str),  # what clients call it; the name of its folder if None
    'device': 'auto',  # auto, cuda, cuda:1, mps, cpu
    'dtype': choice('auto', 'bfloat16', 'float16', 'float32'),  # of the weights and the arithmetic
    # address; SCRATCHGPT_API_KEY in the environment makes clients show that key
    'host': '127.0.0.1',  # 0.0.0.0: reachable from other machines
    'port': 8000,  # 0: any that is free
    # limits
    'max_batch': 16,  # texts that are written at once
    'max_waiting': 128,  # texts that wait for a place; what goes beyond is answered with 429
    'max_prompt_tokens': optional(int),  # longest prompt; the model's block_size if None
    'max_new_tokens': 4096,  # most that a request may ask for, in tokens of each text
    'max_body_bytes': 1_000_000,  # of a request
    'body_timeout_s': 30.0,  # for a request to arrive in
    'timeout_s': 300.0,  # for a request to be answered in
    # log
    'access_log': False,  # a line a request
}

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'inference', 'page.html')
OPEN_PATHS = '/', '/ping', '/healthz', '/openapi.json'  # need no key
UNSUPPORTED = 'suffix', 'presence_penalty', 'frequency_penalty', 'logit_bias'  # taken where they change nothing
MOST_SAMPLES, MOST_ALTERNATIVES, MOST_STOPS, LONGEST_STOP = 128, 20, 16, 1000


def main(config):
    check(config)
    key = read_key()
    listener = bind(config['host'], config['port'])
    service = load_service(config, key)
    host, port = listener.getsockname()[:2]
    print(f'{service.name} at http://{f"[{host}]" if ":" in host else host}:{port}/, '
          f'{"with the key in SCRATCHGPT_API_KEY" if key else "without a key"}; Ctrl-C ends it', file=sys.stderr, flush=True)
    try:
        Server(service).run(sockets=[listener])
    finally:
        if service.worker:
            service.worker.stop()


def check(config):
    for key, least in (('max_batch', 1), ('max_waiting', 1), ('max_new_tokens', 1), ('max_body_bytes', 1),
                       ('max_prompt_tokens', 1), ('body_timeout_s', 0), ('timeout_s', 0), ('port', 0)):
        if config[key] is not None and config[key] < least:
            raise BadInput(f'{key}={config[key]} should be at least {least}')
    if config['port'] > 65535:
        raise BadInput(f'port={config["port"]} should be at most 65535')


def read_key():
    """The key that clients must show, as bytes, or None. An empty one is a mistake, not a server without a key."""
    key = os.environ.get('SCRATCHGPT_API_KEY')
    if key is not None and not key.strip():
        raise BadInput('SCRATCHGPT_API_KEY is empty; give it a key, or unset it for a server that asks for none')
    return key.strip().encode() if key else None


def bind(host, port):
    """A socket with that address, before a model is loaded in vain."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == 'posix':  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener
    except OSError as error:
        raise BadInput(f'cannot listen at host={host} port={port}: {error.strerror}; --port=0 takes any that is free') from None


def name_of(source):
    """'demo' for out/demo/ckpt_0000800.pt, 'gpt2' for gpt2."""
    folder = os.path.dirname(source) if source.endswith('.pt') else source
    return os.path.basename(os.path.abspath(folder)) or 'scratchgpt'


def load_service(config, key):
    """What all requests share. The model is loaded by the thread that will run it (see batching.Worker)."""
    computing = ThreadPoolExecutor(1, 'engine')
    engine, tokenizer, source = computing.submit(load_engine, config).result()
    torch.seed()  # requests without a seed get other texts after each start
    return Service(config, key, engine, tokenizer, config['model_name'] or name_of(source), computing)


def load_engine(config):
    """(Engine, Tokenizer, where from)"""
    device = hardware.pick_device(config['device'])
    dtype = hardware.pick_dtype(config['dtype'], device)
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'])
    engine = generation.Engine(model.to(device, dtype).eval(), max_batch=config['max_batch'])
    print(f'{source}: {model.n_params():,} parameters, {hardware.describe(device)}, {str(dtype).removeprefix("torch.")}',
          file=sys.stderr)
    return engine, tokenizer, source


# -- what clients send and get


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra='forbid', allow_inf_nan=False)


Prompt = str | list[str] | list[int] | list[list[int]]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class StreamOptions(Strict):
    include_usage: bool | None = False


class CompletionRequest(Strict):
    """OpenAI's legacy completions, with top_k, repetition_penalty and tools besides. null stands for the default."""
    model: str | None = None
    prompt: Prompt
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = 1
    max_tokens: Annotated[int, Field(ge=0)] | None = Field(None, description='of each text; 16, or the limit if that is less')
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = 1.0
    tools: Literal['calculator'] | None = Field(None, description='puts the result behind every <<48/2= in the text')
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-2 ** 63, lt=2 ** 63)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    echo: bool | None = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    suffix: Literal[''] | None = None
    presence_penalty: Literal[0] | None = 0
    frequency_penalty: Literal[0] | None = 0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @model_validator(mode='after')
    def fill_in(self):
        """Puts the defaults where null was sent."""
        for name, field in type(self).model_fields.items():
            if getattr(self, name) is None:
                setattr(self, name, field.default)
        return self


class Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(BaseModel):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal['stop', 'length'] | None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    id: str
    object: Literal['text_completion'] = 'text_completion'
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Model(BaseModel):
    id: str
    object: Literal['model'] = 'model'
    created: int
    owned_by: str = 'scratchgpt'
    max_prompt_tokens: int
    max_new_tokens: int
    max_n: int


class Models(BaseModel):
    object: Literal['list'] = 'list'
    data: list[Model]


class Status(BaseModel):
    status: Literal['ok', 'draining', 'failing']


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: Error


class ApiError(Exception):
    """What is answered instead: the status, one line that says what would be right, and the field that it is about."""

    def __init__(self, status, message, param=None, code=None, headers=None):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self):
        kind = 'server_error' if self.status >= 500 else {401: 'authentication_error', 429: 'rate_limit_error'}.get(
            self.status, 'invalid_request_error')
        return ErrorBody(error=Error(message=str(self), type=kind, param=self.param, code=self.code))

    def response(self):
        return Response(self.body().model_dump_json(), self.status, self.headers, 'application/json')


# -- from a request to jobs, and from their pieces to an answer


class Service:
    """What all requests share."""

    def __init__(self, config, key, engine, tokenizer, name, computing):
        self.config, self.key, self.engine, self.tokenizer, self.name = config, key, engine, tokenizer, name
        self.computing = computing  # the pool of one thread that the engine belongs to
        self.max_prompt_tokens = config['max_prompt_tokens'] or engine.config.block_size
        self.calculator = Calculator(tokenizer)
        self.longest_token = max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size))
        self.max_n = min(MOST_SAMPLES, config['max_batch'], config['max_waiting'])
        self.metrics = Metrics()
        self.created = int(time.time())
        self.worker = None  # from the moment at which there is an event loop
        self.tokenizing = ThreadPoolExecutor(1, 'tokenizer')  # a long text must not hold up the loop

    def status(self):
        worker = self.worker
        return 'draining' if worker.draining else 'failing' if worker.failing or worker.work.done() else 'ok'


def make_jobs(service, body):
    """The jobs of a request, one a prompt. Raises ApiError for what a type cannot say."""
    if body.model is not None and body.model != service.name:
        raise ApiError(404, f'there is no model {body.model!r}; this server has {service.name!r}', 'model', 'model_not_found')
    if body.n > service.max_n:
        raise ApiError(400, f'n={body.n}: at most {service.max_n} texts of a prompt fit here', 'n')
    most = service.config['max_new_tokens']
    max_tokens = min(16, most) if body.max_tokens is None else body.max_tokens
    if max_tokens > most:
        raise ApiError(400, f'max_tokens={max_tokens} should be at most {most}', 'max_tokens')
    if body.best_of not in (None, body.n):
        raise ApiError(400, f'best_of={body.best_of} should be left out: all n={body.n} texts are returned', 'best_of')
    if body.stream_options and not body.stream:
        raise ApiError(400, 'stream_options only goes with stream=true', 'stream_options')
    prompts = read_prompts(body.prompt)
    most = service.config['max_waiting'] // body.n
    if len(prompts) > most:
        raise ApiError(400, f'{len(prompts)} prompts with n={body.n}: at most {most} in one request', 'prompt')
    wake, eot = asyncio.Event(), service.tokenizer.eot
    jobs = []
    for number, prompt in enumerate(prompts):
        ids = encode(service, prompt, body)
        request = generation.Request(
            ids=ids or [eot], max_new_tokens=max_tokens, temperature=body.temperature, top_k=body.top_k,
            top_p=body.top_p, seed=body.seed, stop_tokens=(eot,),
            repetition_penalty=body.repetition_penalty, logprobs=body.logprobs,
            echo_logprobs=body.echo and body.logprobs is not None, tool=service.calculator if body.tools else None)
        jobs.append(Job(request, wake, body.n, (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
                        body.echo, body.stream, number * body.n, n_unseen=0 if ids else 1))
    return jobs


def read_prompts(prompt):
    """The request's prompts: a list of texts and lists of token ids."""
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    if not prompt:
        raise ApiError(400, 'prompt is an empty list; send a text, or token ids', 'prompt')
    return prompt


def encode(service, prompt, body):
    """Token ids of a prompt, refusing those that are too long before any work is done for them."""
    most = service.max_prompt_tokens
    if isinstance(prompt, str):
        try:
            size = len(prompt.encode())
        except UnicodeEncodeError as error:
            raise ApiError(400, f'the prompt is not Unicode text: character {error.start} is half of a pair', 'prompt') from None
        prompt = service.tokenizer.encode(prompt) if size <= most * service.longest_token else range(size)
    else:
        wrong = next((i for i in prompt if not 0 <= i < service.tokenizer.vocab_size), None)
        if wrong is not None:
            raise ApiError(400, f'token id {wrong} is not in the vocabulary of {service.tokenizer.vocab_size}', 'prompt')
    if len(prompt) > most:
        size = '' if isinstance(prompt, range) else f'it has {len(prompt):,} tokens, and '  # a range was not even encoded
        raise ApiError(400, f'the prompt is too long: {size}at most {most:,} tokens are taken', 'prompt', 'context_length_exceeded')
    return list(prompt)


async def read(service, jobs):
    """Yields lists of Pieces of the jobs, at most one for each text, as they become certain. Raises ApiError."""
    wake, deadline = jobs[0].wake, time.monotonic() + service.config['timeout_s']
    while True:
        wake.clear()
        finished = all(job.finished for job in jobs)
        error = next((job.error for job in jobs if job.error), None)
        if isinstance(error, ValueError):
            raise ApiError(400, str(error))
        if error:
            raise ApiError(500, 'the engine failed at this request; the server has logged why')
        pieces = merge(take_all(job.pieces) for job in jobs)
        if pieces:
            yield pieces
        if finished:
            return
        try:
            await asyncio.wait_for(wake.wait(), deadline - time.monotonic())
        except (asyncio.TimeoutError, TimeoutError):  # two classes before Python 3.11
            after = f'after {service.config["timeout_s"]:g} s'
            if not any(job.started_at for job in jobs):
                raise ApiError(429, f'still waiting for a place {after}; try again later', code='queue_timeout',
                               headers={'Retry-After': '10'}) from None
            raise ApiError(504, f'not finished {after}; ask for fewer tokens', code='timeout') from None


def take_all(pieces):
    """Empties a deque that a thread is filling."""
    while pieces:
        yield pieces.popleft()


def merge(groups):
    """The pieces of each text as one."""
    merged = {}
    for group in groups:
        for piece in group:
            if piece.index in merged:
                first = merged[piece.index]
                piece = Piece(piece.index, first.text + piece.text, first.tokens + piece.tokens, piece.finish_reason)
            merged[piece.index] = piece
    return [merged[index] for index in sorted(merged)]


def make_choice(service, piece, with_logprobs):
    logprobs = None
    if with_logprobs:
        def name(i):
            return token_name(service.tokenizer.token_bytes(i))
        logprobs = Logprobs(
            tokens=[name(token.id) for token in piece.tokens],
            token_logprobs=[token.logprob for token in piece.tokens],
            top_logprobs=[None if token.logprob is None else
                          {name(i): value for i, value in [*token.alternatives, (token.id, token.logprob)]}
                          for token in piece.tokens],
            text_offset=[token.offset for token in piece.tokens])
    return Choice(index=piece.index, text=piece.text, logprobs=logprobs, finish_reason=piece.finish_reason)


def token_name(token):
    """A token as text; one that is a part of a character as OpenAI writes it, 'bytes:\\xe2\\x80'."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return 'bytes:' + ''.join(f'\\x{byte:02x}' for byte in token)


def make_completion(service, identity, choices, usage=None):
    return Completion(id=identity, created=int(time.time()), model=service.name, choices=choices, usage=usage)


def count_usage(jobs):
    prompt = sum(len(job.request.ids) for job in jobs)
    new = sum(job.n_new_tokens for job in jobs)
    return Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)


async def answer_whole(service, request, body, jobs, identity):
    """The answer in one, or nothing more to do once the client has gone."""
    whole = asyncio.ensure_future(collect(service, jobs))
    gone = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait([whole, gone], return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            return Response(status_code=499)  # for the metrics: nobody reads it
        choices = [make_choice(service, piece, body.logprobs is not None) for piece in whole.result()]
        return Response(make_completion(service, identity, choices, count_usage(jobs)).model_dump_json(),
                        media_type='application/json')
    finally:
        whole.cancel()
        gone.cancel()
        close(service, jobs)


async def collect(service, jobs):
    return merge([pieces async for pieces in read(service, jobs)])


async def until_gone(request):
    while (await request.receive())['type'] != 'http.disconnect':
        pass


class Stream(EventSourceResponse):
    """The answer as server-sent events. Its work is given up with it, even if that is before the first event."""

    def __init__(self, service, body, jobs, identity):
        self.service, self.jobs = service, jobs
        super().__init__(write_events(service, body, jobs, identity), sep='\n', send_timeout=service.config['body_timeout_s'])

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            close(self.service, self.jobs)


async def write_events(service, body, jobs, identity):
    """The events of a stream as bytes; an error that comes up on the way is an event too."""
    def event(data):
        return f'data: {data}\n\n'.encode()

    try:
        async for pieces in read(service, jobs):
            choices = [make_choice(service, piece, body.logprobs is not None) for piece in pieces]
            yield event(make_completion(service, identity, choices).model_dump_json())
    except ApiError as error:
        yield event(error.body().model_dump_json())
        return
    if body.stream_options and body.stream_options.include_usage:
        yield event(make_completion(service, identity, [], count_usage(jobs)).model_dump_json())
    yield event('[DONE]')


def close(service, jobs):
    """Frees what the jobs still hold, and counts what they were."""
    given_up = not all(job.finished for job in jobs)
    service.worker.cancel(jobs)
    service.metrics.count_jobs(jobs, given_up)


# -- the application


def make_app(service):
    """The ASGI application."""

    @contextlib.asynccontextmanager
    async def lifespan(_):
        service.worker = Worker(service.engine, service.tokenizer, asyncio.get_running_loop(), service.computing,
                                service.config['max_waiting'])
        yield
        service.worker.stop()

    secured = [Depends(HTTPBearer(auto_error=False))] if service.key else []  # for the document; the Gate asks for it
    app = FastAPI(title='scratchgpt', version='1', lifespan=lifespan, docs_url=None, redoc_url=None,  # their pages need a CDN
                  responses={'4XX': {'model': ErrorBody}, '5XX': {'model': ErrorBody}})
    app.add_middleware(Gate, service=service)
    page, page_headers = read_page()

    @app.exception_handler(ApiError)
    async def api_error(_, error):
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_, error):
        return describe(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def http_error(request, error):
        message = {404: f'there is no {request.url.path} here',
                   405: f'{request.method} is not for {request.url.path}'}.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def unexpected(_, error):
        return ApiError(500, 'something unexpected went wrong; the server has logged what').response()

    @app.post('/v1/completions', dependencies=secured, responses={200: {
        'model': Completion, 'content': {'text/event-stream': {'schema': {'type': 'string'}}}}})
    @app.post('/invocations', dependencies=secured, responses={200: {
        'model': Completion, 'content': {'text/event-stream': {'schema': {'type': 'string'}}}}})
    async def complete(request: Request, body: CompletionRequest) -> Response:
        jobs = await asyncio.get_running_loop().run_in_executor(service.tokenizing, make_jobs, service, body)
        try:
            service.worker.submit(jobs)
        except Busy as error:
            raise ApiError(429, str(error), code='queue_full', headers={'Retry-After': str(error.retry_after_s)}) from None
        except Draining as error:
            raise ApiError(503, str(error), code='draining', headers={'Retry-After': '10', 'Connection': 'close'}) from None
        identity = f'cmpl-{uuid.uuid4().hex}'
        if body.stream:
            return Stream(service, body, jobs, identity)
        return await answer_whole(service, request, body, jobs, identity)

    def the_model():
        return Model(id=service.name, created=service.created, max_prompt_tokens=service.max_prompt_tokens,
                     max_new_tokens=service.config['max_new_tokens'], max_n=service.max_n)

    @app.get('/v1/models', dependencies=secured)
    async def list_models() -> Models:
        return Models(data=[the_model()])

    @app.get('/v1/models/{name:path}', dependencies=secured)
    async def get_model(name: str) -> Model:
        if name != service.name:
            raise ApiError(404, f'there is no model {name!r}; this server has {service.name!r}', 'model', 'model_not_found')
        return the_model()

    @app.get('/ping', responses={503: {'model': Status}})
    @app.get('/healthz', responses={503: {'model': Status}})
    async def health() -> Status:
        status = service.status()
        return Response(Status(status=status).model_dump_json(), 200 if status == 'ok' else 503, media_type='application/json')

    @app.get('/metrics', dependencies=secured, response_class=PlainTextResponse)
    async def metrics():
        return PlainTextResponse(service.metrics.render(service.worker), media_type='text/plain; version=0.0.4')

    @app.get('/', include_in_schema=False)
    async def index():
        return HTMLResponse(page, headers=page_headers)

    return app


def describe(errors):
    """The first of a request's mistakes as one line."""
    error = errors[0]
    place = [str(part) for part in error['loc'] if part != 'body']
    if error['type'] == 'json_invalid':
        return ApiError(400, f'the body is not JSON: {error["ctx"]["error"]}')
    if not place:
        return ApiError(400, 'the body should be a JSON object, sent with Content-Type: application/json')
    if place[0] == 'prompt':
        message = 'prompt is missing' if error['type'] == 'missing' else \
            'prompt should be a text, a list of texts, a list of token ids, or a list of such lists'
    elif error['type'] == 'extra_forbidden':
        message = f'{place[0]} is not a field of this request'
    elif place[0] in UNSUPPORTED:
        message = f'{place[0]} is not supported here; leave it out'
    else:
        message = f'{place[0]}={error["input"]!r:.60} is not possible: {error["msg"][0].lower()}{error["msg"][1:]}'
    return ApiError(400, message, place[0])


def read_page():
    """The page, and headers under which a browser runs its one script and loads nothing from anywhere else."""
    with open(PAGE, encoding='utf-8') as file:
        page = file.read()
    script = re.search('<script>(.*?)</script>', page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; " \
             "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return page, {'Content-Security-Policy': policy, 'Cache-Control': 'no-cache', 'X-Content-Type-Options': 'nosniff'}


class Gate:
    """Before the application: the key, and a body that is whole, in time and not too large. Counts what is answered."""

    def __init__(self, app, service):
        self.app, self.service = app, service

    async def __call__(self, scope, receive, send):
        if scope['type'] != 'http':
            return await self.app(scope, receive, send)
        metrics, status = self.service.metrics, 499  # unless something is answered: the client has gone

        async def send_counted(message):
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        metrics.n_open += 1
        try:
            self.check_key(scope)
            body = await self.read_body(scope, receive)
            if body is not None:
                await self.app(scope, replay(body, receive), send_counted)
        except ApiError as error:
            await error.response()(scope, receive, send_counted)
        except Exception:
            status = 500
            raise
        finally:
            metrics.n_open -= 1
            metrics.requests[path_label(scope['path']), status] += 1

    def check_key(self, scope):
        if self.service.key is None or scope['path'] in OPEN_PATHS:
            return
        scheme, _, shown = dict(scope['headers']).get(b'authorization', b'').partition(b' ')
        if scheme.lower() != b'bearer' or not hmac.compare_digest(shown.strip(), self.service.key):
            raise ApiError(401, 'this server asks for a key: send the header Authorization: Bearer KEY', code='invalid_api_key',
                           headers={'WWW-Authenticate': 'Bearer'})

    async def read_body(self, scope, receive):
        """The request's body, or None if the client went away before it was there."""
        most, body, size = self.service.config['max_body_bytes'], bytearray(), 0
        deadline = time.monotonic() + self.service.config['body_timeout_s']
        while True:
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except (asyncio.TimeoutError, TimeoutError):
                raise ApiError(408, f'the request did not arrive within {self.service.config["body_timeout_s"]:g} s',
                               headers={'Connection': 'close'}) from None
            if message['type'] == 'http.disconnect':
                return None
            size += len(message['body'])
            body += message['body'] if size <= most else b''
            if size > most and (size > 32 * most or not message['more_body']):
                # read on and forget for a while: a client that is still sending would not hear the answer
                raise ApiError(413, f'the body has more than {most} bytes, the most that is taken', code='body_too_large',
                               headers={'Connection': 'close'})
            if not message['more_body']:
                return bytes(body)


def replay(body, receive):
    """A `receive` that gives the body that has been read, and then what comes after it."""
    messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def receive_again():
        return messages.pop() if messages else await receive()

    return receive_again


# -- what the server tells of itself

PATHS = '/', '/v1/completions', '/invocations', '/v1/models', '/ping', '/healthz', '/metrics', '/openapi.json'


def path_label(path):
    """One of a few words, whatever clients ask for."""
    return path if path in PATHS else '/v1/models' if path.startswith('/v1/models/') else 'other'


class Histogram:
    """Seconds, counted in buckets that double."""
    bounds = [0.01 * 2 ** i for i in range(15)]  # 10 ms to 164 s

    def __init__(self):
        self.counts, self.sum = [0] * (len(self.bounds) + 1), 0.0

    def observe(self, value):
        self.counts[next((i for i, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))] += 1
        self.sum += value

    def render(self, name):
        total = 0
        for bound, count in zip([*self.bounds, math.inf], self.counts):
            total += count
            yield f'{name}_bucket{{le="{"+Inf" if bound == math.inf else f"{bound:g}"}"}} {total}'
        yield f'{name}_sum {self.sum:.6f}'
        yield f'{name}_count {total}'


class Metrics:
    """Counters of the whole server, in the text format of Prometheus."""

    def __init__(self):
        self.requests = Counter()  # (path, status): answers
        self.n_open = self.n_given_up = self.n_prompt_tokens = self.n_new_tokens = 0
        self.first_token_s, self.request_s = Histogram(), Histogram()

    def count_jobs(self, jobs, given_up):
        now = time.monotonic()
        self.n_given_up += given_up
        for job in jobs:
            self.n_prompt_tokens += len(job.request.ids) if job.started_at else 0
            self.n_new_tokens += job.n_new_tokens
            if job.first_token_at:
                self.first_token_s.observe(job.first_token_at - job.submitted_at)
        if not given_up:
            self.request_s.observe(now - jobs[0].submitted_at)

    def render(self, worker):
        lines = []

        def add(kind, name, help, values):
            lines.extend([f'# HELP scratchgpt_{name} {help}', f'# TYPE scratchgpt_{name} {kind}', *values])

        def single(kind, name, help, value):
            add(kind, name, help, [f'scratchgpt_{name} {value}'])

        add('counter', 'requests_total', 'Answers, by path and status.', (
            f'scratchgpt_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in self.requests.items()))
        single('counter', 'prompt_tokens_total', 'Tokens of prompts that were computed.', self.n_prompt_tokens)
        single('counter', 'new_tokens_total', 'Tokens of texts that are finished or given up.', self.n_new_tokens)
        single('counter', 'given_up_total', 'Requests whose client went away or that ran out of time.', self.n_given_up)
        single('counter', 'steps_total', 'Steps of the engine: a token for each running text.', worker.n_steps)
        single('counter', 'engine_tokens_total', 'Tokens that these steps gave.', worker.n_tokens)
        single('gauge', 'running', 'Texts that are being written.', worker.engine.n_running)
        single('gauge', 'waiting', 'Texts that wait for a place.', worker.n_waiting)
        single('gauge', 'open_requests', 'Requests that are not answered to the end.', self.n_open)
        add('histogram', 'first_token_seconds', 'From a request to its first token.',
            self.first_token_s.render('scratchgpt_first_token_seconds'))
        add('histogram', 'request_seconds', 'From a request to the end of its answer.',
            self.request_s.render('scratchgpt_request_seconds'))
        return '\n'.join(lines) + '\n'


class Server(uvicorn.Server):
    """Ends when all that was taken on is finished. A second signal ends it at once."""

    def __init__(self, service):
        self.service = service
        log_level = 'info' if service.config['access_log'] else 'warning'
        super().__init__(uvicorn.Config(make_app(service), log_level=log_level, server_header=False, lifespan='on'))

    def handle_exit(self, sig, frame):
        worker = self.service.worker
        if worker is None or worker.draining:
            self.should_exit = self.force_exit = True
        else:
            worker.draining = True
            print('finishing what runs; new requests are refused', file=sys.stderr, flush=True)

    async def on_tick(self, counter):
        worker = self.service.worker
        if worker.draining and worker.idle and self.service.metrics.n_open == 0:
            self.should_exit = True
        return await super().on_tick(counter)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
