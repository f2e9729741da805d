"""Arguments of the wrong kind are named, and the error says what to do."""

import re

import pytest

import emcache
from emcache import Cache, cached, sync


async def function():
    return 1


@pytest.fixture
def sync_client():
    with sync.create_client("127.0.0.1:1") as client:
        yield client


def test_a_client_that_was_not_awaited():
    client = emcache.create_client("127.0.0.1:1")
    assert "not awaited" in repr(client)
    with pytest.raises(AttributeError, match=r"\(await create_client\(\.\.\.\)\)\.get, or async"):
        client.get  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'fetch'"):
        client.fetch  # noqa: B018
    assert not hasattr(client, "_client_of_another")
    with pytest.raises(TypeError, match=r"not a create_client.. that was not awaited; await"):
        Cache(client)
    with pytest.raises(TypeError, match=r"not a create_client.. that was not awaited"):
        cached(client)
    client.close()


async def test_a_client_that_was_awaited():
    async with emcache.create_client("127.0.0.1:1") as client:
        assert repr(client).startswith("<emcache.Client")
        with pytest.raises(TypeError, match=re.escape("not emcache.Client; pass emcache.Cache(")):
            cached(client)


def test_synchronous_clients_and_caches(sync_client):
    cache = sync.Cache(sync_client)
    with pytest.raises(TypeError, match=re.escape("not emcache.sync.Cache; use emcache.sync.ca")):
        cached(cache)
    with pytest.raises(TypeError, match=re.escape("not emcache.sync.Client; use emcache.sync.Ca")):
        Cache(sync_client)


async def test_a_function_that_returns_a_synchronous_cache(sync_client):
    cache = sync.Cache(sync_client)
    wrong = cached(lambda: cache, key="key")(function)
    with pytest.raises(TypeError, match=re.escape("not emcache.sync.Cache; use emcache.sync.ca")):
        await wrong()


@pytest.mark.parametrize(("value", "kind"), [(1, "int"), ("x", "str"), (Cache, "the class Cache")])
def test_other_values(value, kind):
    with pytest.raises(TypeError, match=f"not {kind}$"):
        cached(value)
