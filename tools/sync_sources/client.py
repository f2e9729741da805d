"""The commands of the client, and the types of the core."""

import re

from .text import between, moved, replaced, without_awaits


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
    unused = r"__new__|add_node|is_connected|change_nodes|check_out"
    classes = re.sub(rf"    def (?:{unused})\((?:.|\n)*?\) -> [^\n]*: \.\.\.\n", "", classes)
    return (
        '"""The core as the synchronous client sees it: calls return their results."""\n\n'
        "from collections.abc import Iterable, Mapping\n"
        "from typing import TYPE_CHECKING, Literal, Protocol\n\n"
        "from .._errors import EmcacheError\nfrom .._item import Item\n"
        "from .._types import Exptime, ManyOutcome, Value\n\n"
        "if TYPE_CHECKING:\n    from .._emcache import Routing, _MetaFields, _MetaReply, _RawSnapshot\n"
        "else:\n    from .._emcache import Routing\n\n    _MetaFields = _MetaReply = _RawSnapshot = tuple\n\n\n"
        + classes
    )


def client(source: str) -> str:
    documentation = between(source, '    """A memcached client; create one', "    _routing: ")
    methods = between(source, "    async def migrate(", "    def metrics(self)")
    methods += between(source, "    async def get(self, key")
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
            ("import discovery, metrics, migration, results", "import migration, results"),
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
        ],
    )
    head = (
        '"""The synchronous client: the commands of :class:`emcache.Client`."""\n\n'
        + imports
        + "from ._client_base import ClientBase\n\n\n"
        "class Client(MetaCommands, ClientBase):\n" + documentation
    )
    text = moved(without_awaits(head + methods))
    return text.replace("from .. import _migration as", "from . import _migration as")


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


def migration(source: str) -> str:
    start = """def start_migration(
    client: Any,
    node_addresses: Node | Iterable[Node],
    routing: str | None,
    weights: NodeWeights | None,
    names: NodeNames | None,
    phase: Phase,
    drain: float | None,
    unknown_ttl: int,
) -> Migration:
    \"\"\"Begin a migration of a client to ``node_addresses``.\"\"\"
    options = routing, weights, names, phase, drain, unknown_ttl
    return cast(Migration, run(_start_migration(client, node_addresses, *options)))
"""
    kind = between(source, "class Migration:", "def check_cluster").replace(
        "see ``Client.migration``", "see ``emcache.sync.Client.migration``"
    )
    kind = kind.replace("await asyncio.sleep(_POLL)", "time.sleep(_POLL)")
    kind = kind.replace("  # noqa: ASYNC110 - the core has no event for it", "")
    imports = """import time
from collections.abc import Callable, Iterable
from typing import Any, cast

from .._address import Node
from .._checks import check_seconds
from .._emcache import CoreMigration
from .._migration import _POLL, MigrationMetrics, Phase, _Client, check_phase, read_status
from .._migration import start_migration as _start_migration
from .._routing import NodeNames, NodeRouting, NodeWeights
from ._creation import run


"""
    return (
        '"""The migration of a synchronous client."""\n\n' + imports + without_awaits(kind) + start
    )
