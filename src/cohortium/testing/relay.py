"""A TCP relay in front of a server, for what networks do: cut, stall, delay, throttle, half-close.

    with Relay(server.port) as relay:
        client = HubClient(f"https://localhost:{relay.port}", ...)
        relay.cut_after(1 << 20)

The kernel's own means need rights that a test does not have.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"
_CHUNK = 1 << 16
_AT_ONCE = struct.pack("ii", 1, 0)  # closing resets


class Relay:
    """Passes connections to `port` on to `target_port`, both on the loopback address.

    Commands may come from any thread. They hold for open connections and for later ones, and in
    both directions.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.passed = 0
        """Bytes that went through, both ways."""
        self._target = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._severed = False
        self._left: int | None = None
        self._delay = self._seconds_per_byte = 0.0
        ready: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        self._loop = ready.result()

    def cut(self) -> None:
        """Reset every connection, and each new one as soon as it is made."""
        self._severed = True
        self._do(self._reset)

    def cut_after(self, count: int) -> None:
        """Reset every connection as soon as `count` more bytes went through; new ones work."""
        self._left = count

    def stall(self) -> None:
        """Pass nothing on, and reset nothing either, as when packets get lost."""
        self._do(self._flowing.clear)

    def delay(self, seconds: float) -> None:
        """Keep each chunk of at most 64 KiB for so long."""
        self._delay = seconds

    def limit(self, bytes_per_second: float) -> None:
        """Pass on no more than this, per connection and direction."""
        self._seconds_per_byte = 1 / bytes_per_second

    def half_close(self) -> None:
        """Let neither end of an open connection send any more; both still receive."""
        self._do(self._end_sending)

    def restore(self) -> None:
        """Take back all that was said before."""
        self._severed, self._left, self._delay, self._seconds_per_byte = False, None, 0.0, 0.0
        self._do(self._flowing.set)

    def close(self) -> None:
        """Reset every connection and stop listening."""
        self._do(self._ended.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _do(self, command: Callable[[], object]) -> None:
        """Carry a command out where the connections live."""
        done: Future[object] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(command()))
        done.result()

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        self._flowing, self._ended = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._link, _HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set_result(asyncio.get_running_loop())
        async with server:
            await self._ended.wait()
            self._reset()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until both of its directions have ended, or it breaks."""
        self._writers.add(writer)
        far = writer
        try:
            if self._severed:
                raise ConnectionAbortedError
            far_reader, far = await asyncio.open_connection(_HOST, self._target)
            self._writers.add(far)
            await asyncio.gather(self._pump(reader, far), self._pump(far_reader, writer))
        except OSError:
            _reset(writer)
            _reset(far)
        finally:
            for end in (writer, far):
                self._writers.discard(end)
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await asyncio.sleep(self._delay + len(data) * self._seconds_per_byte)
            await self._flowing.wait()
            left = self._left
            self.passed += len(data[:left])
            writer.write(data[:left])
            await writer.drain()
            if left is not None:
                self._left = max(0, left - len(data))
                if not self._left:
                    self._left = None
                    self._reset()
        writer.write_eof()

    def _end_sending(self) -> None:
        for writer in self._writers:
            writer.write_eof()

    def _reset(self) -> None:
        for writer in self._writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    opened: socket.socket = writer.get_extra_info("socket")
    if opened.fileno() >= 0:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()
