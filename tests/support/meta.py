"""A peer that speaks meta commands as a test says, and what it was asked."""

from collections.abc import Awaitable, Callable

from .scripted import Connection

CALLS = {
    "meta_get": lambda client: client.meta_get(b"k"),
    "meta_set": lambda client: client.meta_set(b"k", b"flush_all"),
    "meta_delete": lambda client: client.meta_delete(b"k"),
    "meta_arithmetic": lambda client: client.meta_arithmetic(b"k"),
    "meta_debug": lambda client: client.meta_debug(b"k"),
    "meta_get_many": lambda client: client.meta_get_many([b"k", b"l"]),
    "meta_raw": lambda client: client.meta_raw("mg", b"k", "v"),
    "ttl": lambda client: client.ttl(b"k"),
}
"""Every meta command of a client that has a key."""

REPLIES = {
    b"mg": b"VA 1 f0 c1 t-1\r\nx\r\n",
    b"ms": b"HD\r\n",
    b"md": b"HD\r\n",
    b"ma": b"VA 1 c1 t-1\r\n5\r\n",
    b"me": b"ME k exp=30 la=0 cas=1 fetch=no cls=1 size=63\r\n",
    b"mn": b"MN\r\n",
    b"get": b"VALUE k 0 1\r\nx\r\nEND\r\n",
    b"set": b"STORED\r\n",
}


class MetaPeer:
    """A script that knows what a probe asks; `reply` answers the rest, and None closes."""

    def __init__(
        self,
        reply: Callable[[list[bytes], Connection], Awaitable[bytes | None]] | None = None,
        *,
        version: bytes = b"1.6.24",
        noop: bytes | None = b"MN\r\n",
    ) -> None:
        self.reply = reply or usual
        self.version = version
        self.noop = noop
        self.asked: list[list[bytes]] = []
        self.probes = 0

    @property
    def words(self) -> list[bytes]:
        """The names of the commands that are no part of a probe."""
        return [words[0] for words in self.asked]

    async def __call__(self, connection: Connection) -> None:
        while (words := (await connection.command())[0]) != [b""]:
            if words == [b"mn"]:
                self.probes += 1
                reply = self.noop
            elif words == [b"version"]:
                reply = b"VERSION " + self.version + b"\r\n"
            else:
                self.asked.append(words)
                reply = await self.reply(words, connection)
            if reply is None:
                return
            await connection.send(reply)


async def usual(words: list[bytes], _: Connection) -> bytes:
    """Answer as a healthy server would."""
    return REPLIES[words[0]]
