"""A password is in no text that leaves the package, whatever happens."""

import asyncio
import base64
import binascii
import contextlib
import gc
import json
import logging
import pickle
import traceback
import urllib.parse
import warnings

import pytest

import emcache
from support.calls import outcomes, within
from support.isolated import run_program
from support.memcached import memcached
from support.sasl import file_memcached, sasl_memcached
from support.scripted import hold, scripted

USER = "some-user"
SECRET = "s3cr3t:Hünter+2/&'end"
OPTIONS = {"username": USER, "password": SECRET, "timeout": 2.0, "connection_timeout": 0.3}


def forms(secret: str) -> set[str]:
    """What a password looks like to those who print, quote or encode it, in whole or in part."""
    data = secret.encode()
    spelled = {
        secret,
        repr(secret)[1:-1],
        repr(data)[2:-1],
        ascii(secret)[1:-1],
        json.dumps(secret)[1:-1],
        urllib.parse.quote(secret),
        urllib.parse.quote_plus(secret),
        binascii.hexlify(data).decode(),
        str(list(data))[1:-1],
        data.decode("latin-1"),
        "s3cr3t",
        "nter+2",
    }
    for text in (data, b"\0" + USER.encode() + b"\0" + data, USER.encode() + b" " + data):
        # Without its last signs base64 depends only on what comes before.
        spelled.add(base64.b64encode(text).decode().rstrip("=")[:-2])
    return spelled


def leaks(text: str) -> list[str]:
    return [form for form in forms(SECRET) if form in text]


def test_leaks_are_found():
    assert leaks(repr(f"set _ _ _\r\n{USER} {SECRET}".encode()))
    assert leaks(base64.b64encode(f"\0{USER}\0{SECRET}".encode()).decode())
    assert leaks(str({"password": SECRET}))
    assert not leaks("set _ _ _\r\n some-user ***")


@contextlib.contextmanager
def listening(caplog):
    """Everything that is logged or warned of, with what it says of exceptions."""
    said: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.set_exception_handler(lambda _, context: said.append(repr(context)))
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield said
        gc.collect()
    said += [caplog.text, *(str(record.__dict__) for record in caplog.records)]
    said += [str(warning.message) for warning in warned]


def texts_of(error: BaseException) -> list[str]:
    """All that can be printed of an exception, its causes, and the frames they went through."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = [str(error), repr(error), repr(error.args), "".join(told.format())]
    texts += [repr(vars(error)), repr(pickle.dumps(error))]
    for other in (error.__cause__, error.__context__):
        texts += texts_of(other) if other is not None else []
    return texts


async def echo(connection):
    """A server that repeats what it does not like."""
    while text := await connection.reader.read(65536):
        await connection.send(b"CLIENT_ERROR " + text.replace(b"\r\n", b" ") + b"\r\n")


async def echo_raw(connection):
    while text := await connection.reader.read(65536):
        await connection.send(text)


async def echo_the_password_alone(connection):
    await connection.reader.read(1)
    await connection.send(f"{SECRET}\r\n".encode())
    await hold(connection)


async def echo_in_a_frame(connection):
    """The answer to a login by the binary protocol, with what was sent as its reason."""
    text = (await connection.reader.read(65536))[24:]
    size = len(text).to_bytes(4)
    await connection.send(b"\x81\x21\0\0\0\0\0\x20" + size + bytes(12) + text)
    await hold(connection)


def refusing(words):
    """A server that offers PLAIN, and refuses the login with these words, in a frame."""

    async def refuse(connection):
        await connection.reader.read(65536)
        await connection.send(b"\x81\x20\0\0\0\0\0\0" + (5).to_bytes(4) + bytes(12) + b"PLAIN")
        await connection.reader.read(65536)
        size = len(words).to_bytes(4)
        await connection.send(b"\x81\x21\0\0\0\0\0\x20" + size + bytes(12) + words)
        await hold(connection)

    return refuse


SAID = {
    "whole": b"no such user: " + SECRET.encode(),
    "at the end of the line": b"." * 190 + SECRET.encode(),
    "cut": b"unknown password " + SECRET.encode()[:-4],
    "with control characters": b"".join(bytes([byte, 1]) for byte in SECRET.encode()),
    "encoded": base64.b64encode(b"\0" + USER.encode() + b"\0" + SECRET.encode()),
}


async def close(connection):
    await connection.reader.read(1)


async def too_many(connection):
    await connection.send(b"ERROR Too many open connections\r\n")


async def stored_and_garbage(connection):
    await connection.reader.read(1)
    await connection.send(b"STORED\r\n")
    await asyncio.sleep(0.01)
    await connection.send(f"{USER} {SECRET}\r\n".encode())
    await hold(connection)


PEERS = [
    *(echo, echo_raw, echo_the_password_alone, echo_in_a_frame),
    *(close, hold, too_many, stored_and_garbage),
]
SERVERS = {
    "the password is wrong (-Y)": lambda: file_memcached(username=USER, password="other"),
    "the password is wrong (-S)": lambda: sasl_memcached(username=USER, password="other"),
    "the password is right (-Y)": lambda: file_memcached(username=USER, password=SECRET),
    "the password is right (-S)": lambda: sasl_memcached(username=USER, password=SECRET),
    "no login is wanted": memcached,
}


async def use(address, auth) -> list[str]:
    """Everything that a client and a pool say of themselves and of what befalls them."""
    said = []
    client = await emcache.create_client([address], **OPTIONS, auth=auth)
    pool = emcache.ConnectionPool(address, **OPTIONS, auth=auth)

    async def check_out():
        async with pool.create_connection_context() as connection:
            said.append(repr(connection))
            await connection.storage_command(b"set", b"k", b"v")

    for _ in range(3):
        results = await outcomes(
            *(client.get(b"k"), client.set(b"k", b"v"), client.get_many([b"a", b"b"])),
            *(client.version(address), client.stats(address), check_out()),
        )
        for result in results:
            said += texts_of(result) if isinstance(result, BaseException) else [repr(result)]
        await asyncio.sleep(0.02)
    for of in (client, pool):
        said += [repr(of), str(of), repr(vars(of)), repr(getattr(of, "_core", None))]
    said.append(repr(client.cluster_managment().connection_pool_metrics()))
    said.append(repr(pool.metrics()))
    await pool.close()
    await client.close()
    said.append(repr(client))
    said += texts_of((await outcomes(client.get(b"k")))[0])
    return said


def check(said: list[str]) -> None:
    found = {form: text for text in said for form in leaks(text)}
    assert found == {}


@pytest.mark.parametrize("auth", ["ascii", "sasl"])
class TestFailures:
    @pytest.mark.parametrize("case", SERVERS)
    @within(40)
    async def test_of_a_server(self, caplog, auth, case):
        with SERVERS[case]() as server, listening(caplog) as said:
            said += await use(server.address, auth)
        check(said)

    @pytest.mark.parametrize("script", PEERS)
    @within(40)
    async def test_of_a_peer(self, caplog, auth, script):
        async with scripted(script) as peer:
            with listening(caplog) as said:
                said += await use(peer.address, auth)
        check(said)

    @within(20)
    async def test_of_discovery(self, caplog, auth):
        """Nobody listens, a server that refuses, and one that repeats what it is told."""
        gone = emcache.MemcachedHostAddress("127.0.0.1", 1)
        refused = (emcache.DiscoveryError, emcache.AuthenticationError)
        async with scripted(echo) as echoing, scripted(echo_in_a_frame) as framed:
            with listening(caplog) as said:
                options = OPTIONS | {"auth": auth, "autodiscovery": True}
                nodes = (gone, echoing.address, framed.address)
                creating = [emcache.create_client([node], **options) for node in nodes]
                # A frame with the password in it would be the caller's own.
                del options
                for error in await asyncio.gather(*creating, return_exceptions=True):
                    assert isinstance(error, refused)
                    said += texts_of(error)
        check(said)

    @within(20)
    async def test_dropped_without_close(self, caplog, auth):
        wrong = sasl_memcached(username=USER, password="other")
        with wrong as server, listening(caplog) as said:
            client = await emcache.create_client([server.address], **OPTIONS, auth=auth)
            said.append(repr(await outcomes(client.get(b"k"))))
            del client
            gc.collect()
            await asyncio.sleep(0.05)
        assert "close" in "".join(said)
        check(said)


@pytest.mark.parametrize("case", SAID)
@within(20)
async def test_a_server_that_repeats_it_in_its_own_words(caplog, case):
    async with scripted(refusing(SAID[case])) as peer:
        with listening(caplog) as said:
            said += await use(peer.address, "sasl")
    assert "refused the login" in "".join(said)
    check(said)


async def test_known_words_of_a_refusal_are_told():
    async with (
        scripted(refusing(b"Auth failure.")) as peer,
        emcache.create_client([peer.address], **OPTIONS, auth="sasl") as client,
    ):
        with pytest.raises(emcache.AuthenticationError, match=r"login: Auth failure\."):
            await client.get(b"k")


async def test_a_login_by_hand_that_is_repeated():
    async with scripted(echo) as peer:
        pool = emcache.ConnectionPool(peer.address)
        async with pool.create_connection_context() as connection:
            [error] = await outcomes(connection.auth(USER, SECRET))
        await pool.close()
    assert isinstance(error, emcache.AuthenticationError)
    assert "CLIENT_ERROR" in str(error)
    check([str(error), repr(error), repr(error.args)])


@pytest.mark.parametrize("name", ["ssl_extra_ca", "ssl_certfile", "ssl_keyfile"])
async def test_a_key_that_is_taken_for_a_path(server, name):
    pem = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"
    options = {"ssl": True, "ssl_certfile": b"", name: pem}
    with pytest.raises(TypeError, match=f"{name}: PEM data must be bytes") as of_client:
        await emcache.create_client([server.address], **options)
    with pytest.raises(TypeError, match=f"{name}: PEM data must be bytes") as of_pool:
        emcache.ConnectionPool(server.address, **options)
    for error in (of_client.value, of_pool.value):
        check([str(error), repr(error), "".join(traceback.format_exception(error))])


@pytest.mark.parametrize(
    ("user", "password"), [("some user", SECRET), (USER, SECRET + "\n"), (USER, SECRET + "\udc80")]
)
async def test_a_login_by_hand_that_is_refused(server, user, password):
    pool = emcache.ConnectionPool(server.address)
    async with pool.create_connection_context() as connection:
        results = await outcomes(
            *(login(user, password) for login in (connection.auth_command, connection.auth))
        )
    await pool.close()
    for error in results:
        assert isinstance(error, ValueError)
        check([str(error), repr(error), "".join(traceback.format_exception(error))])


@pytest.mark.parametrize(
    "options",
    [
        {"password": SECRET + "\r\n"},
        {"password": SECRET + "\0", "auth": "sasl"},
        {"password": SECRET.encode()},
        {"password": SECRET + "\udc80"},
        {"username": None},
        {"auth": "plain"},
        {"username": "a b"},
        {"max_connections": 0},
        {"ssl": True, "ssl_extra_ca": b"none"},
    ],
    ids=lambda options: " ".join(options),
)
async def test_arguments_that_are_refused(server, options):
    """Their texts; a frame with the argument of that name is the caller's own."""
    options = OPTIONS | options
    with pytest.raises((ValueError, TypeError)) as of_client:
        await emcache.create_client([server.address], **options)
    with pytest.raises((ValueError, TypeError)) as of_pool:
        emcache.ConnectionPool(server.address, **options)
    for error in (of_client.value, of_pool.value):
        check([str(error), repr(error), "".join(traceback.format_exception(error))])


@pytest.mark.parametrize("auth", ["ascii", "sasl"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_a_process_prints(monkeypatch, loop, auth):
    monkeypatch.setenv("RUST_BACKTRACE", "full")
    monkeypatch.setenv("RUST_LOG", "trace")
    with sasl_memcached(username=USER, password="other") as server:
        done = run_program(
            """
            import traceback
            logging.basicConfig(level=logging.DEBUG)
            options = {"username": sys.argv[3], "password": sys.argv[4], "auth": sys.argv[5]}

            async def main():
                client = await create(connection_timeout=0.3, **options)
                for _ in range(3):
                    try:
                        await client.get(b"k")
                    except emcache.EmcacheError:
                        traceback.print_exc()
                    await asyncio.sleep(0.1)
                raise RuntimeError("nobody closes the client")

            run(main())
            """,
            loop,
            server.port,
            USER,
            SECRET,
            auth,
            warnings="always",
        )
    assert "nobody closes the client" in done.stderr
    assert "Error" in done.stderr
    check([done.stdout, done.stderr])
