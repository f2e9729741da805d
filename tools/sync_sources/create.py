"""``create_client`` and ``from_url``."""

import re

from .text import between, moved, replaced


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
    function = replaced(
        function,
        [
            (
                "    names: NodeNames | None = None,\n",
                "    names: NodeNames | None = None,\n    allow_in_event_loop: bool = False,\n",
            ),
            ("-> _CreateClient:", "-> Client:"),
            (":class:`NextNode`", ":class:`emcache.NextNode`"),
            (
                "            :class:`Gutter`, spare nodes do. See the page on failover.\n",
                "            :class:`emcache.Gutter`, spare nodes do. See the page on failover. All calls\n"
                "            then use one core, in a thread of its own.\n",
            ),
            (
                "A :class:`Router` is a rule of your own.",
                "A :class:`emcache.Router` is a rule of your own.",
            ),
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
                "            client_class=Client,\n            blocking=bool(allow_in_event_loop),\n"
                "            shared=migrating_from is not None,\n",
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
    own = "from ._client import Client\nfrom ._creation import created\nfrom ._events import ClusterEvents\n"
    head = '"""``create_client`` of the synchronous client."""\n\n'
    return (
        head
        + moved(imports + "from ._create import _create_client\n")
        + own
        + moved(lazy)
        + function
    )


def url(source: str) -> str:
    function = between(source, "def from_url(", "def _read(")
    function = replaced(
        function,
        [
            ("-> _CreateClient:", "-> Client:"),
            (
                "    found = _read(url, options)\n",
                '    allowed = options.pop("allow_in_event_loop", False)\n'
                "    found = _read(url, options)\n",
            ),
            ("**found.options)", "allow_in_event_loop=allowed, **found.options)"),
        ],
    )
    return (
        '"""``from_url`` of the synchronous client."""\n\n'
        "from typing import Any\n\n"
        "from .._url import _read\n"
        "from ._client import Client\n"
        "from ._create import create_client\n\n\n" + function
    )
