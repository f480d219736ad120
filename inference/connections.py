"""What the server does with connections whose client is slow, silent or gone: uvicorn has no deadlines of its own for them.

    connections = server.server_state.connections          # of a uvicorn.Server with http=partial(Connection, most=1024)
    close_late(connections, header_timeout_s, write_timeout_s)    # call it a few times a second

A client has `header_timeout_s` for the head of its first request, and for each further one, counted from the answer before.
It has `write_timeout_s` to take more of an answer that waits to be sent. For the body of a request there is http_gate.py.
Of more than `most` connections, the one is closed that has waited longest for its client to ask something.

Builds on h11, which uvicorn brings along. Knows nothing of what requests are about.
"""
import socket
import time

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SEND_BUFFER = 1 << 16  # bytes that the system keeps of what was written


class Connection(H11Protocol):
    """waits_since: when it began to wait for its client, by time.monotonic"""

    def __init__(self, *args, most: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.most = most
        self.waits_since, self.n_unsent, self.has_ended = time.monotonic(), 0, False

    @property
    def is_asked(self) -> bool:
        """Whether a request has begun to arrive and is not answered to the end."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_awaited(self) -> bool:
        """Whether there is an answer to make: to a request that is all there."""
        return self.is_asked and not self.cycle.more_body

    @property
    def is_owed(self) -> bool:
        """Whether its client is still to get something: an answer, or the rest of one."""
        return self.is_awaited or self.transport.get_write_buffer_size() > 0

    def connection_made(self, transport):
        super().connection_made(transport)
        # So that a slow client is seen to take something before the deadline: the system reports space in steps of a third.
        transport.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if len(self.connections) > self.most:
            others = [other for other in self.connections if not other.is_awaited and other is not self]
            if others:  # if there are none, uvicorn answers with 503: see limit_concurrency
                min(others, key=lambda other: other.waits_since).abort()

    def eof_received(self):
        """Goes on for a client that sends nothing more and waits for its answer.

        One that has gone looks the same until something is sent to it: then its side says that nobody is there. So it is
        sent 100 Continue, which clients of HTTP/1.1 have to skip; `is_late` looks for what comes back.
        """
        self.has_ended = self.is_awaited
        if self.is_awaited and self.conn.our_state is h11.SEND_RESPONSE and self.conn.their_http_version == b'1.1':
            self.transport.write(self.conn.send(h11.InformationalResponse(status_code=100, headers=[], reason='Continue')))
        return self.has_ended

    def on_response_complete(self):
        self.waits_since = time.monotonic()
        super().on_response_complete()  # begins with the next request, if it is already there
        if self.has_ended and not self.is_asked:
            self.transport.close()

    def send_400_response(self, msg):
        """Answers what is no HTTP, if its answer has not begun; it is the last thing that this client hears."""
        self.leave_cycle()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.abort()

    def abort(self):
        self.connections.discard(self)
        self.leave_cycle()
        self.transport.abort()

    def leave_cycle(self):
        """Lets the application know that nothing more can be sent; left to uvicorn, it would hear so a moment too late."""
        if self.is_asked:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.flow.resume_writing()

    def is_late(self, header_timeout_s, write_timeout_s) -> bool:
        now, before, self.n_unsent = time.monotonic(), self.n_unsent, self.transport.get_write_buffer_size()
        if self.n_unsent:
            if not before or self.n_unsent < before:  # it takes some of it
                self.waits_since = now
        elif self.is_asked:
            self.waits_since = now
        if self.has_ended and self.transport.get_extra_info('socket').getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return True
        return now - self.waits_since > (write_timeout_s if self.n_unsent else header_timeout_s)


def close_late(connections: set[Connection], header_timeout_s: float, write_timeout_s: float):
    """Closes the connections whose client is late, and those whose client has gone after it had ended its side."""
    for connection in list(connections):
        if connection.is_late(header_timeout_s, write_timeout_s):
            connection.abort()
