"""Read what a client sends, within limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.reply import RefusedError
from ranksmith.serve.oip.signature import InvalidRequestError

__all__ = ["Bodies", "image_in"]

_FIELD = "image"
_MOST_PARTS = 32


@dataclass(eq=False)
class Bodies:
    """The bodies of one front end.

    Attributes:
        held_bytes: of all that have been read and not been answered yet.
    """

    limits: Limits
    held_bytes: int = 0

    @contextmanager
    def held(self) -> Iterator[list[bytes]]:
        """Where the parts of one body go; they count as held until the block is left."""
        parts: list[bytes] = []
        try:
            yield parts
        finally:
            self.held_bytes -= sum(map(len, parts))

    def reserve(self, size: int) -> bool:
        """Count a body as held that is read elsewhere, if there is room for it; to be released."""
        if size > self.limits.body_bytes or self.held_bytes + size > self.limits.bodies_bytes:
            return False
        self.held_bytes += size
        return True

    def release(self, size: int) -> None:
        self.held_bytes -= size

    async def read(self, request: Request, parts: list[bytes]) -> bytes:
        """A request's body.

        Args:
            parts: see `held`.

        Raises:
            RefusedError: it is too large, which is told before it is read where its length is known; it does not arrive
                in time; or too much is held already.
            ClientDisconnect: the client goes before it has sent it.
        """
        limit = self.limits.body_bytes
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > limit:
            raise RefusedError(413, f"the body of {int(declared):,} bytes is over the limit of {limit:,}")
        try:
            async with asyncio.timeout(self.limits.body_s):
                await self._read(request, parts)
        except TimeoutError:
            raise RefusedError(408, f"the body did not arrive within {self.limits.body_s:g} s") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read(self, request: Request, parts: list[bytes]) -> None:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self.limits.body_bytes:
                raise RefusedError(413, f"the body is over the limit of {self.limits.body_bytes:,} bytes")
            if self.held_bytes + len(part) > self.limits.bodies_bytes:
                raise RefusedError(503, "too many large requests are waiting", retry_after_s=1.0)
            if part:
                parts.append(part)
                self.held_bytes += len(part)


async def image_in(request: Request, body: bytes) -> bytes:
    """The encoded image in a body: field `image` of a form, or else all of it.

    Raises:
        InvalidRequestError: there is none, or the form is damaged.
    """
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/")
    encoded = await _file(request, body) if is_form else body
    if not encoded:
        raise InvalidRequestError(f"there is no image: send it as the body, or as multipart field {_FIELD!r}")
    return encoded


async def _file(request: Request, body: bytes) -> bytes:
    """
    Raises:
        InvalidRequestError: the form is damaged, or has no such file.
    """

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, whole(), max_files=_MOST_PARTS, max_fields=_MOST_PARTS)
    # It is in memory already: no detour over a file.
    parser.spool_max_size = len(body) + 1
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequestError(f"the form cannot be read: {error.message}") from error
    except KeyError as error:
        raise InvalidRequestError("the form cannot be read: its Content-Type names no boundary") from error
    except ValueError as error:
        raise InvalidRequestError(f"the form cannot be read: {error}") from error
    try:
        found = form.get(_FIELD)
        if isinstance(found, str):
            raise InvalidRequestError(f"field {_FIELD!r} of the form is text: send it as a file, with a file name")
        if found is None:
            raise InvalidRequestError(f"the form has no field {_FIELD!r}, or it was cut off")
        return bytes(await found.read())
    finally:
        await form.close()
