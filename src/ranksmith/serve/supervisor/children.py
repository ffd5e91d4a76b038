"""One child process: started with a socket to us as its standard input, watched through a pidfd."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ranksmith.serve.frames import Frame
from ranksmith.serve.transport import Link, LinkClosedError, adopt

__all__ = ["Child", "describe", "gone"]


@dataclass(eq=False)
class Child:
    """A running process.

    Attributes:
        exited: set once it has ended, whatever ended it.
    """

    process: subprocess.Popen[bytes]
    link: Link
    exited: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def start(
        cls,
        module: str,
        arguments: Sequence[str],
        *,
        on_frame: Callable[[Frame], None],
        on_exit: Callable[[int], None],
        descriptors: Sequence[int] = (),
    ) -> Child:
        """Run `python -m MODULE ARGUMENTS… OUR_PID`.

        Args:
            on_frame: what it tells us.
            on_exit: called once with its exit status, negative for a signal.
            descriptors: that it inherits, under the same numbers.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=sys.stderr,
                pass_fds=descriptors,
                # Ctrl-C in the terminal is told to us alone, and we end the others in order.
                process_group=0,
            )
        link = await adopt(ours, on_frame=lambda link, frame: on_frame(frame), on_lost=lambda link, error: None)
        child = cls(process, link)
        child._watch(on_exit)
        return child

    def _watch(self, on_exit: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        watched = os.pidfd_open(self.process.pid)

        def ended() -> None:
            loop.remove_reader(watched)
            os.close(watched)
            status = self.process.wait()
            self.link.close()
            self.exited.set()
            on_exit(status)

        loop.add_reader(watched, ended)

    @property
    def is_running(self) -> bool:
        return not self.exited.is_set()

    def tell(self, frame: Frame) -> None:
        """Nothing happens if it is gone: its exit is told elsewhere."""
        try:
            self.link.send(frame)
        except LinkClosedError:
            return

    def terminate(self) -> None:
        """Ask it to end in order."""
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.is_running:
            self.process.kill()


async def gone(children: Sequence[Child], within_s: float) -> None:
    """Wait for the children to end, and kill those that do not."""
    try:
        async with asyncio.timeout(within_s):
            for child in children:
                await child.exited.wait()
    except TimeoutError:
        for child in children:
            child.kill()
        for child in children:
            await child.exited.wait()


def describe(status: int) -> str:
    """An exit status in words; a negative one is a signal."""
    return signal.Signals(-status).name if status < 0 else f"exit code {status}"
