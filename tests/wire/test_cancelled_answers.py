"""Answers that nobody waits for any more are read, and nothing is made of them."""

import asyncio
import tracemalloc

import pytest

from support.calls import client_of, until, within
from support.memory import traces_memory
from support.oracle import answer
from support.scripted import scripted

MB = 1024 * 1024

CALLS = {
    "get": lambda client: client.get(b"large"),
    "gets": lambda client: client.gets(b"large"),
    "get_many": lambda client: client.get_many([b"large"]),
    "partial": lambda client: client.get_many([b"large"], on_error="partial"),
}


@traces_memory
@within(30)
@pytest.mark.parametrize("size", [20_000, 20 * MB])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_no_bytes_are_made_for_a_call_that_was_cancelled(call, size):
    """Neither where values are copied nor where they are received in place."""
    goes_on = asyncio.Event()

    async def script(connection):
        while line := await connection.line():
            if b"large" not in line:
                await connection.send(b"END\r\n")
                continue
            await goes_on.wait()
            cas = b" 7" if line.startswith(b"gets") else b""
            await connection.send(b"VALUE large 0 %d%b\r\n" % (size, cas))
            for _ in range(size // 20_000):
                await connection.send(b"x" * 20_000)
            await connection.send(b"x" * (size % 20_000) + b"\r\nEND\r\n")

    async with scripted(script) as server, client_of(server) as client:
        await client.get(b"warm")
        task = asyncio.create_task(call(client))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        metrics = client.cluster_managment().connection_pool_metrics
        tracemalloc.start()
        try:
            goes_on.set()
            await until(lambda: metrics()[server.address].requests_in_flight == 0)
            snapshot = tracemalloc.take_snapshot()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        if size > MB:
            assert peak < size / 2
        assert max((trace.size for trace in snapshot.traces), default=0) < MB
        assert await client.get(b"after") is None
        (pool,) = metrics().values()
        assert pool.connections_created == 1


@within(30)
async def test_the_others_of_a_line_get_their_values():
    """Some of those who asked together give up."""
    keys = [b"%d:%d" % (number % 7, number) for number in range(60)]

    async with scripted(answer) as server, client_of(server, autobatching=True) as client:
        for kept in range(1, 5):
            tasks = [asyncio.create_task(client.get(key)) for key in keys]
            await asyncio.sleep(0)
            for number, task in enumerate(tasks):
                if number % kept:
                    task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for number, result in enumerate(results):
                if number % kept:
                    assert isinstance(result, asyncio.CancelledError)
                else:
                    assert result.value
