"""OpenAI's chat completions, as far as they differ from completions: messages become a prompt, and texts become messages.

`service` is serve.Service. For models that were trained on conversations (chat_template.py).
"""
import asyncio

from chat_template import check_question, encode_answer, encode_prompt, encode_with_room, stop_tokens
from configurator import shown
from inference.completions import Form, check_sampling, count_bytes, make_job, token_name
from inference.http_types import ApiError, ChatRequest
from inference.worker import Job


def make_chat_jobs(service, body: ChatRequest, client: str) -> list[Job]:
    """The job of a client's request, in a list. Raises ApiError for what the types do not rule out."""
    if body.max_tokens is None:
        body.max_tokens = body.max_completion_tokens
    elif body.max_completion_tokens not in (None, body.max_tokens):
        raise ApiError(400, f'max_tokens={shown(body.max_tokens)} is max_completion_tokens under another name; give only one',
                       'max_completion_tokens')
    check_sampling(service, body)
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, 'top_logprobs only goes with logprobs=true', 'top_logprobs')
    ids = encode_messages(service, body)
    limit, left = service.config['max_new_tokens'], service.engine.config.block_size - len(ids)
    max_tokens = min(limit, max(1, left)) if body.max_tokens is None else body.max_tokens
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return [make_job(service, body, client, asyncio.Event(), ids, max_tokens, stop_tokens(service.tokenizer), logprobs)]


def encode_messages(service, body: ChatRequest) -> list[int]:
    """The prompt. Raises ApiError."""
    tokenizer, limit, truncate = service.tokenizer, service.max_chat_tokens, body.truncate_prompt_tokens
    messages = [{'role': 'system' if message.role == 'developer' else message.role, 'content': text_of(message)}
                for message in body.messages]
    sizes = [count_bytes(message['content'], f'message {number}', 'messages') for number, message in enumerate(messages)]
    size = sum(sizes[-1:] if truncate else sizes)
    if size > limit * service.longest_token:  # certain to be too long, without being encoded
        raise too_long(f'the {"last message has" if truncate else "messages have"} {size:,} bytes, more than {limit:,} tokens '
                       'can have')
    begun = []
    if body.continue_final_message:
        if not messages or messages[-1]['role'] != 'assistant':
            raise ApiError(400, 'continue_final_message=true goes on with a last message of role assistant, which is not there',
                           'messages')
        begun = encode_answer(messages.pop()['content'], tokenizer)
    try:
        check_question(messages)
    except ValueError as error:
        raise ApiError(400, str(error), 'messages') from None
    try:
        if truncate == -1:
            return encode_with_room(messages, tokenizer, limit - len(begun), body.max_tokens or limit) + begun
        if truncate is not None:
            return encode_prompt(messages, tokenizer, min(truncate, limit) - len(begun)) + begun
    except ValueError as error:
        raise too_long(str(error)) from None
    ids = encode_prompt(messages, tokenizer) + begun
    if len(ids) > limit:
        raise too_long(f'the messages have {len(ids):,} tokens, more than the {limit:,} tokens that are taken at most'
                       + ('; truncate_prompt_tokens=-1 leaves out the oldest turns' if len(messages) > 2 else ''))
    return ids


def text_of(message):
    return message.content if isinstance(message.content, str) else ''.join(part.text for part in message.content)


def too_long(message):
    return ApiError(400, message, 'messages', 'context_length_exceeded')


# ---------------------------------------------------------------------------- the answer

def whole_choices(tokenizer, index, text, tokens, finish_reason, is_first):
    message = {'role': 'assistant', 'content': text, 'refusal': None}
    return [{'index': index, 'message': message, 'logprobs': make_logprobs(tokenizer, tokens), 'finish_reason': finish_reason}]


def streamed_choices(tokenizer, index, text, tokens, finish_reason, is_first):
    """As OpenAI sends them: who speaks, then what is said, then why it ends."""
    parts = [({'role': 'assistant', 'content': ''}, None, None)] if is_first else []
    if text or tokens:
        parts.append(({'content': text}, make_logprobs(tokenizer, tokens), None))
    if finish_reason:
        parts.append(({}, None, finish_reason))
    return [{'index': index, 'delta': delta, 'logprobs': logprobs, 'finish_reason': ended} for delta, logprobs, ended in parts]


WHOLE = Form('chatcmpl-', 'chat.completion', whole_choices)
STREAMED = Form('chatcmpl-', 'chat.completion.chunk', streamed_choices, apart=True)


def make_logprobs(tokenizer, tokens):
    """{'content': an entry for each token}. The log-probability of what a calculator wrote is null."""
    if tokens is None:
        return None
    special = set(tokenizer.special_tokens.values())

    def entry(i, logprob):
        spelling = tokenizer.token_bytes(i)
        return {'token': token_name(spelling), 'logprob': logprob, 'bytes': None if i in special else list(spelling)}

    return {'content': [{**entry(token.id, token.logprob), 'top_logprobs': [entry(*one) for one in token.alternatives]}
                        for token in tokens]}
