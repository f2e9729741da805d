"""Logins: `memcached -Y` (ASCII) and `memcached -S` (SASL PLAIN over the binary protocol)."""

import asyncio
import contextlib
import time

import pytest

import emcache
from support.calls import client_of, outcomes, until, within
from support.faults import Faults, Link, Recorder, fault_proxy
from support.memcached import memcached, settled_connections
from support.oracle import answer
from support.sasl import PASSWORD, USER, file_memcached, lets_in, sasl_memcached
from support.scripted import hold, scripted
from support.tls import certificates, tls_memcached

REFUSED = emcache.AuthenticationError
RIGHT = {"username": USER, "password": PASSWORD}
WRONG = {"username": USER, "password": "wrong"}
SERVERS = {"ascii": file_memcached, "sasl": sasl_memcached}
# "At once" is to differ from this on a busy machine too.
PATIENT = {"timeout": 20.0, "connection_timeout": 10.0}
AT_ONCE = 8.0

both = pytest.mark.parametrize("auth", ["ascii", "sasl"])


@pytest.fixture(scope="module")
def guarded():
    """A server of each kind that lets in one user."""
    with file_memcached("-c", "2048") as by_file, sasl_memcached("-c", "2048") as by_sasl:
        yield {"ascii": by_file, "sasl": by_sasl}


@contextlib.asynccontextmanager
async def pool_of(address, **options):
    pool = emcache.ConnectionPool(address, **options)
    try:
        yield pool
    finally:
        await pool.close()


async def in_pool(pool, key=b"k"):
    async with pool.create_connection_context() as connection:
        await connection.storage_command(b"set", key, b"value")
        return (await connection.fetch_command(b"get", [key]))[1]


@contextlib.contextmanager
def at_once():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < AT_ONCE


# -- who is let in -------------------------------------------------------------------------------


@both
class TestRight:
    @within(40)
    async def test_client(self, guarded, key, auth):
        options = RIGHT | PATIENT | {"auth": auth, "max_connections": 4}
        async with emcache.create_client([guarded[auth].address], **options) as client:
            names = [b"%s:%d" % (key, n) for n in range(200)]
            await asyncio.gather(*(client.set(name, name * 100) for name in names))
            found = await client.get_many(names)
            assert {name: item.value for name, item in found.items()} == {
                name: name * 100 for name in names
            }

    @within(40)
    async def test_pool(self, guarded, key, auth):
        options = RIGHT | PATIENT | {"auth": auth}
        async with pool_of(guarded[auth].address, **options) as pool:
            assert await in_pool(pool, key) == [b"value"]

    @within(40)
    async def test_every_connection_logs_in(self, guarded, key, auth):
        options = RIGHT | PATIENT | {"auth": auth, "max_connections": 8, "min_connections": 8}
        async with pool_of(guarded[auth].address, **options) as pool:
            await asyncio.gather(*(in_pool(pool, b"%s:%d" % (key, n)) for n in range(50)))
            await until(lambda: pool.total_connections == 8)
            assert pool.metrics().connections_created_with_error == 0

    @within(40)
    async def test_a_server_that_is_started_again(self, auth):
        with SERVERS[auth]() as server:
            options = RIGHT | PATIENT | {"auth": auth}
            async with emcache.create_client([server.address], **options) as client:
                await client.set(b"k", b"v")
                server.kill()
                await outcomes(client.get(b"k"))
                server.start()
                while await outcomes(client.get(b"k")) != [None]:
                    await asyncio.sleep(0.02)

    @pytest.mark.parametrize(
        ("username", "password"),
        [
            ("üser", "pässwörd鍵"),
            ("user@host", "pass:word"),
            ("u" * 100, "p" * 100),
            ("set", "x"),
            ("user", "%s\\r\\n'\"$(x)"),
        ],
        ids=["not ASCII", "punctuation", "long", "a command", "quotes"],
    )
    @within(40)
    async def test_unusual_credentials(self, auth, username, password):
        with SERVERS[auth](username=username, password=password) as server:
            options = {"username": username, "password": password, "auth": auth} | PATIENT
            if (auth, username) == ("ascii", "set"):
                # A server without -Y would run it.
                with pytest.raises(ValueError, match="username"):
                    await emcache.create_client([server.address], **options)
                return
            async with emcache.create_client([server.address], **options) as client:
                await client.set(b"k", b"v")
                assert (await client.get(b"k")).value == b"v"

    @within(40)
    async def test_over_tls(self, auth, tmp_path):
        with contextlib.ExitStack() as stack:
            certs = stack.enter_context(certificates())
            server = stack.enter_context(
                tls_memcached(certs.good, users={USER: PASSWORD}, auth=auth)
            )
            options = {"ssl": True, "ssl_extra_ca": certs.ca.pem, "auth": auth} | PATIENT
            async with emcache.create_client([server.address], **options, **RIGHT) as client:
                await client.set(b"k", b"v" * 100_000)
                assert (await client.get(b"k")).value == b"v" * 100_000
            async with emcache.create_client([server.address], **options, **WRONG) as client:
                with pytest.raises(REFUSED):
                    await client.get(b"k")


async def test_ascii_is_what_credentials_mean(guarded, key):
    async with emcache.create_client([guarded["ascii"].address], **RIGHT) as client:
        await client.set(key, b"v")


# -- who is not ----------------------------------------------------------------------------------


@both
class TestWrong:
    @within(40)
    async def test_every_caller_at_once_every_time(self, guarded, auth):
        node = guarded[auth].address
        async with emcache.create_client([node], **WRONG, **PATIENT, auth=auth) as client:
            for _ in range(5):
                with at_once():
                    raised = await outcomes(*(client.get(b"k:%d" % n) for n in range(50)))
                assert {type(error) for error in raised} == {REFUSED}
                assert {error.node for error in raised} == {f"127.0.0.1:{node.port}"}
                await asyncio.sleep(0.3)

    @pytest.mark.parametrize(
        "call",
        [
            lambda client, node: client.set(b"k", b"v"),
            lambda client, node: client.gets_many([b"k", b"l"]),
            lambda client, node: client.increment(b"k", 1),
            lambda client, node: client.delete(b"k"),
            lambda client, node: client.touch(b"k", 1),
            lambda client, node: client.version(node),
            lambda client, node: client.stats(node),
            lambda client, node: client.flush_all(node),
        ],
        ids=["set", "gets_many", "increment", "delete", "touch", "version", "stats", "flush_all"],
    )
    @within(20)
    async def test_every_command(self, guarded, auth, call):
        node = guarded[auth].address
        async with emcache.create_client([node], **WRONG, **PATIENT, auth=auth) as client:
            for _ in range(2):
                with at_once(), pytest.raises(REFUSED):
                    await call(client, node)

    @within(40)
    async def test_a_pool(self, guarded, auth):
        async with pool_of(guarded[auth].address, **WRONG, **PATIENT, auth=auth) as pool:
            for _ in range(3):
                with at_once():
                    raised = await outcomes(*(in_pool(pool) for _ in range(20)))
                assert {type(error) for error in raised} == {REFUSED}
                await asyncio.sleep(0.3)

    @within(40)
    async def test_an_unknown_user(self, guarded, auth):
        options = {"username": "nobody", "password": PASSWORD, "auth": auth} | PATIENT
        async with emcache.create_client([guarded[auth].address], **options) as client:
            with pytest.raises(REFUSED):
                await client.get(b"k")

    @within(40)
    async def test_is_tried_again_with_care(self, guarded, auth):
        """However many calls there are."""
        with fault_proxy(guarded[auth]) as proxy:
            async with emcache.create_client(
                [proxy.address], **WRONG, **PATIENT, auth=auth
            ) as client:
                started, calls = time.monotonic(), 0
                while time.monotonic() - started < 2:
                    calls += len(await outcomes(*(client.get(b"k") for _ in range(10))))
                    await asyncio.sleep(0.005)
                assert calls > 100
                assert 2 <= proxy.accepted < 40

    @within(50)
    async def test_recovers_when_it_is_mended(self, auth):
        mended = {"username": USER, "password": "mended"}
        with SERVERS[auth]() as server:
            async with emcache.create_client(
                [server.address], **mended, **PATIENT, auth=auth
            ) as client:
                for _ in range(5):
                    assert [type(e) for e in await outcomes(client.get(b"k"))] == [REFUSED]
                    await asyncio.sleep(0.2)
                await asyncio.to_thread(server.allow, user="mended")
                # No more is needed than to wait. Memcached takes a second to read its file.
                started = time.monotonic()
                while (await outcomes(client.get(b"k"))) != [None]:
                    await asyncio.sleep(0.05)
                assert time.monotonic() - started < AT_ONCE
                await client.set(b"k", b"v")

    @within(50)
    async def test_a_password_that_is_changed(self, auth):
        """Connections stay logged in; new ones need the new one."""
        options = PATIENT | {"auth": auth, "max_connections": 1, "min_connections": 1}
        with SERVERS[auth]() as server:
            async with emcache.create_client([server.address], **RIGHT, **options) as client:
                await client.set(b"k", b"v")
                server.allow(user="changed")

                async def refused():
                    async with emcache.create_client(
                        [server.address], **RIGHT, **options
                    ) as second:
                        return [type(e) for e in await outcomes(second.get(b"k"))] == [REFUSED]

                while not await refused():
                    await asyncio.sleep(0.1)
                assert (await client.get(b"k")).value == b"v"

    @within(50)
    async def test_moves_no_keys(self, guarded, server, key, auth):
        """A node that refuses is not unhealthy: others would hold stale values of its keys."""
        events = Recorder()
        refusing = guarded[auth].address
        # A login is for all nodes, so the other one is a server that takes this password.
        with SERVERS[auth](password="wrong") as taking:
            nodes = [refusing, taking.address]
            async with emcache.create_client(
                nodes,
                **WRONG,
                **PATIENT,
                auth=auth,
                purge_unhealthy_nodes=True,
                cluster_events=events,
            ) as client:
                names = [b"%s:%d" % (key, n) for n in range(100)]
                homes = {name: client.node_for(name) for name in names}
                assert set(homes.values()) == set(nodes)
                for _ in range(8):
                    results = await outcomes(*(client.set(name, name) for name in names))
                    assert [type(result) for result in results] == [
                        REFUSED if homes[name] == refusing else type(None) for name in names
                    ]
                    await asyncio.sleep(0.2)
                assert {name: client.node_for(name) for name in names} == homes
                assert client.cluster_managment().unhealthy_nodes() == []
        assert [event for event in events.events if event[1] == refusing] == []

    @within(40)
    async def test_alone_in_its_cluster(self, guarded, auth):
        async with emcache.create_client(
            [guarded[auth].address], **WRONG, **PATIENT, auth=auth, purge_unhealthy_nodes=True
        ) as client:
            for _ in range(8):
                assert [type(e) for e in await outcomes(client.get(b"k"))] == [REFUSED]
                await asyncio.sleep(0.2)

    @within(40)
    async def test_a_server_that_asks_for_no_login(self, auth):
        with memcached() as server:
            async with emcache.create_client(
                [server.address], **RIGHT, **PATIENT, auth=auth
            ) as client:
                for _ in range(5):
                    with at_once(), pytest.raises(REFUSED):
                        await client.get(b"k")
                    await asyncio.sleep(0.1)
            stats = server.stats()
        assert (stats["cmd_set"], stats["cmd_flush"], stats["curr_items"]) == ("0", "0", "0")


class TestMissing:
    @within(20)
    async def test_no_credentials_for_a_file(self, guarded):
        async with emcache.create_client([guarded["ascii"].address], **PATIENT) as client:
            for call in (client.get(b"k"), client.set(b"k", b"v")):
                with at_once(), pytest.raises(emcache.CommandError, match="authentic"):
                    await call

    @within(20)
    async def test_no_credentials_for_sasl(self, guarded):
        """Such a server answers no text."""
        async with emcache.create_client([guarded["sasl"].address], timeout=0.5) as client:
            with pytest.raises(emcache.EmcacheError):
                await client.get(b"k")

    @pytest.mark.parametrize(("server_of", "auth"), [("ascii", "sasl"), ("sasl", "ascii")])
    @within(20)
    async def test_the_other_kind_of_login(self, guarded, server_of, auth):
        options = RIGHT | {"auth": auth, "timeout": 10.0, "connection_timeout": 0.5}
        async with emcache.create_client([guarded[server_of].address], **options) as client:
            for _ in range(2):
                with at_once(), pytest.raises((REFUSED, emcache.ConnectionFailedError)):
                    await client.get(b"k")


# -- slow and broken logins ----------------------------------------------------------------------


@both
async def test_a_server_that_wants_tls_is_guessed(auth):
    with certificates() as certs, tls_memcached(certs.good) as server:
        async with client_of(server, auth=auth, **RIGHT | PATIENT) as client:
            with pytest.raises(emcache.NodeUnavailableError, match=r"does it expect TLS\?"):
                await client.get(b"key")


@both
class TestFaults:
    @within(30)
    async def test_never_answered(self, auth):
        options = RIGHT | {"auth": auth, "timeout": 20.0, "connection_timeout": 0.4}
        async with scripted(hold) as peer, client_of(peer, **options) as client:
            for _ in range(3):
                with at_once(), pytest.raises(emcache.ConnectionFailedError):
                    await client.get(b"k")

    @within(30)
    async def test_answered_too_slowly(self, guarded, auth):
        link = Link(answers=Faults(split=1, delay=0.2))
        options = RIGHT | {"auth": auth, "timeout": 20.0, "connection_timeout": 0.5}
        with fault_proxy(guarded[auth], lambda _: link) as proxy:
            async with emcache.create_client([proxy.address], **options) as client:
                with at_once(), pytest.raises(emcache.ConnectionFailedError, match=r"0\.5 s"):
                    await client.get(b"k")

    @within(30)
    async def test_answered_slowly(self, guarded, key, auth):
        link = Link(answers=Faults(split=1, delay=0.005))
        options = RIGHT | PATIENT | {"auth": auth}
        with fault_proxy(guarded[auth], lambda _: link) as proxy:
            async with emcache.create_client([proxy.address], **options) as client:
                await client.set(key, b"v")
                assert (await client.get(key)).value == b"v"

    @pytest.mark.parametrize("cut", ["fin_after", "reset_after"])
    @within(40)
    async def test_cut(self, guarded, auth, cut):
        for after in (0, 1, 7):
            plan = lambda _, after=after: Link(answers=Faults(**{cut: after}))  # noqa: E731
            with fault_proxy(guarded[auth], plan) as proxy:
                async with emcache.create_client(
                    [proxy.address], **RIGHT, **PATIENT, auth=auth
                ) as client:
                    with at_once(), pytest.raises(emcache.ConnectionFailedError):
                        await client.get(b"k")

    @pytest.mark.parametrize(
        "says",
        [
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x81" + b"\xff" * 40,
            b"\x80" * 40,
            b"VALUE k 0 1\r\nv\r\nEND\r\n",
            b"x" * 100_000,
        ],
        ids=["HTTP", "a frame", "no frame", "another reply", "long"],
    )
    @within(30)
    async def test_answered_by_garbage(self, auth, says):
        async def script(connection):
            await connection.reader.read(1)
            await connection.send(says)
            await hold(connection)

        async with (
            scripted(script) as peer,
            client_of(peer, **RIGHT, timeout=20.0, connection_timeout=0.5, auth=auth) as c,
        ):
            for _ in range(2):
                with at_once(), pytest.raises(emcache.EmcacheError):
                    await c.get(b"k")

    @within(40)
    async def test_replies_cut_anywhere_are_no_short_values(self, guarded, key, auth):
        options = RIGHT | PATIENT | {"auth": auth, "max_connections": 1}
        value = bytes(range(256)) * 20
        async with emcache.create_client([guarded[auth].address], **options) as client:
            await client.set(key, value)
        for after in range(60, 5000, 451):
            plan = lambda _, after=after: Link(answers=Faults(fin_after=after))  # noqa: E731
            with fault_proxy(guarded[auth], plan) as proxy:
                async with emcache.create_client([proxy.address], **options) as client:
                    with pytest.raises(emcache.ConnectionFailedError):
                        await client.get(key)


# -- what is sent --------------------------------------------------------------------------------


async def create(address, **options):
    async with emcache.create_client([address], **options):
        pass


async def make_pool(address, **options):
    async with pool_of(address, **options):
        pass


class TestNothingIsInjected:
    @within(20)
    async def test_the_bytes_of_a_login(self):
        heard = []

        async def script(connection):
            heard.append(await connection.line())
            heard.append(await connection.line())
            await connection.send(b"STORED\r\n")
            await answer(connection)

        options = {"username": "üser", "password": "a secret: with spaces"}
        async with scripted(script) as peer, client_of(peer, **options) as client:
            await client.get(b"k")
        credentials = "üser a secret: with spaces".encode()
        assert heard == [b"set _ _ _ %d" % len(credentials), credentials]

    @within(20)
    async def test_a_password_with_spaces(self):
        """Never a command. Memcached 1.6.45 takes all of it, 1.6.38 reads up to the first space."""
        password = "x flush_all"
        with file_memcached(password=password) as server:
            server.allow(user=password, admin="admin")
            takes_spaces = lets_in(server, USER, password)
            refused = contextlib.nullcontext() if takes_spaces else pytest.raises(REFUSED)
            options = {"username": USER, "password": password} | PATIENT
            async with emcache.create_client([server.address], **options) as client:
                with at_once(), refused:
                    assert await client.get(b"k") is None
            server.login = {"username": "admin", "password": "admin"}
            while (stats := await asyncio.to_thread(counters, server)) is None:
                await asyncio.sleep(0.1)
        assert stats["cmd_flush"] == "0"

    @within(20)
    async def test_a_sasl_password_may_hold_anything_but_nul(self):
        password = "a b\r\nflush_all\t"
        with sasl_memcached(username="a user", password=password) as server:
            options = {"username": "a user", "password": password, "auth": "sasl"} | PATIENT
            async with emcache.create_client([server.address], **options) as client:
                await client.set(b"k", b"v")
            assert server.stats()["cmd_flush"] == "0"

    @pytest.mark.parametrize("make", [create, make_pool], ids=["client", "pool"])
    @pytest.mark.parametrize(
        ("username", "password", "auth"),
        [
            ("us er", "hunter2", None),
            ("user\t", "hunter2", None),
            ("user\r\nflush_all", "hunter2", None),
            ("user", "hunter2\r\nflush_all", "ascii"),
            ("user", "hunter2\nflush_all", None),
            ("user", "hunter\rword", None),
            ("user", "hunter\0word", None),
            ("us\0er", "hunter2", None),
            ("us\0er", "hunter2", "sasl"),
            ("user", "hunter\0word", "sasl"),
            ("flush_all", "0", None),
            ("user", "\udc80", None),
            ("user", "\udc80", "sasl"),
            ("user", "hunter2", "plain"),
            ("user", "hunter2", "SASL"),
            ("user", "hunter2", ""),
            ("user", None, "sasl"),
            (None, None, "sasl"),
            (None, None, "ascii"),
        ],
    )
    async def test_bad_credentials_are_not_sent(self, server, make, username, password, auth):
        connections = settled_connections(server)
        before = server.stats()
        options = {"username": username, "password": password, "auth": auth}
        with pytest.raises(ValueError) as raised:
            await make(server.address, **options)
        assert password is None or password not in str(raised.value)
        after = server.stats()
        # Those of the two questions.
        assert int(after["total_connections"]) == connections + 2
        assert after["cmd_flush"] == before["cmd_flush"]

    @pytest.mark.parametrize("make", [create, make_pool], ids=["client", "pool"])
    @pytest.mark.parametrize(
        "options",
        [
            {"username": b"user", "password": "password"},
            {"username": "user", "password": b"password"},
            {"username": 1, "password": 2},
        ],
        ids=repr,
    )
    async def test_no_str(self, server, make, options):
        with pytest.raises(TypeError):
            await make(server.address, **options)


def counters(server):
    """What a server counts, or None as long as it does not let the test in."""
    try:
        return server.stats()
    except PermissionError:
        return None
