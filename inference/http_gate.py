"""What stands before the application: the key, and a body that is complete, in time and not too large.

An ASGI middleware. It counts all answers, and knows nothing of what they are about.
"""
import asyncio
import hmac
import time

from inference.http_types import ApiError

OPEN_PATHS = '/', '/ping', '/healthz', '/openapi.json'  # need no key


class Gate:

    def __init__(self, app, key: bytes | None, max_body_bytes: int, body_timeout_s: float, metrics):
        """key: what clients must show, None for no key. metrics: a metrics.Metrics."""
        self.app, self.key, self.metrics = app, key, metrics
        self.max_body_bytes, self.body_timeout_s = max_body_bytes, body_timeout_s

    async def __call__(self, scope, receive, send):
        if scope['type'] != 'http':
            return await self.app(scope, receive, send)
        status = 499  # unless something is answered: the client has gone

        async def send_counted(message):
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        self.metrics.n_open += 1
        try:
            self.check_key(scope)
            body = await self.read_body(receive)
            if body is not None:
                await self.app(scope, replay(body, receive), send_counted)
        except ApiError as error:
            await error.response()(scope, receive, send_counted)
        except Exception:
            status = 500
            raise
        finally:
            self.metrics.n_open -= 1
            self.metrics.count_answer(scope['path'], status)

    def check_key(self, scope):
        if self.key is None or scope['path'] in OPEN_PATHS:
            return
        scheme, _, shown = dict(scope['headers']).get(b'authorization', b'').partition(b' ')
        if scheme.lower() != b'bearer' or not hmac.compare_digest(shown.strip(), self.key):
            raise ApiError(401, 'this server asks for a key: send the header Authorization: Bearer KEY', code='invalid_api_key',
                           headers={'WWW-Authenticate': 'Bearer'})

    async def read_body(self, receive):
        """The request's body, or None if the client went away before it was complete."""
        body, size, deadline = bytearray(), 0, time.monotonic() + self.body_timeout_s
        while True:
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except (asyncio.TimeoutError, TimeoutError):  # two classes before Python 3.11
                raise ApiError(408, f'the request did not arrive within {self.body_timeout_s:g} s',
                               headers={'Connection': 'close'}) from None
            if message['type'] == 'http.disconnect':
                return None
            size += len(message['body'])
            too_large = size > self.max_body_bytes
            body += b'' if too_large else message['body']
            if too_large and (size > 32 * self.max_body_bytes or not message['more_body']):
                # up to there the rest is read and dropped: a client that is still sending would not hear the answer
                raise ApiError(413, f'the body has more than {self.max_body_bytes} bytes, the most that is accepted',
                               code='body_too_large', headers={'Connection': 'close'})
            if not message['more_body']:
                return bytes(body)


def replay(body, receive):
    """A `receive` that gives the body that has been read, and then what comes after it."""
    messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def receive_again():
        return messages.pop() if messages else await receive()

    return receive_again
