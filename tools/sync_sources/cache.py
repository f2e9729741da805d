"""The methods of the cache."""

import ast
import re
from pathlib import Path

from .text import between, replaced

FOLDER = Path(__file__).parents[2] / "python" / "emcache" / "cache"

CHANGES = {
    **dict.fromkeys(("set", "add", "replace", "cas", "delete", "increment", "decrement"), "[key]"),
    "invalidate": "[key]",
    "renew": "[key]",
    **dict.fromkeys(("set_many", "delete_many", "invalidate_tag", "invalidate_tags"), "None"),
}
"""The methods of a cache that change values, and the keys that they change."""

FUNCTIONS = {"factory", "load"}
"""Parameters for functions of the user."""


def plain_types(text: str) -> str:
    return re.sub(r"Awaitable\[((?:[^\[\]]|\[[^\]]*\])*)\]", r"\1", text)


def cache_method(source: str, node: ast.AsyncFunctionDef) -> str:
    """A method that runs the asynchronous one of the same name."""
    lines = source.splitlines(keepends=True)
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    documentation = node.body[0]
    is_stub = bool(node.decorator_list)
    last = node.end_lineno if is_stub else documentation.end_lineno
    text = plain_types("".join(lines[first - 1 : last])).replace("async def ", "def ")
    if is_stub:
        return text
    arguments = [argument.arg for argument in node.args.args[1:]]
    arguments += [f"{argument.arg}={argument.arg}" for argument in node.args.kwonlyargs]
    if node.args.kwarg is not None:
        arguments.append(f"**{node.args.kwarg.arg}")
    joined = ", ".join(f"outside({a})" if a in FUNCTIONS else a for a in arguments)
    if node.name == "get_or_set":
        body = "self._get_or_set(key, factory, info, tags, {**options})"
    else:
        call = f"lambda cache: cache.{node.name}({joined})"
        run = "self._run_deferred" if FUNCTIONS & set(arguments) else "self._run"
        if node.name not in CHANGES:
            body = f"{run}({call})"
        elif run == "self._run":
            body = f"self._change({CHANGES[node.name]}, {call})"
        else:
            body = f"self._change({CHANGES[node.name]}, {call}, {run})"
    return f"{text}        return {body}\n"


def cache(source: str) -> str:
    methods = []
    for name, kind in (
        ("_cache", "Cache"),
        ("_commands", "Commands"),
        ("_coordination", "Coordination"),
    ):
        text = (FOLDER / f"{name}.py").read_text()
        [owner] = [
            node
            for node in ast.parse(text).body
            if isinstance(node, ast.ClassDef) and node.name == kind
        ]
        methods += [
            cache_method(text, node)
            for node in owner.body
            if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_")
        ]
    documentation = between(source, '    """A cache of values of one type', "    @overload")
    documentation = replaced(
        documentation,
        [
            ("of\n    :class:`emcache.Client`, and:", "of\n    :class:`emcache.sync.Client`, and:"),
            (":class:`emcache.InvalidKeyError`", ":class:`emcache.InvalidKeyError`"),
            (
                "    Args:\n        client: the client to use.",
                "    Threads may share a cache. A refresh in the background does not exist: the call that"
                " starts a\n    refresh ends with it. Factories are plain functions.\n\n"
                "    Args:\n        client: the client to use.",
            ),
            (
                "Each event loop decompresses at most two large values at once.",
                "Each thread decompresses at most two large values at once.",
            ),
        ],
    )
    inits = between(
        source, "    @overload\n    def __init__", "        if not isinstance(client, Client)"
    )
    names = ["serializer", "compression", "prefix", "keys", "ttl", "max_size", "on_unreadable"]
    names += ["name", "lease_key", "tags", "chunked", "local"]
    arguments = ", ".join(f'"{name}": {name}' for name in names)
    coordination = (FOLDER / "_coordination.py").read_text()
    lock = between(coordination, "    def lock(", "        return Lock(")
    limit = between(coordination, "    def rate_limit(", "        return RateLimit(")
    lock = replaced(
        lock,
        [("async with cache.lock", "with cache.lock"), ("await write_report()", "write_report()")],
    )
    limit = replaced(limit, [("if not await cache", "if not cache")])
    return (
        '"""The synchronous cache: the methods of :class:`emcache.Cache`."""\n\n'
        "from collections.abc import Callable, Iterable, Mapping\n"
        "from datetime import timedelta\n"
        "from typing import Any, Literal, TypeVar, Unpack, overload\n\n"
        "from .._results import PartialResult\n"
        "from ..cache import CacheInfo, Compression, KeyPolicy, Options, Serializer, SharingOptions\n"
        "from ..cache import Chunks, LocalCache, Ttl, TagSnapshot\n"
        "from ..cache._cache import MAX_SIZE\n"
        "from ..cache._keys import Key\n"
        "from ..cache._policy import LeaseKey, OnError\n"
        "from ..cache._rate_limits import OnLimitError, Window\n"
        "from ..cache._tags import Tags\n"
        "from ..cache._ttl import ONE_HOUR\n"
        "from ._cache_base import CacheBase, Lock, RateLimit\n"
        "from ._call_loop import outside\n"
        "from ._client import Client\n\n"
        'T = TypeVar("T")\nD = TypeVar("D")\nK = TypeVar("K", bound=Key)\n\n\n'
        f"class Cache(CacheBase[T]):\n{documentation}{inits}"
        f"        self._set_up(client, {{{arguments}, **options}})\n\n"
        + "\n".join(methods)
        + f"\n{lock}        return Lock(self, self._top().lock(name, ttl=ttl, wait=wait))\n"
        + f"\n{limit}        found = self._top().rate_limit(\n"
        "            name, limit, per=per, window=window, on_error=on_error\n        )\n"
        "        return RateLimit(self, found)\n"
    )
