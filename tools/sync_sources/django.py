"""The store of the Django backend."""

from .text import replaced, without_awaits


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
