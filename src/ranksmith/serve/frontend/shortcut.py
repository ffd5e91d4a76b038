"""A connection whose requests to infer take the short way where they can: see `exchange`.

What was not answered that way is given to uvicorn's protocol from its first byte on, as if nothing had been tried.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ranksmith.serve.frontend.connection import Connection
from ranksmith.serve.frontend.exchange import Direct, Exchange, Rendered, header_lines
from ranksmith.serve.frontend.guard import new_id
from ranksmith.serve.frontend.heads import Head
from ranksmith.serve.frontend.returning import Client

__all__ = ["ShortConnection"]

_GATHER_S = 1.0


class _Gathered:
    """A request that arrives in pieces, each of which is copied while the next one is on its way."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self._whole = bytearray(head.request_bytes)
        self._size = 0

    def add(self, data: bytes) -> None:
        """No more than is missing."""
        self._whole[self._size : self._size + len(data)] = data
        self._size += len(data)

    @property
    def missing_bytes(self) -> int:
        return len(self._whole) - self._size

    @property
    def data(self) -> bytearray:
        """What has come so far."""
        return self._whole[: self._size] if self.missing_bytes else self._whole


class ShortConnection(Connection):
    """One client's connection; of a class made for the limits and for what is served."""

    direct: ClassVar[Direct]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gathered: _Gathered | None = None
        self._exchange: Exchange | None = None
        self._reserved_bytes = 0
        self._is_between = True
        self._is_last = False
        self._quiet_until_s = 0.0
        self._unparsed: bytes | None = None
        self._early: list[bytes] = []
        self._client = Client()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._release()
        if self._exchange is not None:
            self._exchange.cancel()

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            # The next request of a pipeline: answers go out in order.
            self._early.append(data)
            self.transport.pause_reading()
        elif self._gathered is not None:
            self._gather(self._gathered, data)
        elif (head := self._known_head(data)) is None:
            self._take_long_way(data)
        elif len(data) == head.request_bytes:
            self._begin(head, data)
        else:
            self._gathered = _Gathered(head)
            self._gather(self._gathered, data)

    def on_message_begin(self) -> None:
        self._is_between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._unparsed is not None:
            scope = self.scope
            self.direct.heads.learn(self._unparsed, scope["path"], scope["http_version"], scope["headers"])
            self._unparsed = None

    def on_message_complete(self) -> None:
        self._is_between = True
        super().on_message_complete()

    def shutdown(self) -> None:
        if self._exchange is not None:
            self._is_last = True
            return
        if self._gathered is not None:
            self._give_up()
        super().shutdown()

    def _known_head(self, data: bytes) -> Head | None:
        """If a request begins here, nothing stands before it, and there is room for its body."""
        if not self._is_between or self._is_answering or self.transport.is_closing():
            return None
        head = self.direct.heads.find(data)
        if head is None or not self.direct.bodies.reserve(head.body_bytes):
            return None
        self._reserved_bytes = head.body_bytes
        return head

    def _gather(self, gathered: _Gathered, data: bytes) -> None:
        if len(data) > gathered.missing_bytes:
            self._give_up(data)
            return
        gathered.add(data)
        if not gathered.missing_bytes:
            self._gathered = None
            self._begin(gathered.head, gathered.data)
        elif self._patience is None:
            self._wait(_GATHER_S, self._give_up)

    def _begin(self, head: Head, data: bytes | bytearray) -> None:
        # A connection's first request stops the clock that began with it.
        self._forget_patience()
        request_id = new_id()
        # Of three times as much as can be answered, two thirds end here.
        if (refused := self.direct.refused(head, request_id)) is not None:
            self._send(self._bytes_of(refused))
            return
        self._exchange = self.direct.ask(head, data, request_id, self._respond, self._client)
        if self._exchange is None:
            self._release()
            self._take_long_way(bytes(data))

    def _give_up(self, more: bytes = b"") -> None:
        """Let httptools have what was gathered."""
        assert self._gathered is not None, "there is something to give up"
        data, self._gathered = bytes(self._gathered.data) + more, None
        self._forget_patience()
        self._release()
        self._take_long_way(data)

    def _take_long_way(self, data: bytes) -> None:
        self._unparsed = data if self._is_between else None
        super().data_received(data)
        self._unparsed = None

    def _respond(self, answer: Rendered) -> None:
        self.direct.outbox.put(self._send, self._bytes_of(answer))

    def _send(self, answer: bytes) -> None:
        self._exchange = None
        self._release()
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        self.server_state.total_requests += 1
        if self._is_last:
            self.transport.close()
            return
        self._quiet_until_s = self.loop.time() + self.timeout_keep_alive
        if self.timeout_keep_alive_task is None:
            self._rest(self.timeout_keep_alive)
        if self.transport.get_write_buffer_size():
            self.watch_reader()
        if self._early:
            data, self._early = b"".join(self._early), []
            self.transport.resume_reading()
            self.data_received(data)

    def _bytes_of(self, answer: Rendered) -> bytes:
        head = (
            answer.head,
            header_lines(tuple(self.server_state.default_headers)),
            b"x-request-id: ",
            answer.request_id.encode(),
            b"\r\nconnection: close\r\n\r\n" if self._is_last else b"\r\n\r\n",
        )
        return b"".join([*head, *answer.body])

    def _rest(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close what has been idle for long. The short way does not stop this clock at every request."""
        self.timeout_keep_alive_task = None
        left_s = self._quiet_until_s - self.loop.time()
        if self._exchange is not None or self._gathered is not None:
            return
        if left_s > 0:
            self._rest(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _release(self) -> None:
        self.direct.bodies.release(self._reserved_bytes)
        self._reserved_bytes = 0
