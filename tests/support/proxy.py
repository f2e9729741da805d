"""A slow network: a proxy that delays and splits what a real server answers."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import emcache

from .scripted import settled


class SlowProxy:
    def __init__(self, rng: random.Random, longest: float) -> None:
        self.rng = rng
        self.longest = longest
        """The longest delay of a piece of an answer; may be changed at any time."""
        self.port = 0
        self.accepted = 0
        self.open = 0
        self.most_open = 0

    @property
    def address(self) -> emcache.MemcachedHostAddress:
        return emcache.MemcachedHostAddress("127.0.0.1", self.port)

    async def _requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            sink.write(chunk)
            await sink.drain()

    async def _answers(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            cut = self.rng.randrange(len(chunk))
            for piece in (chunk[:cut], chunk[cut:]):
                if self.longest:
                    await asyncio.sleep(self.rng.random() * self.longest)
                sink.write(piece)
            await sink.drain()

    async def serve(
        self, upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.accepted += 1
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", upstream)
        pumps = [
            asyncio.ensure_future(self._requests(reader, server_writer)),
            asyncio.ensure_future(self._answers(server_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.open -= 1
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            server_writer.close()
            writer.close()


@contextlib.asynccontextmanager
async def slow_proxy(upstream: int, rng: random.Random, longest: float) -> AsyncIterator[SlowProxy]:
    """Stand before the server on port `upstream`."""
    proxy = SlowProxy(rng, longest)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await proxy.serve(upstream, reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        await settled()
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await settled()
        await listener.wait_closed()
