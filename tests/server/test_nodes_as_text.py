"""Nodes as text, wherever the package takes nodes, and URLs."""

import traceback

import pytest

import emcache
from emcache import MemcachedHostAddress as Host
from emcache import MemcachedUnixSocketPath as Path
from emcache.discovery import CallableDiscovery, Topology
from emcache.testing import FaultProxy
from support.calls import within

SECRET = "s3cr3t,Hünter"
ONE = Host("cache-1", 11211)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ("cache-1", [ONE]),
        ("cache-1:11211,cache-2", [ONE, Host("cache-2", 11211)]),
        (" cache-1:11211 ; cache-2:5,", [ONE, Host("cache-2", 5)]),
        ("[::1]:11211,[::2]", [Host("::1", 11211), Host("::2", 11211)]),
        ("unix:/run/m.sock", [Path("/run/m.sock")]),
        ("unix:///run/m.sock", [Path("/run/m.sock")]),
        ("/run/a@b.sock", [Path("/run/a@b.sock")]),
        (
            ["cache-1", Host("::1", 5), Path("/run/m.sock")],
            [ONE, Host("::1", 5), Path("/run/m.sock")],
        ),
        (ONE, [ONE]),
        ((ONE,), [ONE]),
        ("", []),
        ([], []),
    ],
    ids=str,
)
def test_parse_nodes(nodes, found):
    assert emcache.parse_nodes(nodes) == found
    assert emcache.parse_nodes([str(address) for address in found]) == found
    assert emcache.parse_nodes(",".join(map(str, found))) == found


@pytest.mark.driver_independent
@pytest.mark.parametrize("address", [Host("::1", 5), Host("cache-1", 5), Path("/run/m.sock")])
def test_the_text_of_an_address(address):
    assert str(address) in ("[::1]:5", "cache-1:5", "/run/m.sock")
    assert repr(address).startswith(type(address).__name__ + "(")


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("nodes", "error", "says"),
    [
        ("cache-1:port", ValueError, "'cache-1:port' is not a node address; write host:port"),
        ("::1", ValueError, r"'::1' is not a node address; write host:port, \[ipv6\]:port"),
        (["a:1,b:2"], ValueError, "'a:1,b:2' is not a node address"),
        (["a,b"], ValueError, "'a,b' is not a node address"),
        ("cache-1:0", ValueError, "port must be between 1 and 65535"),
        (["cache-1", 5], TypeError, "a node must be a text .* or an address of emcache, not int"),
        (b"cache-1", TypeError, "nodes must be a text such as .*, or a list of nodes, not bytes"),
        (None, TypeError, "nodes must be a text such as .*, or a list of nodes, not NoneType"),
        (Host("cache-1:5", 5), ValueError, "pass the port as the second argument"),
    ],
    ids=str,
)
def test_what_is_no_list_of_nodes(nodes, error, says):
    with pytest.raises(error, match=says):
        emcache.parse_nodes(nodes)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "text",
    [
        f"memcached://user:{SECRET}@cache-1:11211",
        f"user:{SECRET}@cache-1",
        f"/run/m.sock,user:{SECRET}@cache-1",
        f"cache-1,user:1,{SECRET}@cache-1",
    ],
)
def test_a_password_among_nodes_is_not_shown(text):
    with pytest.raises(ValueError, match=r"pass a URL to emcache.from_url") as raised:
        emcache.parse_nodes(text)
    assert "s3cr3t" not in str(raised.value)


@within(30)
async def test_everywhere(server, key):
    text = f"127.0.0.1:{server.port}"
    for nodes in (text, [text], (server.address,), server.address):
        async with emcache.create_client(nodes) as client:
            await client.set(key, b"value")
            assert client.node_for(key) == server.address
    async with emcache.create_client(text) as client:
        assert await client.version(text) == await client.version(server.address)
        assert (await client.stats(text))["pid"] == str(server.process.pid)
        await client.verbosity(text, 0)
        await client.cache_memlimit(text, 1024)
        await client.meta_noop(text)
        with pytest.raises(ValueError, match=r"^127.0.0.1:1 can not be found$"):
            await client.version("127.0.0.1:1")
        with pytest.raises(ValueError, match="is not a node address"):
            await client.flush_all("127.0.0.1:port")
    pool = emcache.ConnectionPool(text)
    async with pool.create_connection_context() as connection:
        assert await connection.version_command()
    await pool.close()
    with FaultProxy(text) as proxy:
        async with emcache.create_client(str(proxy.address)) as client:
            assert (await client.get(key)).value == b"value"
    source = CallableDiscovery(lambda: text)
    assert (await source.discover()) == Topology.of([server.address]) == Topology.of(text)
    async with emcache.create_client([], autodiscovery=source) as client:
        assert (await client.get(key)).value == b"value"
    options = {"weights": {text: 2}, "names": {text: "alpha"}, "routing": "ketama"}
    async with emcache.create_client(text, **options) as client:
        await client.get(key)


URLS = [
    ("memcached://cache-1", [ONE], {}),
    ("memcached://cache-1:11211/", [ONE], {}),
    ("MEMCACHED://cache-1,[::1]:5/", [ONE, Host("::1", 5)], {}),
    ("memcached:///run/m%20m.sock", [Path("/run/m m.sock")], {}),
    ("memcacheds://cache-1", [ONE], {"ssl": True}),
    (
        "memcached://us%2Fer:p%40:s,s@cache-1/?tls=true&timeout=0.5&max_connections=4",
        [ONE],
        {"username": "us/er", "password": "p@:s,s", "ssl": True, "timeout": 0.5}
        | {"max_connections": 4},
    ),
    ("memcached://:pw@cache-1", [ONE], {"username": "", "password": "pw"}),
    (
        "memcached://cache-1?routing=ketama&weights=cache-1=2&names=cache-1:11211=alpha",
        [ONE],
        {"routing": "ketama", "weights": {ONE: 2}, "names": {ONE: "alpha"}},
    ),
]


@pytest.mark.driver_independent
@pytest.mark.parametrize(("url", "nodes", "options"), URLS, ids=[url for url, _, _ in URLS])
def test_the_parts_of_a_url(monkeypatch, url, nodes, options):
    from emcache import _url

    created = []
    monkeypatch.setattr(
        _url, "create_client", lambda nodes, **given: created.append((nodes, given))
    )
    emcache.from_url(url)
    emcache.from_url(url, timeout=7)
    assert created == [(nodes, options), (nodes, options | {"timeout": 7})]


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("http://cache-1", ValueError, "must begin with memcached:// or memcacheds://"),
        ("cache-1:11211", ValueError, "must begin with"),
        (None, TypeError, "a URL must be a str, not NoneType"),
        ("memcached://a/run/m.sock", ValueError, "hosts or the path of a unix socket, not both"),
        ("memcached://a?color=red", TypeError, "unknown option color"),
        ("memcached://a?timeout", ValueError, "query of a URL must be like"),
        ("memcached://a?timeout=soon", ValueError, "timeout must be a number, not 'soon'"),
        ("memcached://a?tls=maybe", ValueError, "ssl must be true or false"),
        ("memcached://a?tls=1&ssl=1", ValueError, "has the option ssl twice"),
        ("memcacheds://a?tls=no", ValueError, "memcacheds:// connects with TLS"),
        ("memcached://a?weights=a", ValueError, "weights must be a text like"),
        ("memcached://a?names=a", ValueError, "names must be a text like"),
        ("memcached://a:port", ValueError, "'a:port' is not a node address"),
    ],
    ids=str,
)
def test_what_is_no_url(url, error, says):
    with pytest.raises(error, match=says):
        emcache.from_url(url)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "url",
    [
        "memcached://user:s3cr3t/2@cache-1",
        "memcached://user:s3cr3t?2@cache-1",
        "memcached://user:s3cr3t#2@cache-1",
        "memcached://user:s3cr3t@cache-1:port",
        "memcached://user:s3cr3t@cache-1/db",
        "memcached://user:s3cr3t@cache-1?color=red",
        "memcached://user:s3cr3t@cache-1?timeout",
        "user:s3cr3t@cache-1",
    ],
)
def test_errors_never_show_the_password_of_a_url(url):
    with pytest.raises((ValueError, TypeError)) as raised:
        emcache.from_url(url, password="s3cr3t")
    error = raised.value
    # The first frame is the one of this test.
    trace = traceback.TracebackException(
        type(error), error, error.__traceback__.tb_next, capture_locals=True
    )
    assert "s3cr3t" not in "".join(trace.format())


@within(20)
async def test_a_client_from_a_url(server, key):
    async with emcache.from_url(f"memcached://127.0.0.1:{server.port}/?timeout=5") as client:
        await client.set(key, b"value")
    client = await emcache.from_url(f"memcached://127.0.0.1:{server.port}", timeout=5)
    assert (await client.get(key)).value == b"value"
    await client.close()
    with pytest.raises(ValueError, match="At least one memcached"):
        await emcache.from_url("memcached://")
