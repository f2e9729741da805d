"""A memcached that wants a login: SASL PLAIN over the binary protocol (-S), or a file (-Y)."""

import contextlib
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
