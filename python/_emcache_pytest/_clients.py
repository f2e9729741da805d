"""The client fixture for each plugin that runs asynchronous tests.

`emcache_client` is a synchronous fixture that requests one of these by name. Only then is it known
which plugin runs the test, and both may be installed.
"""

import contextlib
import inspect
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from emcache import Client
    from emcache.testing import MemcachedServer

_NAME = "_emcache_client_"
_LOOP_SCOPES = ("function", "class", "module", "package", "session")


def plugins() -> Iterator[types.ModuleType]:
    """Yield modules with the fixtures, to register as plugins."""
    yield _module("anyio", {"anyio": pytest.fixture})
    # If it runs tests, it has been imported by now.
    if asyncio := sys.modules.get("pytest_asyncio"):
        yield _module("asyncio", _decorators(asyncio.fixture))


def _decorators(fixture: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    # Before pytest-asyncio 0.24 fixtures had no loop scope.
    if "loop_scope" not in inspect.signature(fixture).parameters:
        return {"function": fixture}
    return {scope: _in_loop(fixture, scope) for scope in _LOOP_SCOPES}


def _in_loop(fixture: Callable[..., Any], scope: str) -> Callable[..., Any]:
    return lambda function, name: fixture(function, loop_scope=scope, name=name)


def _module(name: str, decorators: dict[str, Callable[..., Any]]) -> types.ModuleType:
    module = types.ModuleType(name)
    for kind, decorate in decorators.items():
        fixture = f"{_NAME}{kind}"
        setattr(module, fixture, decorate(_client(), name=fixture))
    return module


def _client() -> Callable[..., AsyncIterator["Client"]]:
    """Return a new function each time, because plugins mark functions that they decorate."""

    async def client(
        memcached_server: "MemcachedServer", emcache_client_options: dict[str, Any]
    ) -> AsyncIterator["Client"]:
        import emcache

        options = memcached_server.client_options | emcache_client_options
        async with emcache.create_client([memcached_server.address], **options) as running:
            yield running

    return client


def _default_scope(config: pytest.Config) -> str:
    with contextlib.suppress(KeyError, ValueError):  # older versions
        return str(config.getini("asyncio_default_test_loop_scope"))
    return "function"


def fixture_for(request: pytest.FixtureRequest) -> str:
    """Return the name of the fixture for a test; skip or fail the test if there is none."""
    node = request.node
    if (marker := node.get_closest_marker("asyncio")) and "pytest_asyncio" in sys.modules:
        scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
        return f"{_NAME}{scope or _default_scope(request.config)}"
    if "anyio_backend" in node.fixturenames:
        if request.getfixturevalue("anyio_backend_name") != "asyncio":
            pytest.skip("emcache supports only asyncio")
        return f"{_NAME}anyio"
    pytest.fail(
        "emcache_client needs pytest-asyncio or anyio: use an `async def` test with their marker,"
        " or their auto mode",
        pytrace=False,
    )
