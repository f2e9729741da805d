"""What nodes are that answer get and not all else: proxies."""

from collections.abc import Awaitable
from typing import TypeVar, cast

from .._address import Address
from .._errors import (
    AuthenticationError,
    CommandError,
    ConnectionFailedError,
    EmcacheError,
    OperationTimeoutError,
    is_unanswered,
)
from .._nodes import answered
from ..base import Client
from ..client import _Client
from ._exits import ServerLacksError
from ._settings import node_name

T = TypeVar("T")


class ProxyLacksError(ServerLacksError):
    """The node is up, and does not know a command; probably it is a proxy."""


async def answers(client: Client, node: Address) -> None:
    """Return when a node has answered for any key; raise what keeps it from that."""
    running = cast(_Client, client)
    await answered(running._core, running._node(node), running._grace)


def is_unknown(error: EmcacheError) -> bool:
    """Whether an error may say that the node does not know the command."""
    if isinstance(error, ConnectionFailedError):
        return is_unanswered(error)
    is_login = isinstance(error, AuthenticationError) or error._reason == "unauthenticated"
    return isinstance(error, CommandError) and not is_login


async def explained(client: Client, node: Address, error: EmcacheError) -> EmcacheError:
    """Give the error, or one that says more where the node answers get all the same."""
    if not is_unanswered(error):
        return error
    try:
        await answers(client, node)
    except EmcacheError:
        return error
    name = node_name(node)
    told = ProxyLacksError(f"{name} is a proxy: it answers get, but not {error.command}")
    told.node, told.command = name, error.command
    return told


async def if_known(ask: Awaitable[T], patient: bool = False) -> T | None:
    """Give an answer; None if the node does not know the command.

    ``patient``: or if it does not answer in time. A proxy may ask a server that hangs.
    """
    try:
        return await ask
    except EmcacheError as error:
        if patient and isinstance(error, OperationTimeoutError):
            return None
        if not is_unknown(error):
            raise
        return None


async def knows_gat(client: Client) -> bool:
    """Whether the client's only node answers gat itself."""
    running = cast(_Client, client)
    try:
        # The client's own call would do it by other commands.
        await running._core.gat(60, b"emcache:probe", False)
    except EmcacheError as error:
        if not is_unknown(error):
            raise
        return error.status == "SERVER_ERROR"
    return True
