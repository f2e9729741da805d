"""The methods of a client that are traced, and the argument that routes each of them."""

from typing import Any, Literal, NamedTuple, cast

from .._client import Client


class Operation(NamedTuple):
    word: str
    """memcached's name of the command."""
    of: Literal["key", "keys", "node"]
    """The kind of the routing argument."""
    at: int = 0
    """The position of the routing argument."""
    name: str = "key"
    """The name of the routing argument."""
    is_batch: bool = False
    """Whether the call sends a command for each key; a retrieval sends one for many keys."""


_RETRIEVALS = {
    name + suffix: Operation(name, of, at, of)
    for name, at in (("get", 0), ("gets", 0), ("gat", 1), ("gats", 1))
    for suffix, of in cast(
        list[tuple[str, Literal["key", "keys"]]], [("", "key"), ("_many", "keys")]
    )
}
_OF_KEYS = {
    name: Operation({"increment": "incr", "decrement": "decr"}.get(name, name), "key")
    for name in [
        "set",
        "add",
        "replace",
        "append",
        "prepend",
        "cas",
        "delete",
        "increment",
        "decrement",
        "touch",
    ]
}
_OF_NODES = {
    name: Operation(name, "node", 0, "memcached_host_address")
    for name in ["flush_all", "version", "stats", "verbosity", "cache_memlimit"]
}
_META = {
    "meta_get": Operation("mg", "key"),
    "meta_get_many": Operation("mg", "keys", 0, "keys", is_batch=True),
    "meta_set": Operation("ms", "key"),
    "meta_delete": Operation("md", "key"),
    "meta_arithmetic": Operation("ma", "key"),
    "meta_debug": Operation("me", "key"),
    "ttl": Operation("me", "key"),
    "meta_noop": Operation("mn", "node", 0, "memcached_host_address"),
    "meta_raw": Operation("meta", "key", 1),
}
_BATCHES = {
    name: Operation(name.removesuffix("_many"), "keys", 0, argument, is_batch=True)
    for name, argument in {
        "set_many": "items",
        "add_many": "items",
        "delete_many": "keys",
        "touch_many": "keys",
    }.items()
}
OPERATIONS = {
    name: operation
    for name, operation in (_RETRIEVALS | _OF_KEYS | _OF_NODES | _META | _BATCHES).items()
    if hasattr(Client, name)
}


def routing_argument(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the routing argument of a call; None if it is missing."""
    return args[operation.at] if len(args) > operation.at else kwargs.get(operation.name)
