"""What clients of the server send and get, as types, and errors in OpenAI's shape."""
import difflib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from configurator import shorten
from runtime.errors import why_not_json

MAX_SAMPLES, MAX_ALTERNATIVES, MAX_STOPS, MAX_STOP_LENGTH = 128, 20, 16, 1000


# Fields of OpenAI's that are accepted where they change nothing, and why they are refused where they would.
NOT_HERE = {
    'suffix': 'the model only writes on from a prompt, it fills no gaps',
    'logit_bias': 'tokens get no bias here',
    'presence_penalty': 'only 0 is; repetition_penalty is what this server has',
    'frequency_penalty': 'only 0 is; repetition_penalty is what this server has',
    'response_format': "only {'type': 'text'} is: no form can be asked for",
    **dict.fromkeys(('tool_choice', 'functions', 'function_call', 'tool_calls'),
                    "the model calls no functions; tools='calculator' is what this server has"),
    'name': 'who speaks is said by the role alone',
    **dict.fromkeys(('refusal', 'audio', 'annotations'), 'only null is'),
}
# What is said instead of pydantic's words about a type.
EXPECTED = {
    'tools': "only 'calculator' is, which puts the result behind every <<48/2= of an answer",
    'messages': 'it should be a list of objects with role and content',
    'role': 'it should be system (or developer), user or assistant',
    'content': 'it should be a text, or a list of parts such as {"type": "text", "text": "Hi"}',
}
# What other servers and routes call the fields.
OTHER_NAMES = {'n_predict': 'max_tokens', 'max_new_tokens': 'max_tokens', 'max_completion_tokens': 'max_tokens',
               'repeat_penalty': 'repetition_penalty', 'n_probs': 'logprobs', 'messages': 'prompt', 'content': 'prompt',
               'prompt': 'messages'}


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra='forbid', allow_inf_nan=False)

    @model_validator(mode='before')
    @classmethod
    def explain_unknown(cls, body):
        """Refuses an unknown field here, where it is known which fields may be meant."""
        fields = [name for name in cls.model_fields if name not in NOT_HERE]
        for name in map(shorten, body if isinstance(body, dict) else ()):
            if name not in cls.model_fields:
                near = [OTHER_NAMES.get(name), *difflib.get_close_matches(name, fields, n=1)]
                hint = next((f'; did you mean {field}?' for field in near if field in fields),
                            f', which has {", ".join(fields)}')
                raise PydanticCustomError('unknown', ' is not a field of this request{hint}', {'name': name, 'hint': hint})
        return body


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


class StreamOptions(Strict):
    include_usage: bool | None = False
    include_obfuscation: Literal[False] | None = False


class Sampling(Strict):
    """What both routes have: OpenAI's fields, with vLLM's top_k, repetition_penalty and truncate_prompt_tokens, and with tools.

    null stands for the default.
    """
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = 1
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=-1)] | None = Field(None, description='0 and -1: all tokens')
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = 1.0
    tools: Literal['calculator'] | None = Field(None, description='puts the result behind every <<48/2= in the text')
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-2 ** 63, lt=2 ** 63)] | None = Field(None, description='-1: another text each time')
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = Field(
        None, description='only so many of the last tokens of a prompt are taken, of messages whole turns; -1: as many as fit')
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    # see NOT_HERE
    presence_penalty: Literal[0] | None = 0
    frequency_penalty: Literal[0] | None = 0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @field_validator('stop', mode='before')
    @classmethod
    def explain_stop(cls, stop):
        """Checks what the type says too, since an error of a type with two forms tells of the wrong one."""
        texts = [stop] if isinstance(stop, str) else [] if stop is None else stop
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise PydanticCustomError('in_words', 'stop should be a text or a list of texts')
        if len(texts) > MAX_STOPS:
            raise PydanticCustomError('in_words', f'stop has {len(texts):,} texts; at most {MAX_STOPS} are possible')
        if '' in texts:
            raise PydanticCustomError('in_words', 'stop has an empty text, before which every answer would end; leave it out')
        if (longest := max(map(len, texts), default=0)) > MAX_STOP_LENGTH:
            message = f'stop has a text of {longest:,} characters; at most {MAX_STOP_LENGTH:,} are possible'
            raise PydanticCustomError('in_words', message)
        return stop

    @field_validator('truncate_prompt_tokens')
    @classmethod
    def explain_truncate(cls, n_tokens):
        if n_tokens == 0:
            raise PydanticCustomError('in_words', 'truncate_prompt_tokens should be at least 1, or -1 for as many as fit')
        return n_tokens

    @model_validator(mode='after')
    def fill_in(self):
        """Puts the defaults where null was sent, or a number that stands for them."""
        for name, field in type(self).model_fields.items():
            if getattr(self, name) is None:
                setattr(self, name, field.default)
        if self.top_k is not None and self.top_k < 1:
            self.top_k = None
        if self.seed == -1:
            self.seed = None
        return self


class CompletionRequest(Sampling):
    """OpenAI's legacy completions."""
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] | None = Field(None, description='of each text; 16, or the limit if that is less')
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    echo: bool | None = False
    # see NOT_HERE
    best_of: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    suffix: Literal[''] | None = None


class TextPart(Strict):
    type: Literal['text']
    text: str


class Message(Strict):
    role: Literal['system', 'developer', 'user', 'assistant']
    # see NOT_HERE: clients send back messages of OpenAI's, which have these too
    tool_calls: Annotated[list, Field(max_length=0)] | None = None
    function_call: None = None
    name: None = None
    refusal: None = None
    audio: None = None
    annotations: Annotated[list, Field(max_length=0)] | None = None
    content: str | list[TextPart]


class ChatRequest(Sampling):
    """OpenAI's chat completions, with vLLM's continue_final_message."""
    messages: list[Message]
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description='of each answer; what is left of the context, or the limit if that is less')
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description='another name of max_tokens')
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    continue_final_message: bool | None = Field(False, description='go on with the last message, which is the assistant\'s')
    # see NOT_HERE
    tool_choice: Literal['none'] | None = None
    functions: Annotated[list, Field(max_length=0)] | None = None
    function_call: Literal['none'] | None = None
    response_format: dict[Literal['type'], Literal['text']] | None = None


class TokenizeRequest(Strict):
    """vLLM's. A GPT-2 tokenizer adds no special tokens of its own."""
    model: str | None = None
    prompt: str
    add_special_tokens: bool | None = None


# What is answered is a plain dict of one of these forms; as types they describe it in openapi.json.


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
    object: Literal['text_completion']
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None


class TokenLogprob(BaseModel):
    token: str
    logprob: float | None
    bytes: list[int] | None


class ChosenLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChosenLogprob]


class Answer(BaseModel):
    role: Literal['assistant']
    content: str
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: Answer
    logprobs: ChatLogprobs | None
    finish_reason: Literal['stop', 'length']


class ChatCompletion(BaseModel):
    id: str
    object: Literal['chat.completion']
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Tokens(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]


class Model(BaseModel):
    id: str
    object: Literal['model']
    created: int
    owned_by: str
    max_prompt_tokens: int
    max_new_tokens: int
    max_n: int
    chat: bool


class Models(BaseModel):
    object: Literal['list']
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


class ApiError(HTTPException):
    """An answer that refuses: the status, one line that says what would be right, and the field that it is about."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, headers=None):
        super().__init__(status, message, headers)
        kind = 'server_error' if status >= 500 else {401: 'authentication_error', 429: 'rate_limit_error'}.get(
            status, 'invalid_request_error')
        self.body = {'error': {'message': message, 'type': kind, 'param': param, 'code': code}}

    def response(self) -> Response:
        return json_response(self.body, self.status_code, self.headers)


def json_response(content: dict, status: int = 200, headers=None) -> Response:
    return Response(json.dumps(content), status, headers, 'application/json')


def not_json(error: ValueError | RecursionError) -> ApiError:
    return ApiError(400, f'the body is not JSON: {why_not_json(error)}')


def validation_error(errors: list[dict]) -> ApiError:
    """The first of pydantic's errors about a request, as one line."""
    error = errors[0]
    path, value = error['loc'][1:], error['input']
    if error['type'] == 'unknown':
        path = *path, error['ctx']['name']
    if not path:
        return ApiError(400, f'the body {"is empty; it " if error["type"] == "missing" else ""}should be a JSON object')
    name = path[0]
    if error['type'] == 'missing':
        message = f'{".".join(map(str, path))} is missing'
    elif error['type'] == 'unknown':
        message = '.'.join(map(str, path)) + error['msg']
    elif error['type'] == 'in_words':
        message = error['msg']
    elif name == 'prompt' and len(path) > 1:  # one of several types
        message = 'prompt is null; an empty text begins a new document' if value is None else \
            'prompt should be a text, a list of texts, a list of token ids, or a list of such lists'
    else:
        named = path[:3] if name == 'messages' else path if name == 'stream_options' else path[:1]
        reason = NOT_HERE.get(named[-1]) or EXPECTED.get(named[-1 if len(named) > 2 else 0]) or \
            f'{error["msg"][0].lower()}{error["msg"][1:]}'
        shown_name = '.'.join(map(str, named))
        message = f'{shown_name}={shorten(repr(value))} is not possible: {reason}'
    return ApiError(400, message, name)
