"""Errors for the names that other libraries use, which tell the name here.

Right names cost nothing: each wrong name is an attribute of the class that raises, so no class has
a ``__getattr__``, which would make every access slower.
"""

import functools
import inspect
from abc import ABCMeta
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

C = TypeVar("C", bound=type)
P = ParamSpec("P")
R = TypeVar("R")

CLIENT_METHODS = {
    "aclose": "close",
    "cluster_management": "cluster_managment, as emcache 1.3 spells it",
    "connect": "wait_ready; create_client connects",
    "decr": "decrement",
    "delete_multi": "delete_many",
    "disconnect_all": "close",
    "exists": "get",
    "expire": "touch",
    "flush": "flush_all",
    "get_dict": "get_many",
    "get_multi": "get_many",
    "get_or_set": "Cache(client).get_or_set",
    "get_stats": "stats",
    "gets_multi": "gets_many",
    "incr": "increment",
    "mget": "get_many",
    "mset": "set_many",
    "multi_get": "get_many",
    "quit": "close",
    "remove": "delete",
    "set_multi": "set_many",
    "setex": "set(key, value, exptime=...)",
}
"""What other clients call the methods of ``Client``."""

CACHE_METHODS = {
    "clear": "invalidate_tag, or another prefix",
    "close": "close of the client",
    "decr": "decrement",
    "delete_multi": "delete_many",
    "exists": "get",
    "expire": "touch",
    "flush_all": "flush_all of the client",
    "gat": "get_and_touch",
    "get_multi": "get_many",
    "get_or_create": "get_or_set",
    "gets": "get_with_cas",
    "incr": "increment",
    "multi_get": "get_many",
    "multi_set": "set_many",
    "remove": "delete",
    "set_multi": "set_many",
    "setex": "set(key, value, ttl=...)",
}
"""What other caches call the methods of ``Cache``."""

MODULE_NAMES = {
    "AsyncClient": "Client",
    "CacheError": "EmcacheError",
    "ClientException": "EmcacheError",
    "ConnectionError": "ConnectionFailedError",
    "Error": "EmcacheError",
    "HashClient": "create_client",
    "MemcacheClient": "Client",
    "MemcacheError": "EmcacheError",
    "MemcachedClient": "Client",
    "MemcachedError": "EmcacheError",
    "PooledClient": "create_client",
    "TimeoutError": "OperationTimeoutError",
    "connect": "create_client",
    "create_pool": "create_client",
}
"""What other packages call the names of this one."""

_OPTIONS = {
    "connect_timeout": "connection_timeout",
    "hosts": "node_addresses",
    "nodes": "node_addresses",
    "pool_maxsize": "max_connections",
    "pool_minsize": "min_connections",
    "pool_size": "max_connections",
    "max_pool_size": "max_connections",
    "servers": "node_addresses",
    "ssl_context": "ssl, ssl_extra_ca and ssl_certfile",
    "tls": "ssl",
    "tls_context": "ssl, ssl_extra_ca and ssl_certfile",
    "user": "username",
}
_TTL = ("exp", "expire", "expires", "expiry", "exptime", "timeout", "time")


class _WrongName:
    """An attribute that does not exist under this name."""

    def __init__(self, name: str, hint: str) -> None:
        self._name = name
        self._hint = hint

    def __get__(self, instance: object, owner: type) -> Any:
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {self._name!r}; use {self._hint}"
        )


class Hinted(type):
    """The type of a class whose wrong names are not listed."""

    def __dir__(cls) -> Iterable[str]:
        return [name for name in super().__dir__() if not cls._is_wrong(name)]

    def _is_wrong(cls, name: str) -> bool:
        first = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
        return isinstance(first, _WrongName)


class HintedABC(ABCMeta, Hinted):
    """The same for an abstract base class."""


def with_hints(names: dict[str, str]) -> Callable[[C], C]:
    """Add wrong names to a class, and name its inherited methods after it in errors."""

    def decorate(cls: C) -> C:
        for name, hint in names.items():
            setattr(cls, name, _WrongName(name, hint))
        for base in cls.__mro__:
            for name, method in list(vars(base).items()):
                # Python names a function in errors by this: "Cache.set() got an unexpected ...".
                if base.__module__.startswith("emcache.") and isinstance(method, FunctionType):
                    method.__qualname__ = f"{cls.__name__}.{name}"
        setattr(cls, "__dir__", _names)  # noqa: B010 - mypy takes it for the one of `type`
        return cls

    return decorate


def _names(instance: object) -> list[str]:
    return sorted({*dir(type(instance)), *vars(instance)})


def with_option_hints(function: Callable[P, R]) -> Callable[P, R]:
    """Tell the right name in the error about an unknown keyword argument."""
    known = inspect.signature(function).parameters.keys()

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        unknown = options.keys() - known
        try:
            if not unknown:
                return function(*args, **options)
        finally:
            # Tracebacks show local variables, and the options may have a password.
            del args, options
        raise TypeError(f"{function.__name__}() got {unknown_option(min(unknown), _OPTIONS)}")

    return call


def unknown_option(name: str, right_names: dict[str, str] | None = None) -> str:
    """Return the end of an error about an unknown keyword argument."""
    right_names = dict.fromkeys(_TTL, "ttl") if right_names is None else right_names
    hint = f"; use {right_names[name]}" if name in right_names else ""
    return f"an unexpected keyword argument {name!r}{hint}"
