"""The pytest plugin of emcache; see docs/testing.md.

pytest imports this module in every run where emcache is installed, so it imports emcache only when
a fixture is used.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from emcache import Client
    from emcache.testing import FaultProxy, MemcachedServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the memcached program."""
    group = parser.getgroup("emcache", "memcached servers for tests (emcache)")
    group.addoption(
        "--memcached",
        metavar="PATH",
        help="the memcached to run (or: EMCACHE_TEST_MEMCACHED=PATH)",
    )
    group.addoption(
        "--memcached-required",
        action="store_true",
        default=None,
        help="fail, do not skip, where memcached or a feature that a fixture needs is missing"
        " (or: EMCACHE_TEST_MEMCACHED_REQUIRED=1)",
    )
    parser.addini("memcached", "the memcached to run")
    parser.addini(
        "memcached_required", "fail, do not skip, where memcached is missing", type="bool"
    )
    parser.addini(
        "memcached_flush",
        "empty the server before each test that uses emcache_client",
        type="bool",
        default=True,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the asynchronous fixtures for each plugin that runs asynchronous tests."""
    from . import _clients

    for plugin in _clients.plugins():
        config.pluginmanager.register(plugin, f"emcache_{plugin.__name__}")


# -- servers ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def memcached_args() -> tuple[str, ...]:
    """Return options of memcached for all servers; override this to change them."""
    return ()


@pytest.fixture(scope="session")
def memcached_server(
    request: pytest.FixtureRequest, memcached_args: tuple[str, ...]
) -> "Iterator[MemcachedServer]":
    """Run a memcached for the session, on a free port; pytest-xdist: one for each worker."""
    with _running(request.config, *memcached_args) as server:
        yield server


@pytest.fixture(scope="session")
def memcached_unix_server(
    request: pytest.FixtureRequest, memcached_args: tuple[str, ...]
) -> "Iterator[MemcachedServer]":
    """Run a memcached on a unix socket."""
    with _running(request.config, *memcached_args, unix=True) as server:
        yield server


@pytest.fixture(scope="session")
def memcached_tls_server(
    request: pytest.FixtureRequest, memcached_args: tuple[str, ...]
) -> "Iterator[MemcachedServer]":
    """Run a memcached with TLS, for `localhost` and `127.0.0.1`, with its own CA."""
    _need_option(request.config, "-Z", "TLS")
    with _running(request.config, *memcached_args, tls=True) as server:
        yield server


@pytest.fixture(scope="session")
def memcached_auth_server(
    request: pytest.FixtureRequest, memcached_args: tuple[str, ...]
) -> "Iterator[MemcachedServer]":
    """Run a memcached with a login for one user (`-Y`)."""
    _need_option(request.config, "-Y", "logins by a file")
    with _running(request.config, *memcached_args, users=_USERS) as server:
        yield server


@pytest.fixture(scope="session")
def memcached_sasl_server(
    request: pytest.FixtureRequest, memcached_args: tuple[str, ...]
) -> "Iterator[MemcachedServer]":
    """Run a memcached with a SASL login for one user (`-S`)."""
    _need_option(request.config, "-S", "SASL")
    with _running(request.config, *memcached_args, users=_USERS, auth="sasl") as server:
        yield server


@pytest.fixture
def memcached_cluster(
    request: pytest.FixtureRequest, memcached_args: tuple[str, ...]
) -> "Iterator[Callable[..., list[MemcachedServer]]]":
    """Return a function that starts `n` servers; it passes on further arguments."""
    with contextlib.ExitStack() as stack:

        def start(n: int, *args: str, **options: Any) -> "list[MemcachedServer]":
            every = (*memcached_args, *args)
            servers = (_running(request.config, *every, **options) for _ in range(n))
            return [stack.enter_context(server) for server in servers]

        yield start


@pytest.fixture
def fault_proxy() -> "Iterator[Callable[..., FaultProxy]]":
    """Return a function that starts a `FaultProxy`, with the arguments of that class."""
    from emcache.testing import FaultProxy

    with contextlib.ExitStack() as stack:

        def start(*args: Any, **options: Any) -> FaultProxy:
            return stack.enter_context(FaultProxy(*args, **options))

        yield start


# -- the client ---------------------------------------------------------------------------------


@pytest.fixture
def emcache_client_options() -> dict[str, Any]:
    """Return options of `create_client` for `emcache_client`; override this to change them."""
    return {}


@pytest.fixture
def emcache_client(request: pytest.FixtureRequest, memcached_server: "MemcachedServer") -> "Client":
    """Open a client of `memcached_server`, without items, in the loop of the test."""
    from ._clients import fixture_for

    if memcached_server.paused:
        memcached_server.resume()
    if not memcached_server.running:
        memcached_server.start()
    elif request.config.getini("memcached_flush"):
        memcached_server.flush()
    client: Client = request.getfixturevalue(fixture_for(request))
    return client


# -- missing programs and features --------------------------------------------------------------

_USERS = {"emcache": "secret"}


@contextlib.contextmanager
def _running(config: pytest.Config, *args: str, **options: Any) -> "Iterator[MemcachedServer]":
    from emcache.testing import MemcachedServer

    binary = _binary(config)
    try:
        server = MemcachedServer(*args, binary=binary, **options)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        _missing(config, str(error))
    with server:
        yield server


def _binary(config: pytest.Config) -> str:
    from emcache.testing._process import MemcachedNotFoundError, find_memcached

    named = config.getoption("--memcached") or os.environ.get("EMCACHE_TEST_MEMCACHED")
    named = named or config.getini("memcached")
    try:
        return find_memcached(named)
    except MemcachedNotFoundError as error:
        # A program that was named must exist.
        if named:
            pytest.fail(str(error), pytrace=False)
        _missing(config, str(error))


def _need_option(config: pytest.Config, option: str, what: str) -> None:
    from emcache.testing._process import has_option

    binary = _binary(config)
    if not has_option(binary, option):
        _missing(config, f"{binary} was built without {what} ({option})")


def _missing(config: pytest.Config, text: str) -> NoReturn:
    required = config.getoption("--memcached-required")
    if required is None and (variable := os.environ.get("EMCACHE_TEST_MEMCACHED_REQUIRED")):
        required = variable != "0"
    if required is None:
        required = config.getini("memcached_required")
    if required:
        pytest.fail(text, pytrace=False)
    pytest.skip(f"{text}; --memcached-required makes this an error")
