"""A memcached that wants a login: SASL PLAIN over the binary protocol (-S), or a file (-Y)."""

import contextlib
import socket
from collections.abc import Iterator

from .memcached import Memcached

USER = "user"
# Without a "-": memcached looks for one past the end of numbers, where the password has been.
PASSWORD = "correct.horse.battery"


@contextlib.contextmanager
def sasl_memcached(
    *args: str, username: str = USER, password: str = PASSWORD
) -> Iterator[Memcached]:
    """Run a server that lets one user in, and hears nothing but the binary protocol."""
    with Memcached(*args, users={username: password}, auth="sasl") as server:
        yield server


@contextlib.contextmanager
def file_memcached(
    *args: str, username: str = USER, password: str = PASSWORD
) -> Iterator[Memcached]:
    """Run a server that lets one user in."""
    with Memcached(*args, users={username: password}) as server:
        yield server


def lets_in(server: Memcached, username: str, password: str) -> bool:
    """What a server with a file of users says to this login, without a client."""
    credentials = f"{username} {password}".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"set _ _ _ %d\r\n%b\r\n" % (len(credentials), credentials))
        return sock.recv(100).startswith(b"STORED")
