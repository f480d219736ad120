"""What clients of the server send and get, as types, and errors in OpenAI's shape."""
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from starlette.responses import Response

MAX_SAMPLES, MAX_ALTERNATIVES, MAX_STOPS, MAX_STOP_LENGTH = 128, 20, 16, 1000


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra='forbid', allow_inf_nan=False)


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


class StreamOptions(Strict):
    include_usage: bool | None = False


class CompletionRequest(Strict):
    """OpenAI's legacy completions, with top_k, repetition_penalty and tools besides. null stands for the default."""
    model: str | None = None
    prompt: str | list[str] | list[int] | list[list[int]]
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = 1
    max_tokens: Annotated[int, Field(ge=0)] | None = Field(None, description='of each text; 16, or the limit if that is less')
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = 1.0
    tools: Literal['calculator'] | None = Field(None, description='puts the result behind every <<48/2= in the text')
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-2 ** 63, lt=2 ** 63)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    echo: bool | None = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    # what OpenAI has besides is accepted where it changes nothing
    best_of: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
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


class Model(BaseModel):
    id: str
    object: Literal['model']
    created: int
    owned_by: str
    max_prompt_tokens: int
    max_new_tokens: int
    max_n: int


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


def validation_error(errors: list[dict]) -> ApiError:
    """The first of pydantic's errors about a request, as one line."""
    error = errors[0]
    if error['type'] == 'json_invalid':
        return ApiError(400, f'the body is not JSON: {error["ctx"]["error"]}')
    if error['loc'] == ('body',):
        return ApiError(400, 'the body should be a JSON object, sent with Content-Type: application/json')
    name = error['loc'][1]
    if name == 'prompt':
        message = 'prompt is missing' if error['type'] == 'missing' else \
            'prompt should be a text, a list of texts, a list of token ids, or a list of such lists'
    elif error['type'] == 'extra_forbidden':
        message = f'{name} is not a field of this request'
    else:
        message = f'{name}={error["input"]!r:.60} is not possible: {error["msg"][0].lower()}{error["msg"][1:]}'
    return ApiError(400, message, name)
