"""Write the synchronous client from the asynchronous one, so that the two cannot drift.

    python tools/make_sync.py           # writes python/emcache/sync/
    python tools/make_sync.py --check   # exit code 1 if a file is not up to date

Signatures, documentation and the meaning of arguments come from the sources listed in ``FILES``.
What waits in another way is written by hand in ``python/emcache/sync/``.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "emcache"

OWN = {
    "_client_base",
    "_core",
    "_counters",
    "_fallbacks",
    "_meta_commands",
    "_meta_replies",
    "_node_queries",
}
"""Modules that the synchronous package has itself."""

Pairs = list[tuple[str, str]]


def replaced(text: str, pairs: Pairs) -> str:
    for old, new in pairs:
        if old not in text:
            raise SystemExit(f"not found, so tools/make_sync.py has to change:\n{old}")
        text = text.replace(old, new)
    return text


def between(text: str, start: str, end: str | None = None) -> str:
    begin = text.index(start)
    return text[begin : text.index(end, begin) if end else None]


def without_awaits(text: str) -> str:
    text = re.sub(r"await asyncio\.shield\((.*)\)\n", r"\1\n", text)
    text = re.sub(r"Awaitable\[(\w+)\]", r"\1", text)
    text = re.sub(r"from collections\.abc import Awaitable, ", "from collections.abc import ", text)
    text = text.replace("async def ", "def ").replace("await ", "")
    return re.sub(r"\bCoreClient\b", "SyncCore", re.sub(r"\bCoreMeta\b", "SyncCoreMeta", text))


def moved(text: str) -> str:
    """Import from the package above, but for the modules that this package has itself."""

    def of(match: re.Match[str]) -> str:
        return match[0] if match[1] in OWN else f"from ..{match[1]} import"

    text = re.sub(r"from \.(\w+) import", of, text)
    return re.sub(r"from \. import", "from .. import", text)


def header(source: str) -> str:
    return f"# Written by tools/make_sync.py from {source}.\n"


def core(stub: str) -> str:
    """The types of the core's methods, of which callers get the results at once."""
    classes = "".join(
        between(stub, f"@final\nclass {name}:", end)
        for name, end in (("CoreClient", "\n# Status, value"), ("CoreMeta", "@final\nclass CoreMi"))
    )
    future = re.compile(r"_Future\[((?:.|\n)*?)\]: \.\.\.")
    classes = future.sub(lambda match: f"{match[1].strip()}: ...", classes)
    classes = classes.replace("@final\n", "").replace(
        "class CoreClient", "class SyncCore(Protocol)"
    )
    classes = classes.replace("class CoreMeta", "class SyncCoreMeta(Protocol)")
    # How a core is created, and what only a core of an event loop has.
    unused = r"__new__|add_node|is_connected|set_ip|change_nodes|check_out"
    classes = re.sub(rf"    def (?:{unused})\((?:.|\n)*?\) -> [^\n]*: \.\.\.\n", "", classes)
    return (
        '"""The core as the synchronous client sees it: calls return their results."""\n\n'
        "from collections.abc import Iterable, Mapping\n"
        "from typing import TYPE_CHECKING, Literal, Protocol\n\n"
        "from .._errors import EmcacheError\nfrom .._item import Item\n"
        "from .._types import Exptime, ManyOutcome, Value\n\n"
        "if TYPE_CHECKING:\n    from .._emcache import _MetaFields, _MetaReply, _RawSnapshot\n"
        "else:\n    _MetaFields = _MetaReply = _RawSnapshot = tuple\n\n\n" + classes
    )


def client(source: str) -> str:
    documentation = between(source, '    """A memcached client; create one', "    _routing: ")
    methods = between(source, "    async def get(self, key")
    imports = between(source, "from collections.abc", "_CONNECT_POLL")
    imports = re.sub(
        r"from (\._cluster|\._lifecycle|\.discovery\._watcher|\._snapshots|\._errors|"
        r"\._emcache|\._memcached\.addresses) import .*\n|    from \.discovery.*\n|"
        r"from types import .*\n",
        "",
        imports,
    )
    imports = replaced(
        imports,
        [
            (
                "from collections.abc import Callable, Iterable, Mapping, Sequence",
                "from collections.abc import Iterable, Mapping",
            ),
            ("Literal, Self, overload", "Literal, overload"),
            ("    from . import discovery, metrics\n", ""),
            ("import discovery, metrics, migration, results", "import results"),
            ("    from . import _migration as migration\n", ""),
            ("from ._item", "from ._errors import ConnectionFailedError\nfrom ._item"),
        ],
    )
    documentation = replaced(
        documentation,
        [
            ("emcache.create_client", "emcache.sync.create_client"),
            (
                "the client is closed (:class:`ClientClosedError`), or it belongs to another\n"
                "      event loop;",
                "the client is closed (:class:`ClientClosedError`), or an event loop runs\n"
                "      in the calling thread, which the call would block;",
            ),
            ("    Each method names its", THREADS + "    Each method names its"),
        ],
    )
    methods = replaced(
        methods,
        [
            (
                "If the call is cancelled, the keys that were not sent yet are\n"
                "        dropped and do not appear in :meth:`metrics`.",
                "If a signal handler raises, the keys that were not sent\n"
                "        yet are dropped and do not appear in :meth:`metrics`.",
            ),
            ("  # noqa: ASYNC109 - the error says which nodes are missing", ""),
            (
                "        if self.migration is not None:\n"
                "            # An item may be on its way to a node that is flushed before it arrives.\n"
                "            await query_all(\n"
                "                self._nodes_by_index, lambda node: self._core.flush_all(node, delay,"
                " noreply)\n"
                "            )\n",
                "",
            ),
        ],
    )
    head = (
        '"""The synchronous client: the commands of :class:`emcache.Client`."""\n\n'
        + imports
        + "from ._client_base import ClientBase\n\n\n"
        "class Client(MetaCommands, ClientBase):\n" + documentation
    )
    return moved(without_awaits(head + methods))


THREADS = """    Threads may share a client. Calls of different threads run at the same time, each on
    connections of its own, so ``min_connections`` and ``max_connections`` count for each call that
    is under way. A client that was created before a fork works in the child, on new connections.

"""


def meta_commands(source: str) -> str:
    source = replaced(
        source,
        [
            ("import asyncio\n", ""),
            ("from ._emcache import CoreMeta\n", "from ._core import CoreMeta\n"),
            (
                "the first error; the other replies are lost, with any wins\n                among them.",
                "the first error; wins among the other\n                replies are lost.",
            ),
        ],
    )
    return moved(without_awaits(source))


def helpers(source: str) -> str:
    source = source.replace("from ._emcache import CoreClient", "from ._core import CoreClient")
    return moved(without_awaits(source)).replace("Await the substitute", "Call the substitute")


def without_option(function: str, name: str, default: str) -> str:
    """Leave out an option that only the asynchronous client has."""
    function, found = re.subn(rf"\n    {name}: .* = .*,(?=\n)", "", function)
    function, described = re.subn(rf"\n        {name}: .*(\n            .*)*", "", function)
    function, passed = re.subn(rf"{name}={name},", f"{name}={default},", function)
    if (found, described, passed) != (1, 1, 1):
        raise SystemExit(f"not found, so tools/make_sync.py has to change: {name}")
    return function


def create(source: str) -> str:
    imports = between(source, "from collections.abc", "if TYPE_CHECKING")
    imports = re.sub(r"from types import .*\n|from \._(checks|client|emcache).*\n", "", imports)
    imports = imports.replace("Callable, Coroutine, Generator, Iterable, Sequence", "Iterable")
    imports = imports.replace("TYPE_CHECKING, Any, Literal", "TYPE_CHECKING, Literal")
    imports = re.sub(
        r"from \._options import \((.|\n)*?\)\n",
        "from ._options import Pem, login_arguments, tls_arguments\n",
        imports,
    )
    imports = re.sub(r"from \._memcached.*\n|from \._cluster.*\n", "", imports)
    lazy = between(source, "if TYPE_CHECKING", "_TIMEOUTS")
    function = between(source, "def create_client(", "def _check_events")
    for name, default in (("migrating_from", "None"), ("hot_keys", "0"), ("failover", "None")):
        function = without_option(function, name, default)
    function = replaced(
        function,
        [
            (
                "    names: NodeNames | None = None,\n",
                "    names: NodeNames | None = None,\n    allow_in_event_loop: bool = False,\n",
            ),
            ("-> _CreateClient:", "-> Client:"),
            ('routing: "str | router.Router"', "routing: str"),
            (
                "    return _CreateClient(\n        _create_client(",
                "    return created(\n        _create_client(",
            ),
            (
                '"""Create a client in the running event loop.',
                '"""Create a synchronous client, which threads may share.',
            ),
            (
                "    Use it as ``client = await create_client(...)`` with ``await client.close()`` at"
                " the end, or as\n    ``async with create_client(...) as client``. It does not wait for"
                " a connection, so a node that\n    is down does not make it fail.",
                "    Use it as ``client = create_client(...)`` with ``client.close()`` at the end, or"
                " as\n    ``with create_client(...) as client``. It does not connect: the first call"
                " does.",
            ),
            (
                "max_connections: the most connections to each node, >= 1. One more is opened while"
                " a\n            replaced node moves to its new address.",
                "max_connections: the most connections to each node, >= 1, for each call that is under\n"
                "            way. One more is opened while a replaced node moves to its new address.",
            ),
            (
                "min_connections: connections that are opened at once and kept open, 0 <= min <= max.",
                "min_connections: connections that the first call opens and that are kept open, for\n"
                "            each call that is under way, 0 <= min <= max.",
            ),
            (
                "autobatching: merge the single gets of one loop iteration into one command.",
                "autobatching: accepted, so that both clients have the same options; each call waits\n"
                "            for its reply, so there is nothing to merge.",
            ),
            (
                "autobatching_max_keys: the most keys in a merged command, >= 1.",
                "autobatching_max_keys: see ``autobatching``; >= 1.",
            ),
            (
                "            by address or by its text. Without one it is made from the node's address.\n",
                "            by address or by its text. Without one it is made from the node's address.\n"
                "        allow_in_event_loop: allow calls in a thread with a running event loop. They block\n"
                "            the loop, so they raise ``RuntimeError`` by default.\n",
            ),
            (
                "        TypeError: an argument has a wrong type.\n",
                "        TypeError: an argument has a wrong type.\n        RuntimeError: gevent or eventlet has replaced the modules of the standard library.\n",
            ),
            (
                "            client_class=Client,\n",
                "            client_class=Client,\n            blocking=bool(allow_in_event_loop),\n",
            ),
            (
                '{"purge_unhealthy_nodes": purge_unhealthy_nodes, "autobatching": autobatching}',
                '{\n"purge_unhealthy_nodes": purge_unhealthy_nodes, "autobatching": autobatching,\n"allow_in_event_loop": allow_in_event_loop,\n}',
            ),
            (
                "            cluster_events,\n",
                "            cluster_events,  # type: ignore[arg-type]\n",
            ),
        ],
    )
    own = "from ._client import Client\nfrom ._client_base import created\nfrom ._events import ClusterEvents\n"
    head = '"""``create_client`` of the synchronous client."""\n\n'
    return (
        head
        + moved(imports + "from ._create import _create_client\n")
        + own
        + moved(lazy)
        + function
    )


def django_store(source: str) -> str:
    start = source.index("async def _each(")
    helpers = """def _delete_each(client: Client, names: Iterable[bytes]) -> dict[bytes, Exception]:
    return client.delete_many(names).errors


def _set_each(
    client: Client, values: Mapping[bytes, Stored], exptime: int
) -> dict[bytes, Exception | None]:
    failed: dict[bytes, Exception | None] = {}
    by_flags: dict[int, dict[bytes, bytes]] = {}
    for name, (value, flags) in values.items():
        by_flags.setdefault(flags, {})[name] = value
    for flags, items in by_flags.items():
        failed |= client.set_many(items, flags=flags, exptime=exptime).errors
    return failed


"""
    log = source.index("LOG = "), source.index("_PROGRAM_ERRORS")
    source = source[: log[0]] + source[log[1] : start] + helpers
    source = replaced(
        source,
        [
            ("import asyncio\nimport logging\n", ""),
            ("from .._memcached.rate_limits import RateLimitedLogger\n", ""),
            (
                "from ._flush import flush_nodes\n",
                "from ._django_store import Stored, _log_failure\n",
            ),
            ("from .loops import ClientPerLoop\n", ""),
            ("from .._client import Client\n", "from ..sync import Client\n"),
            (
                "The commands of the Django backend",
                "The synchronous commands of the Django backend",
            ),
            ("class Store:", "class SyncStore:"),
            (
                '    """Commands of the running loop\'s client.',
                '    """Commands of a client that all threads share.',
            ),
            ("clients: the clients of all loops.", "client: returns the client."),
            ("clients: ClientPerLoop", "client: Callable[[], Client]"),
            ("self._clients = clients", "self._client = client"),
            ("await self._clients.get()", "self._client()"),
            ("_each(c.delete, names)", "_delete_each(c, names)"),
            ("lambda c: self._get_partial", "lambda c: self._get_partial"),
        ],
    )
    close = source.index("    async def close(self)")
    source = source[:close] + source[source.index("    async def _call(", close) :]
    source = replaced(source, [("self._call(flush_nodes, None)", "self._call(_flush_nodes, None)")])
    source += """def _flush_nodes(client: Client) -> None:
    failures: list[_errors.EmcacheError] = []
    for node in client.cluster_managment().nodes():
        try:
            client.flush_all(node)
        except _errors.EmcacheError as error:
            failures.append(error)
    for failure in failures:
        raise failure


"""
    return without_awaits(source)


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
    elif node.name in CHANGES:
        body = f"self._change({CHANGES[node.name]}, lambda cache: cache.{node.name}({joined}))"
    else:
        body = f"self._run(lambda cache: cache.{node.name}({joined}))"
    return f"{text}        return {body}\n"


def without_options(text: str) -> str:
    """Leave out the options that only the asynchronous cache has."""
    for name in ("chunked", "local"):
        text, found = re.subn(rf"\n        {name}: .*(\n            .*)*", "", text)
        if not found:
            raise SystemExit(f"not found, so tools/make_sync.py has to change: {name}")
    return text


def cache(source: str) -> str:
    folder = PACKAGE / "cache"
    methods = []
    for name, kind in (
        ("_cache", "Cache"),
        ("_commands", "Commands"),
        ("_coordination", "Coordination"),
    ):
        text = (folder / f"{name}.py").read_text()
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
    documentation = without_options(documentation)
    inits = without_options(inits)
    names = ["serializer", "compression", "prefix", "keys", "ttl", "max_size", "on_unreadable"]
    names += ["name", "lease_key", "tags"]
    arguments = ", ".join(f'"{name}": {name}' for name in names)
    coordination = (folder / "_coordination.py").read_text()
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
        "from ..cache import Ttl, TagSnapshot\n"
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


FILES: list[tuple[str, str, Callable[[str], str]]] = [
    ("_emcache.pyi", "sync/_core.py", core),
    ("_client.py", "sync/_client.py", client),
    ("_meta_commands.py", "sync/_meta_commands.py", meta_commands),
    ("_fallbacks.py", "sync/_fallbacks.py", helpers),
    ("_counters.py", "sync/_counters.py", helpers),
    ("_create.py", "sync/_create.py", create),
    ("cache/_cache.py", "sync/_cache.py", cache),
    ("contrib/_django_store.py", "contrib/_django_sync_store.py", django_store),
]


def formatted(text: str) -> str:
    python = [sys.executable, "-m", "ruff"]
    name = ["--stdin-filename", str(PACKAGE / "sync" / "any.py"), "-"]
    for command in (["check", "-q", "--fix", "--select", "I,F401"], ["format", "-q"]):
        done = subprocess.run(
            [*python, *command, *name], input=text, capture_output=True, text=True
        )
        text = done.stdout or sys.exit(f"ruff refuses the result: {done.stderr}")
    return text


def main() -> None:
    outdated = []
    for source, target, make in FILES:
        text = header(f"emcache/{source}") + make((PACKAGE / source).read_text())
        text, path = formatted(text), PACKAGE / target
        if not path.exists() or path.read_text() != text:
            outdated.append(target)
            if "--check" not in sys.argv:
                path.write_text(text)
    if outdated:
        print("outdated:" if "--check" in sys.argv else "written:", *outdated)
    sys.exit(bool(outdated) and "--check" in sys.argv)


if __name__ == "__main__":
    main()
