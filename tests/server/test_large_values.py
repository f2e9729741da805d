"""Values that are sent from where they are, without a copy."""

import asyncio
import gc
import os
import platform
import re
import sys
import tracemalloc
from pathlib import Path

import pytest

import emcache
from support.calls import client_of, within
from support.isolated import run_silent
from support.memory import traces_memory
from support.scripted import hold, scripted

DRIVER = os.environ.get("EMCACHE_DRIVER")
SIZES = [32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1, 300_000, 1_000_000]


def value_of(size):
    return bytes(range(256)) * (size // 256) + b"\r\nset x 0 0 1\r\n"[: size % 256].ljust(
        size % 256, b"."
    )


class Subclass(bytes):
    """Its end may run anything, so it is copied."""


@within(20)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, Subclass])
async def test_round_trip(server, key, size, kind):
    async with client_of(server) as client:
        value = value_of(size)
        await asyncio.gather(
            client.set(key, kind(value)),
            client.set(key + b":small", b"small"),
            client.add(key + b":other", kind(value)),
            client.get(key + b":none"),
        )
        items = await client.get_many([key, key + b":small", key + b":other"])
        assert [item.value for item in items.values()] == [value, b"small", value]
        token = (await client.gets(key)).cas
        await client.cas(key, kind(value[::-1]), token, noreply=True)
        assert (await client.get(key)).value == value[::-1]


@within(20)
async def test_a_buffer_that_changes_after_the_call(server, key):
    async with client_of(server) as client:
        value = bytearray(b"a" * 100_000)
        stored = asyncio.create_task(client.set(key, value))
        await asyncio.sleep(0)
        value[:] = b"b" * 100_000
        await stored
        assert (await client.get(key)).value == b"a" * 100_000


PARTS = {
    "slice": (lambda v: memoryview(v)[1000:-7], lambda v: v[1000:-7]),
    "slice of a slice": (lambda v: memoryview(v)[5:][5:90_000], lambda v: v[10:90_005]),
    "whole": (memoryview, bytes),
    "every second": (lambda v: memoryview(v)[::2], lambda v: v[::2]),
    "backwards": (lambda v: memoryview(v)[::-1], lambda v: v[::-1]),
    "words": (lambda v: memoryview(v).cast("H")[1:], lambda v: v[2:]),
    "two dimensions": (lambda v: memoryview(v).cast("B", (2, 50_000)), bytes),
    "of a bytearray": (lambda v: memoryview(bytearray(v))[3:], lambda v: v[3:]),
    "of a subclass": (lambda v: memoryview(Subclass(v))[3:], lambda v: v[3:]),
    "short": (lambda v: memoryview(v)[3:9], lambda v: v[3:9]),
    "empty": (lambda v: memoryview(v)[3:3], lambda v: b""),
}


@within(20)
@pytest.mark.parametrize("name", PARTS)
async def test_parts_of_bytes_in_a_batch(server, key, name):
    view, part = PARTS[name]
    value = value_of(100_000)
    async with client_of(server) as client:
        views = {key: view(value), key + b":other": view(value[::-1])}
        assert not (await client.set_many(views)).errors
        items = await client.get_many([key, key + b":other"])
        assert [item.value for item in items.values()] == [part(value), part(value[::-1])]


@within(20)
async def test_parts_of_bytes_are_not_copied(server, key):
    value = value_of(1_000_000)
    before = sys.getrefcount(value)
    async with client_of(server) as client:
        view = memoryview(value)
        storing = asyncio.ensure_future(
            client.set_many({key + b":%d" % at: view[at * 100_000 :] for at in range(3)})
        )
        await asyncio.sleep(0)
        # One reference is the view's, which all its slices share, and each part has its own.
        assert sys.getrefcount(value) == before + 4
        await storing
        del view
        await released(value, before)
        assert (await client.get(key + b":2")).value == value[200_000:]


@within(20)
async def test_a_released_view_is_refused(server, key):
    view = memoryview(value_of(100_000))
    view.release()
    async with client_of(server) as client:
        with pytest.raises((TypeError, ValueError)):
            await client.set_many({key: view})


async def released(value, before):
    # One is this function's own.
    async with asyncio.timeout(5):
        while sys.getrefcount(value) > before + 1:
            gc.collect()
            await asyncio.sleep(0.01)


@within(20)
async def test_a_value_is_not_kept_when_it_is_stored(server, key):
    value = value_of(500_000)
    before = sys.getrefcount(value)
    async with client_of(server) as client:
        for _ in range(10):
            await asyncio.gather(*(client.set(key + b":%d" % n, value) for n in range(10)))
        await released(value, before)


@within(20)
async def test_a_value_is_not_kept_when_nobody_takes_it():
    """Some are in the socket, some in the connection, some in the queue: none stays."""
    value = value_of(1_000_000)
    before = sys.getrefcount(value)
    async with scripted(hold) as server, client_of(server, timeout=0.3) as client:
        results = await asyncio.gather(
            *(client.set(b"key:%d" % n, value) for n in range(30)), return_exceptions=True
        )
        assert {type(result) for result in results} == {emcache.OperationTimeoutError}
        tasks = [asyncio.create_task(client.set(b"key:%d" % n, value)) for n in range(10)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # With their tracebacks.
        del tasks, task, results
    await released(value, before)


@within(20)
async def test_what_was_not_sent_is_sent_elsewhere_whole(server, key):
    """The first connection ends within one of twelve large values."""
    values = [value_of(1_000_000 + n) for n in range(12)]
    accepted = 0

    async def script(connection):
        nonlocal accepted
        accepted += 1
        if accepted == 1:
            await connection.line()
            await asyncio.sleep(0.05)
            return
        while line := await connection.line():
            size = int(line.split()[4])
            got = await connection.reader.readexactly(size + 2)
            assert got == values[int(line.split()[1][4:])] + b"\r\n"
            await connection.send(b"STORED\r\n")

    async with scripted(script) as peer, client_of(peer, timeout=5.0) as client:
        results = await asyncio.gather(
            *(client.set(b"key:%d" % n, value) for n, value in enumerate(values)),
            return_exceptions=True,
        )
        # Of those at the front a part was sent: only the server knows.
        lost = [result for result in results if result is not None]
        assert 1 <= len(lost) < len(values)
        assert {type(error) for error in lost} == {emcache.ConnectionFailedError}
        assert results == lost + [None] * (len(values) - len(lost))


@pytest.mark.skipif(DRIVER == "thread", reason="there a value is copied once more for each")
@within(20)
async def test_who_asks_at_once_shares_objects(server, key):
    async with emcache.create_client([server.address], timeout=30) as client:
        value = value_of(300_000)
        await client.set(key, value)
        items = await asyncio.gather(*(client.get(key) for _ in range(16)))
        assert {item.value for item in items} == {value}
        # The first leaves at once, the others share the lines of the two connections.
        assert len({id(item.value) for item in items}) <= 4
        # Equal items are no one item: each is its caller's own.
        assert len({id(item) for item in items}) == 16


@within(20)
async def test_a_value_whose_connection_dies_within_it_is_asked_for_again():
    value = value_of(500_000)
    accepted = 0

    async def script(connection):
        nonlocal accepted
        accepted += 1
        while line := await connection.line():
            key = line.split()[1].decode()
            answer = f"VALUE {key} 7 {len(value)}\r\n".encode() + value + b"\r\nEND\r\n"
            if accepted == 1:
                await connection.send(answer[:200_000])
                await asyncio.sleep(0.05)
                return
            await connection.send(answer)

    async with scripted(script) as peer, client_of(peer, timeout=5.0) as client:
        item = await client.get(b"key", return_flags=True)
        assert (item.value, item.flags, accepted) == (value, 7, 2)


@traces_memory
@within(20)
async def test_a_value_that_nobody_waits_for_any_more_is_not_kept(server, key):
    """Half of it has come when its caller goes away; the rest comes, and belongs to nobody."""
    value = value_of(900_000)
    go_on = asyncio.Event()

    async def script(connection):
        while line := await connection.line():
            key = line.split()[1].decode()
            answer = f"VALUE {key} 0 {len(value)}\r\n".encode() + value + b"\r\nEND\r\n"
            await connection.send(answer[:450_000])
            await go_on.wait()
            await connection.send(answer[450_000:])
            del answer

    async with scripted(script) as peer, client_of(peer, timeout=5.0) as client:
        tracemalloc.start()
        try:
            task = asyncio.create_task(client.get(b"a"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del task
            go_on.set()
            assert (await client.get(b"b")).value == value
            async with asyncio.timeout(5):
                while tracemalloc.get_traced_memory()[0] > len(value) // 2:
                    gc.collect()
                    await asyncio.sleep(0.01)
        finally:
            tracemalloc.stop()


FAULTS = """
import resource

async def main():
    async with create(timeout=30) as client:
        keys = [b"glibc:%d" % n for n in range(32)]
        for key in keys:
            await client.set(key, b"x" * 100_000)

        async def gets(key, count):
            for _ in range(count):
                assert len((await client.get(key)).value) == 100_000

        await asyncio.gather(*(gets(key, 20) for key in keys))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        await asyncio.gather(*(gets(key, 50) for key in keys))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        # A value has 25 pages.
        assert faults < 500, faults

run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's heap")
def test_glibc_keeps_the_memory_of_long_values_with_the_variables_of_the_guide(
    server, loop, monkeypatch
):
    guide = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
    variables = dict(re.findall(r"`(MALLOC_\w+)=(\d+)`", guide))
    assert len(variables) == 2
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run_silent(FAULTS, loop, server.port)
