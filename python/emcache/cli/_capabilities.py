"""Nodes that support only some commands, as proxies do."""

from collections.abc import Awaitable
from typing import TypeVar

from .._address import Address
from .._client import Client
from .._errors import (
    AuthenticationError,
    CommandError,
    ConnectionFailedError,
    EmcacheError,
    OperationTimeoutError,
    is_unanswered,
)
from .._node_queries import wait_for_answer
from ._exit_codes import ServerLacksError
from ._settings import node_name

T = TypeVar("T")


class ProxyLacksError(ServerLacksError):
    """The node is up but does not support a command; probably it is a proxy."""

    def __init__(self, node: str, command: str | None) -> None:
        self.reason = f"a proxy: it answers get, but not {command}"
        super().__init__(f"{node} is {self.reason}")
        self.node, self.command = node, command


async def answers(client: Client, node: Address) -> None:
    """Return when a node has answered for any key; raise the error if it does not."""
    await wait_for_answer(client._core, client._node_index(node), client._close_timeout)


def is_unsupported(error: EmcacheError) -> bool:
    """Return whether an error may mean that the node does not support the command."""
    if isinstance(error, ConnectionFailedError):
        return is_unanswered(error)
    is_login = isinstance(error, AuthenticationError) or error._reason == "unauthenticated"
    return isinstance(error, CommandError) and not is_login


async def explained(client: Client, node: Address, error: EmcacheError) -> EmcacheError:
    """Return the error, or a more precise one if the node answers ``get``."""
    if not is_unanswered(error):
        return error
    try:
        await answers(client, node)
    except EmcacheError:
        return error
    return ProxyLacksError(node_name(node), error.command)


async def if_supported(ask: Awaitable[T], patient: bool = False) -> T | None:
    """Return the answer; None if the node does not support the command.

    With ``patient`` also None if the node does not answer in time, because a proxy may forward the
    command to a server that hangs.
    """
    try:
        return await ask
    except EmcacheError as error:
        if patient and isinstance(error, OperationTimeoutError):
            return None
        if not is_unsupported(error):
            raise
        return None


async def supports_gat(client: Client) -> bool:
    """Return whether the client's only node supports gat."""
    try:
        # The public method would fall back to other commands.
        await client._core.gat(60, b"emcache:probe", False)
    except EmcacheError as error:
        if not is_unsupported(error):
            raise
        return error.status == "SERVER_ERROR"
    return True
