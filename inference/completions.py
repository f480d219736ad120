"""A completion from start to end: a request becomes jobs, and their texts become an answer, in one or as a stream.

What an answer looks like is a Form: COMPLETION here, those of a chat in inference/chat.py. `service` is serve.Service: the
settings, the tokenizer and the worker that all requests share.
"""
import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

from sse_starlette import EventSourceResponse
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from configurator import shown
from inference.engine import Request
from inference.http_types import ApiError, CompletionRequest, Sampling, TokenizeRequest
from inference.worker import Job


class Form(NamedTuple):
    """What the answers of a route look like."""
    prefix: str  # of an answer's id
    object: str  # what an answer is called
    choices: Callable  # (tokenizer, index, new text, its tokens or None, finish_reason, whether it is the first) -> [dict]
    apart: bool = False  # whether an event of a stream has one choice alone


def count_tokens(service, body: TokenizeRequest) -> dict:
    """A text's tokens, as vLLM's /tokenize answers. Raises ApiError."""
    check_model(service, body.model)
    ids = encode_text(service, body.prompt)
    return {'count': len(ids), 'max_model_len': service.max_prompt_tokens, 'tokens': ids}


def make_jobs(service, body: CompletionRequest, client: str) -> list[Job]:
    """The jobs of a client's request, one for each prompt. Raises ApiError for what the types do not rule out."""
    check_sampling(service, body)
    max_tokens = min(16, service.config['max_new_tokens']) if body.max_tokens is None else body.max_tokens
    if body.best_of not in (None, body.n):
        raise ApiError(400, f'best_of={body.best_of} should be left out: all n={body.n} texts are returned', 'best_of')
    prompts = [body.prompt] if isinstance(body.prompt, str) or body.prompt and isinstance(body.prompt[0], int) else body.prompt
    if not prompts:
        raise ApiError(400, 'prompt is an empty list; send a text, or token ids', 'prompt')
    limit = service.config['max_waiting'] // body.n
    if len(prompts) > limit:
        raise ApiError(400, f'{len(prompts)} prompts with n={body.n}: at most {limit} in one request', 'prompt')
    wake, eot, jobs = asyncio.Event(), service.tokenizer.eot, []
    for prompt in prompts:
        ids = encode_prompt(service, prompt, body.truncate_prompt_tokens)
        job = make_job(service, body, client, wake, ids or [eot], max_tokens, (eot,), body.logprobs)
        if body.echo:
            job.n_echoed, job.request.echo_logprobs = len(ids), body.logprobs is not None
        jobs.append(job)
    return jobs


def check_sampling(service, body: Sampling):
    """Raises ApiError for what neither route can do."""
    check_model(service, body.model)
    if body.n > service.max_n:
        raise ApiError(400, f'n={body.n}: at most {service.max_n} texts of a prompt fit here', 'n')
    limit = service.config['max_new_tokens']
    if body.max_tokens is not None and body.max_tokens > limit:
        raise ApiError(400, f'max_tokens={shown(body.max_tokens)} should be at most {limit}', 'max_tokens')
    if body.stream_options and not body.stream:
        raise ApiError(400, 'stream_options only goes with stream=true', 'stream_options')


def make_job(service, body: Sampling, client, wake, ids, max_tokens, stop_tokens, logprobs) -> Job:
    tool = service.calculator if body.tools else None
    request = Request(ids, max_tokens, body.temperature, body.top_k, body.top_p, body.seed, stop_tokens,
                      body.repetition_penalty, logprobs, tool=tool)
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Job(request, wake, body.n, stops, stream=body.stream, client=client)


def check_model(service, name: str | None):
    if name is not None and name != service.name:
        raise unknown_model(service, name)


def unknown_model(service, name):
    return ApiError(404, f'there is no model {shown(name)}; this server has {service.name!r}', 'model', 'model_not_found')


def encode_prompt(service, prompt: str | list[int], truncate: int | None) -> list[int]:
    """Token ids of a prompt. truncate: how many of the last to keep at most, -1 for as many as fit, None for all."""
    ids = encode_text(service, prompt, cut=truncate is not None) if isinstance(prompt, str) else prompt
    limit, vocab_size = service.max_prompt_tokens, service.tokenizer.vocab_size
    wrong = next((i for i in ids if not 0 <= i < vocab_size), None)
    if wrong is not None:
        raise ApiError(400, f'token id {shown(wrong)} is not in the vocabulary of {vocab_size}', 'prompt')
    if truncate is not None:
        ids = ids[-(limit if truncate == -1 else min(truncate, limit)):]
    if len(ids) > limit:
        raise too_long(f'{len(ids):,} tokens', f'{limit:,} tokens that are taken at most')
    return ids


def encode_text(service, text: str, cut: bool = False) -> list[int]:
    """Token ids of a text. One that is certain to be too long for a prompt is refused, or cut, without being encoded.

    cut: keep twice as much of its end as a prompt can have: where it was cut, tokens may be others, but these are not taken.
    """
    most = service.max_prompt_tokens * service.longest_token  # bytes
    size = count_bytes(text)
    if size > most and cut:
        text = text[-2 * most:]
    elif size > most:
        raise too_long(f'{size:,} bytes', f'{most:,} bytes that {service.max_prompt_tokens:,} tokens can have')
    return service.tokenizer.encode(text)


def count_bytes(text, name='the prompt', param='prompt'):
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise ApiError(400, f'{name} is not Unicode text: character {error.start} is half of a pair', param) from None


def too_long(size, limit):
    return ApiError(400, f'the prompt has {size}, more than the {limit}', 'prompt', 'context_length_exceeded')


async def updates(service, jobs):
    """Yields whenever the jobs' texts may have grown, for the last time when all are finished. Raises ApiError."""
    wake, timeout_s = jobs[0].wake, service.config['timeout_s']
    deadline = time.monotonic() + timeout_s
    while True:
        wake.clear()
        finished = all(job.finished for job in jobs)
        error = next((job.error for job in jobs if job.error), None)
        if isinstance(error, ValueError):
            raise ApiError(400, str(error))
        if error:
            raise ApiError(500, 'the engine failed at this request; the server has logged why')
        yield
        if finished:
            return
        try:
            await asyncio.wait_for(wake.wait(), deadline - time.monotonic())
        except asyncio.TimeoutError:
            if not any(job.started_at for job in jobs):
                raise ApiError(429, f'still waiting for a place after {timeout_s:g} s; try again later', code='queue_timeout',
                               headers={'Retry-After': '10'}) from None
            raise ApiError(504, f'not finished after {timeout_s:g} s; ask for fewer tokens', code='timeout') from None


def new_choices(service, jobs, given: dict, form: Form) -> list[dict]:
    """What the texts have got since the last call, which `given` remembers as {index: progress of a TextStream}."""
    choices = []
    for number, job in enumerate(jobs):
        for index, text in enumerate(job.texts, number * job.n):
            before, now = given.get(index, (0, 0, None)), text.progress
            if now != before:
                tokens = None if job.request.logprobs is None else text.tokens[before[1]:now[1]]
                piece = text.text[before[0]:now[0]]
                choices += form.choices(service.tokenizer, index, piece, tokens, now[2], index not in given)
                given[index] = now
    return choices


def text_choices(tokenizer, index, text, tokens, finish_reason, is_first):
    logprobs = None if tokens is None else make_logprobs(tokenizer, tokens)
    return [{'index': index, 'text': text, 'logprobs': logprobs, 'finish_reason': finish_reason}]


COMPLETION = Form('cmpl-', 'text_completion', text_choices)


def make_logprobs(tokenizer, tokens):
    def name(i):
        return token_name(tokenizer.token_bytes(i))

    return {
        'tokens': [name(token.id) for token in tokens],
        'token_logprobs': [token.logprob for token in tokens],
        'top_logprobs': [None if token.logprob is None else
                         {name(i): value for i, value in [*token.alternatives, (token.id, token.logprob)]} for token in tokens],
        'text_offset': [token.offset for token in tokens]}


def token_name(token: bytes) -> str:
    """A token as text; one that is a part of a character as OpenAI writes it, 'bytes:\\xe2\\x80'."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return 'bytes:' + ''.join(f'\\x{byte:02x}' for byte in token)


def make_head(service, form):
    """What the parts of an answer have in common."""
    return {'id': f'{form.prefix}{uuid.uuid4().hex}', 'object': form.object, 'created': int(time.time()), 'model': service.name}


def count_usage(jobs):
    prompt, new = sum(len(job.request.ids) for job in jobs), sum(job.n_new_tokens for job in jobs)
    return {'prompt_tokens': prompt, 'completion_tokens': new, 'total_tokens': prompt + new}


async def answer_whole(service, request: HttpRequest, jobs: list[Job], form: Form) -> Response:
    """The answer in one; nothing more is done once the client has gone."""
    async def until_finished():
        async for _ in updates(service, jobs):
            pass

    finished = asyncio.ensure_future(until_finished())
    gone = asyncio.ensure_future(request.receive())  # the body has been read: what comes next is that the client goes
    try:
        await asyncio.wait([finished, gone], return_when=asyncio.FIRST_COMPLETED)
        if not finished.done():
            return Response(status_code=499)  # for the metrics: nobody reads it
        finished.result()  # raises what it raised
        return Response(await asyncio.to_thread(whole_answer, service, jobs, form), media_type='application/json')
    finally:
        finished.cancel()
        gone.cancel()
        close(service, jobs)


def whole_answer(service, jobs, form) -> str:
    """The JSON of a completion, choice by choice: one of 40 MB, made in one, would hold up all other requests."""
    choices = [json.dumps(choice) for choice in new_choices(service, jobs, {}, form)]
    answer = json.dumps({**make_head(service, form), 'choices': [], 'usage': count_usage(jobs)})
    return answer.replace('"choices": []', f'"choices": [{", ".join(choices)}]', 1)


class Stream(EventSourceResponse):
    """The answer as server-sent events. Its jobs end with it, even if that is before the first event."""

    def __init__(self, service, body: Sampling, jobs: list[Job], form: Form):
        self.service, self.jobs = service, jobs
        super().__init__(write_events(service, body, jobs, form), sep='\n')

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            close(self.service, self.jobs)


async def write_events(service, body, jobs, form):
    """The events of a stream as bytes; an error on the way is an event too."""
    def event(data):
        return f'data: {json.dumps(data)}\n\n'.encode()

    head, given = make_head(service, form), {}
    try:
        async for _ in updates(service, jobs):
            choices = new_choices(service, jobs, given, form)
            for part in [[choice] for choice in choices] if form.apart else [choices] if choices else []:
                yield event({**head, 'choices': part, 'usage': None})
    except ApiError as error:
        yield event(error.body)
        return
    if body.stream_options and body.stream_options.include_usage:
        yield event({**head, 'choices': [], 'usage': count_usage(jobs)})
    yield b'data: [DONE]\n\n'


def close(service, jobs):
    """Frees what the jobs still hold, and counts what they were."""
    given_up = not all(job.finished for job in jobs)
    service.worker.cancel(jobs)
    service.metrics.count_jobs(jobs, given_up)
