"""The fake server: what programs see of it and of a real memcached, and its failures."""

import asyncio
import contextlib
import gc
import random
import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

import emcache
from emcache.testing import FakeServer, FaultProxy, MemcachedServer
from support.calls import within

PLACES = {
    "memcached": lambda: MemcachedServer("-m", "64"),
    "fake": FakeServer,
    "fake unix": lambda: FakeServer(unix=True),
    "fake thread": FakeServer,
}


@pytest.fixture(params=PLACES)
async def server(request):
    made = PLACES[request.param]()
    if isinstance(made, MemcachedServer) or request.param == "fake thread":
        with made:
            yield made
    else:
        async with made:
            yield made


@pytest.fixture
async def fake():
    async with FakeServer() as server:
        yield server


@pytest.fixture
async def client(server):
    async with emcache.create_client(str(server.address), timeout=10) as client:
        yield client


@pytest.fixture
async def fake_client(fake):
    async with emcache.create_client(fake.address, timeout=10) as client:
        yield client


class TestAsAMemcached:
    """The same on both."""

    @within(20)
    async def test_commands(self, client):
        await client.set(b"k", b"value", flags=7, exptime=100)
        assert await client.get(b"k", return_flags=True) == emcache.Item(b"value", 7, None)
        assert 98 < await client.ttl(b"k") <= 100
        with pytest.raises(emcache.NotStoredStorageCommandError):
            await client.add(b"k", b"other")
        await client.append(b"k", b"+")
        await client.prepend(b"k", b"-")
        item = await client.gets(b"k")
        assert item.value == b"-value+"
        await client.cas(b"k", b"new", item.cas)
        with pytest.raises(emcache.StorageCommandError):
            await client.cas(b"k", b"newer", item.cas)
        await client.touch(b"k", 200)
        assert (await client.gat(300, b"k")).value == b"new"
        assert await client.increment(b"n", 5, initial=10) == 10
        assert await client.increment(b"n", 5) == 15
        assert await client.decrement(b"n", 100) == 0
        with pytest.raises(emcache.ArithmeticCommandError):
            await client.increment(b"k", 1)
        with pytest.raises(emcache.NotFoundCommandError):
            await client.delete(b"nothing")
        await client.delete(b"k")
        assert await client.get(b"k") is None

    @within(20)
    async def test_many_and_large(self, client):
        values = {b"key:%d" % number: bytes([number % 256]) * number for number in range(300)}
        assert not (await client.set_many(values)).errors
        found = await client.get_many(values)
        assert {key: item.value for key, item in found.items()} == values
        assert len((await client.delete_many(values)).done) == 300
        large = bytes(range(256)) * 4000
        await client.set(b"large", large)
        assert (await client.get(b"large")).value == large
        with pytest.raises(emcache.StorageCommandError, match="too large"):
            await client.set(b"large", b"x" * (1 << 20))
        assert await client.get(b"large") is None

    @within(20)
    async def test_meta_and_admin(self, client, server):
        stored = await client.meta_set(b"a key", b"value", exptime=60, return_cas=True)
        item = await client.meta_get(b"a key")
        assert (item.value, item.cas) == (b"value", stored.cas)
        assert (await client.meta_delete(b"a key", invalidate=True, stale_for=30)).done
        stale = await client.meta_get(b"a key")
        assert (stale.stale, stale.won) == (True, True)
        assert (await client.meta_arithmetic(b"n", initial=3)).value == 3
        await client.meta_noop(server.address)
        assert (await client.version(server.address)).startswith("1.6.")
        stats = await client.stats(server.address)
        assert int(stats["curr_items"]) == 2
        assert {"cmd_get", "get_hits", "evictions", "limit_maxbytes"} <= stats.keys()
        assert "item_size_max" in await client.stats(server.address, "settings")
        await client.cache_memlimit(server.address, 64)
        await client.verbosity(server.address, 0)
        await client.flush_all()
        assert await client.get(b"n") is None
        assert await client.ping()

    @within(20)
    async def test_a_cache(self, client):
        cache = emcache.Cache(client, prefix="c:", lease=10)
        calls = []

        async def compute():
            calls.append(1)
            return {"a": [1, 2]}

        found = await asyncio.gather(*(cache.get_or_set("k", compute) for _ in range(20)))
        assert found == [{"a": [1, 2]}] * 20
        assert len(calls) == 1
        await cache.invalidate("k", stale_for=30)
        assert await cache.get_or_set("k", compute) == {"a": [1, 2]}
        async with cache.lock("lock", ttl=10):
            with pytest.raises(emcache.LockTimeoutError):
                async with cache.lock("lock", ttl=10, wait=0.05):
                    pass
        tagged = emcache.Cache(client, tags=["all"])
        await tagged.set("t", 1)
        assert await tagged.get("t") == 1
        await tagged.invalidate_tag("all")
        assert await tagged.get("t") is None

    @within(30)
    async def test_kill_pause_and_restart(self, client, server):
        await client.set(b"k", b"value")
        server.pause()
        assert server.paused
        call = asyncio.create_task(client.get(b"k"))
        done, _ = await asyncio.wait({call}, timeout=0.1)
        assert not done
        server.resume()
        assert (await call).value == b"value"
        server.kill()
        assert not server.running
        with pytest.raises(emcache.EmcacheError):
            await client.get(b"k")
        with contextlib.suppress(RuntimeError):
            server.start()
        await client.wait_ready(10)
        assert await client.get(b"k") is None

    @within(20)
    async def test_behind_a_fault_proxy(self, server):
        with FaultProxy(server) as proxy:
            proxy.answers.split = 1
            async with emcache.create_client(proxy.address, timeout=10) as client:
                await client.set(b"k", b"value")
                assert (await client.get(b"k")).value == b"value"


class TestClock:
    @within(20)
    async def test_items_expire_when_the_clock_is_moved(self, fake, fake_client):
        await fake_client.set(b"short", b"1", exptime=60)
        await fake_client.set(b"date", b"2", exptime=datetime.now(UTC) + timedelta(days=40))
        await fake_client.set(b"ever", b"3")
        fake.advance(59)
        assert await fake_client.ttl(b"short") == 1
        fake.advance(1)
        assert await fake_client.get(b"short") is None
        fake.advance(40 * 86400)
        assert await fake_client.get(b"date") is None
        assert (await fake_client.get(b"ever")).value == b"3"
        with pytest.raises(ValueError, match="must not be negative"):
            fake.advance(-1)

    @within(20)
    async def test_it_runs(self, fake, fake_client):
        await fake_client.set(b"k", b"1", exptime=1)
        await asyncio.sleep(1.01)
        assert await fake_client.get(b"k") is None

    @within(20)
    async def test_leases_end(self, fake, fake_client):
        """The winner of a lease dies; another caller computes after the lease."""
        assert (await fake_client.meta_get(b"k", vivify=30)).won
        assert not (await fake_client.meta_get(b"k", vivify=30)).won
        fake.advance(31)
        assert (await fake_client.meta_get(b"k", vivify=30)).won


class TestLimits:
    @within(20)
    async def test_the_least_recently_used_items_are_evicted(self):
        async with (
            FakeServer(memory_limit=1000) as server,
            emcache.create_client(server.address, timeout=10) as client,
        ):
            for number in range(10):
                await client.set(b"%d" % number, b"x" * 40)
            await client.get(b"0")
            await client.set(b"more", b"x" * 40)
            assert await client.get(b"0") is not None
            assert await client.get(b"1") is None
            stats = server.stats()
            assert stats["evictions"] == "2"
            assert int(stats["bytes"]) <= 1000
            with pytest.raises(emcache.StorageCommandError, match="out of memory"):
                await client.set(b"large", b"x" * 2000)
            await client.set(b"dead", b"x" * 40, exptime=1)
            server.advance(1)
            for number in range(20):
                await client.set(b"%d" % number, b"x" * 40)
            assert server.stats()["reclaimed"] == "1"

    @within(20)
    async def test_the_size_of_an_item(self):
        async with (
            FakeServer(item_limit=1000) as server,
            emcache.create_client(server.address, timeout=10) as client,
        ):
            await client.set(b"k", b"x" * 900)
            with pytest.raises(emcache.StorageCommandError, match="too large"):
                await client.set(b"k", b"x" * 1000)
            assert server.stats()["store_too_large"] == "1"


class TestFailures:
    @within(20)
    async def test_commands_fail(self, fake, fake_client):
        fake.fail("set", times=2)
        for _ in range(2):
            with pytest.raises(emcache.StorageCommandError, match="out of memory"):
                await fake_client.set(b"k", b"value")
        await fake_client.set(b"k", b"value")
        fake.fail(error="SERVER_ERROR busy", times=None)
        for call in (fake_client.get(b"k"), fake_client.increment(b"k", 1)):
            with pytest.raises(emcache.CommandError, match="busy"):
                await call
        assert (await fake_client.version(fake.address)) == "1.6.45"
        fake.heal()
        assert (await fake_client.get(b"k")).value == b"value"
        with pytest.raises(ValueError, match="times must be between"):
            fake.fail("get", times=0)

    @within(20)
    async def test_connections_are_closed(self, fake, fake_client):
        await fake_client.set(b"k", b"value")
        fake.fail("get", error=None)
        # A read is retried once.
        assert (await fake_client.get(b"k")).value == b"value"
        fake.fail("set", error=None)
        with pytest.raises(emcache.ConnectionFailedError):
            await fake_client.set(b"k", b"lost")
        fake.drop()
        assert (await fake_client.get(b"k")).value == b"value"

    @within(20)
    async def test_delay(self, fake, fake_client):
        await fake_client.set(b"k", b"value")
        fake.delay = 0.1
        before = time.monotonic()
        late = asyncio.create_task(fake_client.get(b"k"))
        await asyncio.sleep(0.02)
        fake.delay = 0.0
        await fake_client.set(b"k", b"new")
        assert (await late).value == b"value"
        assert time.monotonic() - before >= 0.09
        assert (await fake_client.get(b"k")).value == b"new"

    @within(20)
    async def test_delayed_answers_stay_in_order(self, fake):
        """Also when the loop was blocked beyond the time of an earlier one."""
        fake.command(b"set a 0 0 1\r\n1\r\nset b 0 0 1\r\n2\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", fake.port)
        fake.delay = 0.05
        writer.write(b"get a\r\n")
        await asyncio.sleep(0.02)
        fake.delay = 0.0
        writer.write(b"get b\r\n")
        time.sleep(0.1)
        assert (await reader.readline()).startswith(b"VALUE a")
        writer.close()
        await writer.wait_closed()

    @within(30)
    async def test_no_caller_gets_the_value_of_another(self, fake, fake_client):
        """While connections are dropped, commands fail, and callers give up."""
        rng = random.Random(5)
        until = time.monotonic() + 0.7
        failures = [fake.drop, fake.pause, fake.resume, fake.heal, lambda: fake.fail(times=3)]

        async def call():
            read = 0
            while time.monotonic() < until:
                key = b"%d" % rng.randrange(20)
                with contextlib.suppress(emcache.EmcacheError, TimeoutError):
                    async with asyncio.timeout(rng.choice([0.0, 0.01, 5])):
                        await fake_client.set(key, key * rng.randrange(1, 500))
                        item = await fake_client.get(key)
                        assert item is None or set(item.value) == set(key)
                        read += 1
                await asyncio.sleep(0)
            return read

        async def fail():
            while time.monotonic() < until:
                await asyncio.sleep(0.02)
                rng.choice(failures)()
            fake.heal()

        *reads, _ = await asyncio.gather(*(call() for _ in range(20)), fail())
        assert sum(reads) > 20

    @within(20)
    async def test_a_timeout(self, fake):
        async with emcache.create_client(fake.address, timeout=0.1) as client:
            await client.set(b"k", b"value")
            fake.delay = 0.3
            with pytest.raises(emcache.OperationTimeoutError):
                await client.get(b"k")
            fake.heal()

    @within(20)
    async def test_refused_and_healed(self, fake, fake_client):
        await fake_client.set(b"k", b"value")
        fake.refuse()
        with pytest.raises(emcache.EmcacheError):
            await fake_client.get(b"k")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", fake.port))
        fake.heal()
        await fake_client.wait_ready(10)
        assert (await fake_client.get(b"k")).value == b"value"

    @within(20)
    async def test_cancelled_calls(self, fake, fake_client):
        await fake_client.set(b"k", b"value")
        fake.pause()
        calls = [asyncio.create_task(fake_client.get(b"k")) for _ in range(10)]
        await asyncio.sleep(0.02)
        for call in calls[::2]:
            call.cancel()
        fake.resume()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each).__name__ for each in found] == ["CancelledError", "Item"] * 5


@pytest.mark.driver_independent
class TestForms:
    def test_in_a_thread(self):
        async def use(address):
            async with emcache.create_client(address, timeout=10) as client:
                await client.set(b"k", b"value", exptime=60)
                return (await client.get(b"k")).value

        with FakeServer() as server:
            assert asyncio.run(use(server.address)) == b"value"
            server.advance(60)
            assert server.command(b"get k\r\n") == b"END\r\n"
            server.restart()
            assert asyncio.run(use(str(server.address))) == b"value"
            threads = {thread.name for thread in threading.enumerate()}
            assert "emcache-fake-server" in threads
        assert "not running" in repr(server)
        assert "emcache-fake-server" not in {thread.name for thread in threading.enumerate()}
        server.close()

    def test_without_a_connection(self):
        with FakeServer() as server:
            script = b"set k 0 0 1\r\nx\r\nget k\r\nquit\r\nget k\r\n"
            assert server.command(script) == b"STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n"
            assert server.stats()["get_hits"] == "1"
            server.flush()
            assert server.stats()["curr_items"] == "0"
            with pytest.raises(ValueError, match="must end with CRLF"):
                server.command(b"get k")
            with pytest.raises(TypeError, match="must be bytes, not str"):
                server.command("get k\r\n")

    async def test_wrong_use(self):
        async with FakeServer() as server:
            with pytest.raises(RuntimeError, match="was started already"):
                server.start()
            with pytest.raises(RuntimeError, match="was started already"):
                await server.__aenter__()
            # A fault proxy and other servers cannot take its port.
            with pytest.raises(OSError, match="in use"):
                FakeServer(port=server.port).start()
        with pytest.raises(RuntimeError, match="was not started, or is closed"):
            server.drop()
        for start in (server.start, lambda: server.__enter__()):
            with pytest.raises(RuntimeError, match="is closed"):
                start()

    @pytest.mark.parametrize(
        ("options", "error", "says"),
        [
            ({"port": 0}, ValueError, "port must be between"),
            ({"port": 1, "unix": True}, ValueError, "a port or a unix socket, not both"),
            ({"item_limit": 0}, ValueError, "item_limit must be between"),
            ({"memory_limit": "64m"}, TypeError, "memory_limit must be an int, not str"),
            ({"unix": "/tmp/x"}, TypeError, "unix must be a bool"),
        ],
        ids=str,
    )
    def test_wrong_options(self, options, error, says):
        with pytest.raises(error, match=says):
            FakeServer(**options)

    async def test_it_leaves_nothing(self):
        """Closed while clients are connected and call."""
        async with FakeServer(unix=True) as server:
            client = await emcache.create_client(server.address, timeout=1)
            await client.set(b"k", b"value")
            server.pause()
            call = asyncio.create_task(client.get(b"k"))
            await asyncio.sleep(0.01)
        with pytest.raises(emcache.EmcacheError):
            await call
        await client.close()
        gc.collect()

    async def test_garbage(self):
        """Long lines close the connection, as in memcached; the server goes on."""
        async with FakeServer() as server:
            for data in (b"x" * 5000, b"\0\r\n\xff\r\n", b"set k 0 0 99999999999\r\n", b"\r\n" * 9):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(data)
                writer.write_eof()
                answer = await reader.read()
                assert not answer or answer.startswith((b"ERROR", b"CLIENT_ERROR"))
                writer.close()
                await writer.wait_closed()
            assert server.command(b"mn\r\n") == b"MN\r\n"
