"""The calls of a client that are told of, and where each of them goes."""

from typing import Any, Literal, NamedTuple, cast

from ..client import _Client


class Operation(NamedTuple):
    word: str
    """memcached's."""
    of: Literal["key", "keys", "node"]
    """What says where it goes."""
    at: int = 0
    """Which argument that is,"""
    name: str = "key"
    """and what it is called."""
    is_batch: bool = False
    """Of many commands, where a retrieval is one command with many keys."""


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
    for name, operation in (_RETRIEVALS | _OF_KEYS | _OF_NODES | _BATCHES).items()
    if name in vars(_Client)
}


def subject(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give the argument that says where a call goes; None: it is missing."""
    return args[operation.at] if len(args) > operation.at else kwargs.get(operation.name)
