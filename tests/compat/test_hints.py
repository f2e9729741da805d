"""Wrong names, as programs of other libraries have them: the error tells the right name."""

import inspect
import re
import subprocess
import sys
from unittest import mock

import pytest

import emcache
import emcache.testing
from emcache import _hints

NODE = "127.0.0.1:11211"


@pytest.fixture
async def cache(client):
    return emcache.Cache(client)


@pytest.mark.driver_independent
def test_dir_shows_all_public_names():
    """Also those that are imported at their first use."""
    program = "import emcache; print(*dir(emcache))"
    names = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert set(emcache.__all__) <= set(names)
    assert {"cache", "discovery", "__all__"} <= set(names)
    assert not [name for name in names if name.startswith("_") and not name.endswith("__")]


@pytest.mark.driver_independent
@pytest.mark.parametrize("cls", [emcache.Client, emcache.Cache])
def test_each_hint_is_a_name(cls):
    names = _hints.CLIENT_METHODS if cls is emcache.Client else _hints.CACHE_METHODS
    for wrong, hint in names.items():
        assert not hasattr(cls, wrong)
        with pytest.raises(AttributeError, match=re.escape(f"no attribute '{wrong}'; use {hint}")):
            getattr(cls, wrong)
        right = hint.split("(")[0].split(",")[0].split(";")[0].split(" ")[0]
        assert hasattr(cls, right) or hint.startswith(("Cache(client)", "close of", "flush_all of"))
    assert not names.keys() & set(dir(cls))


@pytest.mark.driver_independent
def test_hints_of_the_package():
    for wrong, hint in _hints.MODULE_NAMES.items():
        with pytest.raises(AttributeError, match=f"no attribute '{wrong}'; use {hint}$"):
            getattr(emcache, wrong)
        assert hint in emcache.__all__
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$") as raised:
        _ = emcache.nothing
    assert raised.value.obj is emcache


async def test_objects_have_no_wrong_names(client, cache):
    for each, names in ((client, _hints.CLIENT_METHODS), (cache, _hints.CACHE_METHODS)):
        assert not names.keys() & set(dir(each))
        assert "increment" in dir(each)
        with pytest.raises(AttributeError, match="no attribute 'incr'; use increment"):
            _ = each.incr


@pytest.mark.driver_independent
def test_mocks_and_subclasses():
    spec = mock.Mock(spec=emcache.Client)
    with pytest.raises(AttributeError, match="incr"):
        _ = spec.incr
    assert mock.create_autospec(emcache.Client).increment

    class Double(emcache.Client):
        async def incr(self, key):
            return 1

    assert "incr" in dir(Double)
    assert "incr" in dir(Double())
    assert "decr" not in dir(Double())


@pytest.mark.driver_independent
def test_right_names_cost_nothing():
    """CPython looks up attributes slower in a class with `__getattr__`."""
    for cls in (emcache.Client, emcache.Cache):
        for name in ("__getattr__", "__getattribute__"):
            assert inspect.getattr_static(cls, name, None) is getattr(object, name, None)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool_size": 4}, "create_client.. got an unexpected keyword .*; use max_connections$"),
        ({"tls": True}, "'tls'; use ssl$"),
        ({"color": "red"}, "argument 'color'$"),
    ],
    ids=str,
)
def test_options_of_create_client(options, says):
    with pytest.raises(TypeError, match=says) as raised:
        emcache.create_client(NODE, password="s3cr3t", **options)
    frame = raised.value.__traceback__.tb_next.tb_frame
    assert "s3cr3t" not in repr(frame.f_locals)


async def test_options_of_a_cache(client, cache):
    for make in (
        lambda: emcache.Cache(client, expire=5),
        lambda: emcache.cached(cache, expire=5),
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument 'expire'; use ttl"):
            make()


async def test_errors_name_the_public_class(client, cache):
    """And not a base class, which no documentation has."""
    for call, name in (
        (lambda: client.set(b"k", b"v", ttl=5), "Client.set"),
        (lambda: client.meta_get(b"k", ttl=5), "Client.meta_get"),
        (lambda: cache.set("k", 1, exptime=5), "Cache.set"),
        (lambda: cache.lock("k", color="red"), "Cache.lock"),
    ):
        with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument"):
            call()
    assert repr(client).startswith("<emcache.Client ")
    assert repr(cache).startswith("<emcache.Cache ")


@pytest.mark.driver_independent
@pytest.mark.parametrize("module", [emcache, emcache.testing], ids=lambda m: m.__name__)
def test_all_public_exceptions_have_one_base(module):
    """So that a program can catch all with one class."""
    found = [getattr(module, name) for name in module.__all__]
    errors = [each for each in found if isinstance(each, type) and issubclass(each, BaseException)]
    assert len(errors) > 1
    assert [error for error in errors if not issubclass(error, emcache.EmcacheError)] == []


async def test_every_write_of_a_cache_has_a_default_ttl(cache, key):
    """One hour, and for ever only with `ttl=0`."""
    name = key.decode()

    async def one():
        return 1

    await cache.set(f"{name}:set", 1)
    await cache.add(f"{name}:add", 1)
    await cache.set_many({f"{name}:many": 1})
    await cache.increment(f"{name}:increment", 1, initial=1)
    await cache.get_or_set(f"{name}:get_or_set", one)
    await cache.get_or_set_many([f"{name}:or_set_many"], lambda keys: one_each(keys))
    for kind in ("set", "add", "many", "increment", "get_or_set", "or_set_many"):
        assert 3590 < await cache.ttl(f"{name}:{kind}") <= 3600, kind
    await cache.set(f"{name}:set", 1, ttl=60)
    await cache.replace(f"{name}:set", 2)
    assert await cache.ttl(f"{name}:set") > 3590


async def one_each(keys):
    return dict.fromkeys(keys, 1)
