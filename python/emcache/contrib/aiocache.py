"""A cache class for aiocache: ``pip install 'emcache[aiocache]'``.

::

    from aiocache import cached
    from emcache.contrib.aiocache import EmcacheCache

    cache = EmcacheCache(nodes=["10.0.0.1:11211", "10.0.0.2:11211"], namespace="shop:")
    await cache.set("user:42", {"name": "Ada"}, ttl=300)

    @cached(ttl=60, cache=EmcacheCache, nodes="10.0.0.1:11211")
    async def price(article): ...
"""

import asyncio
import urllib.parse  # noqa: F401  (aiocache's `Cache.from_url` uses it and imports `urllib` alone)
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

try:
    from aiocache import AIOCACHE_CACHES  # type: ignore[import-untyped]
    from aiocache.base import BaseCache  # type: ignore[import-untyped]
    from aiocache.serializers import JsonSerializer  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError(
        "emcache.contrib.aiocache needs aiocache: pip install 'emcache[aiocache]'"
    ) from error

from .. import _errors
from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from .._checks import check_integer_delta
from .._client import Client
from .._client_options import CLIENT_OPTIONS, from_text
from .._create import create_client
from .._item import Item
from .._memcached.addresses import DEFAULT_PORT, format_address, parse_nodes
from .._memcached.keys import safe_key
from .._memcached.times import to_seconds, ttl_to_exptime
from .._types import Value
from ._flush import flush_nodes
from .loops import ClientPerLoop

Ttl = float | timedelta | None

_READS_ONE = {"get", "gets", "gat", "gats"}
_READS_MANY = {f"{command}_many" for command in _READS_ONE}


class EmcacheCache(BaseCache):  # type: ignore[misc]
    """A cache on memcached.

    Each event loop has its own client. It is created when the loop first uses the cache, and closed
    by :meth:`close` in that loop or at the end of the loop.

    A time to live may be a number of seconds, also a fraction (rounded up) or more than 30 days, or
    a ``timedelta``; None and 0 never expire. Keys that memcached would refuse are hashed as with
    ``Cache(keys="hash")``. Errors are those of :class:`emcache.Client`.

    Args:
        endpoint: the host of a single node; together with ``port``.
        port: the port of a single node.
        nodes: all nodes, in place of ``endpoint``: a list, or a text with commas, of
            ``host:port``, ``[ipv6]:port``, ``unix:/path`` or addresses of emcache.
        path: the unix socket of a single node, in place of ``endpoint``.
        serializer: by default :class:`aiocache.serializers.JsonSerializer`.
        pool_size: ``max_connections``, by its name in ``aiocache.MemcachedCache``.
        client_timeout: ``timeout`` of the client, in seconds or as a ``timedelta``; the option
            ``timeout`` is aiocache's own, for the whole call.
        options: other options of :func:`emcache.create_client` (``ssl``, ``username``, ...) and of
            every cache of aiocache (``namespace``, ``ttl``, ``timeout``, ``plugins``,
            ``key_builder``).

    Raises:
        TypeError: an unknown option, or an argument of a wrong type.
        ValueError: a text that is not a node or a number, or more than one of ``endpoint``,
            ``nodes``, ``path``.
    """

    NAME = "emcache"

    def __init__(
        self,
        endpoint: str | None = None,
        port: int | str | None = None,
        *,
        nodes: str | Iterable[str | Address] | None = None,
        path: str | None = None,
        serializer: Any = None,
        pool_size: int | str | None = None,
        client_timeout: float | str | timedelta | None = None,
        **options: Any,
    ) -> None:
        known = CLIENT_OPTIONS.keys() - {"timeout"}
        chosen = {name: options.pop(name) for name in known & options.keys()}
        if pool_size is not None:
            chosen["max_connections"] = _whole("pool_size", pool_size)
        if client_timeout is not None:
            chosen["timeout"] = to_seconds("client_timeout", client_timeout)
        for name in {"ttl", "timeout"} & options.keys():
            options[name] = to_seconds(name, options[name])
        super().__init__(serializer=_serializer(serializer), **options)
        addresses = _nodes(endpoint, port, nodes, path)
        if not addresses and not chosen.get("autodiscovery"):
            raise ValueError("nodes must have at least one address, such as '127.0.0.1:11211'")
        self.nodes: list[Address] = addresses
        client_options = from_text(chosen)
        self._clients = ClientPerLoop(lambda: create_client(addresses, **client_options))

    @classmethod
    def parse_uri_path(cls, path: str) -> dict[str, str]:
        """Return the path of a URL as a unix socket: ``emcache:///run/memcached.sock``."""
        return {"path": path} if path != "/" else {}

    async def client(self) -> Client:
        """Return the running loop's client, for commands that aiocache does not have."""
        return await self._clients.get()

    def __repr__(self) -> str:
        return f"{type(self).__name__} ({', '.join(map(format_address, self.nodes))})"

    def _build_key(self, key: Any, namespace: str | None = None) -> bytes:
        built = super()._build_key(key, namespace=namespace)
        return safe_key(built if isinstance(built, bytes) else str(getattr(built, "value", built)))

    async def _get(
        self, key: str | bytes, encoding: str | None = "utf-8", _conn: object = None
    ) -> str | bytes | None:
        return _decoded(await (await self.client()).get(safe_key(key)), encoding)

    async def _gets(
        self,
        key: str | bytes,
        encoding: str | None = "utf-8",  # noqa: ARG002 - what aiocache passes
        _conn: object = None,
    ) -> int | None:
        item = await (await self.client()).gets(safe_key(key))
        return None if item is None else item.cas

    async def _multi_get(
        self, keys: Sequence[str | bytes], encoding: str | None = "utf-8", _conn: object = None
    ) -> list[str | bytes | None]:
        names = [safe_key(key) for key in keys]
        items = await (await self.client()).get_many(names)
        return [_decoded(items.get(name), encoding) for name in names]

    async def _set(
        self,
        key: str | bytes,
        value: Any,
        ttl: Ttl = None,
        _cas_token: int | None = None,
        _conn: object = None,
    ) -> bool:
        client, name, raw, exptime = await self.client(), safe_key(key), _raw(value), _exptime(ttl)
        if _cas_token is None:
            await client.set(name, raw, exptime=exptime)
            return True
        return await _swap(client, name, raw, _cas_token, exptime)

    async def _multi_set(
        self,
        pairs: Iterable[tuple[str | bytes, Any]],
        ttl: Ttl = None,
        _conn: object = None,
    ) -> bool:
        client, exptime = await self.client(), _exptime(ttl)
        raws = [(safe_key(key), _raw(value)) for key, value in pairs]
        sets = [client.set(name, raw, exptime=exptime) for name, raw in raws]
        # An error of one call must not leave the other calls running.
        for result in await asyncio.gather(*sets, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return True

    async def _add(
        self,
        key: str | bytes,
        value: Any,
        ttl: Ttl = None,
        _conn: object = None,
    ) -> bool:
        client = await self.client()
        try:
            await client.add(safe_key(key), _raw(value), exptime=_exptime(ttl))
        except _errors.NotStoredStorageCommandError:
            text = f"Key {key!r} already exists, use .set to update the value"
            raise ValueError(text) from None
        return True

    async def _exists(self, key: str | bytes, _conn: object = None) -> bool:
        return await (await self.client()).get(safe_key(key)) is not None

    async def _increment(self, key: str | bytes, delta: int, _conn: object = None) -> int:
        check_integer_delta(delta)
        client, name = await self.client(), safe_key(key)
        change = client.increment if delta >= 0 else client.decrement
        try:
            return await self._change_or_add(client, change, name, delta)
        except _errors.ArithmeticCommandError as error:
            raise TypeError(f"the value cannot be incremented: {error}") from error

    async def _change_or_add(self, client: Client, change: Any, name: bytes, delta: int) -> int:
        while True:
            try:
                return int(await change(name, abs(delta)))
            except _errors.NotFoundCommandError:
                try:
                    await client.add(name, b"%d" % delta)
                except _errors.NotStoredStorageCommandError:
                    continue  # another client was first
                return delta

    async def _expire(self, key: str | bytes, ttl: Ttl, _conn: object = None) -> bool:
        try:
            await (await self.client()).touch(safe_key(key), _exptime(ttl))
        except _errors.NotFoundCommandError:
            return False
        return True

    async def _delete(self, key: str | bytes, _conn: object = None) -> int:
        try:
            await (await self.client()).delete(safe_key(key))
        except _errors.NotFoundCommandError:
            return 0
        return 1

    async def _clear(self, namespace: str | None = None, _conn: object = None) -> bool:
        if namespace:
            raise ValueError("memcached cannot list keys, so a namespace cannot be cleared")
        await flush_nodes(await self.client())
        return True

    async def _raw(
        self,
        command: str,
        *args: Any,
        encoding: str | None = "utf-8",
        _conn: object = None,
        **kwargs: Any,
    ) -> Any:
        """Call a method of :class:`emcache.Client`; keys are bytes and are not changed.

        Items are returned as their values, and None as True.
        """
        if command.startswith("_"):
            raise AttributeError(f"emcache.Client has no command {command!r}")
        result = await getattr(await self.client(), command)(*args, **kwargs)
        if command in _READS_MANY:
            return {key: _decoded(item, encoding) for key, item in result.items()}
        if command in _READS_ONE:
            return _decoded(result, encoding)
        return True if result is None else result

    async def _redlock_release(self, key: str | bytes, value: str) -> int:
        """Delete the lock atomically if it still has this value."""
        client, name = await self.client(), safe_key(key)
        item = await client.gets(name)
        if item is None or item.cas is None or item.value != _raw(value):
            return 0
        return int(await _swap(client, name, b"", item.cas, -1))

    async def _close(self, *_: object, _conn: object = None, **__: object) -> None:
        await self._clients.close()


AIOCACHE_CACHES[EmcacheCache.NAME] = EmcacheCache


def _nodes(
    endpoint: str | None,
    port: int | str | None,
    nodes: str | Iterable[str | Address] | None,
    path: str | None,
) -> list[Address]:
    given = {"endpoint": endpoint, "nodes": nodes, "path": path}
    several = [name for name, value in given.items() if value is not None]
    if len(several) > 1 or (port is not None and several not in ([], ["endpoint"])):
        names = several if port is None else [*several, "port"]
        raise ValueError(f"{' and '.join(names)} exclude each other")
    if nodes is not None:
        return parse_nodes(nodes)
    if path is not None:
        return parse_nodes(MemcachedUnixSocketPath(path))
    number = DEFAULT_PORT if port is None or port == "" else _whole("port", port)
    return parse_nodes(MemcachedHostAddress(endpoint or "127.0.0.1", number))


def _whole(name: str, value: int | str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be a number, not {value!r:.40}") from None
    except OverflowError:
        raise ValueError(f"{name} must be a finite number, not {value!r:.40}") from None


def _serializer(serializer: Any) -> Any:
    if not serializer:
        return JsonSerializer()
    if isinstance(serializer, type):
        name = serializer.__name__
        raise TypeError(f"serializer must be an object, not the class {name}; write {name}()")
    if not hasattr(serializer, "dumps") or not hasattr(serializer, "loads"):
        kind = type(serializer).__name__
        raise TypeError(f"serializer must be one of aiocache.serializers, not {kind}")
    return serializer


async def _swap(client: Client, name: bytes, raw: Value, cas: int, exptime: int) -> bool:
    try:
        await client.cas(name, raw, cas, exptime=exptime)
    except _errors.StorageCommandError as error:
        if error.status in ("EXISTS", "NOT_FOUND"):
            return False
        raise
    return True


def _exptime(ttl: Ttl) -> int:
    # In aiocache, 0 means no expiration.
    return ttl_to_exptime(ttl or None)


def _decoded(item: Item | None, encoding: str | None) -> str | bytes | None:
    if item is None:
        return None
    return item.value if encoding is None else item.value.decode(encoding)


def _raw(value: Any) -> Value:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return value
    kind = type(value).__name__
    raise TypeError(f"memcached stores str and bytes, not {kind}; use a serializer")
