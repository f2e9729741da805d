"""The servers' own log, by ``watch``, on a connection of its own."""

from .._address import Address
from .._client import Client
from .._errors import CommandError
from ._capabilities import if_supported
from ._exit_codes import ServerLacksError
from ._output import bytes_text
from ._raw import RawConnection
from ._settings import node_name


async def start_watching(connection: RawConnection, *kinds: str) -> None:
    """Ask for some kinds of lines, such as ``fetchers``.

    Raises:
        ServerLacksError: the server does not support or allow this.
    """
    command = f"watch {' '.join(kinds)}"
    connection.send(command.encode() + b"\r\n")
    reply = await connection.line()
    if reply == b"OK":
        return
    where = node_name(connection.address)
    if b"not allowed" in reply:
        raise ServerLacksError(f"{where} cannot be watched: it was started with -W")
    if reply.startswith((b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")):
        raise ServerLacksError(
            f"{where} cannot be watched: '{command}' is not supported (an older memcached, "
            "a proxy, or a hosted service)"
        )
    raise CommandError(f"{where} answered {bytes_text(reply[:100])!r} to '{command}'")


async def dropped_lines(client: Client, node: Address) -> int:
    """Return how many lines of logs a server has dropped, for all who watch it."""
    stats = await if_supported(client.stats(node)) or {}
    return sum(int(stats.get(name, 0)) for name in ("log_worker_dropped", "log_watcher_skipped"))
