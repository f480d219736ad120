"""What stands before the application: whom it answers, and limits to how large a body is and how long it takes to arrive.

An ASGI middleware. It counts all answers, and knows nothing of what they are about.

A page that a browser shows may send requests to this machine. The browser keeps the answers from a page of another site
that serve.py's cors_origin does not name, unless the site's name was made to point here (DNS rebinding): then the requests
name that site as their host, so only `hosts` are answered. And without asking first, a page of another site can send no
body of type application/json, so no other is accepted.
"""
import asyncio
import hmac
import re
import time

from inference.http_types import ApiError

OPEN_PATHS = '/', '/ping', '/healthz', '/openapi.json'  # need no key


class Gate:

    def __init__(self, app, key: bytes | None, hosts: set[str] | None, max_body_bytes: int, body_timeout_s: float, metrics):
        """key: what clients must show, None for no key. hosts: names under which it is asked, in lower case, None for any.
        metrics: a metrics.Metrics."""
        self.app, self.key, self.hosts, self.metrics = app, key, hosts, metrics
        self.max_body_bytes, self.body_timeout_s = max_body_bytes, body_timeout_s

    async def __call__(self, scope, receive, send):
        if scope['type'] != 'http':
            return await self.app(scope, receive, send)
        status = 500  # unless something is answered

        async def send_counted(message):
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        self.metrics.n_open += 1
        try:
            headers = dict(scope['headers'])
            self.check_host(headers)
            self.check_key(scope['path'], headers)
            check_type(scope['method'], headers)
            asked = {**scope, 'method': 'GET'} if scope['method'] == 'HEAD' else scope  # uvicorn leaves the body out
            await self.app(asked, self.limit(receive), send_counted)
        except ApiError as error:
            await error.response()(scope, receive, send_counted)
        finally:
            self.metrics.n_open -= 1
            self.metrics.count_answer(scope['path'], status)

    def check_host(self, headers):
        host = headers.get(b'host')  # every browser sends one; HTTP/1.0 without it is some health check
        if self.hosts is None or host is None:
            return
        name = re.sub(r':\d*$', '', host.decode('latin-1')).strip('[]').rstrip('.').lower()
        if name not in self.hosts:
            raise ApiError(421, f'this server is not asked as {name!r:.80}; --hosts=NAME lets it answer under another name',
                           code='unknown_host')

    def check_key(self, path, headers):
        if self.key is None or path in OPEN_PATHS:
            return
        scheme, _, shown = headers.get(b'authorization', b'').partition(b' ')
        if scheme.lower() != b'bearer' or not hmac.compare_digest(shown.strip(), self.key):
            raise ApiError(401, 'this server asks for a key: send the header Authorization: Bearer KEY', code='invalid_api_key',
                           headers={'WWW-Authenticate': 'Bearer'})

    def limit(self, receive):
        """A `receive` that raises ApiError for a body that is too large, too slow, or cut off."""
        size, complete, deadline = 0, False, time.monotonic() + self.body_timeout_s

        async def receive_limited():
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise ApiError(408, f'the request did not arrive within {self.body_timeout_s:g} s',
                               headers={'Connection': 'close'}) from None
            if message['type'] == 'http.disconnect':
                raise ApiError(499, 'the client has gone')  # for the metrics: nobody reads it
            size, complete = size + len(message['body']), not message['more_body']
            if size > self.max_body_bytes:
                message['body'] = b''  # the rest is read and dropped: a client that is still sending would not hear the answer
                if complete or size > 32 * self.max_body_bytes:
                    raise ApiError(413, f'the body has more than {self.max_body_bytes} bytes, the most that is accepted',
                                   code='body_too_large', headers={'Connection': 'close'})
            return message

        return receive_limited


def check_type(method, headers):
    kind = headers.get(b'content-type', b'').partition(b';')[0].strip().lower()
    if method == 'POST' and kind != b'application/json':
        instead = f', not {kind.decode("latin-1"):.60}' if kind else ''
        raise ApiError(415, f'a request should be JSON, sent with Content-Type: application/json{instead}',
                       code='unsupported_type')
