"""Other clients on the same server, real ones: what they make of our values, and we of theirs."""

import asyncio
import json
import pickle
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import pytest

from emcache import Cache, SerializationError
from emcache.cache import Json, Lz4, MsgPack, Pickle, Raw, Utf8, Zlib, Zstd
from support.calls import until
from support.memcached import free_port

# Text that is a pickle too. Whoever gives the list has run it.
TEXT = pickle.dumps(list(range(500)), protocol=0).decode()

KINDS = {
    "text": (Utf8(), TEXT),
    "json": (Json(), {"numbers": list(range(500))}),
    "a number": (Json(), 41),
    "bytes": (Raw(), TEXT.encode()),
    "msgpack": (MsgPack(), list(range(500))),
    "pickle": (Pickle(), list(range(500))),
}


def pymemcache_plain(server):
    return pymemcache(server, None)


def pymemcache_pickle(server):
    return pymemcache(server, "pickle_serde")


def pymemcache_compressed(server):
    return pymemcache(server, "compressed_serde")


def pymemcache(server, serde):
    library = pytest.importorskip("pymemcache")
    chosen = None if serde is None else getattr(library.serde, serde)
    return library.Client(("127.0.0.1", server.port), serde=chosen, default_noreply=False)


def django(server):
    pytest.importorskip("django")
    from django.core.cache.backends.memcached import PyMemcacheCache

    return PyMemcacheCache(f"127.0.0.1:{server.port}", {"KEY_FUNCTION": lambda key, *_: key})


def python_memcached(server):
    library = pytest.importorskip("memcache")
    return library.Client([f"127.0.0.1:{server.port}"])


def bmemcached(server):
    library = pytest.importorskip("bmemcached")
    return library.Client([f"127.0.0.1:{server.port}"])


def pylibmc(server):
    library = pytest.importorskip(
        "pylibmc", reason="pylibmc has no wheel for this Python: install it with libmemcached-dev"
    )
    return library.Client([f"127.0.0.1:{server.port}"])


def libmc(server):
    library = pytest.importorskip("libmc", reason="libmc is not installed: it needs a C++ compiler")
    return library.Client([f"127.0.0.1:{server.port}"])


OTHERS = [
    pymemcache_plain,
    pymemcache_pickle,
    pymemcache_compressed,
    django,
    python_memcached,
    bmemcached,
    pylibmc,
    libmc,
]


@pytest.fixture(params=OTHERS, ids=lambda make: make.__name__)
def other(request, server):
    """A client of the session's server that is not ours."""
    client = request.param(server)
    yield client
    for name in ("disconnect_all", "close"):
        if end := getattr(client, name, None):
            end()
            return


@pytest.mark.parametrize("compression", [None, Zlib, Zstd, Lz4])
@pytest.mark.parametrize("kind", KINDS)
async def test_ours_are_read_as_they_are_or_refused(client, key, other, kind, compression):
    serializer, value = KINDS[kind]
    cache = Cache(client, serializer=serializer, compression=compression and compression())
    await cache.set(key, value)
    stored = (await client.get(key)).value
    try:
        found = other.get(key.decode())
    except ValueError:
        return  # refused openly; an UnpicklingError would say that it was taken for a pickle
    assert isinstance(found, bytes | str)
    assert (found.encode() if isinstance(found, str) else found) == stored


@pytest.mark.parametrize("serializer", [Utf8(), Json(), MsgPack(), Pickle()], ids=repr)
async def test_theirs_are_refused(client, key, other, serializer):
    cache = Cache(client, serializer=serializer)
    for value in ("text", b"bytes", 5, True, 1.5, ["a"], "long" * 500):
        other.set(key.decode(), value)
        with pytest.raises(SerializationError, match=r"flags 0x[0-9a-f]+ are not those of"):
            await cache.get(key)


async def test_aiomcache_reads_bytes_and_refuses_the_rest(server, client, key):
    library = pytest.importorskip("aiomcache")
    theirs = library.Client("127.0.0.1", server.port)
    try:
        for serializer, value in KINDS.values():
            await Cache(client, serializer=serializer).set(key, value)
            if isinstance(serializer, Raw):
                assert await theirs.get(key) == value
                continue
            with pytest.raises(library.ClientException, match="flags"):
                await theirs.get(key)
    finally:
        await theirs.close()


@pytest.fixture
def nginx(server):
    """The URL of an nginx that serves what is in memcached, as is usual with gzip."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "nginx.conf")
        paths = "".join(
            f"{each}_temp_path {folder}/{each};"
            for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        settings.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;"
            "events {} http {"
            f"access_log off; {paths} server {{ listen 127.0.0.1:{port}; location / {{"
            f"set $memcached_key $arg_key; memcached_pass 127.0.0.1:{server.port};"
            "memcached_gzip_flag 2; } } }"
        )
        running = subprocess.Popen(
            [program, "-p", folder, "-c", settings], stderr=subprocess.DEVNULL
        )
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            running.terminate()
            running.wait()


async def test_nginx_does_not_take_json_for_gzip(nginx, client, key):
    await Cache(client).set(key, {"a": [1]})
    await until(lambda: answers(nginx))
    url = f"{nginx}?key={key.decode()}"
    with await asyncio.to_thread(urllib.request.urlopen, url) as answer:
        assert answer.headers["Content-Encoding"] is None
        assert json.loads(answer.read()) == {"a": [1]}


def answers(url):
    """Whether somebody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/")))) == 0
