from __future__ import annotations

import asyncio
import socket
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from ranksmith.serve.frames import Decoder, Frame, FrameError, Kind, Limits, Tensor, encode
from ranksmith.serve.listener import listen
from ranksmith.serve.transport import LOW_MARK_BYTES, Link, LinkClosedError, adopt, connect

TIMEOUT_S = 30

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's coroutine on each event loop that is served with."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def run_on_loop(test: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(TIMEOUT_S):
                await test()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run_on_loop


class Ends:
    """What the callbacks were told, to be waited for."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()
        self.links: asyncio.Queue[Link] = asyncio.Queue()
        self.losses: asyncio.Queue[tuple[Link, Exception | None]] = asyncio.Queue()

    def on_link(self, link: Link) -> None:
        self.links.put_nowait(link)

    def on_frame(self, link: Link, frame: Frame) -> None:
        self.frames.put_nowait(frame)

    def on_lost(self, link: Link, error: Exception | None) -> None:
        self.losses.put_nowait((link, error))

    async def loss(self) -> Exception | None:
        _, error = await self.losses.get()
        # A second call would come within a few turns of the loop.
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.losses.empty(), "on_lost was called twice"
        return error


async def link_and_socket(ends: Ends, **options: Any) -> tuple[Link, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(TIMEOUT_S)
    return await adopt(ours, ends.on_frame, ends.on_lost, **options), theirs


async def two_links() -> tuple[tuple[Link, Ends], tuple[Link, Ends]]:
    left, right = socket.socketpair()
    a, b = Ends(), Ends()
    return (await adopt(left, a.on_frame, a.on_lost), a), (await adopt(right, b.on_frame, b.on_lost), b)


def infer(request: int, size: int = 100) -> Frame:
    return Frame(
        Kind.INFER, request, meta=b"m", tensors=(Tensor("x", "UINT8", (size,), bytes([request % 256]) * size),)
    )


def wire(frame: Frame) -> bytes:
    return b"".join(bytes(buffer) for buffer in encode(frame))


def test_frames_cross_a_socket_file_in_both_directions(run: Run, tmp_path: Path) -> None:
    async def check() -> None:
        server, client = Ends(), Ends()
        async with await listen(tmp_path / "s", server.on_link, server.on_frame, server.on_lost):
            link = await connect(tmp_path / "s", client.on_frame, client.on_lost)
            accepted = await server.links.get()
            link.send(infer(1))
            assert await server.frames.get() == infer(1)
            accepted.send(Frame(Kind.RESULT, 1))
            assert await client.frames.get() == Frame(Kind.RESULT, 1)
            link.close()
            assert link.is_closed
            assert await client.loss() is None
            assert await server.loss() is None
            assert accepted.is_closed

    run(check)


def test_many_frames_of_mixed_sizes_arrive_in_order_in_both_directions(run: Run) -> None:
    sizes = [0, 1, 100, 5000, 70_000, 700_000]

    async def pump(link: Link, count: int) -> None:
        for i in range(count):
            link.send(infer(i, sizes[i % len(sizes)]))
            await link.drain()

    async def receive(ends: Ends, count: int) -> None:
        for i in range(count):
            assert await ends.frames.get() == infer(i, sizes[i % len(sizes)])

    async def check() -> None:
        (left, left_ends), (right, right_ends) = await two_links()
        await asyncio.gather(pump(left, 120), pump(right, 120), receive(left_ends, 120), receive(right_ends, 120))
        left.close()
        assert await left_ends.loss() is None
        assert await right_ends.loss() is None

    run(check)


def test_thousands_of_small_frames_sent_at_once_all_arrive(run: Run) -> None:
    async def check() -> None:
        (left, left_ends), (right, right_ends) = await two_links()
        for i in range(5000):
            left.send(infer(i, 10))
        left.close()
        assert [(await right_ends.frames.get()).request for _ in range(5000)] == list(range(5000))
        assert await left_ends.loss() is None
        assert await right_ends.loss() is None
        assert right.is_closed

    run(check)


def test_frames_written_one_byte_at_a_time_arrive(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        link, theirs = await link_and_socket(ends)

        def write() -> None:
            with theirs:
                for byte in wire(infer(1)) + wire(infer(2)):
                    theirs.send(bytes([byte]))

        await asyncio.to_thread(write)
        assert await ends.frames.get() == infer(1)
        assert await ends.frames.get() == infer(2)
        assert await ends.loss() is None
        assert link.is_closed

    run(check)


@pytest.mark.parametrize("kept", [1, 43, 44, 50, -1])
def test_death_in_the_middle_of_a_frame_is_a_frame_error(run: Run, kept: int) -> None:
    async def check() -> None:
        ends = Ends()
        link, theirs = await link_and_socket(ends)
        theirs.sendall(wire(infer(1)) + wire(infer(2))[:kept])
        theirs.close()
        assert isinstance(await ends.loss(), FrameError)
        assert ends.frames.get_nowait() == infer(1)
        assert ends.frames.empty()
        assert link.is_closed
        with pytest.raises(LinkClosedError):
            link.send(infer(3))

    run(check)


def test_garbage_closes_the_link_after_the_frames_before_it(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        _, theirs = await link_and_socket(ends)
        with theirs:
            theirs.sendall(wire(infer(1)) + b"GET / HTTP/1.1\r\n" * 4)
            assert isinstance(await ends.loss(), FrameError)
            assert ends.frames.get_nowait() == infer(1)
            assert await asyncio.to_thread(theirs.recv, 1) == b""

    run(check)


def test_the_limits_given_hold_for_the_link(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        _, theirs = await link_and_socket(ends, limits=Limits(payload_bytes=64))
        with theirs:
            theirs.sendall(wire(infer(1, 65)))
            assert isinstance(await ends.loss(), FrameError)

    run(check)


def test_an_exception_in_on_frame_closes_the_link_and_is_passed_on(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        seen: list[int] = []

        def on_frame(link: Link, frame: Frame) -> None:
            seen.append(frame.request)
            raise RuntimeError("no such thing")

        ours, theirs = socket.socketpair()
        link = await adopt(ours, on_frame, ends.on_lost)
        with theirs:
            theirs.sendall(wire(infer(1)) + wire(infer(2)))
            error = await ends.loss()
        assert (type(error), str(error)) == (RuntimeError, "no such thing")
        assert seen == [1]
        assert link.is_closed

    run(check)


def test_an_exception_in_on_link_ends_that_link_and_the_listener_goes_on(run: Run, tmp_path: Path) -> None:
    async def check() -> None:
        server, client = Ends(), Ends()
        refused: list[Link] = []

        def on_link(link: Link) -> None:
            if not refused:
                refused.append(link)
                raise RuntimeError("not you")
            server.on_link(link)

        async with await listen(tmp_path / "s", on_link, server.on_frame, server.on_lost):
            await connect(tmp_path / "s", client.on_frame, client.on_lost)
            assert isinstance(await server.loss(), RuntimeError)
            assert await client.loss() is None
            second = await connect(tmp_path / "s", client.on_frame, client.on_lost)
            await server.links.get()
            second.close()
            assert await server.loss() is None
            assert await client.loss() is None

    run(check)


def test_closing_within_on_frame_ends_the_frames(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        seen: list[int] = []

        def on_frame(link: Link, frame: Frame) -> None:
            seen.append(frame.request)
            link.close()
            link.close()

        ours, theirs = socket.socketpair()
        await adopt(ours, on_frame, ends.on_lost)
        with theirs:
            theirs.sendall(wire(infer(1)) + wire(infer(2)))
            assert await ends.loss() is None
        assert seen == [1]

    run(check)


def fill(link: Link, at_least: int) -> int:
    """Send until so many bytes wait in the process; how many frames that took."""
    count = 0
    while link.buffered_bytes <= at_least:
        link.send(infer(count, 500_000))
        count += 1
    return count


def test_a_slow_reader_makes_the_buffer_grow_and_drain_wait(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        link, theirs = await link_and_socket(ends)
        await link.drain()
        count = fill(link, 2 * LOW_MARK_BYTES)
        drained = asyncio.ensure_future(link.drain())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not drained.done()

        def read() -> list[Frame]:
            decoder = Decoder()
            frames: list[Frame] = []
            while len(frames) < count:
                frames += decoder.feed(theirs.recv(2**20))
            return frames

        reading = asyncio.ensure_future(asyncio.to_thread(read))
        await drained
        assert link.buffered_bytes <= LOW_MARK_BYTES
        assert await reading == [infer(i, 500_000) for i in range(count)]
        assert link.buffered_bytes == 0
        theirs.close()
        assert await ends.loss() is None

    run(check)


def test_close_writes_what_is_waiting_first(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        link, theirs = await link_and_socket(ends)
        count = fill(link, 2**20)
        link.close()
        with pytest.raises(LinkClosedError):
            link.send(infer(1))
        with pytest.raises(LinkClosedError):
            await link.drain()

        def read_to_the_end() -> int:
            decoder, frames = Decoder(), 0
            with theirs:
                while data := theirs.recv(2**20):
                    frames += len(decoder.feed(data))
            decoder.end()
            return frames

        assert await asyncio.to_thread(read_to_the_end) == count
        assert await ends.loss() is None

    run(check)


def test_abort_drops_what_is_waiting_and_wakes_those_who_drain(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        link, theirs = await link_and_socket(ends)
        with theirs:
            fill(link, 2 * LOW_MARK_BYTES)
            waiting = [asyncio.ensure_future(link.drain()) for _ in range(2)]
            await asyncio.sleep(0)
            link.abort()
            for drained in waiting:
                with pytest.raises(LinkClosedError):
                    await drained
            assert await ends.loss() is None
            assert link.buffered_bytes == 0

    run(check)


def test_a_reader_that_dies_ends_drain_and_the_link_with_its_error(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        link, theirs = await link_and_socket(ends)
        fill(link, 2 * LOW_MARK_BYTES)
        drained = asyncio.ensure_future(link.drain())
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(LinkClosedError):
            await drained
        assert isinstance(await ends.loss(), OSError)

    run(check)


def test_answers_written_before_a_death_are_still_given_when_a_send_finds_it(run: Run) -> None:
    async def check() -> None:
        ends = Ends()
        link, theirs = await link_and_socket(ends)
        theirs.sendall(wire(infer(1)) + wire(infer(2, 100_000)))
        theirs.close()
        with pytest.raises(LinkClosedError):
            link.send(infer(3))
        assert link.is_closed
        assert isinstance(await ends.loss(), BrokenPipeError)
        assert ends.frames.get_nowait() == infer(1)
        assert ends.frames.get_nowait() == infer(2, 100_000)

    run(check)


def test_a_frame_that_cannot_be_encoded_leaves_the_link_as_it_was(run: Run) -> None:
    async def check() -> None:
        (left, left_ends), (_, right_ends) = await two_links()
        with pytest.raises(FrameError):
            left.send(Frame(Kind.INFER, request=-1))
        left.send(infer(1))
        assert await right_ends.frames.get() == infer(1)
        left.close()
        assert await left_ends.loss() is None
        assert await right_ends.loss() is None

    run(check)


def test_the_socket_file_is_for_its_owner_only_and_goes_with_the_listener(run: Run, tmp_path: Path) -> None:
    async def check() -> None:
        ends = Ends()
        path = tmp_path / "s"
        listener = await listen(path, ends.on_link, ends.on_frame, ends.on_lost)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert listener.is_serving()
        listener.close()
        await listener.wait_closed()
        listener.close()
        assert not listener.is_serving()
        assert not path.exists()
        with pytest.raises(FileNotFoundError):
            await connect(path, ends.on_frame, ends.on_lost)

    run(check)


def test_links_outlive_their_listener(run: Run, tmp_path: Path) -> None:
    async def check() -> None:
        server, client = Ends(), Ends()
        async with await listen(tmp_path / "s", server.on_link, server.on_frame, server.on_lost):
            link = await connect(tmp_path / "s", client.on_frame, client.on_lost)
            await server.links.get()
        link.send(infer(1))
        assert await server.frames.get() == infer(1)
        link.close()
        assert await client.loss() is None
        assert await server.loss() is None

    run(check)


def test_a_dead_listeners_file_is_replaced_and_a_live_ones_is_not(run: Run, tmp_path: Path) -> None:
    async def check() -> None:
        ends = Ends()
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with await listen(path, ends.on_link, ends.on_frame, ends.on_lost):
            with pytest.raises(OSError, match="in use"):
                await listen(path, ends.on_link, ends.on_frame, ends.on_lost)
            # The probe that found the listener alive was a connection too.
            await ends.links.get()
            assert await ends.loss() is None
        plain = tmp_path / "notes.txt"
        plain.write_text("keep me")
        with pytest.raises(OSError, match="in use"):
            await listen(plain, ends.on_link, ends.on_frame, ends.on_lost)
        assert plain.read_text() == "keep me"

    run(check)


def test_a_listener_leaves_its_successors_file_alone(run: Run, tmp_path: Path) -> None:
    async def check() -> None:
        ends = Ends()
        path = tmp_path / "s"
        first = await listen(path, ends.on_link, ends.on_frame, ends.on_lost)
        path.unlink()
        second = await listen(path, ends.on_link, ends.on_frame, ends.on_lost)
        first.close()
        assert path.exists()
        second.close()
        assert not path.exists()

    run(check)


def test_connecting_waits_while_the_backlog_is_full(run: Run, tmp_path: Path) -> None:
    async def check() -> None:
        ends = Ends()
        path = str(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
            busy.bind(path)
            busy.listen(0)
            first.connect(path)
            connecting = asyncio.ensure_future(connect(path, ends.on_frame, ends.on_lost))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not connecting.done()
            busy.accept()[0].close()
            link = await connecting
            accepted, _ = busy.accept()
            with accepted:
                accepted.sendall(wire(infer(1)))
                assert await ends.frames.get() == infer(1)
            assert await ends.loss() is None
            assert link.is_closed

    run(check)


def test_a_listener_out_of_descriptors_says_so_and_pauses(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        server, client = Ends(), Ends()
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.put_nowait(context))
        listener = await listen(tmp_path / "s", server.on_link, server.on_frame, server.on_lost)
        real = listener._socket
        listener._socket = OutOfDescriptorsOnce(real)  # type: ignore[assignment]
        monkeypatch.setattr("ranksmith.serve.listener._ACCEPT_PAUSE_S", 0.0)
        link = await connect(tmp_path / "s", client.on_frame, client.on_lost)
        assert isinstance((await told.get())["exception"], OSError)
        await server.links.get()
        link.close()
        assert await client.loss() is None
        assert await server.loss() is None
        listener.close()

    run(check)


class OutOfDescriptorsOnce:
    """A listening socket whose first accept fails as it does when descriptors run out."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self._failed = False

    def accept(self) -> tuple[socket.socket, Any]:
        if not self._failed:
            self._failed = True
            raise OSError(24, "Too many open files")
        return self._real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_a_link_serves_a_peer_in_another_thread_with_large_payloads(run: Run) -> None:
    size = 3 * 2**20 + 1

    async def check() -> None:
        ends = Ends()
        link, theirs = await link_and_socket(ends)

        def echo() -> None:
            decoder = Decoder()
            with theirs:
                while count := theirs.recv_into(decoder.buffer()):
                    for frame in decoder.filled(count):
                        theirs.sendall(wire(frame))

        echoing = threading.Thread(target=echo)
        echoing.start()
        for i in range(3):
            link.send(infer(i, size))
        for i in range(3):
            assert await ends.frames.get() == infer(i, size)
        link.close()
        assert await ends.loss() is None
        await asyncio.to_thread(echoing.join)

    run(check)
