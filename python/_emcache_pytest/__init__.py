"""The pytest plugin of emcache; see docs/testing.md.

pytest imports this module in every run where emcache is installed, so it imports emcache only when
a fixture is used.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest

if TYPE_CHECKING:
    from emcache import Client
    from emcache.testing import FakeServer, FaultProxy, MemcachedServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the memcached program."""
    group = parser.getgroup("emcache", "memcached servers for tests (emcache)")
    group.addoption(
        "--memcached",
        metavar="PATH",
        help="the memcached to run, or `fake` for emcache.testing.FakeServer"
        " (or: EMCACHE_TEST_MEMCACHED=PATH)",
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


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which fixtures do not run a memcached."""
    if not _uses_fakes(config) or _is_required(config):
        return None
    why = "as chosen" if _named(config) else "memcached is not installed"
    return f"emcache: {why}: fixtures use emcache.testing.FakeServer, which has no TLS and no login"


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
    """Run a memcached for the session, on a free port; pytest-xdist: one for each worker.

    Where memcached is not installed, it is an `emcache.testing.FakeServer`.
    """
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
    with _server(config, *args, **options) as server:
        # A test that needs the process of a real server asks for a feature that fakes do not have.
        yield cast("MemcachedServer", server)


def _server(config: pytest.Config, *args: str, **options: Any) -> "MemcachedServer | FakeServer":
    from emcache.testing import MemcachedServer

    if _uses_fakes(config) and not _is_required(config):
        from emcache.testing._fake._arguments import fake_server

        try:
            return fake_server(args, **options)
        except ValueError as error:
            _missing(config, f"the test needs a real memcached: {error}")
    binary = _binary(config)
    try:
        return MemcachedServer(*args, binary=binary, **options)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        _missing(config, str(error))


def _named(config: pytest.Config) -> str:
    named = config.getoption("--memcached") or os.environ.get("EMCACHE_TEST_MEMCACHED")
    return str(named or config.getini("memcached") or "")


def _uses_fakes(config: pytest.Config) -> bool:
    named = _named(config)
    return named == "fake" or (not named and shutil.which("memcached") is None)


def _binary(config: pytest.Config) -> str:
    from emcache.testing._process import MemcachedNotFoundError, find_memcached

    named = _named(config)
    if named == "fake":
        _missing(config, "emcache.testing.FakeServer has no TLS and no login")
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
    if _is_required(config):
        pytest.fail(text, pytrace=False)
    pytest.skip(f"{text}; --memcached-required makes this an error")


def _is_required(config: pytest.Config) -> bool:
    required = config.getoption("--memcached-required")
    if required is None and (variable := os.environ.get("EMCACHE_TEST_MEMCACHED_REQUIRED")):
        required = variable != "0"
    if required is None:
        required = config.getini("memcached_required")
    return bool(required)
